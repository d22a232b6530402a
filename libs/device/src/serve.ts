/**
 * Main program of a device process. It starts as a warm spare (addon and code loaded, no role), is given a role on
 * descriptor 3 and serves it until it is killed. It outlives the supervisor: a guest that runs goes on.
 *
 *   spare --role--> serving                     nobody has the role
 *         --role--> standby --death--> serving  somebody has; everything is mapped and made until that process is gone
 */
import { writeSync } from 'node:fs';
import { isLevel } from '@nyx/log/levels';
import { LogWriter, logRingBytes } from '@nyx/log/ring';
import {
  close,
  createDeathWatch,
  type DeathWatch,
  eventfdRead,
  mmap,
  monotonicNs,
  openSeqSocket,
  watch,
} from '@nyx/native';
import { type FaultMessage, isDeviceOrder, type Role, type RoleReply, type TakeOver } from '@nyx/protocol';
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
/** Memory of the log ring that is opened with the first record. */
let unopened: ArrayBuffer | undefined;
let guestNs = (): number => 0;

/** A device process loads no logger. */
const log = (level: string, device: string, message: string): void => {
  if (unopened) ring = new LogWriter(unopened);
  unopened = undefined;
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

/** A place: from the role on, first as a standby if there is a predecessor, then as the one who serves. */
class Place {
  readonly #role: Role;
  readonly #host: DeviceHost;
  readonly #jail: LockDown;
  readonly #log: ArrayBuffer | undefined;
  readonly #done: (reply: RoleReply) => void;
  /** As a standby, until who serves is dead. */
  #succeed: (() => void) | undefined;
  #serving = false;
  #locked = false;

  /** @throws coded errors of DeviceHost */
  constructor(
    role: Role,
    fds: readonly number[],
    kinds: readonly AnyDeviceKind[],
    jail: LockDown,
    deaths: DeathWatch,
    alone: boolean,
    done: (reply: RoleReply) => void,
  ) {
    this.#role = role;
    this.#jail = jail;
    this.#done = done;
    const logFd = role.log === undefined ? undefined : fds[role.log];
    if (logFd !== undefined) {
      this.#log = mmap(logFd, logRingBytes);
      close(logFd);
    }
    const { raise } = new Reporter(done);
    this.#host = new DeviceHost(role, fds, kinds, { fatal, log, raise, tell: done, alone }, true);
    const { standby } = role;
    if (standby === undefined) {
      deaths.close();
      this.serve();
      return;
    }
    this.#host.touch();
    if (this.#host.complete) this.#lockDown();
    const [predecessor, claim] = [fds[standby.predecessor]!, fds[standby.claim]!];
    // Two tell of its death: soon, that its main thread has executed its last instruction; later, that all is gone.
    const dead = watch(predecessor, () => this.#succeed?.());
    this.#succeed = () => {
      this.#succeed = undefined;
      dead.close();
      close(predecessor);
      // Whoever reads the 1 decides; the supervisor, if it was first, tells us what it decided.
      if (eventfdRead(claim) === 1) this.serve();
      close(claim);
      deaths.close();
    };
    deaths.start(this.#host.rings);
    done({ type: 'armed', process: role.process, migrates: this.#host.foresee() });
  }

  /** Who served executes nothing more; others still carry out so many of its file requests. */
  predecessorEnded(inFlight: number): void {
    if (inFlight === 0) this.#succeed?.();
  }

  /** Nobody else has the role any more: attaches, and answers. Idempotent. */
  serve(): void {
    if (this.#serving) return;
    this.#serving = true;
    const start = monotonicNs();
    const { process: name } = this.#role;
    const host = this.#host;
    unopened = this.#log;
    let attachNs: number;
    try {
      host.attach();
      host.start();
      this.#lockDown();
      attachNs = monotonicNs() - start;
      host.serve();
    } catch (error) {
      this.#done(failure(name, error));
      return;
    }
    const { epoch, republished, repaired, clock } = host;
    guestNs = () => clock.now();
    const { missing } = this.#jail;
    const tell = (): void => {
      this.#done({ type: 'serving', process: name, epoch, attachNs, republished, repaired, missing });
      log('info', name, `serves, process ${epoch} of this place, ${republished} replies published again`);
      for (const device of repaired) log('warn', device, 'its state was damaged; the other half was taken');
    };
    // Who waited has an answer, and what it asks next comes before our news, too.
    if (this.#role.standby) setImmediate(tell);
    else tell();
  }

  #lockDown(): void {
    if (!this.#locked) this.#jail.serving();
    this.#locked = true;
  }

  /** What the supervisor says after the role. Anything else is not for this version. */
  order(bytes: Uint8Array, fds: readonly number[]): void {
    let message: unknown;
    try {
      message = JSON.parse(new TextDecoder().decode(bytes));
    } catch {}
    const known = message as Partial<FaultMessage> | Partial<TakeOver> | undefined;
    if (known?.type === 'takeOver') this.serve();
    else if (known?.type === 'faults' && Array.isArray(known.rules)) {
      if (this.#serving) this.#host.setFaults(known.rules);
      // A standby makes faults only once it serves.
      else if (this.#role.faults) this.#role.faults.rules = known.rules;
    } else if (
      isDeviceOrder(message) &&
      this.#serving &&
      this.#host.order(message.device, message.order, fds)
    )
      return;
    for (const fd of fds) close(fd);
  }
}

const failure = (name: string, error: unknown): RoleReply => {
  const e = error as { code?: string; message?: string; device?: string };
  const { code = 'DEVICE_BUG', message = String(error), device } = e;
  return { type: 'failed', process: name, code, message, ...(device === undefined ? {} : { device }) };
};

const fatal = (error: unknown): never => {
  const e = error as Error;
  log('error', '', `bug: ${e?.stack ?? String(error)}`);
  process.exit(exitCode.software);
};

/**
 * @param kinds the devices that this program can be; any number of each in one process
 * @param policy system calls that it needs beyond those of every device process
 * @param alone it has no threads of its own that write to files or to shared memory: its successor need not wait for them
 */
export function serveDevices(
  kinds: readonly AnyDeviceKind[],
  policy: SyscallPolicy = {},
  alone = true,
): void {
  let asked = false;
  let isWarm = false;
  let place: Place | undefined;
  process.on('uncaughtException', fatal);
  // A thread; the jail allows no more.
  const deaths = createDeathWatch((inFlight) => place?.predecessorEnded(inFlight));
  deaths.unref();
  // All code is in memory; what comes from now on comes with the role.
  const jail = new LockDown(policy, log);

  const socket = openSeqSocket(controlFd, {
    maxFds: 253,
    onMessage(bytes, fds) {
      if (asked) {
        place?.order(bytes, fds);
        return;
      }
      asked = true;
      let name = '';
      try {
        const role = parseRole(bytes);
        name = role.process;
        if (role.standby) rehearseOnce();
        place = new Place(role, fds, kinds, jail, deaths, alone, send);
      } catch (error) {
        send(failure(name, error));
      }
    },
    onClose() {
      // A spare without a role has no purpose without its supervisor.
      if (!asked) process.exit(0);
    },
  });
  const send = (reply: RoleReply): void => {
    try {
      socket.send(new TextEncoder().encode(JSON.stringify(reply)));
    } catch {
      // The supervisor is gone; the guest is not.
    }
    if (reply.type !== 'failed') return;
    process.exitCode = exitCode.usage;
    setTimeout(() => process.exit(), 50).unref();
    socket.close();
  };
  const rehearseOnce = (): void => {
    if (!isWarm) warm(kinds);
    isWarm = true;
  };
  // A role that is here already has been read by then, and is served at once.
  setImmediate(() => {
    if (asked) return;
    rehearseOnce();
    send({ type: 'ready', pid: process.pid });
  });
}
