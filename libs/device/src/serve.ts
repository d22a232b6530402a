/**
 * Main program of a device process. It starts as a warm spare (addon and code loaded, no role), is given a role on
 * descriptor 3 and serves it until it is killed. It outlives the supervisor: a guest that runs goes on.
 */
import { writeSync } from 'node:fs';
import { isLevel } from '@nyx/log/levels';
import { LogWriter, logRingBytes } from '@nyx/log/ring';
import { close, mmap, monotonicNs, openSeqSocket } from '@nyx/native';
import { type FaultMessage, isDeviceOrder, type Role, type RoleReply } from '@nyx/protocol';
import type { AnyDeviceKind } from './device.ts';
import { DeviceHost } from './host.ts';
import { LockDown, type SyscallPolicy } from './lockdown.ts';
import { Reporter } from './reporter.ts';
import { warm } from './warm.ts';

const controlFd = 3;
/** Exit statuses; sysexits(3). */
const exitCode = { usage: 64, software: 70 } as const;

/** The log ring of the role; before there is one, and for what ends the process, lines of JSON go to stderr. */
let ring: LogWriter | undefined;
let guestNs = (): number => 0;

const openLog = (fd: number | undefined): void => {
  if (fd === undefined) return;
  ring = new LogWriter(mmap(fd, logRingBytes));
  close(fd);
};

/** A device process loads no logger. */
const log = (level: string, device: string, message: string): void => {
  if (ring && isLevel(level)) {
    ring.write(level, device, message, Math.max(0, guestNs()));
    if (level !== 'error') return;
  }
  try {
    writeSync(2, `${JSON.stringify({ level, device, message })}\n`);
  } catch {
    // Nobody reads it any more.
  }
};

const parseRole = (bytes: Uint8Array): Role => {
  let role: Role | undefined;
  try {
    role = JSON.parse(new TextDecoder().decode(bytes)) as Role;
  } catch {}
  if (role?.type !== 'role' || role.version !== 1 || !Array.isArray(role.devices))
    throw Object.assign(new Error('expected {"type":"role","version":1,...} on descriptor 3'), {
      code: 'ROLE_INVALID',
    });
  return role;
};

/** What the supervisor says after the role. Anything else is not for this version. */
const order = (bytes: Uint8Array, fds: readonly number[], host: DeviceHost | undefined): void => {
  let message: unknown;
  try {
    message = JSON.parse(new TextDecoder().decode(bytes));
  } catch {}
  const faults = message as Partial<FaultMessage> | undefined;
  if (faults?.type === 'faults' && Array.isArray(faults.rules)) host?.setFaults(faults.rules);
  else if (isDeviceOrder(message) && host?.order(message.device, message.order, fds)) return;
  for (const fd of fds) close(fd);
};

/**
 * @param kinds the devices that this program can be; any number of each in one process
 * @param policy system calls that it needs beyond those of every device process
 */
export function serveDevices(kinds: readonly AnyDeviceKind[], policy: SyscallPolicy = {}): void {
  let serving = false;
  let host: DeviceHost | undefined;
  const fatal = (error: unknown): never => {
    const e = error as Error;
    log('error', '', `bug: ${e?.stack ?? String(error)}`);
    process.exit(exitCode.software);
  };
  process.on('uncaughtException', fatal);
  // All code is in memory; what comes from now on comes with the role.
  const jail = new LockDown(policy, log);

  const socket = openSeqSocket(controlFd, {
    maxFds: 253,
    onMessage(bytes, fds) {
      if (serving) {
        order(bytes, fds, host);
        return;
      }
      const start = monotonicNs();
      let name = '';
      try {
        const role = parseRole(bytes);
        name = role.process;
        serving = true;
        openLog(role.log === undefined ? undefined : fds[role.log]);
        host = new DeviceHost(role, fds, kinds, { fatal, log, raise: new Reporter(send).raise, tell: send });
        host.start();
        jail.serving();
        const { epoch, republished, repaired, clock } = host;
        guestNs = () => clock.now();
        log('info', name, `serves, process ${epoch} of this place, ${republished} replies published again`);
        for (const device of repaired) log('warn', device, 'its state was damaged; the other half was taken');
        send({
          type: 'serving',
          process: name,
          epoch,
          attachNs: monotonicNs() - start,
          republished,
          repaired,
          missing: jail.missing,
        });
      } catch (error) {
        const e = error as { code?: string; message?: string; device?: string };
        send({
          type: 'failed',
          process: name,
          code: e.code ?? 'DEVICE_BUG',
          message: e.message ?? String(error),
          ...(e.device === undefined ? {} : { device: e.device }),
        });
        process.exitCode = exitCode.usage;
        setTimeout(() => process.exit(), 50).unref();
        socket.close();
      }
    },
    onClose() {
      // A spare without a role has no purpose without its supervisor.
      if (!serving) process.exit(0);
    },
  });
  const send = (reply: RoleReply): void => {
    try {
      socket.send(new TextEncoder().encode(JSON.stringify(reply)));
    } catch {
      // The supervisor is gone; the guest is not.
    }
  };
  // A role that is here already has been read by then, and is served at once.
  setImmediate(() => {
    if (serving) return;
    warm(kinds);
    send({ type: 'ready', pid: process.pid });
  });
}
