import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { Vm } from '@nyx/nyx';
import type { Fingerprint } from '@nyx/protocol/control';
import { NyxError } from '@nyx/protocol/errors';
import { parseActions } from '@nyx/protocol/policy';
import type { VmSpecInput } from '@nyx/protocol/spec';
import { Command, Option } from 'commander';
import { attach } from './attach.ts';
import { parseDisk } from './disk-option.ts';
import { note, progress } from './text.ts';

interface Flags {
  kernel?: string;
  initrd?: string;
  append?: string;
  bootProtocol?: 'auto' | 'linux' | 'pvh';
  disk: string[];
  vhostUser: string[];
  cdrom: string[];
  memory?: string;
  cpus?: string;
  accel?: 'auto' | 'kvm' | 'soft';
  bios?: string;
  bootMenu?: string;
  name?: string;
  detach?: boolean;
  exec?: string;
  timeout: string;
  agent?: boolean;
  action: string[];
  watchdog?: 'i6300esb';
  tpm?: string | true;
  deterministic?: boolean;
}

const examples = `
Examples:
  nyx run debian                                  a guest that Nyx builds; this terminal is its console
  nyx run debian --exec 'uname -a; df /data'      runs the command, prints its output, exits with its status
  nyx run machine.yaml --detach                   from a file (docs/machine-file.md); nyx console shows it
  nyx run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0' --disk root.img --memory 2G --cpus 2
  nyx run --bios seabios --disk dos.img           legacy firmware
  nyx run --bios seabios --disk new.img,bus=ahci --cdrom install.iso

Ctrl-] leaves the console; the machine goes on.`;

export const make = (): Command =>
  new Command('run')
    .description('Starts a machine: an image, a machine file, or a kernel or firmware of your own.')
    .argument('[what]', 'image (debian) or machine file (*.yaml)')
    .option('--kernel <file>', 'kernel: bzImage, or ELF')
    .option('--initrd <file>', 'initial RAM disk')
    .option('--append <text>', 'kernel command line (added to that of an image)')
    .addOption(
      new Option('--boot-protocol <name>', 'how an ELF kernel is entered (default auto)').choices([
        'auto',
        'linux',
        'pvh',
      ]),
    )
    .option(
      '--disk <file>',
      'disk image: FILE[,format=raw|qcow2|vhdx][,bus=][,werror=][,rerror=][,throttle.iops-total=] ... (docs/storage.md); FILE:ro is read-only',
      (v: string, all: string[]) => [...all, v],
      [],
    )
    .option(
      '--cdrom <file>',
      "ISO image in a CD drive (AHCI); several times for several drives. 'none' is an empty drive",
      (v: string, all: string[]) => [...all, v],
      [],
    )
    .option(
      '--vhost-user <type,socket=path>',
      'device of a vhost-user back-end: blk,socket=PATH or fs,socket=PATH,tag=NAME; also queues=N. Several times for several',
      (v: string, all: string[]) => [...all, v],
      [],
    )
    .option('--memory <size>', 'e.g. 512M or 4G (default 512M)')
    .option('--cpus <n>', 'number of vCPUs (default 1)')
    .addOption(
      new Option('--accel <engine>', 'how the guest runs (default auto: Nyx measures)').choices([
        'auto',
        'kvm',
        'soft',
      ]),
    )
    .option(
      '--action <list>',
      "what is done about faults: panic=pause,reboot=shutdown,... ('nyx policy get' lists faults; QEMU's and Xen's words)",
      (v: string, all: string[]) => [...all, v],
      [],
    )
    .option(
      '--tpm [options]',
      'a TPM 2.0; model=tis|crb,state=DIR,key=FILE,backend=swtpm:SOCKET,measure=no (docs/tpm.md)',
    )
    .addOption(
      new Option('--watchdog <model>', 'a watchdog timer that the guest can use').choices(['i6300esb']),
    )
    .option('--bios <file>', "firmware image, or 'seabios' for the host's")
    .option('--boot-menu <seconds>', 'firmware waits so long for ESC (default 2.5; 0: it does not ask)')
    .option('--name <name>', 'name of the machine')
    .option('--detach', 'do not attach to the console')
    .option('--agent', 'the guest runs an agent for commands (images do anyway)')
    .option('--exec <command>', 'run a command in the guest, power off, exit with its status')
    .option(
      '--deterministic',
      'time and interrupts by instruction count, nothing random: the same run again is the same (with --exec: to the last bit)',
    )
    .option('--timeout <seconds>', 'longest time for --exec, boot included', '300')
    .addHelpText('after', examples)
    .action(run);

/** Paths count from here. */
const tpmOf = async (text: string): Promise<VmSpecInput['tpm']> => {
  const { parseTpmOption } = await import('@nyx/protocol/tpm-spec');
  const tpm = parseTpmOption(text) as Exclude<NonNullable<VmSpecInput['tpm']>, boolean>;
  const socket = /^swtpm:(.+)$/s.exec(tpm.backend ?? '')?.[1];
  return {
    ...tpm,
    ...(tpm.state === undefined ? {} : { state: resolve(tpm.state) }),
    ...(tpm.key === undefined ? {} : { key: resolve(tpm.key) }),
    ...(socket === undefined ? {} : { backend: `swtpm:${resolve(socket)}` }),
  };
};

/** A number from the command line. @throws NyxError USAGE */
export const number = (text: string, flag: string): number => {
  const n = Number(text);
  if (!Number.isFinite(n) || n < 0 || text.trim() === '')
    throw new NyxError('USAGE', { expected: `a number for ${flag}`, got: `'${text}'` });
  return n;
};

/** `blk,socket=PATH,queues=2`. @throws NyxError USAGE */
const vhostUserOf = (
  text: string,
  here: (p: string) => string,
): NonNullable<VmSpecInput['vhostUser']>[number] => {
  const [type = '', ...pairs] = text.split(',');
  const options = new Map(pairs.map((p) => [p.split('=')[0]!, p.slice(p.indexOf('=') + 1)]));
  const socket = options.get('socket');
  const known = [...options.keys()].every((k) => k === 'socket' || k === 'queues' || k === 'tag');
  if ((type !== 'blk' && type !== 'fs') || !socket || !known)
    throw new NyxError('USAGE', {
      expected: '--vhost-user blk,socket=PATH or fs,socket=PATH,tag=NAME, with queues=N if you like',
      got: text,
    });
  const queues = options.get('queues');
  const tag = options.get('tag');
  return {
    type,
    socket: here(socket),
    ...(queues === undefined ? {} : { queues: number(queues, 'queues') }),
    ...(tag === undefined ? {} : { tag }),
  };
};

const specOf = async (what: string | undefined, f: Flags): Promise<{ spec: VmSpecInput; base: string }> => {
  let spec: VmSpecInput = {};
  let base = process.cwd();
  if (what !== undefined && /\.ya?ml$/.test(what)) {
    let text: string;
    try {
      text = readFileSync(what, 'utf8');
    } catch (e) {
      throw new NyxError((e as NodeJS.ErrnoException).code === 'EACCES' ? 'FILE_DENIED' : 'FILE_MISSING', {
        expected: 'a machine file',
        got: `${what} (${(e as NodeJS.ErrnoException).code})`,
      });
    }
    spec = (await import('@nyx/protocol/spec-file')).parseSpecText(text, what);
    base = dirname(resolve(what));
  } else if (what !== undefined) spec.image = what;
  const { kernel, initrd, append, memory, accel, bios, name } = f;
  // Paths given here count from here, those of the file from its directory.
  const here = (p: string): string => resolve(p);
  if (kernel !== undefined) spec.kernel = here(kernel);
  if (initrd !== undefined) spec.initrd = here(initrd);
  if (append !== undefined) spec.append = append;
  if (f.bootProtocol !== undefined) spec.bootProtocol = f.bootProtocol;
  if (memory !== undefined) spec.memory = memory;
  if (accel !== undefined) spec.accel = accel;
  if (bios !== undefined) spec.bios = bios === 'seabios' ? bios : here(bios);
  if (f.bootMenu !== undefined) spec.bootMenu = number(f.bootMenu, '--boot-menu');
  if (name !== undefined) spec.name = name;
  if (f.cpus !== undefined) spec.cpus = number(f.cpus, '--cpus');
  if (f.tpm !== undefined) spec.tpm = f.tpm === true || (await tpmOf(f.tpm));
  if (f.watchdog !== undefined) spec.watchdog = f.watchdog;
  if (f.action.length > 0) spec.policy = { ...spec.policy, ...parseActions(f.action.join(',')) };
  if (f.agent || f.exec !== undefined) spec.agent = true;
  if (f.deterministic) {
    spec.deterministic = true;
    if (f.exec !== undefined) spec.command = f.exec;
  }
  for (const d of f.disk) spec.disks = [...(spec.disks ?? []), parseDisk(d, here)];
  for (const v of f.vhostUser) spec.vhostUser = [...(spec.vhostUser ?? []), vhostUserOf(v, here)];
  for (const c of f.cdrom) spec.cdroms = [...(spec.cdroms ?? []), c === 'none' ? {} : { path: here(c) }];
  return { spec, base };
};

async function run(what: string | undefined, flags: Flags): Promise<void> {
  // `--tpm debian`: what follows is no option of it, but what is to run.
  if (typeof flags.tpm === 'string' && what === undefined && !flags.tpm.includes('=')) {
    what = flags.tpm;
    flags.tpm = true;
  }
  const { spec, base } = await specOf(what, flags);
  const timeout = number(flags.timeout, '--timeout');
  const vm = await Vm.launch(spec, { base, onProgress: progress });
  const machine = vm.launched!;
  if (flags.exec !== undefined) {
    process.exitCode = await execute(vm, flags.exec, timeout, spec.command !== undefined);
    return;
  }
  await machine.running;
  if (flags.detach) {
    process.stdout.write(`${vm.name}\n`);
    vm.close();
    return;
  }
  let asked = 0;
  process.on('SIGINT', () => void vm.stop(asked++ === 0 ? 20 : 0).catch(() => {}));
  process.on('SIGTERM', () => void vm.stop(20).catch(() => {}));
  if (process.stdin.isTTY) note(`'${vm.name}' runs. Ctrl-] leaves the console.`);
  const how = await attach(vm);
  if (how === 'left') {
    note(`\n'${vm.name}' goes on. nyx console ${vm.name} returns to it, nyx stop ${vm.name} ends it.`);
    vm.close();
    return;
  }
  const { fingerprint } = await machine.ended;
  if (fingerprint) tell(fingerprint);
}

const tell = (f: Fingerprint): void =>
  note(`${f.instructions} instructions, ${f.guestNs} ns of guest time, memory ${f.memory}`);

/** Whether `p` is over in so many seconds. */
const within = (p: Promise<unknown>, seconds: number): Promise<boolean> =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve(false), seconds * 1000);
    p.then(() => resolve(true), reject).finally(() => clearTimeout(timer));
  });

/** Runs the command, powers off; the exit status of the command. */
const execute = async (vm: Vm, command: string, timeout: number, own: boolean): Promise<number> => {
  const { running, ended } = vm.launched!;
  const stop = (): void => void vm.stop(0).catch(() => {});
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  await running;
  // A machine that fails is the better explanation than a command that was lost; its word comes a moment later.
  const failed = new Promise<never>((_, reject) => ended.catch(reject));
  try {
    const result = await Promise.race([
      vm
        .exec(command, {
          timeout,
          onStdout: (b) => process.stdout.write(b),
          onStderr: (b) => process.stderr.write(b),
        })
        .catch((e) => new Promise<never>((_, reject) => setTimeout(() => reject(e), 300))),
      failed,
    ]);
    // With a command of its own the guest powers off by itself.
    if (!own || !(await within(ended, timeout))) await vm.stop(10).catch(() => {});
    const { fingerprint } = await ended;
    if (fingerprint) tell(fingerprint);
    return result.status;
  } catch (e) {
    await vm.stop(0).catch(() => {});
    throw e;
  }
};
