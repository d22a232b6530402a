/** The TPM of a machine: its line in the wiring, its state, and what direct boot measures into it. */
import { randomInt } from 'node:crypto';
import { closeSync, constants, mkdirSync, openSync, statSync } from 'node:fs';
import { join } from 'node:path';
import {
  type BootFile,
  type GuestRam,
  logArea,
  logImage,
  measurements,
  measuringCommands,
  pc,
} from '@nyx/boot';
import { eventfdWrite, memfdCreate, ofdLock } from '@nyx/native';
import { packScript, tpmBoot, tpmWire } from '@nyx/protocol';
import { NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import type { Resources, Shared } from './resources.ts';
import type { DeviceLine, Route } from './wiring.ts';

type TpmSpec = NonNullable<VmSpec['tpm']>;
const regionBytes = 0x5000;
/** TPM_INT_VECTOR names one of the ISA interrupts. */
const vectors = 16;

/** Whether our loader is what measures: there is no firmware. */
const measures = (spec: VmSpec): boolean =>
  spec.tpm?.measure === true && spec.kernel !== undefined && spec.bios === undefined;

export function tpmLine(spec: VmSpec): DeviceLine[] {
  const { tpm } = spec;
  if (!tpm) return [];
  const fds: Record<string, string> = { buffer: 'tpm.buffer', state: 'tpm.state' };
  if (tpm.key !== undefined) fds.key = 'tpm.key';
  if (measures(spec)) Object.assign(fds, { boot: 'tpm.boot', bootEvent: 'tpm.bootEvent' });
  return [
    {
      name: 'tpm',
      kind: `tpm-${tpm.model}`,
      process: 'tpm',
      service: 'tpm',
      mmio: [[pc.tpm, regionBytes, 0]],
      irqs: tpm.model === 'tis' ? Array.from({ length: vectors }, (_, v): Route => `line ${v}`) : [],
      // Requests are numbered from here on: a state that another machine has used does not know them.
      config: { backend: 'own', first: randomInt(1, 2 ** 31) },
      fds,
    },
  ];
}

export interface TpmFiles {
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

/** @throws NyxError FILE_* */
export function openTpm(tpm: TpmSpec, open: (path: string, what: string) => { fd: number }): TpmFiles {
  const files: TpmFiles = {};
  if (tpm.key !== undefined) files.key = open(tpm.key, 'key of the TPM').fd;
  if (tpm.state !== undefined) files.state = openState(tpm.state);
  return files;
}

/** What the process of the TPM needs, as resources of the machine. */
export class TpmHost {
  readonly #boot: Shared | undefined;
  readonly #event: number | undefined;

  constructor(spec: VmSpec, files: TpmFiles, r: Resources) {
    r.adopt('tpm.buffer', memfdCreate('nyx-tpm-buffer', tpmWire.bulkBytes));
    r.adopt('tpm.state', files.state ?? memfdCreate('nyx-tpm-state', tpmWire.stateBytes));
    if (files.key !== undefined) r.adopt('tpm.key', files.key);
    if (!measures(spec)) return;
    this.#boot = r.blob('tpm.boot', new Uint8Array(tpmBoot.bytes));
    this.#event = r.event('tpm.bootEvent');
  }

  /** At every boot by our loader: the log into guest memory, the same as commands to the TPM, which waits for them. */
  measure(ram: GuestRam, what: { kernel: BootFile; initrd?: Uint8Array | undefined; cmdline: string }): void {
    if (this.#boot === undefined || this.#event === undefined) return;
    const events = measurements(what);
    ram.write(logArea.address, logImage(events));
    const script = packScript(measuringCommands(events));
    const v = new DataView(this.#boot.buffer);
    new Uint8Array(this.#boot.buffer).set(script, tpmBoot.script);
    v.setUint32(tpmBoot.length, script.length, true);
    v.setUint32(tpmBoot.generation, (v.getUint32(tpmBoot.generation, true) + 1) >>> 0 || 1, true);
    eventfdWrite(this.#event);
  }
}
