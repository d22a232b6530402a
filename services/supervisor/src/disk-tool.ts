/**
 * The storage service's tool (services/storage/src/tool) at work on images that a machine has open: it gets their descriptors,
 * so that nobody else's lock is in its way.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { NyxError } from '@nyx/protocol/errors';
import { built } from './paths.ts';

/** First descriptor of the tool that is not a standard one. */
const FIRST = 3;

/**
 * Runs a command. @param request of descriptors by their place in `fds`: see `at`
 * @param progress 0..1
 * @throws NyxError DISK_INVALID
 */
export async function runTool<T>(
  request: Record<string, unknown>,
  fds: readonly number[] = [],
  progress: (fraction: number) => void = () => {},
): Promise<T> {
  const child = spawn(process.execPath, [built('services/storage/dist/disk.cjs'), JSON.stringify(request)], {
    stdio: ['ignore', 'pipe', 'ignore', ...fds],
    env: { PATH: '/usr/bin:/bin' },
  });
  const ended = new Promise<string>((resolve) => {
    child.on('error', (e) => resolve(e.message));
    child.on('exit', (code, signal) => resolve(signal ? `killed by ${signal}` : `exited ${code}`));
  });
  let said: { result?: T; error?: { code: string; message: string } } = {};
  for await (const line of createInterface({ input: child.stdout! })) {
    const m = JSON.parse(line);
    if (typeof m.progress === 'number') progress(m.progress);
    else said = m;
  }
  const how = await ended;
  if (said.result !== undefined) return said.result;
  throw new NyxError('DISK_INVALID', {
    expected: `the disk tool to ${request.command}`,
    got: said.error ? `${said.error.code}: ${said.error.message}` : `it was ${how}`,
  });
}

/** Number in the tool of descriptor `i` of those given. */
export const at = (i: number): number => FIRST + i;
