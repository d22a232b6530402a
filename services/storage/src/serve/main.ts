/**
 * The process behind `nyx storage serve`: a vhost-user back-end of one disk. It gets its files and its listening socket
 * from whoever started it, has no name of any file, and gives up the system calls that it does not need. One front-end
 * at a time; the next one waits.
 */
import { LockDown } from '@nyx/device/lockdown';
import { acceptUnix, fileSize, mmap, openSeqSocket, watch } from '@nyx/native';
import { Backend } from '@nyx/vhost-user';
import { openDisk } from '../block/open.ts';
import { syscalls } from '../syscalls.ts';
import { VhostBlk } from './device.ts';
import type { ServeOrder, ServeReply, ServeRole } from './role.ts';

const controlFd = 3;
const exitCode = { usage: 64, software: 70 } as const;
/** Requests under way at most. */
const SLOTS = 256;

const say = (reply: ServeReply): void => {
  try {
    control.send(new TextEncoder().encode(JSON.stringify(reply)));
  } catch {
    // Nobody listens; the guest still does.
  }
};
const log = (level: string, message: string): void => say({ type: 'log', level, message });
const fatal = (message: string): never => {
  log('error', message);
  process.exit(exitCode.software);
};
process.on('uncaughtException', (e) => fatal(`bug: ${e.stack ?? String(e)}`));

const jail = new LockDown(
  {
    attach: syscalls.attach ?? [],
    // A peer comes, with sockets and memory of its own; in-flight regions are made for it.
    serve: [...(syscalls.serve ?? []), 'accept4', 'getsockopt', 'memfd_create', 'ftruncate'],
  },
  (level, _device, message) => log(level, message),
);

let started = false;
/** Leaves a clean image behind. */
let end = (): void => {};
const control = openSeqSocket(controlFd, {
  maxFds: 253,
  onMessage(bytes, fds) {
    if (started) {
      const order = JSON.parse(new TextDecoder().decode(bytes)) as ServeOrder;
      if (order.type === 'end') {
        end();
        process.exit(0);
      }
      return;
    }
    started = true;
    try {
      serve(JSON.parse(new TextDecoder().decode(bytes)) as ServeRole, fds);
    } catch (e) {
      const { code = 'INTERNAL', message } = e as { code?: string; message: string };
      say({ type: 'failed', code, message });
      process.exitCode = exitCode.usage;
      setTimeout(() => process.exit(), 50).unref();
      control.close();
    }
  },
  // Whoever started us owns the socket's path: without it nobody could come back to us.
  onClose: () => {
    end();
    process.exit(0);
  },
});

function serve(role: ServeRole, fds: readonly number[]): void {
  const fd = (name: string): number => {
    const found = fds[role.fds[name] ?? -1];
    if (found === undefined)
      throw Object.assign(new Error(`no descriptor '${name}'`), { code: 'ROLE_DESCRIPTOR' });
    return found;
  };
  const source = {
    fd,
    has: (name: string): boolean => role.fds[name] !== undefined,
    bulk: (name: string): ArrayBuffer => mmap(fd(name), fileSize(fd(name))),
    mayWait: true,
  };
  const { queues, serial, blockBytes, lifetime, spinNs } = role;
  const options = { queues, serial, blockBytes, ...(lifetime ? { lifetime } : {}) };
  const backend = new Backend({
    make: (transport) => new VhostBlk(transport, options, SLOTS, openDisk(source, role.disk)),
    slots: SLOTS,
    changed: role.resized ?? false,
    spinNs,
    log,
    fatal,
  });
  const listener = fd('listen');
  const accept = (): void => {
    if (backend.connected) return;
    const peer = acceptUnix(listener);
    if (peer < 0) return;
    listening.close();
    say({ type: 'connected' });
    backend.serve(peer, () => {
      say({ type: 'gone' });
      listening = watch(listener, accept);
    });
  };
  let listening = watch(listener, accept);
  jail.serving();
  end = () => {
    backend.close();
    (backend.device as VhostBlk).requests.disk.close();
  };
  const { disk } = (backend.device as VhostBlk).requests;
  say({ type: 'serving', bytes: disk.size, readOnly: disk.readOnly, missing: jail.missing });
}

setImmediate(() => {
  if (!started) say({ type: 'ready' });
});
