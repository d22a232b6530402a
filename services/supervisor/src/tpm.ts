/** The TPM of a machine: its line in the wiring, its state, and what direct boot measures into it. */
import { randomInt } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  clearingCommands,
  type Digests,
  descriptorFile,
  digestsOf,
  type GuestRam,
  hashes,
  logArea,
  logImage,
  measurements,
  measuringCommands,
  PpiFunction,
  pc,
  ppi,
  ppiClears,
  tpmRegisterBytes,
} from '@nyx/boot';
import {
  acceptUnix,
  close,
  connectUnix,
  dup,
  eventfdWrite,
  listenUnix,
  memfdCreate,
  mmap,
  ofdLock,
  openFrameSocket,
  receiveRights,
} from '@nyx/native';
import { packScript, tpmBoot, tpmWire } from '@nyx/protocol';
import { NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import { swtpmSocket } from '@nyx/protocol/tpm-spec';
import type { Resources, Shared } from './resources.ts';
import type { DeviceLine, Route } from './wiring.ts';

type TpmSpec = NonNullable<VmSpec['tpm']>;
/** TPM_INT_VECTOR names one of the ISA interrupts. */
const vectors = 16;

/** Whether our loader is what measures: there is no firmware. */
const measures = (spec: VmSpec): boolean =>
  spec.tpm?.measure === true && spec.kernel !== undefined && spec.bios === undefined;

export function tpmLine(spec: VmSpec): DeviceLine[] {
  const { tpm } = spec;
  if (!tpm) return [];
  const foreign = tpm.backend !== undefined;
  const fds: Record<string, string> = { buffer: 'tpm.buffer' };
  if (foreign) Object.assign(fds, { data: 'tpm.data', control: 'tpm.control' });
  else {
    fds.state = 'tpm.state';
    if (tpm.key !== undefined) fds.key = 'tpm.key';
  }
  if (measures(spec)) Object.assign(fds, { boot: 'tpm.boot', bootEvent: 'tpm.bootEvent' });
  return [
    {
      name: 'tpm',
      kind: `tpm-${tpm.model}`,
      process: 'tpm',
      service: 'tpm',
      mmio: [
        [pc.tpm, tpmRegisterBytes, 0],
        [ppi.address, ppi.bytes, 1],
      ],
      irqs: tpm.model === 'tis' ? Array.from({ length: vectors }, (_, v): Route => `line ${v}`) : [],
      // Requests are numbered from here on: a state that another machine has used does not know them.
      config: { backend: foreign ? 'swtpm' : 'own', first: randomInt(1, 2 ** 31) },
      fds,
    },
  ];
}

export interface TpmFiles {
  /** Connections to swtpm. */
  data?: number;
  control?: number;
  state?: number;
  key?: number;
}

/** Opens, or makes, the state of a TPM; nobody else may use it meanwhile. @throws NyxError FILE_* */
function openState(path: string): number {
  const isFile = statSync(path, { throwIfNoEntry: false })?.isFile() === true;
  const file = isFile ? path : join(path, tpmWire.stateFile);
  let fd: number;
  try {
    if (!isFile) mkdirSync(path, { recursive: true, mode: 0o700 });
    fd = openSync(file, constants.O_RDWR | constants.O_CREAT | constants.O_NONBLOCK, 0o600);
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException;
    const denied = code === 'EACCES' || code === 'EPERM' || code === 'EROFS';
    throw new NyxError(denied ? 'FILE_DENIED' : 'FILE_KIND', {
      expected: 'a directory for the state of the TPM that can be written',
      got: `${file} (${code})`,
    });
  }
  // As services/tpm locks it; the lock is of the open file, so it lasts as long as any process of the machine.
  let isFree = true;
  try {
    isFree = ofdLock(fd, 'write', 0, 1);
  } catch {
    // A file system without locks.
  }
  if (isFree) return fd;
  closeSync(fd);
  throw new NyxError('FILE_IN_USE', {
    expected: 'a TPM that nobody else uses',
    got: `${file} is open by another program`,
  });
}

const CMD_SET_DATAFD = Uint8Array.of(0, 0, 0, 16);
/** Milliseconds that swtpm has to answer. */
const swtpmPatience = 2000;

/** A connected pair of stream sockets. */
function streamPair(): [ours: number, theirs: number] {
  const folder = mkdtempSync(join(tmpdir(), 'nyx-tpm-'));
  const path = join(folder, 's');
  const listening = listenUnix(path);
  try {
    const ours = connectUnix(path);
    return [ours, acceptUnix(listening)];
  } finally {
    close(listening);
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * Connects to swtpm as QEMU does: its control socket, over which it is given its end of the data connection.
 * @throws NyxError TPM_BACKEND
 */
function connectSwtpm(path: string): { data: number; control: number } {
  const refuse = (got: string): NyxError =>
    new NyxError('TPM_BACKEND', {
      expected: 'swtpm with --ctrl type=unixio,path=... and without --server',
      got: `${path}: ${got}`,
    });
  let control: number;
  try {
    control = connectUnix(path);
  } catch (e) {
    throw refuse((e as { code?: string }).code ?? (e as Error).message);
  }
  const [data, theirs] = streamPair();
  const sender = openFrameSocket(dup(control), { headerBytes: 4, lengthAt: 0, onMessage() {}, onClose() {} });
  let refused: string | undefined = 'no answer';
  try {
    sender.send(CMD_SET_DATAFD, [theirs]);
    // Before a machine has started, nothing else is to be done.
    const nap = new Int32Array(new SharedArrayBuffer(4));
    for (let ms = 0; ms < swtpmPatience && refused === 'no answer'; ms++) {
      const got = receiveRights(control, 4);
      if (got === undefined) Atomics.wait(nap, 0, 0, 1);
      else if (got.bytes.length < 4) refused = 'it closed the connection';
      else if (got.bytes.some((b) => b !== 0)) refused = `result ${Buffer.from(got.bytes).readUInt32BE(0)}`;
      else refused = undefined;
    }
  } catch (e) {
    refused = (e as Error).message;
  } finally {
    sender.close();
    close(theirs);
  }
  if (refused === undefined) return { data, control };
  close(data);
  close(control);
  throw refuse(refused);
}

/** @throws NyxError FILE_*, TPM_BACKEND */
export function openTpm(tpm: TpmSpec, open: (path: string, what: string) => { fd: number }): TpmFiles {
  const files: TpmFiles = {};
  const socket = swtpmSocket(tpm);
  if (socket !== undefined) return connectSwtpm(socket);
  if (tpm.key !== undefined) files.key = open(tpm.key, 'key of the TPM').fd;
  if (tpm.state !== undefined) files.state = openState(tpm.state);
  return files;
}

/** Files of digests that are kept; then they are made anew. */
const mostDigests = 200;

/**
 * The digests of a file. They take half a second for a kernel, so they are kept in the user's cache, under what the file
 * system says of the file: what changes it, changes its time of change, which nobody can set.
 */
function fileDigests(fd: number): Digests {
  const { dev, ino, size, mtimeNs, ctimeNs } = fstatSync(fd, { bigint: true });
  const folder = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'nyx/digests');
  const path = join(folder, [dev, ino, size, mtimeNs, ctimeNs].join('-'));
  try {
    const known = readFileSync(path);
    if (known.length === hashes.reduce((n, h) => n + h.bytes, 0)) {
      let at = 0;
      return hashes.map(({ bytes }) => {
        at += bytes;
        return known.subarray(at - bytes, at);
      });
    }
  } catch {}
  const length = Number(size);
  const file = descriptorFile(fd, length);
  const digests = digestsOf(length, (at, into) => file.read(at, into));
  // A file that changes while it is read, or has just changed, is not known by its times.
  const after = fstatSync(fd, { bigint: true });
  const isQuiet = BigInt(Date.now()) * 1_000_000n - ctimeNs > 2_000_000_000n;
  if (after.ctimeNs === ctimeNs && isQuiet) {
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      const old = readdirSync(folder);
      if (old.length > mostDigests) for (const name of old) rmSync(join(folder, name), { force: true });
      writeFileSync(`${path}.${process.pid}`, Buffer.concat(digests), { mode: 0o600 });
      renameSync(`${path}.${process.pid}`, path);
    } catch {
      // It is only slower.
    }
  }
  return digests;
}

/** What the process of the TPM needs, as resources of the machine. */
export class TpmHost {
  readonly #boot: Shared | undefined;
  readonly #event: number | undefined;
  readonly #presence: DataView;

  constructor(spec: VmSpec, files: TpmFiles, r: Resources) {
    const { bulkBytes } = tpmWire;
    const buffer = r.hold('tpm.buffer', () => memfdCreate('nyx-tpm-buffer', bulkBytes), bulkBytes);
    // What is opened is there, or was left by another nyxd.
    if (spec.tpm && swtpmSocket(spec.tpm) !== undefined) {
      r.hold('tpm.data', () => files.data!);
      r.hold('tpm.control', () => files.control!);
    } else r.hold('tpm.state', () => files.state ?? memfdCreate('nyx-tpm-state', tpmWire.stateBytes));
    if (spec.tpm?.key !== undefined) r.hold('tpm.key', () => files.key!);
    this.#presence = new DataView(mmap(buffer, bulkBytes), tpmWire.ppiAt, tpmWire.ppiBytes);
    if (!measures(spec)) return;
    this.#boot = r.blob('tpm.boot', new Uint8Array(tpmBoot.bytes));
    this.#event = r.event('tpm.bootEvent');
  }

  /** What the guest asked for in its last life; the page is set up for this one. Whoever could reach it is allowed to ask. */
  #asked(): Uint8Array[] {
    const page = this.#presence;
    for (const operation of [0, ...ppiClears]) page.setUint8(ppi.functions + operation, PpiFunction.allowed);
    const request = page.getUint32(ppi.request, true);
    page.setUint32(ppi.request, 0, true);
    if (request === 0) return [];
    const isKnown = ppiClears.includes(request);
    page.setUint32(ppi.last, request, true);
    // Aborted by the firmware: it does not know the operation.
    page.setUint32(ppi.response, isKnown ? 0 : 0xffff_fff1, true);
    return isKnown ? clearingCommands() : [];
  }

  /**
   * Whether memory is to be cleared before the guest starts again: bit 0 of MemoryOverwriteRequestControl (TCG Platform Reset
   * Attack Mitigation 1.10, section 4). It is asked for once; the other bits stay.
   */
  takeOverwrite(): boolean {
    const control = this.#presence.getUint8(ppi.overwrite);
    this.#presence.setUint8(ppi.overwrite, control & ~1);
    return (control & 1) !== 0;
  }

  /** At every boot by our loader: the log into guest memory, the same as commands to the TPM, which waits for them. */
  measure(ram: GuestRam, what: { kernel: number; initrd?: number | undefined; cmdline: string }): void {
    if (this.#boot === undefined || this.#event === undefined) return;
    const kernel = fileDigests(what.kernel);
    const initrd = what.initrd === undefined ? undefined : fileDigests(what.initrd);
    const events = measurements({ kernel, initrd, cmdline: what.cmdline });
    ram.write(logArea.address, logImage(events));
    const [startup, ...measuring] = measuringCommands(events);
    const script = packScript([startup!, ...this.#asked(), ...measuring]);
    const v = new DataView(this.#boot.buffer);
    new Uint8Array(this.#boot.buffer).set(script, tpmBoot.script);
    v.setUint32(tpmBoot.length, script.length, true);
    v.setUint32(tpmBoot.generation, (v.getUint32(tpmBoot.generation, true) + 1) >>> 0 || 1, true);
    eventfdWrite(this.#event);
  }
}
