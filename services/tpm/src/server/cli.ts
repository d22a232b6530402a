/**
 * Command line of the socket servers:
 *   serve [--state DIR [--key FILE]] [--swtpm PORT|PATH] [--ctrl PORT|PATH] [--mssim PORT] [--startup-clear] [--not-need-init] [--no-sync]
 * `--swtpm` is the data socket, `--ctrl` its control channel (default: the port above, or PATH.ctrl); `--mssim` takes two
 * ports, the platform's is one above. TCP ports are of 127.0.0.1. Without `--swtpm` the data socket comes over `--ctrl PATH`.
 * `--key`: 32 octets or 64 hexadecimal digits with which state and state blobs are encrypted.
 */
import { rmSync } from 'node:fs';
import type { Server } from 'node:net';
import { setRlimit } from '@nyx/native';
import { MemoryStore } from '../core/store.ts';
import { FileStore, readKeyFile } from '../store/file.ts';
import { listenData } from './data.ts';
import { TpmHost } from './host.ts';
import { MssimServer } from './mssim.ts';
import { SwtpmServer } from './swtpm.ts';
import { listenControl } from './unix.ts';

function bind(server: Server, at: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    if (/^\d+$/.test(at)) server.listen(Number(at), '127.0.0.1', resolve);
    else server.listen(at, resolve);
  });
}
const next = (at: string) => (/^\d+$/.test(at) ? String(Number(at) + 1) : `${at}.ctrl`);

export async function serveCli(args: string[]): Promise<void> {
  const flags = new Set<string>();
  const values = new Map<string, string>();
  const known = new Map([
    ['--state', true],
    ['--key', true],
    ['--swtpm', true],
    ['--ctrl', true],
    ['--mssim', true],
    ['--startup-clear', false],
    ['--not-need-init', false],
    ['--no-sync', false],
  ]);
  for (let i = args[0] === 'serve' ? 1 : 0; i < args.length; i++) {
    const name = args[i]!;
    const takes = known.get(name);
    if (takes === undefined || (takes && args[i + 1] === undefined)) {
      process.stderr.write(`tpm: ${takes ? 'a value is missing after' : 'unknown option'} ${name}\n`);
      process.exit(2);
    }
    if (takes) values.set(name, args[++i]!);
    else flags.add(name);
  }
  const state = values.get('--state');
  const die = (e: unknown): never => {
    process.stderr.write(`tpm: ${e instanceof Error ? e.message : e}\n`);
    process.exit(1);
  };
  // A core dump would have the keys in it.
  setRlimit('CORE', 0, 0);
  let host: TpmHost;
  try {
    const keyFile = values.get('--key');
    const key = keyFile === undefined ? undefined : readKeyFile(keyFile);
    host = new TpmHost({
      store: state
        ? FileStore.open(state, { ...(key && { key }), sync: !flags.has('--no-sync') })
        : new MemoryStore(),
      ...(key && { blobKey: key }),
      onFailure: (e) => process.stderr.write(`tpm: failure mode: ${e instanceof Error ? e.stack : e}\n`),
    });
  } catch (e) {
    return die(e);
  }
  const closers: (() => void)[] = [];
  const stop = () => {
    host.shutdown();
    for (const close of closers) close();
    process.exit(0);
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  const serve = async (server: Server, at: string) => {
    closers.push(() => server.close());
    await bind(server, at);
  };
  const serveControl = async (swtpm: SwtpmServer, at: string) => {
    if (/^\d+$/.test(at)) return serve(swtpm.listen('control'), at);
    closers.push(listenControl(swtpm, at));
    // Node removes the path of a socket of its own; this one is ours to remove.
    closers.push(() => rmSync(at, { force: true }));
  };
  try {
    const data = values.get('--swtpm');
    const ctrl = values.get('--ctrl') ?? (data === undefined ? undefined : next(data));
    if (ctrl !== undefined) {
      const startupClear = flags.has('--startup-clear');
      const swtpm = new SwtpmServer(host, { startupClear, onShutdown: () => setImmediate(stop) });
      if (data !== undefined && /^\d+$/.test(data)) await serve(swtpm.listen('data'), data);
      else if (data !== undefined) {
        closers.push(listenData(data, swtpm.executeShared));
        closers.push(() => rmSync(data, { force: true }));
      }
      await serveControl(swtpm, ctrl);
      if (flags.has('--not-need-init')) {
        host.init(true);
        if (startupClear) host.startupClear();
      }
    }
    const mssim = values.get('--mssim');
    if (mssim) {
      const server = new MssimServer(host, stop);
      await serve(server.listen('command'), mssim);
      await serve(server.listen('platform'), next(mssim));
    }
  } catch (e) {
    die(e);
  }
  if (closers.length === 0) {
    process.stderr.write('tpm: nothing to serve: give --swtpm, --ctrl or --mssim\n');
    process.exit(2);
  }
  process.stdout.write('{"type":"serving"}\n');
}
