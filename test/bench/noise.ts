/** What a figure must be read with: how many CPUs, and how busy others keep them. */
import { readFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { cpuCount } from '@nyx/native';

/** CPU time of all work of the machine, and of all its CPUs, ticks (10 ms) since it started. */
export const busy = (): { busy: number; all: number } => {
  const n = readFileSync('/proc/stat', 'latin1').split('\n')[0]!.split(/\s+/).slice(1, 9).map(Number);
  const all = n.reduce((a, b) => a + b, 0);
  return { busy: all - n[3]! - n[4]!, all };
};

/** Looks at the machine for half a second, in which the bench does nothing. */
export const noise = async (): Promise<string> => {
  const a = busy();
  await sleep(500);
  const b = busy();
  const share = (100 * (b.busy - a.busy)) / Math.max(1, b.all - a.all);
  return `${cpuCount()} CPUs, ${share.toFixed(0)} % of them busy with other work, load ${loadavg()[0]!.toFixed(1)}`;
};

export const quantile = (values: readonly number[], q: number): number => {
  const s = [...values].sort((x, y) => x - y);
  return s[Math.min(s.length - 1, Math.floor(s.length * q))] ?? Number.NaN;
};

/** 'median (least..most)' */
export const spread = (values: readonly number[], digits = 0): string =>
  `${quantile(values, 0.5).toFixed(digits)} (${Math.min(...values).toFixed(digits)}..${Math.max(...values).toFixed(digits)})`;
