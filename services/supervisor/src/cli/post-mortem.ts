/** What a device process said before it died: from its log ring, which outlives it and its machine. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { files } from '@nyx/nyx/files';
import { NyxError } from '@nyx/protocol/errors';
import { type LogRecord, Records, rings } from './records.ts';

/** Records shown. */
const shown = 100;
/** First record of each process of a place (libs/device/src/serve.ts). */
const begin = /"message":"serves, process \d+ of this place/;

export interface PostMortem {
  process: string;
  /** How the last one died, from nyxd's log; undefined when none has. */
  death: { at: number; pid: number; reason: string } | undefined;
  /** Its last records, oldest first. */
  records: LogRecord[];
}

interface Death {
  type: string;
  at: number;
  process: string;
  pid: number;
  reason: string;
}

const lastDeath = (dir: string, process: string): Death | undefined =>
  readFileSync(join(dir, files.log), 'utf8')
    .split('\n')
    .filter((l) => l.includes('"type":"death"'))
    .map((l) => JSON.parse(l) as Death)
    .filter((d) => d.process === process)
    .at(-1);

/**
 * @param target a device process
 * @throws NyxError DEVICE_UNKNOWN
 */
export const postMortem = (dir: string, target: string): PostMortem => {
  const names = rings(dir);
  if (!names.includes(target))
    throw new NyxError('DEVICE_UNKNOWN', { expected: `one of ${names.join(', ')}`, got: `'${target}'` });
  const all = new Records(dir, target).read();
  const death = lastDeath(dir, target);
  // The one that died wrote what lies between the last two beginnings, or behind the last if none has come after it.
  const begins = all.flatMap((r, i) => (begin.test(r.line) ? [i] : []));
  const successor = begins.at(-1);
  const alive = death && successor !== undefined && all[successor]!.at >= death.at;
  const from = (alive ? begins.at(-2) : successor) ?? 0;
  const own = all.slice(from, alive ? successor : undefined);
  return { process: target, death, records: own.slice(-shown) };
};
