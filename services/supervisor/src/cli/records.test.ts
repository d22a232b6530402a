import { appendFileSync, ftruncateSync, mkdtempSync, openSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LogWriter, logRingBytes } from '@nyx/log/ring';
import { close, mmap } from '@nyx/native';
import { expect, test } from 'vitest';
import { postMortem } from './post-mortem.ts';
import { Records } from './records.ts';

const setUp = () => {
  const dir = mkdtempSync(join(tmpdir(), 'nyx-records-'));
  const path = join(dir, 'disk0.logring');
  const fd = openSync(path, 'w+');
  ftruncateSync(fd, logRingBytes);
  let now = 1000;
  // The device process has it mapped; whoever reads, reads the file.
  const ring = new LogWriter(mmap(fd, logRingBytes), () => now);
  close(fd);
  writeFileSync(join(dir, 'nyxd.log'), '');
  return { dir, path, write: (at: number, text: string) => ((now = at), ring.write('info', 'disk0', text)) };
};
const texts = (records: { line: string }[]): unknown[] => records.map((r) => JSON.parse(r.line).message);
const serves = (n: number): string => `serves, process ${n} of this place, 0 replies published again`;
const death = (at: number, pid: number): string =>
  `${JSON.stringify({ level: 'warn', time: at, type: 'death', at, process: 'disk0', pid, reason: 'killed by SIGKILL' })}\n`;

test('records of files and rings come in order, each once', () => {
  const { dir, path, write } = setUp();
  const records = new Records(dir);
  expect(records.read()).toEqual([]);
  write(2000, 'b');
  appendFileSync(
    join(dir, 'nyxd.log'),
    '{"time":1000,"message":"a"}\n{"time":3000,"message":"c"}\n{"time":4',
  );
  expect(texts(records.read())).toEqual(['a', 'b', 'c']);
  write(3500, 'd');
  appendFileSync(join(dir, 'nyxd.log'), '000,"message":"e"}\n');
  expect(texts(records.read())).toEqual(['d', 'e']);
  // A hostile process makes its ring shorter.
  truncateSync(path, 100);
  expect(records.read()).toEqual([]);
});

test('a post mortem shows what the dead one wrote, not its successor, nor its predecessor', () => {
  const { dir, write } = setUp();
  write(1000, serves(1));
  write(1001, 'first');
  expect(texts(postMortem(dir, 'disk0').records)).toEqual([serves(1), 'first']);
  expect(postMortem(dir, 'disk0').death).toBeUndefined();
  appendFileSync(join(dir, 'nyxd.log'), death(1002, 7));
  // Nobody came after it.
  expect(texts(postMortem(dir, 'disk0').records)).toEqual([serves(1), 'first']);
  write(1003, serves(2));
  write(1004, 'second');
  expect(texts(postMortem(dir, 'disk0').records)).toEqual([serves(1), 'first']);
  appendFileSync(join(dir, 'nyxd.log'), death(1005, 8));
  write(1006, serves(3));
  expect(postMortem(dir, 'disk0')).toMatchObject({ death: { pid: 8, reason: 'killed by SIGKILL' } });
  expect(texts(postMortem(dir, 'disk0').records)).toEqual([serves(2), 'second']);
  expect(() => postMortem(dir, 'tape')).toThrowError(expect.objectContaining({ code: 'DEVICE_UNKNOWN' }));
});
