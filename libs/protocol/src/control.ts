/**
 * The control plane, all of it: what clients may ask nyxd, what it answers, what it tells unasked. The transport (ZeroMQ
 * ROUTER/DEALER and PUB/SUB on ipc sockets in the machine's run directory) is elsewhere; here are the messages, as
 * msgpack maps, each with its validator. A peer's bytes are not trusted: `decode` answers or throws PROTOCOL_*.
 *
 *   request   { v, id, op, args }       reply   { v, id, result } or { v, id, error }       event   { v, event }
 *
 * Bytes that stream do not go here: the console and commands have stream sockets of their own (see `sockets`).
 */
import { Packr } from 'msgpackr';
import * as z from 'zod/mini';
import { diskFormats } from './disk-formats.ts';
import { isErrorCode, NyxError, type WireError } from './errors.ts';
import { FaultPlan } from './fault-plan.ts';
import {
  count,
  FaultName,
  FaultRecord,
  FaultStatus,
  PolicyRule,
  Recovered,
  Status,
  VmStateName,
  WireErrorSchema,
} from './machine-status.ts';

export {
  FaultRecord,
  type FaultStatus,
  type PolicyRule,
  type ProcessState,
  type ProcessStatus,
  processStates,
  type Recovered,
  type Status,
  type VcpuStatus,
  type VmState,
  vcpuStates,
  vmStates,
} from './machine-status.ts';

export const controlWire = {
  version: 1,
  /** A request or reply longer than this is refused; a status of 64 vCPUs and 32 processes has about 20 KiB. */
  maxBytes: 1024 * 1024,
} as const;

/** Names in the run directory. */
export const sockets = {
  control: 'control.sock',
  events: 'events.sock',
  /** Raw bytes of COM1, both ways; any number of clients. */
  console: 'console.sock',
  /** One command a connection: exec-stream.ts. */
  exec: 'exec.sock',
} as const;

const Nothing = z.object({});
const DiskName = z.string().check(z.maxLength(64));
const FilePath = z.string().check(z.regex(/^\//, 'expected an absolute path'), z.maxLength(4096));
const Format = z.enum(diskFormats);
/** `downNs`: how long nobody answered for the disk. */
const DiskDone = z.object({ name: z.string(), downNs: count });

/** Every request: validators of its arguments and of its result. */
export const requests = {
  status: { args: Nothing, result: Status },
  pause: { args: Nothing, result: Nothing },
  resume: { args: Nothing, result: Nothing },
  reset: { args: Nothing, result: Nothing },
  /** Power button; after `timeout` seconds (0: at once) the processes are ended. Answers when the machine has stopped. */
  stop: {
    args: z.object({ timeout: z.number().check(z.gte(0), z.lte(3600)) }),
    result: z.object({ forced: z.boolean() }),
  },
  /** Disks and what is under them; `chain`: files, the topmost first. */
  diskList: {
    args: Nothing,
    result: z.object({
      disks: z.array(
        z.object({
          name: z.string(),
          path: z.string(),
          format: z.string(),
          readonly: z.boolean(),
          chain: z.array(z.string()),
        }),
      ),
    }),
  },
  /** Another backend program, or other files with the same content. Paths are absolute, here and below. */
  diskSwap: {
    args: z.object({
      name: DiskName,
      path: z.optional(FilePath),
      format: z.optional(Format),
      service: z.optional(FilePath),
    }),
    result: DiskDone,
  },
  /** An overlay at `path`, or a snapshot inside the image that is made or deleted. */
  diskSnapshot: {
    args: z.object({
      name: DiskName,
      path: z.optional(FilePath),
      create: z.optional(z.string().check(z.minLength(1), z.maxLength(255))),
      remove: z.optional(z.string().check(z.minLength(1), z.maxLength(255))),
    }),
    result: DiskDone,
  },
  diskResize: {
    args: z.object({ name: DiskName, size: z.int().check(z.gte(0)), relative: z.boolean() }),
    result: z.extend(DiskDone, { size: count }),
  },
  diskCommit: { args: z.object({ name: DiskName }), result: DiskDone },
  diskMirror: { args: z.object({ name: DiskName, path: FilePath, format: Format }), result: DiskDone },
  /** CD drives and their media. */
  cdList: {
    args: Nothing,
    result: z.object({
      drives: z.array(
        z.object({ name: z.string(), path: z.optional(z.string()), locked: z.boolean(), open: z.boolean() }),
      ),
    }),
  },
  /** `drive` may be left out where there is one. `ejected` false: it is locked, and the guest was asked. */
  cdEject: {
    args: z.object({ drive: z.optional(z.string()), force: z.boolean() }),
    result: z.object({ name: z.string(), ejected: z.boolean() }),
  },
  /** `path` is absolute. */
  cdInsert: {
    args: z.object({
      drive: z.optional(z.string()),
      path: z.string().check(z.minLength(1)),
      force: z.boolean(),
    }),
    result: z.object({ name: z.string() }),
  },
  /** SIGKILL to the process of that device (or of that name). */
  kill: {
    args: z.object({ target: z.string().check(z.maxLength(64)) }),
    result: z.object({ process: z.string(), pid: count }),
  },
  /** Another build of the program behind a device, by the path of its bundle. Times are nanoseconds. */
  upgrade: {
    args: z.object({ target: z.string().check(z.maxLength(64)), service: z.string().check(z.minLength(1)) }),
    result: z.object({
      process: z.string(),
      /** Devices whose state was migrated. */
      migrated: z.array(z.string()),
      /** Nobody served for so long. */
      ns: count,
    }),
  },
  /**
   * Takes a checkpoint, which replaces the last. `pauseNs`: the guest stood still, `copyNs` of it for vCPUs and RAM; `bytes`: of RAM that
   * were copied, 0 where pages are saved when they are written.
   */
  checkpoint: {
    args: Nothing,
    result: z.object({ guestNs: count, pauseNs: count, copyNs: count, bytes: count }),
  },
  checkpointList: {
    args: Nothing,
    result: z.object({
      /** So far. */
      rollbacks: count,
      /** `bytes`: of RAM that it holds now. `lost`: some could not be saved, and there is no way back to it. */
      checkpoints: z.array(z.object({ at: count, guestNs: count, bytes: count, lost: z.boolean() })),
    }),
  },
  /** Lets it go; what the guest wrote since stays. */
  checkpointRemove: { args: Nothing, result: Nothing },
  /** Everything goes back. `ns`: until the vCPUs went on; `lostNs`: since the checkpoint; `bytes`: of RAM that were put back. */
  rollback: { args: Nothing, result: z.object({ guestNs: count, ns: count, lostNs: count, bytes: count }) },
  /** Brings an isolated or abandoned device process back; false: it serves. */
  heal: {
    args: z.object({ target: z.string().check(z.maxLength(64)) }),
    result: z.object({ process: z.string(), healed: z.boolean() }),
  },
  /** The newest events of the machine, oldest first. */
  history: { args: Nothing, result: z.object({ events: z.array(z.unknown()) }) },
  policyGet: { args: Nothing, result: z.object({ rules: z.array(PolicyRule) }) },
  policySet: {
    args: z.object({
      kind: FaultName,
      source: z.optional(z.string().check(z.maxLength(64))),
      /** As in a machine file; what is left out stays as it is. */
      rule: z.unknown(),
    }),
    result: Nothing,
  },
  /** What the machine file says again: of one kind, of one source, of everything. */
  policyReset: {
    args: z.object({ kind: z.optional(FaultName), source: z.optional(z.string().check(z.maxLength(64))) }),
    result: Nothing,
  },
  /** Faults on purpose. */
  faultAdd: { args: FaultPlan, result: z.object({ ids: z.array(count) }) },
  /** One rule, or all. */
  faultRemove: { args: z.object({ id: z.optional(count) }), result: z.object({ removed: count }) },
  faultList: {
    args: Nothing,
    result: z.object({
      rules: z.array(FaultStatus),
      /** The newest faults of each process, oldest first; times are guest nanoseconds. */
      happened: z.array(
        z.object({ id: count, process: z.string(), device: z.string(), match: count, guestNs: count }),
      ),
    }),
  },
} as const;

export type Op = keyof typeof requests;
export type Args<O extends Op> = z.input<(typeof requests)[O]['args']>;
export type Result<O extends Op> = z.output<(typeof requests)[O]['result']>;

/** What two runs of a deterministic machine have in common when the guest has powered off. */
export interface Fingerprint {
  /** Retired by the guest. */
  instructions: number;
  guestNs: number;
  /** SHA-256 of its memory, hexadecimal. */
  memory: string;
}

export const VmEvent = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('state'),
    at: count,
    from: VmStateName,
    to: VmStateName,
    error: z.optional(WireErrorSchema),
  }),
  z.object({ type: z.literal('death'), at: count, process: z.string(), pid: count, reason: z.string() }),
  z.object({ type: z.literal('recovered'), at: count, recovery: Recovered }),
  z.object({ type: z.literal('isolated'), at: count, process: z.string(), error: WireErrorSchema }),
  /** A vCPU has waited for that process for `ns`; with `over`, that wait has ended. */
  z.object({ type: z.literal('wait'), at: count, process: z.string(), ns: count, over: z.boolean() }),
  z.object({
    type: z.literal('machine'),
    at: count,
    event: z.enum(['reset', 'shutdown', 'suspend', 'panic', 'crashLoaded', 'tripleFault']),
    vcpu: count,
  }),
  /** A disk holds a request that its backend failed: the machine stands still until `resume`. */
  z.object({
    type: z.literal('disk'),
    at: count,
    device: z.string(),
    op: z.string(),
    position: count,
    bytes: count,
    reason: z.enum(['noSpace', 'io']),
  }),
  /** How far a job on a disk is, 0..1. */
  z.object({ type: z.literal('job'), at: count, device: z.string(), job: z.string(), fraction: z.number() }),
  z.object({ type: z.literal('agent'), at: count }),
  /** `pauseNs`: the guest stood still. */
  z.object({
    type: z.literal('checkpoint'),
    at: count,
    action: z.enum(['taken', 'failed', 'rolledBack', 'dropped']),
    pauseNs: count,
    bytes: count,
    error: z.optional(WireErrorSchema),
  }),
  z.extend(FaultRecord, { type: z.literal('fault') }),
]);
export type VmEvent = z.output<typeof VmEvent>;

const Request = z.object({ v: z.number(), id: count, op: z.string(), args: z.unknown() });
const Reply = z.object({
  v: z.number(),
  id: count,
  result: z.optional(z.unknown()),
  error: z.optional(WireErrorSchema),
});
const EventMessage = z.object({ v: z.number(), event: z.unknown() });

// Records off: plain maps, readable by any msgpack library.
const packr = new Packr({ useRecords: false });

const unpack = (bytes: Uint8Array): unknown => {
  if (bytes.length > controlWire.maxBytes)
    throw new NyxError('PROTOCOL_INVALID', {
      expected: `at most ${controlWire.maxBytes} bytes`,
      got: `${bytes.length} bytes`,
    });
  try {
    return packr.unpack(bytes as Buffer);
  } catch (e) {
    throw new NyxError('PROTOCOL_INVALID', { expected: 'msgpack', got: String((e as Error).message) });
  }
};

const checked = <S extends z.ZodMiniType>(schema: S, value: unknown, what: string): z.output<S> => {
  const r = schema.safeParse(value);
  if (r.success) return r.data;
  const issue = r.error.issues[0]!;
  throw new NyxError('PROTOCOL_INVALID', {
    expected: `${what}: ${issue.message}`,
    got: `at '${issue.path.join('.')}'`,
  });
};

const sameVersion = (v: number): void => {
  if (v !== controlWire.version)
    throw new NyxError('PROTOCOL_VERSION', {
      expected: `version ${controlWire.version}`,
      got: `version ${v}`,
    });
};

export const encodeRequest = <O extends Op>(id: number, op: O, args: Args<O>): Buffer =>
  packr.pack({ v: controlWire.version, id, op, args });

/** @throws NyxError PROTOCOL_*; `id` of the error is that of the request where it could be read, else 0. */
export const decodeRequest = (bytes: Uint8Array): { id: number; op: Op; args: unknown } => {
  const m = checked(Request, unpack(bytes), 'request');
  try {
    sameVersion(m.v);
    if (!Object.hasOwn(requests, m.op))
      throw new NyxError('PROTOCOL_INVALID', {
        expected: `one of ${Object.keys(requests).join(', ')}`,
        got: `op '${m.op}'`,
      });
    const op = m.op as Op;
    return { id: m.id, op, args: checked(requests[op].args, m.args, op) };
  } catch (e) {
    throw Object.assign(e as NyxError, { id: m.id });
  }
};

export const encodeReply = (id: number, outcome: { result: unknown } | { error: WireError }): Buffer =>
  packr.pack({ v: controlWire.version, id, ...outcome });

/** The id of a reply, and its raw outcome; `decodeResult` validates it for the request it belongs to. */
export const decodeReply = (bytes: Uint8Array): { id: number; result?: unknown; error?: WireError } => {
  const m = checked(Reply, unpack(bytes), 'reply');
  sameVersion(m.v);
  return { id: m.id, result: m.result, ...(m.error ? { error: m.error as WireError } : {}) };
};
export const decodeResult = <O extends Op>(op: O, result: unknown): Result<O> =>
  checked(requests[op].result, result, `result of ${op}`) as Result<O>;

export const encodeEvent = (event: VmEvent): Buffer => packr.pack({ v: controlWire.version, event });
export const decodeEvent = (bytes: Uint8Array): VmEvent => {
  const m = checked(EventMessage, unpack(bytes), 'event');
  sameVersion(m.v);
  return checked(VmEvent, m.event, 'event');
};

/** For replies to messages that could not be understood. */
export const wireErrorOf = (e: unknown): WireError =>
  e instanceof NyxError
    ? e.toJSON()
    : {
        code: isErrorCode((e as { code?: unknown })?.code) ? (e as { code: string }).code : 'HOST_ERROR',
        got: String((e as Error)?.message ?? e),
      };
