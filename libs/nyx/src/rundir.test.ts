import { spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NyxError } from '@nyx/protocol/errors';
import { expect, test } from 'vitest';
import {
  claim,
  files,
  find,
  freeName,
  identify,
  inspect,
  isAlive,
  list,
  runRoot,
  writeJson,
} from './rundir.ts';

const fresh = (): string => runRoot({ XDG_RUNTIME_DIR: mkdtempSync(join(tmpdir(), 'nyx-run-')) });
const code = (f: () => unknown): string => {
  try {
    f();
  } catch (e) {
    return (e as NyxError).code;
  }
  return 'none';
};

test('a name belongs to one machine', () => {
  const root = fresh();
  claim('a', root);
  expect(code(() => claim('a', root))).toBe('VM_EXISTS');
  expect(freeName('a', root)).toBe('a-2');
  expect(find(undefined, root).name).toBe('a');
  expect(code(() => find('b', root))).toBe('VM_UNKNOWN');
  claim('b', root);
  expect(code(() => find(undefined, root))).toBe('VM_AMBIGUOUS');
});

test('a directory whose processes are gone is dropped; one with the same pid and another start time too', () => {
  const root = fresh();
  const dir = claim('gone', root);
  writeJson(join(dir, files.pids), [{ role: 'nyxd', pid: process.pid, start: 1 }]);
  expect(list(root)).toEqual([]);
  expect(existsSync(dir)).toBe(false);
});

test('a dead supervisor with living children is orphaned, a failed machine is kept', async () => {
  const root = fresh();
  const child = spawn('sleep', ['60']);
  const orphan = claim('orphan', root);
  writeJson(join(orphan, files.pids), [
    { role: 'nyxd', pid: 999_999_999, start: 1 },
    identify('nyx-vcpu', child.pid!),
  ]);
  const failed = claim('failed', root);
  writeJson(join(failed, files.pids), []);
  writeJson(join(failed, files.result), { state: 'failed', at: 1, error: { code: 'VCPU_DIED' } });
  expect(list(root).map((i) => [i.name, i.kind])).toEqual([
    ['failed', 'ended'],
    ['orphan', 'orphaned'],
  ]);
  const id = identify('x', child.pid!);
  child.kill('SIGKILL');
  await new Promise((r) => child.once('exit', r));
  expect(isAlive(id)).toBe(false);
  expect(inspect(orphan, 'orphan')).toBeUndefined();
  expect(claim('failed', root)).toBe(failed);
  expect(readdirSync(failed)).toEqual([files.pids]);
});

test('a root that others may enter is refused', () => {
  const base = mkdtempSync(join(tmpdir(), 'nyx-run-'));
  mkdirSync(join(base, 'nyx'));
  chmodSync(join(base, 'nyx'), 0o755);
  expect(code(() => runRoot({ XDG_RUNTIME_DIR: base }))).toBe('RUN_DIR_UNSAFE');
});

test('a path that no socket can have is refused', () => {
  const base = mkdtempSync(join(tmpdir(), `nyx-${'x'.repeat(80)}`));
  expect(code(() => claim('a', runRoot({ XDG_RUNTIME_DIR: base })))).toBe('PATH_TOO_LONG');
});
