/** `nyx tpm`: TPMs of machines and of state directories, event logs, and a TPM on sockets. */
import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { decodeLog, type EventLog, eventTypeName, findLog, hashes, replay } from '@nyx/boot';
import { files, find, list, type RunInfo } from '@nyx/nyx/rundir';
import { NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import { Command } from 'commander';
import { built } from '../paths.ts';
import { bytes, columns, dim, duration, print, red, yellow } from './text.ts';

interface Info {
  family: string;
  revision: number;
  manufacturer: string;
  vendor: string;
  firmware: string;
  started: boolean;
  failed: boolean;
  encrypted: boolean;
  resets: { total: number; sinceClear: number; restarts: number };
  clockMs: number;
  clockSafe: boolean;
  authSet: Record<'owner' | 'endorsement' | 'lockout', boolean>;
  lockout: { failedTries: number; maxTries: number; recoverySeconds: number; locked: boolean };
  banks: string[];
  nv: { handle: string; type: string; bytes: number; attributes: string }[];
  persistent: { handle: string; type: string; bits?: number }[];
  transient: number;
  sessions: number;
}
interface Pcrs {
  started: boolean;
  banks: Record<string, (string | null)[]>;
}

const errorOf = (e: { code: string; message: string }): NyxError => {
  if (e.code === 'ENOENT')
    return new NyxError('FILE_MISSING', { expected: 'the state of a TPM', got: e.message });
  if (e.code === 'EACCES' || e.code === 'EPERM') return new NyxError('FILE_DENIED', { got: e.message });
  if (e.code.startsWith('TPM_STATE')) return new NyxError('TPM_STATE', { got: e.message });
  return new NyxError('HOST_ERROR', { got: `${e.code}: ${e.message}` });
};

/** Runs the service's tool. @throws NyxError */
async function tool<T>(request: Record<string, unknown>): Promise<T> {
  const program = built('services/tpm/dist/tpm-tool.cjs');
  const child = spawn(process.execPath, [program, JSON.stringify(request)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  for await (const chunk of child.stdout) text += chunk;
  let said: { result?: T; error?: { code: string; message: string } } = {};
  try {
    said = JSON.parse(text);
  } catch {}
  if (said.error) throw errorOf(said.error);
  if (said.result === undefined)
    throw new NyxError('HOST_ERROR', { got: 'the TPM tool ended without an answer' });
  return said.result;
}

const specOf = (machine: RunInfo): VmSpec | undefined => {
  try {
    return JSON.parse(readFileSync(join(machine.dir, files.spec), 'utf8'));
  } catch {
    return undefined;
  }
};

/** Shared memory of a machine, as its supervisor holds it. @throws NyxError VM_STATE, FILE_DENIED */
const sharedMemory = (machine: RunInfo, name: string): string => {
  const pid = machine.pids.find((p) => p.role === 'nyxd')?.pid;
  const folder = `/proc/${pid}/fd`;
  try {
    for (const fd of readdirSync(folder))
      if (readlinkSync(join(folder, fd)).startsWith(`/memfd:${name} `)) return join(folder, fd);
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'EPERM')
      throw new NyxError('FILE_DENIED', { got: `the memory of '${machine.name}' (${code})` });
  }
  throw new NyxError('VM_STATE', { expected: `a machine that runs, with ${name}`, got: `'${machine.name}'` });
};

/** The machine that is meant: the one of that name, or the only one with a TPM. @throws NyxError VM_UNKNOWN */
const machineOf = (name: string | undefined): RunInfo => {
  if (name !== undefined) return find(name);
  const some = list().filter((m) => m.kind !== 'ended' && specOf(m)?.tpm);
  return some.length === 1 ? some[0]! : find(undefined);
};

/** What the tool is told of a state: of a directory or file, or of a machine. @throws NyxError */
const target = (name: string | undefined, key: string | undefined): { path: string; key?: string } => {
  const keyFile = key === undefined ? {} : { key: resolve(key) };
  if (name !== undefined && (name.includes('/') || existsSync(name)))
    return { path: resolve(name), ...keyFile };
  const machine = machineOf(name);
  const tpm = specOf(machine)?.tpm;
  if (!tpm)
    throw new NyxError('VM_STATE', {
      expected: 'a machine with a TPM (nyx run --tpm)',
      got: `'${machine.name}'`,
    });
  if (tpm.backend !== undefined)
    throw new NyxError('VM_STATE', {
      expected: 'a TPM of Nyx',
      got: `that of '${machine.name}' is ${tpm.backend}`,
    });
  if (tpm.state === undefined) return { path: sharedMemory(machine, 'nyx-tpm-state') };
  return { path: tpm.state, ...(tpm.key === undefined ? keyFile : { key: tpm.key }) };
};

const showInfo = (i: Info): void => {
  const yes = (b: boolean): string => (b ? 'set' : 'empty');
  const rows: string[][] = [
    ['TPM', `${i.family}, revision ${i.revision}; ${i.vendor}, firmware ${i.firmware}`],
    ['power', i.failed ? red('failure mode') : i.started ? 'started' : 'off, or not started'],
    [
      'resets',
      `${i.resets.total}, ${i.resets.sinceClear} since it was cleared; ${i.resets.restarts} restarts`,
    ],
    ['clock', `${duration(i.clockMs * 1e6)}${i.clockSafe ? '' : ', may have gone back'}`],
    ['PCR banks', i.banks.join(', ')],
    [
      'passwords',
      `owner ${yes(i.authSet.owner)}, endorsement ${yes(i.authSet.endorsement)}, lockout ${yes(i.authSet.lockout)}`,
    ],
    [
      'lockout',
      `${i.lockout.locked ? red('locked') : 'no'}; ${i.lockout.failedTries} of ${i.lockout.maxTries} wrong tries, one is forgiven every ${i.lockout.recoverySeconds} s`,
    ],
    ['loaded', `${i.transient} objects, ${i.sessions} sessions`],
    ['state', i.encrypted ? 'encrypted' : yellow('not encrypted')],
    ...i.persistent.map((o) => ['key', `${o.handle}  ${o.type}${o.bits ? ` ${o.bits}` : ''}`]),
    ...i.nv.map((n) => ['NV', `${n.handle}  ${n.type}, ${bytes(n.bytes)}, attributes ${n.attributes}`]),
  ];
  print(columns(rows.map(([k = '', v = '']) => [dim(k), v])));
};

/** A machine's event log, or that of a file. @throws NyxError */
const logOf = (name: string | undefined): Buffer => {
  if (name !== undefined && (name.includes('/') || existsSync(name))) {
    try {
      if (statSync(name).isDirectory())
        throw new NyxError('USAGE', {
          expected:
            'a machine, or a file with an event log: the log is in the memory of the machine, not in the state of its TPM',
          got: `${name}, a directory`,
        });
      return readFileSync(name);
    } catch (e) {
      if (e instanceof NyxError) throw e;
      throw errorOf(e as { code: string; message: string });
    }
  }
  const machine = machineOf(name);
  const fd = openSync(sharedMemory(machine, 'nyx-ram'), 'r');
  try {
    const read = (address: number, length: number): Buffer => {
      const b = Buffer.alloc(length);
      return b.subarray(0, address < 2 ** 31 ? readSync(fd, b, 0, length, address) : 0);
    };
    const area = findLog(read);
    if (!area)
      throw new NyxError('VM_STATE', { expected: 'a guest whose tables name an event log', got: 'none' });
    return read(area.address, area.bytes);
  } finally {
    closeSync(fd);
  }
};

const printable = (data: Uint8Array): string => {
  const b = Buffer.from(data);
  const text = b.toString('latin1').replace(/\0+$/, '');
  if (text.length > 0 && /^[\x20-\x7e]+$/.test(text)) return JSON.stringify(text);
  // UTF-16, as firmware writes.
  const wide = b.length % 2 === 0 ? b.toString('utf16le').replace(/\0+$/, '') : '';
  if (wide.length > 1 && /^[\x20-\x7e]+$/.test(wide)) return JSON.stringify(wide);
  return b.length > 32 ? `${b.toString('hex', 0, 32)}... (${b.length} octets)` : b.toString('hex');
};

const bankName = (alg: number): string => hashes.find((h) => h.alg === alg)?.name ?? `0x${alg.toString(16)}`;

const showLog = (log: EventLog, bank: string): void => {
  const alg = hashes.find((h) => h.name === bank)?.alg ?? 0;
  print(
    columns([
      ['#', 'PCR', 'EVENT', bank.toUpperCase(), 'DATA'].map(dim),
      ...log.events.map((e, i) => [
        String(i),
        String(e.pcr),
        eventTypeName(e.type),
        Buffer.from(e.digests.find((d) => d.alg === alg)?.digest ?? []).toString('hex', 0, 8),
        printable(e.data),
      ]),
    ]),
  );
  if (log.broken) print(red(`\nThe log ends in the middle: ${log.broken}.`));
  if (log.events.length === 0) return;
  print(`\nPCRs as the events make them, ${bank}:`);
  const values = [...(replay(log).get(alg) ?? [])].sort((a, b) => a[0] - b[0]);
  print(columns(values.map(([pcr, v]) => [String(pcr).padStart(2), v.toString('hex')])));
};

/** A log as JSON: digests and PCRs in hexadecimal digits, by bank. */
const logJson = (log: EventLog): unknown => ({
  banks: [...log.digestBytes.keys()].map(bankName),
  events: log.events.map((e) => ({
    pcr: e.pcr,
    type: eventTypeName(e.type),
    digests: Object.fromEntries(
      e.digests.map((d) => [bankName(d.alg), Buffer.from(d.digest).toString('hex')]),
    ),
    data: Buffer.from(e.data).toString('hex'),
  })),
  pcrs: Object.fromEntries(
    [...replay(log)].map(([alg, values]) => [
      bankName(alg),
      Object.fromEntries([...values].map(([pcr, v]) => [pcr, v.toString('hex')])),
    ]),
  ),
  ...(log.broken ? { broken: log.broken } : {}),
});

const KEY = ['--key <file>', 'key file of the state: 32 octets, or 64 hexadecimal digits'] as const;
const CA = [
  '--ca <dir>',
  'makes endorsement keys and their certificates, signed by the local CA in this directory, which is made if there is none',
] as const;
const BANK = ['--bank <name>', 'sha1, sha256, sha384 or sha512', 'sha256'] as const;
const STATE = ['<dir>', 'state directory'] as const;
const WHERE = ['[machine]', 'machine or state directory; not needed when one machine has a TPM'] as const;

const checkBank = (name: string): string => {
  if (hashes.some((h) => h.name === name)) return name;
  throw new NyxError('USAGE', { expected: `one of ${hashes.map((h) => h.name).join(', ')}`, got: name });
};

export const make = (): Command => {
  const tpm = new Command('tpm')
    .description('TPM 2.0: of machines, in state directories, on sockets.')
    .enablePositionalOptions()
    .addHelpText(
      'after',
      '\nExamples:\n  nyx run debian --tpm state=my-tpm      a machine with a TPM that outlives it\n  nyx tpm pcrs debian\n  nyx tpm log debian\n  nyx tpm log /sys/kernel/security/tpm0/binary_bios_measurements\n  nyx tpm init my-tpm --ca my-ca\n  nyx tpm serve --state my-tpm --swtpm 2321 --startup-clear --not-need-init',
    );
  const onState = (command: 'init' | 'clear' | 'reset', description: string): Command =>
    tpm
      .command(command)
      .description(description)
      .argument(...STATE)
      .option(...KEY)
      .option('--json', 'as JSON');
  const act =
    (command: string) =>
    async (dir: string, o: { key?: string; ca?: string; json?: boolean }): Promise<void> => {
      const key = o.key === undefined ? {} : { key: resolve(o.key) };
      const ca = o.ca === undefined ? {} : { ca: resolve(o.ca) };
      const i = await tool<Info>({ command, path: resolve(dir), ...key, ...ca });
      if (o.json) print(JSON.stringify(i, null, 2));
      else showInfo(i);
    };
  onState('init', 'makes the state of a new TPM')
    .option(...CA)
    .action(act('init'));
  onState('clear', 'TPM2_Clear: keys, passwords and NV of the owner go; it stays the same TPM').action(
    act('clear'),
  );
  onState('reset', 'a new TPM in the place of the old one: all that it held or sealed is lost')
    .option(...CA)
    .option('--yes', 'really')
    .action(async (dir: string, o: { key?: string; ca?: string; json?: boolean; yes?: boolean }) => {
      if (!o.yes)
        throw new NyxError('USAGE', { expected: '--yes: what the TPM protects is lost for ever', got: dir });
      await act('reset')(dir, o);
    });
  tpm
    .command('info')
    .description('what a TPM is and holds')
    .argument(...WHERE)
    .option(...KEY)
    .option('--json', 'as JSON')
    .action(async (where: string | undefined, o: { key?: string; json?: boolean }) => {
      const i = await tool<Info>({ command: 'info', ...target(where, o.key) });
      if (o.json) print(JSON.stringify(i, null, 2));
      else showInfo(i);
    });
  tpm
    .command('pcrs')
    .description('platform configuration registers')
    .argument(...WHERE)
    .option(...KEY)
    .option(...BANK)
    .option('--json', 'all banks, as JSON')
    .action(async (where: string | undefined, o: { key?: string; bank: string; json?: boolean }) => {
      const bank = checkBank(o.bank);
      const { banks, started } = await tool<Pcrs>({ command: 'pcrs', ...target(where, o.key) });
      if (o.json) return print(JSON.stringify(banks, null, 2));
      if (!started) print(dim('The TPM is off, or was not started: these are its values at power on.'));
      const values = banks[bank];
      if (!values)
        throw new NyxError('USAGE', { expected: `one of ${Object.keys(banks).join(', ')}`, got: bank });
      print(columns(values.map((v, i) => [String(i).padStart(2), v ?? '-'])));
    });
  tpm
    .command('log')
    .alias('eventlog')
    .description('event log of a machine, or in a file (TCG, crypto-agile or SHA-1)')
    .argument('[machine]', 'machine or file; not needed when one machine has a TPM')
    .option(...BANK)
    .option('--json', 'as JSON')
    .option('--raw', 'the log itself')
    .action(async (where: string | undefined, o: { bank: string; json?: boolean; raw?: boolean }) => {
      const image = logOf(where);
      const log = decodeLog(image);
      if (o.raw) process.stdout.write(image.subarray(0, image.length - log.rest));
      else if (o.json) print(JSON.stringify(logJson(log), null, 2));
      else showLog(log, checkBank(o.bank));
    });
  tpm
    .command('serve')
    .description('a TPM on sockets, as swtpm and as the mssim simulator speak; until SIGTERM')
    .argument('[options...]', 'as below')
    .allowUnknownOption()
    .passThroughOptions()
    .addHelpText(
      'after',
      '\n  --state DIR         keeps the state; without it, it ends with the command\n  --key FILE          encrypts the state\n  --swtpm PORT|PATH   data socket; --ctrl PORT|PATH its control channel (default: port + 1, PATH.ctrl)\n  --mssim PORT        command port of the simulator; platform port is the next one\n  --startup-clear     TPM2_Startup(CLEAR) with the power\n  --not-need-init     power is on from the beginning\n  --no-sync           the state survives the end of this process, not of the host: nothing waits for the disk\n\nExamples:\n  nyx tpm serve --swtpm 2321 --startup-clear --not-need-init\n  TPM2TOOLS_TCTI=swtpm:port=2321 tpm2_getrandom --hex 8',
    )
    .action(async (args: string[]) => {
      const child = spawn(process.execPath, [built('services/tpm/dist/tpm.cjs'), 'serve', ...args], {
        stdio: 'inherit',
      });
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal));
      process.exitCode = await new Promise<number>((end) => child.on('exit', (code) => end(code ?? 1)));
    });
  return tpm;
};
