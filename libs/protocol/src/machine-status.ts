/** What is told of a machine, as messages of the control plane (control.ts): its state, processes, vCPUs and faults. */
import * as z from 'zod/mini';
import { type FaultKind, faultNames, type Strategy, severities, strategies } from './fault-kinds.ts';
import { FaultEntry } from './fault-plan.ts';

export const vmStates = [
  'created',
  'starting',
  'running',
  'paused',
  'resetting',
  'stopping',
  'stopped',
  'failed',
] as const;
export type VmState = (typeof vmStates)[number];

export const processStates = ['starting', 'serving', 'dead', 'backoff', 'isolated', 'stopped'] as const;
export type ProcessState = (typeof processStates)[number];

export const count = z.number().check(z.nonnegative());
export const VmStateName = z.enum(vmStates);
export const WireErrorSchema = z.object({
  code: z.string(),
  expected: z.optional(z.string()),
  got: z.optional(z.string()),
  hint: z.optional(z.string()),
});

/** How a recovery went. Times are nanoseconds. */
export const Recovered = z.object({
  process: z.string(),
  /** 'exited 1', 'killed by SIGKILL', 'hangs', 'violation 3'. */
  reason: z.string(),
  restarts: count,
  /** From the moment the death was seen, by the supervisor or by a standby itself, until the new process served. */
  ns: count,
  /** The new process's own share: mapping, checks, settling. */
  attachNs: count,
  /** Replies that the old one had committed and not published. */
  republished: count,
  /** A standby took over; else a process was given the role after the death. */
  standby: z.boolean(),
});
export type Recovered = z.output<typeof Recovered>;

/** What keeps a process from the host: layers that hold, and those that do not, each with its reason. */
export const JailStatus = z.object({ layers: z.array(z.string()), missing: z.array(z.string()) });

export const ProcessStatus = z.object({
  name: z.string(),
  state: z.enum(processStates),
  pid: count,
  /** The process that will serve next, and whether it is ready; absent: there is none. */
  standby: z.optional(z.object({ pid: count, armed: z.boolean() })),
  devices: z.array(z.object({ name: z.string(), kind: z.string() })),
  restarts: count,
  served: count,
  exitsPerSecond: count,
  violations: count,
  /** Absent: not in a jail. */
  jail: z.optional(JailStatus),
  lastRecovery: z.optional(Recovered),
  error: z.optional(WireErrorSchema),
});
export type ProcessStatus = z.output<typeof ProcessStatus>;

export const vcpuStates = ['off', 'running', 'halted', 'waits', 'paused'] as const;
export const VcpuStatus = z.object({
  state: z.enum(vcpuStates),
  instructions: count,
  instructionsPerSecond: count,
  exits: z.object({
    sync: count,
    posted: count,
    shadow: count,
    counter: count,
    unclaimed: count,
    halt: count,
  }),
  exitsPerSecond: count,
  interrupts: count,
  waitNs: count,
  maxWaitNs: count,
  /** Nanoseconds that the software CPU spent in its parts: of processor time, `halted` and `waiting` of the clock. */
  time: z.object({
    translated: count,
    interpreter: count,
    translator: count,
    mmu: count,
    exits: count,
    waiting: count,
    halted: count,
  }),
  waitsFor: z.optional(z.string()),
  lastRip: z.string(),
});
export type VcpuStatus = z.output<typeof VcpuStatus>;

export const FaultName = z.enum(faultNames as [FaultKind, ...FaultKind[]]);
export const StrategyName = z.enum(Object.keys(strategies) as [Strategy, ...Strategy[]]);

/** A fault that happened (fault-kinds.ts), and what was done. */
export const FaultRecord = z.object({
  at: count,
  guestNs: count,
  kind: FaultName,
  severity: z.enum(severities),
  /** Device process; '': the machine. */
  source: z.string(),
  data: z.record(z.string(), z.union([z.number(), z.string()])),
  strategy: StrategyName,
  /** The budget of what is usually done was spent. */
  escalated: z.boolean(),
});
export type FaultRecord = z.output<typeof FaultRecord>;

/** Faults of a kind and source so far. */
export const FaultTotal = z.object({ kind: FaultName, source: z.string(), count, last: count });

/** A rule of the policy; seconds. An endless budget is Infinity. */
export const PolicyRule = z.object({
  kind: FaultName,
  source: z.string(),
  set: z.boolean(),
  action: StrategyName,
  budget: z.union([count, z.literal(Number.POSITIVE_INFINITY)]),
  window: count,
  backoff: count,
  maxBackoff: count,
  escalate: StrategyName,
  /** Times in the present window. */
  recent: count,
});
export type PolicyRule = z.output<typeof PolicyRule>;

export const Status = z.object({
  name: z.string(),
  state: VmStateName,
  /** Unix milliseconds of the last change of state. */
  since: count,
  pid: count,
  vcpuPid: count,
  vcpuJail: z.optional(JailStatus),
  /** Why device processes are in no control group; absent when they are. */
  noCgroup: z.optional(z.string()),
  /** What the engine is: '' before it is known. */
  accel: z.string(),
  cpus: count,
  memory: count,
  guestNs: count,
  resets: count,
  agent: z.boolean(),
  error: z.optional(WireErrorSchema),
  /** Milliseconds from the start of nyxd to each milestone. */
  milestones: z.record(z.string(), count),
  vcpus: z.array(VcpuStatus),
  processes: z.array(ProcessStatus),
  faults: z.array(FaultTotal),
  /** The newest fault that is an error or worse. */
  lastFault: z.optional(FaultRecord),
});
export type Status = z.output<typeof Status>;

/** A fault rule in force. */
export const FaultStatus = z.object({
  id: count,
  /** The entry of the plan (fault-plan.ts). */
  rule: FaultEntry,
  processes: z.array(z.string()),
  matches: count,
  fired: count,
});
export type FaultStatus = z.output<typeof FaultStatus>;
