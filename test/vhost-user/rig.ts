/** What tests of vhost-user share: partners on a socket, ours and others', that can be killed; a guest image. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';

export const folder = mkdtempSync(join(tmpdir(), 'nyx-vhost-'));
process.env.XDG_RUNTIME_DIR = folder;
/** For `afterAll`. */
export const clean = (): void => rmSync(folder, { recursive: true, force: true });
const nyx = fileURLToPath(new URL('../../bin/nyx', import.meta.url));
export const socket = join(folder, 'back-end.sock');

export const image = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`tests of vhost-user are left out, there is no image: ${e.message}`);
  return undefined;
});
export const installed = (program: string, why: string): boolean => {
  const there = spawnSync(program, ['--version']).status === 0;
  if (!there) console.warn(`${why} is left out: ${program} is not installed`);
  return there;
};

const children: ChildProcess[] = [];
export const end = async (child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const over = new Promise((r) => child.once('exit', r));
  child.kill(signal);
  await over;
};
/** For `afterEach`. */
export const endAll = async (): Promise<void> => {
  for (const c of children.splice(0)) await end(c);
  rmSync(socket, { force: true });
};
export const start = (program: string, args: string[]): ChildProcess => {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  child.stderr.on('data', () => {});
  children.push(child);
  return child;
};

export const blank = (name: string, bytes: number): string => {
  const path = join(folder, name);
  writeFileSync(path, '');
  truncateSync(path, bytes);
  return path;
};
/** @throws Error with what it said when it ends instead, or does neither */
const listening = async (child: ChildProcess): Promise<void> => {
  let said = '';
  child.stderr!.on('data', (b: Buffer) => {
    said += b.toString();
  });
  for (let n = 0; !existsSync(socket); n++) {
    if (n > 400 || child.exitCode !== null) throw new Error(`nobody listens: ${said.slice(-300)}`);
    await sleep(25);
  }
};

/** `nyx storage serve`, and how to kill the process that serves. */
export async function ours(path: string, ...more: string[]): Promise<{ child: ChildProcess; kill(): void }> {
  const child = start(process.execPath, [nyx, 'storage', 'serve', '--socket', socket, path, ...more]);
  let said = '';
  child.stderr!.on('data', (b: Buffer) => {
    said += b.toString();
  });
  for (let n = 0; !said.includes('by process'); n++) {
    if (n > 400) throw new Error(`it does not serve: ${said}`);
    await sleep(25);
  }
  return {
    child,
    kill: () => process.kill(Number([...said.matchAll(/by process (\d+)/g)].at(-1)![1]), 'SIGKILL'),
  };
}

/** `nyx storage resize`, which must work. */
export function grow(size: string): void {
  const r = spawnSync(process.execPath, [nyx, 'storage', 'resize', socket, size], { encoding: 'utf8' });
  if (r.status !== 0) throw new Error(r.stderr);
}

/** A program that listens on the socket, and can be killed and started again. */
export class Partner {
  #child: ChildProcess | undefined;
  constructor(
    readonly program: string,
    readonly args: string[],
  ) {}
  async start(): Promise<this> {
    rmSync(socket, { force: true });
    this.#child = start(this.program, this.args);
    await listening(this.#child);
    return this;
  }
  /** When it has ended by itself. @throws Error when it does not */
  async gone(): Promise<void> {
    for (let n = 0; this.#child!.exitCode === null && this.#child!.signalCode === null; n++) {
      if (n > 400) throw new Error('it does not end');
      await sleep(25);
    }
  }
  /** SIGKILL, some time without anybody, the next one. */
  async again(): Promise<void> {
    await end(this.#child!, 'SIGKILL');
    await sleep(100);
    await this.start();
  }
}

/** qemu-storage-daemon with a raw image. */
export const storageDaemon = (path: string): Partner =>
  new Partner('qemu-storage-daemon', [
    ...['--blockdev', `driver=file,node-name=d,filename=${path}`],
    '--export',
    `type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=${socket},writable=on`,
  ]);

/** Does `strike` again and again while `work` goes on; how often, and what came of the work. */
export async function during<T>(
  work: Promise<T>,
  most: number,
  everyMs: number,
  strike: (n: number) => unknown,
): Promise<{ strikes: number; result: T }> {
  let over = false;
  void work
    .finally(() => {
      over = true;
    })
    .catch(() => {});
  let strikes = 0;
  while (strikes < most && !over) {
    await sleep(everyMs);
    if (over) break;
    await strike(strikes++);
  }
  return { strikes, result: await work };
}
