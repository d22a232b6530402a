/**
 * Random commands to one TPM whose state goes on from command to command, as a hostile guest's would: valid ones, changed ones, octets
 * that are no command, at changing localities; power cycles, and processes that go on from a saved state, in between.
 * What must hold after each: an answer of the form of part 1, 18; no failure mode; nothing kept beyond the limits; and a state that
 * another process takes over as it is.
 */
import { saveVolatile } from '../core/volatile.ts';
import { byCode } from '../spec/commands.ts';
import { LIMIT, RC, ST } from '../spec/constants.ts';
import { rcOf } from './client.ts';
import { corpus, prepare } from './corpus.ts';
import { Ours } from './differential.ts';
import { mutate, seeded } from './wrong.ts';

/** Commands of one life; then it begins again with keys, indices and sessions. */
const perLife = 300;
/** What all records of a TPM may have together: NV, and hierarchies, PCRs, clock beside it. */
const mostBytes = LIMIT.nvTotal + 64 * 1024;

export interface FuzzResult {
  commands: number;
  succeeded: number;
  /** Kinds that were carried out at least once. */
  kinds: Set<string>;
  codes: Set<number>;
}

/** @throws Error with the commands of this life, in hexadecimal digits, when something does not hold */
export async function fuzz(seed: number, goOn: (commands: number) => boolean): Promise<FuzzResult> {
  const rand = seeded(seed);
  const ours = new Ours();
  const { plain, sequence } = corpus(await prepare(ours));
  const valid = [...plain, ...sequence].map(([, bytes]) => bytes);
  const start = ours.save();
  const result: FuzzResult = { commands: 0, succeeded: 0, kinds: new Set(), codes: new Set() };
  let life: string[] = [];
  const hold = (what: string, ok: boolean): void => {
    if (!ok) throw new Error(`${what}; seed ${seed}, after\n${life.join('\n')}`, { cause: ours.failure });
  };
  const command = (): Buffer => {
    const from = valid[rand(valid.length)]!;
    const kind = rand(16);
    if (kind === 0) return Buffer.from(Array.from({ length: rand(64) }, () => rand(256)));
    return kind < 5 ? from : mutate(from, rand);
  };
  const look = (bytes: Buffer, response: Buffer): void => {
    hold('failure mode', ours.failure === undefined && !ours.host.tpm!.failed);
    hold('no header', response.length >= 10 && response.length <= LIMIT.response);
    hold('the size is not the length', response.readUInt32BE(2) === response.length);
    const rc = rcOf(response);
    result.codes.add(rc);
    if (rc !== RC.SUCCESS) {
      hold('a refusal is a header', response.length === 10 && response.readUInt16BE(0) === ST.NO_SESSIONS);
      return;
    }
    result.succeeded++;
    result.kinds.add(byCode.get(bytes.readUInt32BE(6))![0]);
    const { tpm } = ours.host;
    hold('too many sessions', tpm!.sessions.size <= LIMIT.sessions);
    hold('too many objects', tpm!.objects.length <= LIMIT.objects);
  };
  while (goOn(result.commands)) {
    life = [];
    ours.load(start);
    for (let i = 0; i < perLife && goOn(result.commands); i++) {
      const bytes = command();
      const locality = rand(8) ? 0 : rand(5);
      life.push(`${locality} ${bytes.toString('hex')}`);
      result.commands++;
      look(bytes, ours.host.command(bytes, locality)!);
      if (rand(100) === 0) {
        life.push('goes on from its state');
        const before = saveVolatile(ours.host.tpm!);
        const blobs = ours.save();
        hold('too much is kept', blobs.reduce((n, b) => n + b.length, 0) <= mostBytes);
        ours.load(blobs);
        // Time passes meanwhile; it is behind everything else.
        const after = saveVolatile(ours.host.tpm!);
        hold('another state than was saved', after.length === before.length);
      } else if (rand(200) === 0) {
        life.push('power cycle');
        ours.host.powerOff();
        ours.host.powerOn();
        if (rand(4)) ours.host.startupClear();
      }
    }
  }
  return result;
}
