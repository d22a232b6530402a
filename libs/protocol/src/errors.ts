/**
 * Every error that a user can meet, in one table: what it means, what to do, and the exit status of `nyx`. Statuses
 * follow sysexits(3), so that they do not collide with those of commands run by `--exec`; 124 is a timeout, as of timeout(1).
 * `expected` and `got` are filled in where the error is made.
 */
interface Entry {
  readonly exit: number;
  readonly text: string;
  readonly hint: string;
}

const usage = 64;
const data = 65;
const noInput = 66;
const unavailable = 69;
const software = 70;
const host = 71;
const denied = 77;
const timeout = 124;

export const errors = {
  USAGE: {
    exit: usage,
    text: 'The command line is wrong',
    hint: 'Run the command with --help; it has examples.',
  },
  SPEC_UNKNOWN_KEY: {
    exit: usage,
    text: 'The machine file has a key that does not exist',
    hint: 'Correct the key; docs/machine-file.md lists all keys.',
  },
  SPEC_INVALID: {
    exit: usage,
    text: 'The machine file has a value that is not legal',
    hint: 'Correct the value.',
  },
  SPEC_SYNTAX: { exit: usage, text: 'The machine file is not YAML', hint: 'Correct the line.' },
  POLICY_INVALID: {
    exit: usage,
    text: 'The policy for faults is not legal',
    hint: 'docs/recovery.md lists faults and what may be done about each.',
  },
  NAME_INVALID: {
    exit: usage,
    text: 'The name cannot be used',
    hint: 'Use 1 to 40 letters, digits, - or _, beginning with a letter or digit.',
  },
  NOT_AVAILABLE: { exit: usage, text: 'This version cannot do that yet', hint: 'Leave the option out.' },
  COMMAND_TOO_LONG: {
    exit: usage,
    text: 'The command is too long for the channel',
    hint: 'Put a script on a disk and run that.',
  },

  CHECKPOINT_NONE: {
    exit: unavailable,
    text: 'The machine has no checkpoint',
    hint: 'Take one: nyx checkpoint.',
  },
  CHECKPOINT_REFUSED: {
    exit: unavailable,
    text: 'The machine cannot have a checkpoint now',
    hint: 'docs/checkpoints.md tells what can go back and what cannot.',
  },
  CHECKPOINT_LEFT: {
    exit: host,
    text: 'An overlay of a checkpoint was not merged into its image',
    hint: 'It has what the guest wrote after the checkpoint. Start the machine on it (format: qcow2) and nyx disk commit disk0; or delete it, and the image is as it was then.',
  },

  FILE_MISSING: {
    exit: noInput,
    text: 'A file does not exist',
    hint: 'Check the path; relative paths count from the current directory, in a machine file from its directory.',
  },
  FILE_DENIED: {
    exit: denied,
    text: 'A file may not be opened',
    hint: 'Change its owner or mode (chmod, chown), or ask for less: `readonly` for a disk.',
  },
  FILE_KIND: {
    exit: noInput,
    text: 'A path is not the kind of file that is needed',
    hint: 'Give a regular file or a block device.',
  },
  FILE_IN_USE: {
    exit: noInput,
    text: 'A disk is in use',
    hint: 'Stop the machine or program that has it open, or use a copy. Reading along: --force-share (-U).',
  },
  BACKEND_MISSING: {
    exit: unavailable,
    text: 'No back-end answers on a socket',
    hint: 'Start it first, and look at the path and the rights of its socket.',
  },
  BACKEND_INVALID: {
    exit: unavailable,
    text: 'A back-end cannot be used',
    hint: 'Is it a vhost-user back-end of this type? Its own log may tell more.',
  },
  KERNEL_INVALID: {
    exit: data,
    text: 'The kernel cannot be booted',
    hint: 'Give a bzImage (vmlinuz) of x86-64 or an ELF with a PVH note.',
  },
  INITRD_INVALID: {
    exit: data,
    text: 'The initrd is damaged or not an initramfs',
    hint: 'Make it anew, or download it again: it may be cut short.',
  },
  DISK_INVALID: {
    exit: data,
    text: 'The disk image cannot be used',
    hint: 'Raw images are a multiple of 512 bytes; `truncate -s %512 FILE` rounds up.',
  },
  TPM_STATE: {
    exit: data,
    text: 'The state of a TPM cannot be used',
    hint: 'nyx tpm init DIR makes a new one; --key FILE gives the key of one that is encrypted.',
  },
  TPM_BACKEND: {
    exit: unavailable,
    text: 'The TPM of another program cannot be used',
    hint: 'swtpm socket --tpm2 --tpmstate dir=DIR --ctrl type=unixio,path=SOCKET serves one machine at a time.',
  },
  IMAGE_UNKNOWN: {
    exit: noInput,
    text: 'There is no such image',
    hint: '`nyx image ls` lists the images; `--kernel` boots a kernel of your own.',
  },
  MEMORY_TOO_LARGE: {
    exit: host,
    text: 'The machine needs more memory than the host has',
    hint: 'Ask for less with --memory, or free memory on the host.',
  },
  MEMORY_TOO_SMALL: {
    exit: data,
    text: 'Kernel and initrd do not fit into the memory',
    hint: 'Ask for more with --memory.',
  },
  ACCEL_UNAVAILABLE: {
    exit: host,
    text: 'The accelerator does not work on this host',
    hint: 'Use --accel soft, or auto to let Nyx measure.',
  },
  NOT_BUILT: { exit: host, text: 'A part of Nyx is not built', hint: 'Run `npm run build` in the project.' },
  HOST_ERROR: {
    exit: host,
    text: 'The host refused something that Nyx needs',
    hint: 'Look at the reason given; `nyx logs` may tell more.',
  },
  PATH_TOO_LONG: {
    exit: host,
    text: 'The run directory has too long a path for sockets',
    hint: 'Set XDG_RUNTIME_DIR to a shorter one, or give a shorter --name.',
  },
  RUN_DIR_UNSAFE: {
    exit: denied,
    text: 'The run directory belongs to somebody else',
    hint: 'Set XDG_RUNTIME_DIR to a directory of your own with mode 0700.',
  },

  VM_EXISTS: {
    exit: unavailable,
    text: 'A machine of this name is running',
    hint: 'Choose another --name, or stop it: nyx stop NAME.',
  },
  VM_UNKNOWN: { exit: unavailable, text: 'There is no such machine', hint: '`nyx ps` lists the machines.' },
  VM_AMBIGUOUS: {
    exit: usage,
    text: 'More than one machine is running',
    hint: 'Say which: `nyx ps` lists them.',
  },
  VM_STATE: {
    exit: unavailable,
    text: 'The machine cannot do that in its state',
    hint: '`nyx status` tells the state.',
  },
  FAULT_LIMIT: {
    exit: usage,
    text: 'Too many fault rules',
    hint: '`nyx fault rm` removes some; one rule can make many faults.',
  },
  FAULT_UNKNOWN: {
    exit: usage,
    text: 'There is no such fault rule',
    hint: '`nyx fault ls` lists the rules in force.',
  },
  NO_REPORT: {
    exit: noInput,
    text: 'There is no report',
    hint: 'Nothing serious has happened. `nyx events` tells what has.',
  },
  UPGRADE_REFUSED: {
    exit: data,
    text: 'The new build cannot serve the device; the old one goes on',
    hint: 'State of another version needs declared steps in the new build (docs/writing-a-device.md).',
  },
  DEVICE_UNKNOWN: {
    exit: usage,
    text: 'The machine has no such device',
    hint: '`nyx status` lists devices and processes.',
  },

  CD_LOCKED: {
    exit: unavailable,
    text: 'The guest has locked its CD drive',
    hint: '`nyx cd eject` asks the guest; with --force nobody is asked.',
  },

  SUPERVISOR_DIED: {
    exit: software,
    text: 'The supervisor ended unexpectedly',
    hint: 'Look at nyxd.log in the run directory, and report it.',
  },
  ADOPTION_FAILED: {
    exit: software,
    text: 'The machine cannot be taken over by another supervisor',
    hint: 'Its guest goes on as long as its devices do. nyx stop --force NAME ends it; nyxd.log in its run directory tells more.',
  },
  SUPERVISOR_TIMEOUT: {
    exit: timeout,
    text: 'The supervisor does not answer',
    hint: 'Look at nyxd.log in the run directory; nyx stop --force ends the machine.',
  },
  PROTOCOL_VERSION: {
    exit: software,
    text: 'Supervisor and client speak different versions',
    hint: 'Use the `nyx` that started the machine, or restart the machine.',
  },
  PROTOCOL_INVALID: {
    exit: software,
    text: 'A control message is malformed',
    hint: 'Report it, with both versions.',
  },
  DEVICE_SILENT: {
    exit: software,
    text: 'A device process never answered',
    hint: 'Look at its log: nyx logs NAME.',
  },
  DEVICE_FAILED: {
    exit: software,
    text: 'A device process could not start',
    hint: 'The reason is above; more may be in: nyx logs NAME.',
  },
  DEVICE_CRASH_LOOP: {
    exit: software,
    text: 'A device process keeps dying',
    hint: 'It is isolated, the machine runs on without it. nyx logs NAME shows why; nyx heal DEVICE gives it another chance.',
  },
  DEVICE_ISOLATED: {
    exit: software,
    text: 'A device was taken out of the machine',
    hint: 'The policy for its faults says so (nyx policy get). nyx heal DEVICE brings it back.',
  },
  VCPU_REJECTED: {
    exit: software,
    text: 'The vCPU process refused the machine',
    hint: 'Report it: the supervisor described something that it should not.',
  },
  VCPU_DIED: {
    exit: software,
    text: 'The vCPU process ended unexpectedly',
    hint: 'Look at nyx-vcpu.log in the run directory.',
  },
  VCPU_ERROR: {
    exit: software,
    text: 'The accelerator cannot go on',
    hint: 'Try --accel soft, which implements what a partial KVM lacks.',
  },
  GUEST_FAILED: {
    exit: software,
    text: 'The guest crashed',
    hint: 'Look at its console: nyx logs NAME --console.',
  },

  EXEC_NO_AGENT: {
    exit: unavailable,
    text: 'The guest has nothing that runs commands',
    hint: 'Use the default image, or start libs/protocol agentScript in your guest and pass nyx.agent=1.',
  },
  EXEC_TIMEOUT: {
    exit: timeout,
    text: 'The command did not end in time',
    hint: 'Give more time with --timeout.',
  },
  EXEC_LOST: {
    exit: software,
    text: 'Output of the command was lost',
    hint: 'Redirect large output to a disk.',
  },
  STOP_TIMEOUT: {
    exit: timeout,
    text: 'The guest did not power off in time',
    hint: 'nyx stop --force ends it at once.',
  },
} as const satisfies Record<string, Entry>;

export type ErrorCode = keyof typeof errors;

export interface ErrorDetail {
  expected?: string;
  got?: string;
  /** Instead of the table's hint, where more is known. */
  hint?: string;
}

/** An error with a code of the table above. It travels over the control plane as `toJSON`. */
export class NyxError extends Error {
  override readonly name = 'NyxError';
  readonly exit: number;
  readonly expected: string | undefined;
  readonly got: string | undefined;
  readonly hint: string;

  constructor(
    readonly code: ErrorCode,
    detail: ErrorDetail = {},
    options?: ErrorOptions,
  ) {
    const entry: Entry = errors[code];
    super(detail.got ? `${entry.text}: ${detail.got}` : entry.text, options);
    this.exit = entry.exit;
    this.expected = detail.expected;
    this.got = detail.got;
    this.hint = detail.hint ?? entry.hint;
  }

  toJSON(): WireError {
    const wire: WireError = { code: this.code };
    if (this.expected !== undefined) wire.expected = this.expected;
    if (this.got !== undefined) wire.got = this.got;
    if (this.hint !== errors[this.code].hint) wire.hint = this.hint;
    return wire;
  }

  /** As `nyx` prints it. */
  pretty(): string {
    const lines = [`nyx: ${errors[this.code].text} [${this.code}]`];
    if (this.expected) lines.push(`  expected  ${this.expected}`);
    if (this.got) lines.push(`  got       ${this.got}`);
    lines.push(`  to do     ${this.hint}`);
    return lines.join('\n');
  }
}

export interface WireError {
  code: string;
  expected?: string;
  got?: string;
  hint?: string;
}

export const isErrorCode = (code: unknown): code is ErrorCode =>
  typeof code === 'string' && Object.hasOwn(errors, code);

/** The error that came over the wire; one with an unknown code (a newer peer) keeps its words. */
export const errorFromWire = (wire: WireError): NyxError => {
  const { code, ...detail } = wire;
  return isErrorCode(code)
    ? new NyxError(code, detail)
    : new NyxError('PROTOCOL_INVALID', { ...detail, got: `${code}: ${detail.got ?? ''}` });
};

/** Any thrown thing as a coded error. Codes of other libraries (ENOENT, RING_...) are told in `got`. */
export const asNyxError = (thrown: unknown, fallback: ErrorCode = 'HOST_ERROR'): NyxError => {
  if (thrown instanceof NyxError) return thrown;
  const e = thrown as {
    code?: unknown;
    message?: unknown;
    expected?: unknown;
    got?: unknown;
    hint?: unknown;
  };
  const text = String(e?.message ?? thrown);
  if (isErrorCode(e?.code)) {
    const detail: ErrorDetail = { got: typeof e.got === 'string' ? e.got : text };
    if (typeof e.expected === 'string') detail.expected = e.expected;
    if (typeof e.hint === 'string') detail.hint = e.hint;
    return new NyxError(e.code, detail, { cause: thrown });
  }
  const got = typeof e?.code === 'string' && !text.includes(e.code) ? `${e.code}: ${text}` : text;
  return new NyxError(fallback, { got }, { cause: thrown });
};
