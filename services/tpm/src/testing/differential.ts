/**
 * Our TPM and swtpm, side by side in the same state: each wrong command goes to both, and their response codes are compared.
 *
 * Keys, nonces and what is made of them differ between the two and from run to run. A changed length can make such octets be
 * read as numbers, so a difference counts only if it does not come from them: see `Pair.differs` and `compare`.
 */
import { join } from 'node:path';
import { TpmHost } from '../server/host.ts';
import { byCode } from '../spec/commands.ts';
import { rcOf } from './client.ts';
import { corpus, H, Peer, prepare } from './corpus.ts';
import { SwtpmPeer } from './swtpm-peer.ts';
import { mutate, seeded, wrongs } from './wrong.ts';

/** Ours, in this process. */
export class Ours extends Peer {
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
  load(blobs: readonly Buffer[]): void {
    this.host.powerOff();
    blobs.forEach((b, i) => {
      const result = this.host.setStateBlob(i + 1, b);
      if (result !== 'done') throw new Error(`state blob ${i + 1}: ${result}`);
    });
    if (!this.host.init(true)) throw new Error('our TPM does not start from its own state');
  }
}

/** A wrong command: the same change of the same valid command for both. */
export interface Case {
  /** Position in the corpus and what was changed: names the case in every run. */
  id: string;
  name: string;
  ours: Buffer;
  theirs: Buffer;
  sequence: boolean;
}
export interface Difference {
  case: Case;
  /** Of the command that was executed: a changed command code is another command. */
  command: string;
  ours: number;
  theirs: number;
}

/** FNV-1a: who is in the sample depends on the seed and the case, not on what else there is. */
function hashOf(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  return (h ^ (h >>> 13)) >>> 0;
}

/** About so many cases there are; and of them random changes of each command. */
const total = 130_000;
const randomChanges = 400;

export class Pair {
  private ours = new Ours();
  private theirs!: SwtpmPeer;
  private readonly dir: string;
  private readonly states: { ours: Buffer[]; theirs: Buffer[] }[] = [];
  private readonly commands: { name: string; ours: Buffer; theirs: Buffer; sequence: boolean }[] = [];
  /** Cases in which swtpm broke: its process had to be started anew. */
  readonly broken: string[] = [];

  /** @param dir where swtpm has its state: a directory of its own */
  constructor(dir: string) {
    this.dir = dir;
  }

  async start(): Promise<this> {
    const { ours } = this;
    this.theirs = await new SwtpmPeer(join(this.dir, '0')).start();
    const { theirs } = this;
    const [a, b] = [await prepare(ours), await prepare(theirs)].map(corpus) as [Corpus, Corpus];
    this.states.push({ ours: ours.save(), theirs: await theirs.save() });
    for (const p of [ours, theirs]) {
      const { handle } = await p.ok('HashSequenceStart', { auth: Buffer.alloc(0), hashAlg: 0xb });
      if (handle !== H.sequence) throw new Error(`the sequence has handle 0x${handle.toString(16)}`);
    }
    this.states.push({ ours: ours.save(), theirs: await theirs.save() });
    for (const kind of ['plain', 'sequence'] as const)
      a[kind].forEach(([name, bytes], i) => {
        this.commands.push({ name, ours: bytes, theirs: b[kind][i]![1], sequence: kind === 'sequence' });
      });
    return this;
  }

  /** All cases of this seed, or those of them that `wanted` says. */
  cases(seed: number, wanted: (id: string) => boolean): Case[] {
    return this.commands.flatMap((c, i) => {
      const { name, sequence } = c;
      const w = new Map([...wrongs(c.theirs)].map((x) => [x.what, x.bytes]));
      const list: Case[] = [];
      for (const x of wrongs(c.ours)) {
        const id = `${i} ${name}, ${x.what}`;
        const theirs = w.get(x.what);
        if (theirs && wanted(id)) list.push({ id, name, sequence, ours: x.bytes, theirs });
      }
      // Blobs that only their maker reads may differ in length.
      if (c.ours.length !== c.theirs.length) return list;
      for (let n = 0; n < randomChanges; n++) {
        const id = `${i} ${name}, random change ${n} of seed ${seed}`;
        if (!wanted(id)) continue;
        const s = hashOf(id) | 1;
        const [ours, theirs] = [mutate(c.ours, seeded(s)), mutate(c.theirs, seeded(s))];
        // Chance may put the old octet in again.
        if (!ours.equals(c.ours) && !theirs.equals(c.theirs)) list.push({ id, name, sequence, ours, theirs });
      }
      return list;
    });
  }
  /** About `count` cases, and every valid command. */
  sample(seed: number, count: number): Case[] {
    return this.cases(seed, (id) => id.endsWith(', valid') || hashOf(`${seed} ${id}`) % total < count);
  }

  private async load(sequence: boolean): Promise<void> {
    const state = this.states[sequence ? 1 : 0]!;
    this.ours.load(state.ours);
    await this.theirs.load(state.theirs);
  }

  /** Those that get different codes; `known` are no differences. */
  async differences(
    cases: readonly Case[],
    known: (command: string, ours: number, theirs: number) => boolean,
  ): Promise<Difference[]> {
    const out: Difference[] = [];
    let loaded: boolean | undefined;
    let last = '';
    for (const x of cases) {
      if (loaded !== x.sequence) {
        try {
          await this.load(x.sequence);
        } catch {
          // Some commands break it for good: certificates whose lengths are wrong.
          this.broken.push(last);
          this.theirs.close();
          this.theirs = await new SwtpmPeer(join(this.dir, `${this.broken.length}`)).start();
          await this.load(x.sequence);
        }
        loaded = x.sequence;
      }
      last = x.name;
      const r = await this.code(x.ours, x.id);
      // What swtpm's socket cannot carry: it waits for the rest, or drops the connection.
      if (x.theirs.length < 10 || x.theirs.readUInt32BE(2) !== x.theirs.length) continue;
      const answer = await this.theirs.raw(x.theirs);
      if (answer.length === 0) {
        loaded = undefined;
        continue;
      }
      const s = rcOf(answer);
      // Codes that count failed authorizations change state, too.
      if ([r, s].some((rc) => rc === 0 || [0x22, 0x0e].includes(rc & 0x3f))) loaded = undefined;
      if (r === s) continue;
      const command = byCode.get(x.ours.readUInt32BE(6))?.[0] ?? 'unknown';
      if (known(command, r, s)) continue;
      if (!x.ours.equals(x.theirs)) {
        // Octets that differ from TPM to TPM were moved to where they mean something else: what does ours say to theirs?
        this.ours.load(this.states[x.sequence ? 1 : 0]!.ours);
        loaded = undefined;
        const same = await this.code(x.theirs, x.id);
        if (same === s || known(command, same, s)) continue;
      }
      out.push({ case: x, command, ours: r, theirs: s });
    }
    return out;
  }

  /** The code that ours gives. */
  private async code(bytes: Buffer, id: string): Promise<number> {
    const response = await this.ours.raw(bytes);
    if (response.readUInt32BE(2) !== response.length) throw new Error(`${id}: length of the response`);
    if (this.ours.failure) throw new Error(`${id}: failure mode`, { cause: this.ours.failure });
    return rcOf(response);
  }
  close(): void {
    this.theirs?.close();
  }
}
type Corpus = ReturnType<typeof corpus>;
