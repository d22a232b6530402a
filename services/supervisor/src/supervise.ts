/**
 * What nyxd does once its code is loaded: reads the specification, runs the machine, serves its control sockets. Descriptor 3, if
 * open, is a pipe to whoever started us: a line of JSON when the machine runs, and one when it has ended.
 */
import { closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Logs } from '@nyx/log';
import { files, identify, type RunResult, recorded, signal, writeJson } from '@nyx/nyx/rundir';
import type { Fingerprint, VmState } from '@nyx/protocol/control';
import { asNyxError, type NyxError, type WireError } from '@nyx/protocol/errors';
import type { FaultPlan } from '@nyx/protocol/fault-plan';
import { parseRule } from '@nyx/protocol/policy';
import { parseSpec } from '@nyx/protocol/spec';
import { type Heritage, heritageOf } from './adoption.ts';
import { Keeper } from './keeper.ts';
import { Machine } from './machine.ts';
import { vcpuProgram } from './paths.ts';
import type { ControlServer } from './server.ts';
import type { Spares } from './spares.ts';

/** Of the report pipe, while there is one. */
let reportFd = 3;

/** Lines on the report pipe. */
export interface Report {
  state: VmState;
  error?: WireError;
  fingerprint?: Fingerprint;
}

const report = (r: Report): void => {
  try {
    if (reportFd >= 0) writeSync(reportFd, `${JSON.stringify(r)}\n`);
  } catch {
    // Nobody listens any more; that is no reason to stop the guest.
  }
};

/** A machine that runs already, whose supervisor is dead. */
export interface Adoption {
  /** Who started us listens at the report pipe for how the adoption went; else there is no such descriptor. */
  reports: boolean;
}

/** Program and arguments of another supervisor for the machine. */
const successorOf = (dir: string): string[] => [
  process.execPath,
  '--no-warnings',
  process.argv[1]!,
  '--adopt',
  dir,
];

/**
 * @param spares device processes that were started already
 * @param adoption take the machine over instead of starting it
 */
export const supervise = async (dir: string, spares: Spares, adoption?: Adoption): Promise<void> => {
  const name = basename(dir);
  const logs = new Logs({ destination: join(dir, files.log), base: { vm: name } });
  const log = logs.logger('nyxd');

  const end = (
    state: RunResult['state'],
    error: NyxError | undefined,
    keep = true,
    fault: string | undefined = undefined,
    fingerprint?: Fingerprint,
  ): void => {
    const result: RunResult = {
      state,
      at: Date.now(),
      ...(error ? { error: error.toJSON() } : {}),
      ...(fault === undefined ? {} : { fault }),
    };
    if ((state === 'failed' || fault !== undefined) && keep) {
      // Kept, with its logs, until somebody has looked.
      writeJson(join(dir, files.result), result);
      writeJson(join(dir, files.pids), []);
    } else {
      try {
        // A keeper that has just been started may be making its socket there.
        rmSync(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 10 });
      } catch {
        // Nothing is left that runs: the next who lists machines removes it.
      }
    }
    report({ ...result, ...(fingerprint ? { fingerprint } : {}) });
  };

  // An error nobody foresaw must not leave the guest without a supervisor; it is logged, and the machine goes on.
  process.on('uncaughtException', (e) => log.error({ err: e }, 'uncaught'));
  process.on('unhandledRejection', (e) => log.error({ err: e }, 'unhandled rejection'));
  process.on('SIGHUP', () => {});
  process.on('SIGPIPE', () => {});

  let machine: Machine;
  let server: ControlServer | undefined;
  let isOpen = false;
  let pids: { role: string; pid: number }[] = [];
  const writePids = (): void =>
    writeJson(join(dir, files.pids), [
      identify('nyxd', process.pid),
      identify('nyx-keeper', keeper.pid),
      ...pids.map((p) => identify(p.role, p.pid)),
    ]);
  const keeper = new Keeper(dir, successorOf(dir), (what) => log.warn(what), writePids);
  try {
    let heritage: Heritage | undefined;
    if (adoption) {
      heritage = await inherit(dir, keeper, adoption);
      // Until we know better: a directory that names none of them would be taken for one that is left over.
      pids = recorded(dir).filter((p) => p.role !== 'nyxd' && p.role !== 'nyx-keeper');
    }
    const spec = heritage?.what.spec ?? parseSpec(JSON.parse(readFileSync(join(dir, files.spec), 'utf8')));
    logs.setLevel(spec.logLevel);
    const append = (file: string): number => openSync(join(dir, file), 'a', 0o600);
    if (!heritage) {
      keeper.start();
      keeper.put('report', null, [reportFd]);
    }
    writePids();
    // Loaded only where it is needed: it takes time.
    const vhost = spec.vhostUser.length > 0 ? await import('./vhost-user.ts') : undefined;
    const backends = heritage ? vhost?.inheritedBackends(spec) : await vhost?.backendsOf(spec);
    machine = new Machine({
      name,
      dir,
      spec,
      spares,
      keeper,
      ...(heritage ? { heritage } : {}),
      ...(backends ? { backends } : {}),
      vcpuProgram: vcpuProgram(),
      vcpuLog: append(files.vcpuLog),
      consoleLog: join(dir, files.console),
      log: (level, message, detail) => log[level](detail ?? {}, message),
      onEvent: (e) => {
        server?.publish(e);
        if (isOpen && e.type === 'state' && e.to === 'running' && e.from === 'starting')
          report({ state: 'running' });
      },
      onPids: (all) => {
        pids = all;
        writePids();
      },
      onEnd: (state, error, fault, fingerprint) => {
        // The answer to the `stop` that ended us goes out first.
        setTimeout(async () => {
          await server?.close();
          keeper.end();
          end(state, error, true, fault, fingerprint);
          closeReport();
          process.exit(0);
        }, 20);
      },
    });
  } catch (e) {
    const error = asNyxError(e);
    log.error(error.toJSON(), error.message);
    spares.close();
    const vcpu = recorded(dir).find((p) => p.role === 'nyx-vcpu');
    // A machine whose guest runs is left alone: somebody else has it, or nobody can go on with it.
    if (!adoption || error.code === 'SUPERVISOR_DIED' || (error.code === 'ADOPTION_FAILED' && !vcpu)) {
      if (adoption) killAll(dir);
      keeper.end();
      // No machine was started: the error says it all.
      end('failed', error, false);
    }
    process.exit(error.exit);
  }

  // Processes start while ZeroMQ loads.
  const starting = adoption ? machine.adopt(join(dir, files.log)) : machine.start();
  const { ControlServer: Server } = await import('./server.ts');
  server = new Server(dir, {
    status: () => machine.status(),
    pause: async () => {
      await machine.pause();
      return {};
    },
    resume: async () => {
      await machine.resume();
      return {};
    },
    reset: async () => {
      await machine.reset();
      return {};
    },
    stop: async ({ timeout }) => ({ forced: await machine.stop(timeout) }),
    kill: ({ target }) => machine.kill(target),
    upgrade: ({ target, service }) => machine.upgrade(target, service),
    diskList: () => machine.disks.table.list(),
    diskSwap: ({ name, ...o }) => machine.disks.swap(name, o),
    diskSnapshot: ({ name, ...o }) => machine.disks.snapshot(name, o),
    diskResize: ({ name, ...o }) => machine.disks.resize(name, o),
    diskCommit: ({ name }) => machine.disks.commit(name),
    diskMirror: ({ name, ...o }) => machine.disks.mirror(name, o),
    cdList: () => machine.cds.list(),
    cdEject: ({ drive, force }) => machine.cds.eject(drive, force),
    cdInsert: ({ drive, path, force }) => machine.cds.insert(drive, path, force),
    checkpoint: () => machine.checkpoints.take(),
    checkpointList: () => machine.checkpoints.list(),
    checkpointRemove: async () => {
      await machine.checkpoints.drop();
      return {};
    },
    rollback: () => machine.checkpoints.rollBack(),
    heal: ({ target }) => machine.heal(target),
    history: () => ({ events: [...machine.history] }),
    policyGet: () => ({ rules: machine.desk.rules() }),
    policySet: ({ kind, source = '', rule }) => {
      machine.desk.book.set(kind, parseRule(kind, rule), source);
      machine.keepPolicy();
      return {};
    },
    policyReset: ({ kind, source = '' }) => {
      machine.desk.book.reset(kind, source);
      machine.keepPolicy();
      return {};
    },
    faultAdd: (plan) => ({ ids: machine.faults.add(plan as FaultPlan) }),
    faultRemove: ({ id }) => ({ removed: machine.faults.remove(id) }),
    faultList: () => ({ rules: machine.faults.list(), happened: machine.faults.happened() }),
  });
  process.on('SIGTERM', () => void machine.stop(10));
  process.on('SIGINT', () => {});
  await server.open().catch((e) => log.error({ err: e }, 'control sockets'));
  // Clients may come now; the report of a guest that runs already, or has run into a pause, waited for this.
  isOpen = true;
  if (['running', 'paused', 'resetting'].includes(machine.state)) report({ state: 'running' });
  await starting;
};

const closeReport = (): void => {
  try {
    if (reportFd >= 0) closeSync(reportFd);
  } catch {}
};

const tell = (fd: number, r: Report): void => {
  try {
    if (fd >= 0) writeSync(fd, `${JSON.stringify(r)}\n`);
  } catch {
    // Whoever asked has left.
  }
};

/**
 * What the supervisor before us has left. From then on the machine is ours, and its report pipe, too.
 * @throws NyxError ADOPTION_FAILED, VM_STATE, SUPERVISOR_DIED
 */
const inherit = async (dir: string, keeper: Keeper, { reports }: Adoption): Promise<Heritage> => {
  const asked = reports ? reportFd : -1;
  reportFd = -1;
  try {
    const estate = await keeper.takeOver();
    reportFd = estate.fd('report') ?? -1;
    const known = recorded(dir).find((p) => p.role === 'nyx-keeper');
    if (known) keeper.attend(known.pid);
    const heritage = heritageOf(estate);
    tell(asked, { state: 'running' });
    return heritage;
  } catch (e) {
    tell(asked, { state: 'failed', error: asNyxError(e).toJSON() });
    throw e;
  } finally {
    if (asked >= 0) closeSync(asked);
  }
};

/** Ends every process of a machine that cannot go on. */
const killAll = (dir: string): void => {
  for (const p of recorded(dir)) if (p.pid !== process.pid && p.role !== 'nyx-keeper') signal(p, 'SIGKILL');
};
