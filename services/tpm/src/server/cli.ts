/**
 * Command line of the socket servers:
 *   serve [--state DIR] [--swtpm PORT|PATH] [--ctrl PORT|PATH] [--mssim PORT] [--startup-clear] [--not-need-init]
 * `--swtpm` is the data socket, `--ctrl` its control channel (default: the port above, or PATH.ctrl); `--mssim` takes two
 * ports, the platform's is one above. TCP ports are of 127.0.0.1.
 */
import type { Server } from 'node:net';
import { MemoryStore } from '../core/store.ts';
import { FileStore } from '../store/file.ts';
import { TpmHost } from './host.ts';
import { MssimServer } from './mssim.ts';
import { SwtpmServer } from './swtpm.ts';

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
    ['--swtpm', true],
    ['--ctrl', true],
    ['--mssim', true],
    ['--startup-clear', false],
    ['--not-need-init', false],
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
  const store = state ? FileStore.open(state) : new MemoryStore();
  const host = new TpmHost({
    store,
    onFailure: (e) => process.stderr.write(`tpm: failure mode: ${e instanceof Error ? e.stack : e}\n`),
  });
  const servers: Server[] = [];
  const stop = () => {
    host.shutdownState();
    for (const s of servers) s.close();
    process.exit(0);
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  const serve = async (server: Server, at: string) => {
    servers.push(server);
    await bind(server, at);
  };
  try {
    const data = values.get('--swtpm');
    if (data) {
      const startupClear = flags.has('--startup-clear');
      const swtpm = new SwtpmServer(host, { startupClear, onShutdown: () => setImmediate(stop) });
      await serve(swtpm.listen('data'), data);
      await serve(swtpm.listen('control'), values.get('--ctrl') ?? next(data));
      if (flags.has('--not-need-init')) {
        host.powerOn();
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
    process.stderr.write(`tpm: ${e instanceof Error ? e.message : e}\n`);
    process.exit(1);
  }
  if (servers.length === 0) {
    process.stderr.write('tpm: nothing to serve: give --swtpm or --mssim\n');
    process.exit(2);
  }
  process.stdout.write('{"type":"serving"}\n');
}
