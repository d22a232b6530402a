import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { close, memfdCreate, mmap } from '@nyx/native';
import { expect, test } from 'vitest';
import { LogReader, LogWriter, logRecords, logRingBytes } from './ring.ts';

const fresh = () => new ArrayBuffer(logRingBytes);

test('records come back in order, with their fields', () => {
  const buffer = fresh();
  const writer = new LogWriter(buffer, () => 1_700_000_000_123);
  writer.write('info', 'disk0', 'attached', 5e15);
  writer.write('fatal', 'a component with a long name', 'größer', 7);
  expect(new LogReader(buffer).read()).toEqual([
    {
      seq: 1,
      level: 'info',
      component: 'disk0',
      text: 'attached',
      truncated: false,
      hostMs: 1_700_000_000_123,
      guestNs: 5e15,
    },
    {
      seq: 2,
      level: 'fatal',
      component: 'a component with',
      text: 'größer',
      truncated: false,
      hostMs: 1_700_000_000_123,
      guestNs: 7,
    },
  ]);
});

test('the last 10,000 records are kept, and reading continues where it stopped', () => {
  const buffer = fresh();
  const writer = new LogWriter(buffer, () => 0);
  const reader = new LogReader(buffer);
  for (let i = 1; i <= logRecords + 5; i++) writer.write('debug', 'x', `message ${i}`);
  const all = reader.read();
  expect(all.length).toBe(logRecords);
  expect(all[0]?.text).toBe('message 6');
  expect(all.at(-1)?.text).toBe(`message ${logRecords + 5}`);
  writer.write('warn', 'x', 'one more');
  expect(reader.read(logRecords + 5).map((e) => e.text)).toEqual(['one more']);
});

test('a text that does not fit is cut between characters and says so', () => {
  const buffer = fresh();
  new LogWriter(buffer, () => 0).write('info', 'x', 'ü'.repeat(200));
  expect(new LogReader(buffer).read()[0]).toMatchObject({ text: 'ü'.repeat(104), truncated: true });
});

test('a successor continues behind its predecessor', () => {
  const buffer = fresh();
  new LogWriter(buffer, () => 0).write('info', 'x', 'before');
  new LogWriter(buffer, () => 0).write('info', 'x', 'after');
  expect(new LogReader(buffer).read().map((e) => `${e.seq} ${e.text}`)).toEqual(['1 before', '2 after']);
});

test('what a process wrote is there after it was killed', () => {
  const fd = memfdCreate('log', logRingBytes);
  const script = `import { LogWriter } from ${JSON.stringify(new URL('ring.ts', import.meta.url).href)};
    import { mmap } from ${JSON.stringify(new URL('../../native/src/index.ts', import.meta.url).href)};
    const w = new LogWriter(mmap(3, ${logRingBytes}));
    for (let i = 0; i < 100; i++) w.write('error', 'dying', 'last words ' + i);
    process.kill(process.pid, 'SIGKILL');`;
  const tsx = createRequire(import.meta.url).resolve('tsx');
  expect(() =>
    execFileSync(process.execPath, ['--import', tsx, '--input-type=module', '-e', script], {
      stdio: ['ignore', 'ignore', 'inherit', fd],
      cwd: fileURLToPath(new URL('.', import.meta.url)),
    }),
  ).toThrow(/SIGKILL|Command failed/);
  const entries = new LogReader(mmap(fd, logRingBytes, { write: false })).read();
  close(fd);
  expect(entries.map((e) => e.text)).toEqual(Array.from({ length: 100 }, (_, i) => `last words ${i}`));
});

test('a record that is being written, or torn, is left out', () => {
  const buffer = fresh();
  const writer = new LogWriter(buffer, () => 0);
  for (const text of ['one', 'two', 'three']) writer.write('info', 'x', text);
  new Uint32Array(buffer)[(4096 + 256) >> 2] = 0;
  expect(new LogReader(buffer).read().map((e) => e.text)).toEqual(['one', 'three']);
});

test('a reader survives any bytes', () => {
  const buffer = fresh();
  new LogWriter(buffer, () => 0).write('info', 'x', 'y');
  const bytes = new Uint8Array(buffer);
  let state = 12345;
  for (let round = 0; round < 20; round++) {
    for (let i = 4; i < 64; i++) {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      bytes[i] = state >>> 16;
    }
    for (let i = 4096; i < 4096 + 2560; i++) {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      bytes[i] = state >>> 16;
    }
    const reader = new LogReader(buffer);
    expect(reader.read().length).toBeLessThanOrEqual(logRecords);
    // A sequence that fits its slot but carries a wrong level or length.
    const header = new Uint32Array(buffer);
    header[4] = 3;
    header[5] = 0;
    for (const entry of reader.read()) expect(entry.text.length).toBeLessThanOrEqual(208);
  }
});

test('a buffer that is too small is refused with a code', () => {
  expect(() => new LogReader(new ArrayBuffer(4096))).toThrow(expect.objectContaining({ code: 'LOG_FORMAT' }));
  expect(() => new LogWriter(new ArrayBuffer(4096))).toThrow(expect.objectContaining({ code: 'LOG_FORMAT' }));
});
