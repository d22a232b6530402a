/**
 * Wrong commands get the response code that swtpm gives them, which is that of the specification but where `known` says
 * otherwise. TPM_FUZZ=N tries N cases instead of a sample, TPM_FUZZ_SEED another sample.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { TpmHost } from '../server/host.ts';
import { byCode } from '../spec/commands.ts';
import { RC } from '../spec/constants.ts';
import { rcOf } from './client.ts';
import { corpus, H, Peer, prepare } from './corpus.ts';
import { SwtpmPeer } from './swtpm-peer.ts';
import { mutate, seeded, wrongs } from './wrong.ts';

const swtpm = spawnSync('which', ['swtpm']).status === 0;
if (!swtpm)
  process.stdout.write('swtpm is not installed (apt: swtpm): response codes are not compared with its\n');
const count = Number(process.env.TPM_FUZZ ?? 2500);
const seed = Number(process.env.TPM_FUZZ_SEED ?? 1);

class Ours extends Peer {
  readonly host: TpmHost;
  failure: unknown;
  constructor() {
    super();
    this.host = new TpmHost({ onFailure: (e) => (this.failure = e) });
    this.host.powerOn();
    this.host.startupClear();
  }
  raw(bytes: Buffer): Promise<Buffer> {
    return Promise.resolve(this.host.command(Buffer.from(bytes), 0)!);
  }
  save(): Buffer[] {
    return [1, 2].map((type) => this.host.stateBlob(type, true)!);
  }
  load(blobs: Buffer[]): void {
    this.host.powerOff();
    blobs.forEach((b, i) => expect(this.host.setStateBlob(i + 1, b)).toBe('done'));
    expect(this.host.init(true)).toBe(true);
  }
}

/** TPM_RC_FMT1 codes without handle, session or parameter number. */
const bare = (rc: number) => (rc & 0x80 ? rc & 0xbf : rc);

/** Where we differ, and why: command, our code, swtpm's (undefined: whatever), reason. */
const known: [command: RegExp, ours: number | undefined, theirs: number | undefined, reason: string][] = [
  [/./, RC.BAD_TAG, RC.VALUE, 'part 2 has BAD_TAG for a tag that no command can have'],
  [/./, RC.TAG, RC.VALUE, 'part 2 has TAG for the tag of a ticket of another kind'],
  [/./, undefined, RC.OBJECT_MEMORY, 'swtpm copies persistent objects into slots to use them; we need none'],
  [/./, RC.CURVE, undefined, 'swtpm has curves that we do not have: BN and SM2'],
  [/./, RC.SYMMETRIC, undefined, 'swtpm has TDES'],
  [/RSA_Decrypt/, RC.VALUE, RC.FAILURE, 'part 3, 14.3: VALUE for wrong padding'],
  [/CertifyX509/, RC.KEY, RC.KEY, 'swtpm names handle 1; signHandle is handle 2'],
  [/CertifyX509/, RC.ASYMMETRIC, RC.ASYMMETRIC, 'swtpm names handle 2; objectHandle is handle 1'],
  [/CertifyX509/, RC.VALUE, RC.SUCCESS, 'swtpm takes some extensions that are no DER'],
  [/SequenceUpdate/, RC.MODE, RC.MODE, 'swtpm names parameter 1; sequenceHandle is handle 1'],
  [/FlushContext/, RC.HANDLE, RC.SUCCESS, 'swtpm flushes a policy session by the handle of an HMAC session'],
  [/./, RC.REFERENCE_H0 + 1, undefined, 'swtpm has a copy of the persistent object of handle 1 in that slot'],
  [/./, RC.SIZE, RC.INSUFFICIENT, 'swtpm has larger limits: curves of 638 bits'],
  [/Policy/, RC.SIZE, RC.VALUE, 'swtpm has a larger limit for Names'],
  [/./, RC.INSUFFICIENT, RC.SIZE, 'our limits are larger: RSA of 4096 bits'],
  [/IncrementalSelfTest/, RC.VALUE, RC.SUCCESS, 'swtpm has algorithms that we do not have'],
  [/./, RC.INSUFFICIENT, RC.VALUE, 'swtpm has no keys of 192 bits'],
  [/./, RC.SCHEME, RC.HASH, 'swtpm has ECMQV and SM2'],
  [
    /SetCommandCodeAuditStatus/,
    RC.SUCCESS,
    RC.VALUE,
    'the algorithm of the command audit is SHA-512 by default in swtpm',
  ],
  // Time goes on in the state that swtpm is given, and stands still in ours.
  [/Policy/, undefined, RC.EXPIRED, 'time'],
  [/PolicyCounterTimer/, RC.POLICY, RC.SUCCESS, 'time'],
  [/ClockSet/, RC.SUCCESS, RC.VALUE, 'time'],
];

test.skipIf(!swtpm)(
  'wrong commands: the same response codes',
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'tpm-diff-'));
    const ours = new Ours();
    let theirs = await new SwtpmPeer(join(dir, '0')).start();
    const broken: string[] = [];
    try {
      const made = [await prepare(ours), await prepare(theirs)] as const;
      const plainState = [ours.save(), await theirs.save()] as const;
      for (const p of [ours, theirs]) {
        const { handle } = await p.ok('HashSequenceStart', { auth: Buffer.alloc(0), hashAlg: 0xb });
        expect(handle).toBe(H.sequence);
      }
      const sequenceState = [ours.save(), await theirs.save()] as const;
      const [a, b] = [corpus(made[0]), corpus(made[1])];
      const cases = [
        ...a.plain.map(([name, bytes], i) => ({
          name,
          ours: bytes,
          theirs: b.plain[i]![1],
          state: plainState,
        })),
        ...a.sequence.map(([name, bytes], i) => ({
          name,
          ours: bytes,
          theirs: b.sequence[i]![1],
          state: sequenceState,
        })),
      ];
      // [case, what, bytes for us, bytes for swtpm], grouped by state.
      const rand = seeded(seed);
      const all = cases.flatMap((c) => {
        // Blobs that only their maker reads may differ in length: then what says the same is compared.
        const same = c.ours.length === c.theirs.length;
        const w = new Map([...wrongs(c.theirs)].map((x) => [x.what, x.bytes]));
        const list = [...wrongs(c.ours)].flatMap((x) => {
          const bytes = w.get(x.what);
          return bytes ? [{ ...c, what: x.what, ours: x.bytes, theirs: bytes }] : [];
        });
        for (let i = 0; same && i < 400; i++) {
          const s = rand(0x7fffffff) + 1;
          const [x, y] = [mutate(c.ours, seeded(s)), mutate(c.theirs, seeded(s))];
          // Chance may put the old octet in again.
          if (!x.equals(c.ours) && !y.equals(c.theirs))
            list.push({ ...c, what: `seed ${s}`, ours: x, theirs: y });
        }
        return list;
      });
      const sample = all.filter((x) => x.what === 'valid' || rand(all.length) < count);
      let state: typeof plainState | undefined;
      let dirty = true;
      let last = '';
      const differences = new Map<string, { n: number; example: string }>();
      for (const x of sample) {
        if (dirty || state !== x.state) {
          state = x.state;
          ours.load(state[0]);
          try {
            await theirs.load(state[1]);
          } catch {
            // Some commands break it for good: certificates whose lengths are wrong.
            broken.push(last);
            theirs.close();
            theirs = await new SwtpmPeer(join(dir, `${broken.length}`)).start();
            await theirs.load(state[1]);
          }
          dirty = false;
        }
        last = x.name;
        const response = await ours.raw(x.ours);
        expect(response.readUInt32BE(2)).toBe(response.length);
        if (ours.failure) throw new Error(`${x.name}, ${x.what}: failure mode`, { cause: ours.failure });
        // What swtpm's socket cannot carry: it waits for the rest, or drops the connection.
        if (x.theirs.length < 10 || x.theirs.readUInt32BE(2) !== x.theirs.length) continue;
        const answer = await theirs.raw(x.theirs);
        if (answer.length === 0) {
          dirty = true;
          continue;
        }
        const [r, s] = [rcOf(response), rcOf(answer)];
        // Codes that count failed authorizations change state, too.
        dirty = r === 0 || s === 0 || [0x22, 0x0e].includes(r & 0x3f) || [0x22, 0x0e].includes(s & 0x3f);
        if (r === s) continue;
        if (x.what.startsWith('seed') && !x.ours.equals(x.theirs)) {
          // Octets that differ from TPM to TPM were moved to where they mean something else.
          ours.load(x.state[0]);
          dirty = true;
          if (rcOf(await ours.raw(x.theirs)) === s) continue;
        }
        // A changed command code is another command.
        const name = byCode.get(x.ours.readUInt32BE(6))?.[0] ?? 'unknown';
        if (
          known.some(([c, o, t]) => c.test(name) && (o ?? bare(r)) === bare(r) && (t ?? bare(s)) === bare(s))
        )
          continue;
        const key = `${name}: ours 0x${r.toString(16)}, swtpm 0x${s.toString(16)}`;
        const d = differences.get(key);
        if (d) d.n++;
        else differences.set(key, { n: 1, example: `${x.name}, ${x.what}: ${x.ours.toString('hex')}` });
      }
      process.stdout.write(`${sample.length} of ${all.length} wrong commands compared with swtpm\n`);
      if (broken.length)
        process.stdout.write(`swtpm had to be restarted after: ${[...new Set(broken)].join(', ')}\n`);
      expect([...differences].map(([k, d]) => `${k} (${d.n}), e.g. ${d.example}`)).toEqual([]);
    } finally {
      theirs.close();
      rmSync(dir, { recursive: true, force: true });
    }
  },
  600_000,
);
