/**
 * Device processes that wait for a role: started, addon loaded, code compiled. Standbys (standby.ts) are made of them, and
 * successors where there is no standby.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { isDeviceEvent, type Role, type RoleReply } from '@nyx/protocol';
import { NyxError } from '@nyx/protocol/errors';
import { cgroups, type Group, groupAt } from './cgroup.ts';
import { Child, type Inherited } from './child.ts';
import { deviceDataLimit } from './jail.ts';
import { addonPath, bundleFiles } from './paths.ts';

/**
 * Smaller young generation and no idle threads: these processes are many and allocate little. The first is also in
 * tools/bundle.mjs: a code cache is for the flags that it was made with.
 */
const nodeOptions = ['--max-semi-space-size=2', '--v8-pool-size=1', '--no-warnings'];

export interface Host {
  log: number;
  /** Bundle of a service. */
  bundle(service: string): string;
  /** More options for Node. */
  nodeOptions?: readonly string[];
  /** Files that a device process reads beside its bundle, or false: no jail (doubles in tests). */
  jail?: readonly string[] | false;
}

/** A vCPU waits for them: they are to run when they wake, also beside programs that never sleep. */
const deviceSlice = 300_000;

/** Every thread of it. */
const isStopped = (pid: number): boolean => {
  try {
    return readdirSync(`/proc/${pid}/task`).every((t) =>
      /\) [Tt] /.test(readFileSync(`/proc/${pid}/task/${t}/stat`, 'latin1')),
    );
  } catch {
    return false;
  }
};

/** A device process, with or without a role. */
export class DeviceChild {
  readonly child: Child;
  ready = false;
  #onReply: (r: RoleReply) => void = () => {};
  #onDeath: (reason: string) => void = () => {};
  #death: string | undefined;
  readonly #group: Group | undefined;

  constructor(
    readonly service: string,
    host: Host,
    inherited?: Inherited,
  ) {
    const bundle = host.bundle(service);
    const read = host.jail === false ? undefined : [...bundleFiles(bundle), ...(host.jail ?? [addonPath()])];
    if (inherited) this.#group = inherited.group === undefined ? undefined : groupAt(inherited.group);
    else if (read) this.#group = cgroups().make(deviceDataLimit);
    const cgroup = this.#group && { cgroup: this.#group.path };
    this.child = new Child(
      process.execPath,
      [...nodeOptions, ...(host.nodeOptions ?? []), bundle],
      {
        log: host.log,
        ...(read
          ? { jail: { read, leaves: true, dataLimit: deviceDataLimit, slice: deviceSlice, ...cgroup } }
          : {}),
        onMessage: (bytes) => this.#message(bytes),
        onDeath: (reason) => {
          this.#death = reason;
          this.#group?.remove();
          this.#onDeath(reason);
        },
      },
      inherited,
    );
    this.ready = inherited !== undefined;
  }

  /** Of its control group. */
  get group(): string | undefined {
    return this.#group?.path;
  }

  get death(): string | undefined {
    return this.#death;
  }

  /** Gives the role. The callbacks are from now on; a death that has happened already is told at once. */
  assign(
    role: Role,
    fds: readonly number[],
    onReply: (r: RoleReply) => void,
    onDeath: (reason: string) => void,
  ): void {
    this.listen(onReply, onDeath);
    this.give(role, fds);
  }

  give(role: Role, fds: readonly number[]): void {
    // Guest memory counts where it is touched first, and so does what is saved of it for a checkpoint.
    if (role.ram !== undefined) this.#group?.limit(deviceDataLimit + 2 * role.ramBytes);
    if (this.#death === undefined) this.child.send(Buffer.from(JSON.stringify(role)), fds);
  }

  /** Stops it, until SIGCONT. False: it does not stand still within two seconds. */
  async stand(): Promise<boolean> {
    this.child.kill('SIGSTOP');
    for (const end = performance.now() + 2000; !isStopped(this.child.pid); ) {
      if (this.#death !== undefined) return true;
      if (performance.now() > end) return false;
      await new Promise((r) => setImmediate(r));
    }
    return true;
  }

  /** Other callbacks from now on. */
  listen(onReply: (r: RoleReply) => void, onDeath: (reason: string) => void): void {
    this.#onReply = onReply;
    this.#onDeath = onDeath;
    if (this.#death !== undefined) setImmediate(() => onDeath(this.#death!));
  }

  #message(bytes: Uint8Array): void {
    let reply: RoleReply;
    try {
      reply = checkReply(JSON.parse(Buffer.from(bytes).toString()));
    } catch {
      // It does not speak our protocol: it is of no use.
      this.child.kill();
      return;
    }
    if (reply.type === 'ready') this.ready = true;
    else {
      if (reply.type === 'serving') this.child.jail?.missing.push(...reply.missing);
      this.#onReply(reply);
    }
  }
}

/** @throws NyxError PROTOCOL_INVALID: a device process is not trusted to send what it should. */
export const checkReply = (m: unknown): RoleReply => {
  const r = (typeof m === 'object' && m !== null ? m : {}) as Record<string, unknown>;
  const isText = (v: unknown): boolean => typeof v === 'string' && v.length < 4096;
  const text = (k: string): boolean => isText(r[k]);
  const texts = (k: string): boolean =>
    Array.isArray(r[k]) && (r[k] as unknown[]).length <= 256 && (r[k] as unknown[]).every(isText);
  const number = (k: string): boolean =>
    typeof r[k] === 'number' && Number.isFinite(r[k]) && (r[k] as number) >= 0;
  const good =
    (r.type === 'ready' && number('pid')) ||
    (r.type === 'armed' && text('process') && texts('migrates')) ||
    (r.type === 'serving' &&
      text('process') &&
      ['epoch', 'attachNs', 'republished'].every(number) &&
      texts('repaired') &&
      texts('missing')) ||
    (r.type === 'failed' &&
      text('process') &&
      text('code') &&
      text('message') &&
      (r.device === undefined || text('device'))) ||
    // Its data are checked against the kind's table (fault-desk.ts).
    isDeviceEvent(m) ||
    (r.type === 'fault' && text('kind') && text('device') && typeof r.data === 'object' && r.data !== null);
  if (!good)
    throw new NyxError('PROTOCOL_INVALID', {
      expected: 'ready, armed, serving, failed, fault or device',
      got: JSON.stringify(m)?.slice(0, 200) ?? 'nothing',
    });
  return r as unknown as RoleReply;
};

export class Spares {
  readonly #waiting = new Map<string, DeviceChild[]>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #closed = false;

  constructor(readonly host: Host) {}

  /** A process that another supervisor started. */
  inherit(service: string, inherited: Inherited): DeviceChild {
    return new DeviceChild(service, this.host, inherited);
  }

  /** A warm spare, or a new process. */
  take(service: string): DeviceChild {
    return this.#alive(service).shift() ?? new DeviceChild(service, this.host);
  }

  /** Starts spares until there are so many. */
  start(service: string, count = 1): void {
    const spares = this.#alive(service);
    while (!this.#closed && spares.length < count) spares.push(new DeviceChild(service, this.host));
  }

  /** The same after `delay` ms: what is under way has the CPU first. */
  keep(service: string, count: number, delay: number): void {
    if (count === 0) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      try {
        this.start(service, count);
      } catch {
        // It is tried again when one is needed, and reported then.
      }
    }, delay);
    this.#timers.add(timer);
  }

  get children(): Child[] {
    return [...this.#waiting.values()].flat().map((d) => d.child);
  }

  close(): void {
    this.#closed = true;
    for (const t of this.#timers) clearTimeout(t);
    for (const c of this.children) c.kill();
  }

  #alive(service: string): DeviceChild[] {
    const spares = (this.#waiting.get(service) ?? []).filter((d) => d.death === undefined);
    this.#waiting.set(service, spares);
    return spares;
  }
}
