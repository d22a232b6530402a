/**
 * What a machine is, as a user writes it: the schema of the YAML file, of the builder's result and of what nyxd is
 * given. One schema; keys that it does not know are errors, told with the nearest key that exists.
 */

// The mini build: the whole one takes 60 to 100 ms to load, a third of a machine's start.
import * as z from 'zod/mini';
import en from 'zod/v4/locales/en.js';
import { diskOptions } from './disk-options.ts';
import { NyxError } from './errors.ts';
import { FaultEntry, FaultPlan } from './fault-plan.ts';
import { nearest } from './nearest.ts';
import { DevicePolicy, Policy } from './policy.ts';
import { size } from './size.ts';
import { Tpm, TpmOrNot } from './tpm-spec.ts';

export { distance, nearest } from './nearest.ts';
export { parseSize } from './size.ts';

z.config(en());

const MiB = 2 ** 20;
const memory = z.pipe(
  size,
  z.number().check(z.gte(16 * MiB, 'expected at least 16M'), z.multipleOf(MiB, 'expected whole MiB')),
);

const name = z
  .string()
  .check(z.regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$/, 'expected 1 to 40 letters, digits, - or _'));
const path = z.string().check(z.minLength(1));
const seconds = (usual: number) => z._default(z.number().check(z.positive(), z.lte(86_400)), usual);

const Disk = z.strictObject({
  path,
  ...diskOptions,
  readonly: z._default(z.boolean(), false),
  /** The controller that the guest sees it at. */
  bus: z._default(z.enum(['virtio', 'ahci']), 'virtio'),
  /** Another backend with the same content: what the strategy `failover` goes on with. Raw disks. */
  standby: z.optional(path),
  /** Read back by the guest as the disk's serial number. */
  serial: z.optional(z.string().check(z.maxLength(20))),
  /** Tells the guest how worn the medium below it is (VIRTIO_BLK_F_LIFETIME): known of eMMC. bus virtio. */
  lifetime: z.optional(z.boolean()),
  /** Absolute path of the program that serves it, a bundle as of services/storage, instead of ours. */
  service: z.optional(z.string().check(z.regex(/^\//, 'expected an absolute path'))),
});

/** A CD drive, at the AHCI controller. */
const Cdrom = z.strictObject({
  /** ISO image; without one the drive is empty. */
  path: z.optional(path),
});

/** A device whose work another program does, over vhost-user (docs/vhost-user.md). */
const VhostUser = z.strictObject({
  /** Socket on which the back-end listens. */
  socket: path,
  type: z._default(z.enum(['blk', 'fs']), 'blk'),
  /** Queues at most (usual: as many as the back-end has, up to 8). */
  queues: z.optional(z.int().check(z.gte(1), z.lte(8))),
  /** Of a file system: the name by which the guest mounts it. */
  tag: z.optional(z.string().check(z.regex(/^[\x21-\x7e]{1,36}$/, 'expected 1 to 36 characters'))),
});

/** Ports of the AHCI controller. */
export const sataPorts = 6;

/** Checkpoints in memory. */
const Checkpoint = z.strictObject({
  /** Seconds (`10`, `10s`, `5m`) from one to the next; 0: none. */
  every: z._default(
    z.pipe(
      z.union([
        z.number(),
        z.string().check(z.regex(/^\d+(\.\d+)?(s|m|h)?$/, 'expected seconds, or 10s, 5m, 1h')),
      ]),
      z.pipe(
        z.transform((v: number | string) =>
          typeof v === 'number' ? v : Number.parseFloat(v) * ({ m: 60, h: 3600 }[v.at(-1)!] ?? 1),
        ),
        z.number().check(z.refine((s) => s === 0 || (s >= 1 && s <= 86_400), 'expected 0, or 1s to 24h')),
      ),
    ),
    0,
  ),
  /** What is kept of guest memory: pages that are written later, or a copy at once. KVM: always a copy. */
  memory: z._default(z.enum(['onWrite', 'copy']), 'onWrite'),
  /** Each roll-back is proved by a checksum over all of guest memory. */
  verify: z._default(z.boolean(), false),
});

/** What happens to a device process that dies, hangs or breaks the protocol. */
const Recovery = z.strictObject({
  /** Restarts within `window` seconds before the process is isolated. */
  budget: z._default(z.int().check(z.gte(0), z.lte(10_000)), 20),
  window: seconds(30),
  /** Wait before restart n (n > 3) is this * 2^(n - 4), at most `maxBackoff`. */
  backoff: seconds(0.05),
  maxBackoff: seconds(2),
  /** No progress while requests wait for so long: the process hangs and is killed. */
  hangTimeout: seconds(3),
  /** Longest time from start to answering. */
  startTimeout: seconds(10),
  /** Each device process has a successor that has mapped and made everything and only waits for its death. */
  standby: z._default(z.boolean(), true),
  /** Started processes without a role that are kept for each service beside those. */
  spares: z._default(z.int().check(z.gte(0), z.lte(8)), 0),
});

export const VmSpec = z.strictObject({
  name: z.optional(name),
  /** A guest that Nyx builds, e.g. debian. Instead of kernel or bios. */
  image: z.optional(z.string()),
  kernel: z.optional(path),
  initrd: z.optional(path),
  append: z.optional(z.string()),
  /** How an ELF kernel is entered; auto: by PVH if it is 32-bit and declares it, else by Linux's 64-bit protocol. */
  bootProtocol: z._default(z.enum(['auto', 'linux', 'pvh']), 'auto'),
  /** Firmware image, or `seabios` for the host's. */
  bios: z.optional(path),
  /** Seconds that the firmware waits for ESC, which shows its boot menu; 0: it does not ask. */
  bootMenu: z._default(z.number().check(z.gte(0), z.lte(60)), 2.5),
  memory: z.prefault(memory, 512 * MiB),
  cpus: z._default(z.int().check(z.gte(1), z.lte(64)), 1),
  accel: z._default(z.enum(['auto', 'kvm', 'soft']), 'auto'),
  /**
   * Time, interrupts and random numbers depend on the guest alone: the same machine does the same again, instruction by
   * instruction (docs/software-cpu.md). The software CPU, one vCPU.
   */
  deterministic: z._default(z.boolean(), false),
  /** How the software CPU executes: for tests of it. */
  softCpu: z._default(z.enum(['translate', 'interpret', 'lockstep']), 'translate'),
  disks: z._default(
    z
      .array(
        z.union([
          z.pipe(
            path,
            z.transform((p) => Disk.parse({ path: p })),
          ),
          Disk,
        ]),
      )
      .check(z.maxLength(16)),
    [],
  ),
  cdroms: z._default(
    z
      .array(
        z.union([
          z.pipe(
            path,
            z.transform((p) => Cdrom.parse({ path: p })),
          ),
          Cdrom,
        ]),
      )
      .check(z.maxLength(sataPorts)),
    [],
  ),
  vhostUser: z._default(z.array(VhostUser).check(z.maxLength(8)), []),
  recovery: z.prefault(Recovery, {}),
  /** Faults on purpose, from the first exit on (docs/fault-injection.md). */
  faults: z.optional(FaultPlan),
  /** What is done about faults (docs/recovery.md). */
  policy: z.prefault(Policy, {}),
  /** In memory; by itself every so many seconds (docs/checkpoints.md). */
  checkpoint: z.prefault(Checkpoint, {}),
  /** A TPM 2.0 (docs/tpm.md). */
  tpm: z.optional(TpmOrNot),
  /** A watchdog timer that the guest can use. */
  watchdog: z.optional(z.enum(['i6300esb'])),
  logLevel: z._default(z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal']), 'info'),
  /** The guest runs an agent for commands (exec.ts); adds the kernel parameter for it. */
  agent: z._default(z.boolean(), false),
  /** With the agent: a command that the guest runs when it has booted; then it powers off (exec.ts). */
  command: z.optional(z.string().check(z.minLength(1), z.maxLength(1024))),
});

export type VmSpec = z.output<typeof VmSpec>;
export type VmSpecInput = z.input<typeof VmSpec>;
export type Recovery = VmSpec['recovery'];

const keysAt = (where: readonly PropertyKey[]): string[] =>
  Object.keys(
    where[0] === 'recovery'
      ? Recovery.shape
      : where[0] === 'checkpoint'
        ? Checkpoint.shape
        : where[0] === 'disks'
          ? Disk.shape
          : where[0] === 'cdroms'
            ? Cdrom.shape
            : where[0] === 'vhostUser'
              ? VhostUser.shape
              : where[0] === 'tpm'
                ? Tpm.shape
                : where[0] === 'faults'
                  ? (where.length > 1 ? FaultEntry : FaultPlan).shape
                  : where[0] === 'policy'
                    ? (where[1] === 'devices' ? DevicePolicy : Policy).shape
                    : VmSpec.shape,
  );

const dotted = (where: readonly PropertyKey[]): string =>
  where
    .map((p) => (typeof p === 'number' ? `[${p}]` : `.${String(p)}`))
    .join('')
    .replace(/^\./, '');

/** Unions hide what is wrong inside; the issues of the branch that came furthest are the ones to tell. */
const deepest = (issue: z.core.$ZodIssue): z.core.$ZodIssue => {
  if (issue.code !== 'invalid_union') return issue;
  const inner = issue.errors.flat().map(deepest);
  const best =
    inner.find((i) => i.code === 'unrecognized_keys') ??
    inner.sort((a, b) => b.path.length - a.path.length)[0];
  return best ? ({ ...best, path: [...issue.path, ...best.path] } as z.core.$ZodIssue) : issue;
};

/**
 * @param from names the source in messages, e.g. 'vm.yaml'
 * @throws NyxError SPEC_UNKNOWN_KEY, SPEC_INVALID
 */
export const parseSpec = (value: unknown, from = 'the machine'): VmSpec => {
  const result = VmSpec.safeParse(value);
  if (result.success) {
    const s = result.data;
    const sources = [s.image, s.kernel, s.bios].filter((x) => x !== undefined).length;
    if (sources === 0)
      throw new NyxError('SPEC_INVALID', {
        expected: 'something to boot: image, kernel or bios',
        got: `${from} has none of them`,
      });
    if (s.image !== undefined && sources > 1)
      throw new NyxError('SPEC_INVALID', {
        expected: 'either an image, or a kernel or bios of your own',
        got: `${from} has both`,
      });
    if (s.initrd !== undefined && s.kernel === undefined)
      throw new NyxError('SPEC_INVALID', {
        expected: 'a kernel with the initrd',
        got: `${from} has only an initrd`,
      });
    const sata = s.disks.filter((d) => d.bus === 'ahci').length + s.cdroms.length;
    if (sata > sataPorts)
      throw new NyxError('SPEC_INVALID', {
        expected: `at most ${sataPorts} disks and CD drives at the AHCI controller`,
        got: `${from} has ${sata}`,
      });
    const foreign = s.disks.findIndex((d) => d.bus === 'ahci' && d.service !== undefined);
    if (foreign >= 0)
      throw new NyxError('SPEC_INVALID', {
        expected:
          "bus: virtio for a disk with a program of its own: the AHCI controller's disks share one process",
        got: `disks[${foreign}] of ${from} has bus ahci`,
      });
    if (s.deterministic && (s.cpus !== 1 || s.accel === 'kvm'))
      throw new NyxError('SPEC_INVALID', {
        expected: 'one vCPU and the software CPU in a deterministic machine',
        got: `${from} has cpus ${s.cpus}, accel ${s.accel}`,
      });
    if (s.deterministic && (s.vhostUser.length > 0 || s.disks.some((d) => d.service !== undefined)))
      throw new NyxError('SPEC_INVALID', {
        expected: 'only devices of our own in a deterministic machine: others keep their own time',
        got: `${from} has ${s.vhostUser.length > 0 ? 'vhostUser' : 'a disk with a service of its own'}`,
      });
    if (s.deterministic && s.tpm !== undefined)
      throw new NyxError('SPEC_INVALID', {
        expected: 'no TPM in a deterministic machine: it makes random numbers',
        got: `${from} has one`,
      });
    return s;
  }
  return refuse(result.error, value, from, keysAt);
};

/** @param keys legal keys at a path. @throws NyxError SPEC_UNKNOWN_KEY, SPEC_INVALID, always */
export const refuse = (
  error: z.core.$ZodError,
  value: unknown,
  from: string,
  keys: (path: readonly PropertyKey[]) => string[],
): never => {
  const issue = deepest(error.issues[0]!);
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!;
    const legal = keys(issue.path);
    const where = dotted([...issue.path, key]);
    throw new NyxError('SPEC_UNKNOWN_KEY', {
      expected: `one of ${legal.join(', ')}`,
      got: `'${where}' in ${from}`,
      hint: `Did you mean '${nearest(key, legal)}'?`,
    });
  }
  const at = dotted(issue.path);
  const given = issue.path.reduce<unknown>(
    (v, p) => (v as Record<PropertyKey, unknown> | undefined)?.[p],
    value,
  );
  throw new NyxError('SPEC_INVALID', {
    expected: issue.message.replace(/^Invalid input: /, '').replace(/^expected /, ''),
    got: `${at || 'the whole'} = ${JSON.stringify(given)} in ${from}`,
  });
};
