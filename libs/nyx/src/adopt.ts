/**
 * A machine whose supervisor has died gets another one: its keeper starts one at once, as a rule. Who wants something of a
 * machine waits for that one, or starts one itself.
 */
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorFromWire, NyxError, type WireError } from '@nyx/protocol/errors';
import { startSupervisor } from './launch.ts';
import { inspect, type RunInfo } from './rundir.ts';

/** Milliseconds: a supervisor starts within that, on a slow machine too. */
const keeperPatience = 5000;
const patience = 30_000;
const round = 50;

/** Whether a supervisor is there within so many milliseconds. @throws NyxError VM_UNKNOWN: the machine has ended meanwhile */
const supervised = async ({ dir, name }: RunInfo, ms: number): Promise<boolean> => {
  for (const end = Date.now() + ms; ; await sleep(round)) {
    const info = inspect(dir, name);
    if (info === undefined || info.kind === 'ended')
      throw info?.result?.error
        ? errorFromWire(info.result.error)
        : new NyxError('VM_UNKNOWN', { expected: `'${name}' to go on`, got: 'it has ended' });
    if (info.kind === 'alive') return true;
    if (Date.now() >= end) return false;
  }
};

/**
 * Resolves when a machine has a supervisor again: that of its keeper, or one that is started here.
 * @throws NyxError ADOPTION_FAILED; what ended the machine
 */
export const adopt = async (info: RunInfo): Promise<void> => {
  const hasKeeper = info.pids.some((p) => p.role === 'nyx-keeper');
  if (await supervised(info, hasKeeper ? keeperPatience : 0)) return;
  const child = startSupervisor(['--adopt', info.dir, '--report']);
  const said = await firstLine(child.stdio[3] as Readable);
  child.unref();
  if (said?.error && said.error.code !== 'VM_STATE') throw errorFromWire(said.error);
  // It may have been slower than another one.
  if (await supervised(info, patience)) return;
  throw new NyxError('ADOPTION_FAILED', {
    expected: `a supervisor for '${info.name}' within ${patience / 1000} s`,
    got: said ? 'none' : 'one that ended without a word',
  });
};

const firstLine = (pipe: Readable): Promise<{ state: string; error?: WireError } | undefined> =>
  new Promise((resolve) => {
    let text = '';
    const done = (line?: string): void => {
      clearTimeout(timer);
      pipe.destroy();
      try {
        resolve(line === undefined ? undefined : JSON.parse(line));
      } catch {
        resolve(undefined);
      }
    };
    const timer = setTimeout(done, patience);
    pipe.on('data', (b: Buffer) => {
      text += b.toString();
      if (text.includes('\n')) done(text.slice(0, text.indexOf('\n')));
    });
    pipe.on('error', () => done());
    pipe.on('close', () => done());
  });
