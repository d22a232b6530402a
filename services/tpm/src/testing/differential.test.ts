/**
 * Wrong commands get the response code that swtpm gives them, which is that of the specification but where `known` says
 * otherwise. TPM_FUZZ=N tries N cases instead of a sample, NYX_SEED=N another sample.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { RC } from '../spec/constants.ts';
import { Pair } from './differential.ts';

const swtpm = spawnSync('which', ['swtpm']).status === 0;
if (!swtpm)
  process.stdout.write('swtpm is not installed (apt: swtpm): response codes are not compared with its\n');
const count = Number(process.env.TPM_FUZZ ?? 2500);
const seed = Number(process.env.NYX_SEED ?? 1);

/** TPM_RC_FMT1 codes without handle, session or parameter number. */
const bare = (rc: number) => (rc & 0x80 ? rc & 0xbf : rc);

/** Where we differ, and why: command, our code, swtpm's (undefined: whatever), reason. */
const known: [command: RegExp, ours: number | undefined, theirs: number | undefined, reason: string][] = [
  [/./, RC.BAD_TAG, RC.VALUE, 'part 2 has BAD_TAG for a tag that no command can have'],
  [/./, RC.TAG, RC.VALUE, 'part 2 has TAG for the tag of a ticket of another kind'],
  [/./, undefined, RC.OBJECT_MEMORY, 'swtpm copies persistent objects into slots to use them; we need none'],
  [/./, RC.CURVE, undefined, 'swtpm has curves that we do not have: BN'],
  [/./, RC.SYMMETRIC, undefined, 'swtpm has TDES'],
  [/RSA_Decrypt/, RC.VALUE, RC.FAILURE, 'part 3, 14.3: VALUE for wrong padding'],
  [/LoadExternal/, RC.ECC_POINT, RC.SUCCESS, 'swtpm takes any point for a key without a Name'],
  [/ECDH_KeyGen/, RC.KEY, RC.CURVE, 'swtpm reads a sequence as if it were a key'],
  [/ZGen_2Phase/, undefined, RC.FAILURE, 'swtpm ends in failure mode by ECMQV'],
  [
    /CertifyX509/,
    RC.VALUE,
    RC.INSUFFICIENT,
    'swtpm takes signHandle NULL, and dies of it when all else is right',
  ],
  [/CertifyX509/, RC.KEY, RC.KEY, 'swtpm names handle 1; signHandle is handle 2'],
  [/CertifyX509/, RC.SCHEME, RC.SCHEME, 'swtpm names handle 1; signHandle is handle 2'],
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
  [/TestParms/, RC.SUCCESS, RC.VALUE, 'swtpm has no keys of 192 bits'],
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
const isKnown = (command: string, ours: number, theirs: number) =>
  known.some(
    ([c, o, t]) =>
      c.test(command) && (o ?? bare(ours)) === bare(ours) && (t ?? bare(theirs)) === bare(theirs),
  );

test.skipIf(!swtpm)(
  'wrong commands: the same response codes',
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'tpm-diff-'));
    const pairs: Pair[] = [];
    const another = async () => {
      const pair = new Pair(join(dir, `${pairs.length}`));
      pairs.push(pair);
      return pair.start();
    };
    try {
      const pair = await another();
      const cases = pair.sample(seed, count);
      let differences = await pair.differences(cases, isKnown);
      process.stdout.write(`${cases.length} wrong commands compared with swtpm\n`);
      const broken = [...new Set(pair.broken)];
      if (broken.length) process.stdout.write(`swtpm had to be restarted after: ${broken.join(', ')}\n`);
      // What comes from octets that differ from TPM to TPM is not there with other keys and nonces.
      for (let i = 0; i < 2 && differences.length; i++) {
        const ids = new Set(differences.map((d) => d.case.id));
        const next = await another();
        differences = await next.differences(
          next.cases(seed, (id) => ids.has(id)),
          isKnown,
        );
        const gone = [...ids].filter((id) => !differences.some((d) => d.case.id === id));
        for (const id of gone) process.stdout.write(`not with other keys: ${id}\n`);
      }
      const kinds = new Map<string, { n: number; example: string }>();
      for (const d of differences) {
        const key = `${d.command}: ours 0x${d.ours.toString(16)}, swtpm 0x${d.theirs.toString(16)}`;
        const kind = kinds.get(key);
        if (kind) kind.n++;
        else kinds.set(key, { n: 1, example: `${d.case.id}: ${d.case.ours.toString('hex')}` });
      }
      expect([...kinds].map(([k, d]) => `${k} (${d.n}), e.g. ${d.example}`)).toEqual([]);
    } finally {
      for (const p of pairs) p.close();
      rmSync(dir, { recursive: true, force: true });
    }
  },
  600_000,
);
