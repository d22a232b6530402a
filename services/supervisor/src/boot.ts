/** Puts what the machine boots into its memory, at start and again at each reset. */
import { randomBytes } from 'node:crypto';
import { fstatSync, readSync } from 'node:fs';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import {
  BootError,
  type BootPlan,
  checkInitrd,
  descriptorFile,
  e820Map,
  GuestRam,
  loadFirmware,
  loadKernel,
  planReset,
  writeAcpi,
} from '@nyx/boot';
import { fallocate } from '@nyx/native';
import { execWire } from '@nyx/protocol';
import { type ErrorCode, NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import { type OpenedFiles, readWhole } from './preflight.ts';
import type { Resources } from './resources.ts';
import type { TpmHost } from './tpm.ts';

export interface Payload {
  plan: BootPlan;
  /** Firmware that is to be seen read-only below 4 GiB. */
  rom?: { address: number; bytes: Uint8Array };
}

/** What a deterministic guest gets for entropy. */
const fixedSeed = new Uint8Array(32).map((_, i) => (i * 37 + 11) & 0xff);

const kinds: readonly (readonly [RegExp, ErrorCode])[] = [
  [/^KERNEL_/, 'KERNEL_INVALID'],
  [/^CMDLINE_/, 'KERNEL_INVALID'],
  [/^INITRD_/, 'INITRD_INVALID'],
  [/^FIRMWARE_/, 'KERNEL_INVALID'],
  [/^MEMORY_/, 'MEMORY_TOO_SMALL'],
];

/** The loaders' errors as ours, with the file that they are about. */
export const bootError = (e: unknown, paths: Partial<Record<ErrorCode, string | undefined>>): unknown => {
  if (!(e instanceof BootError)) return e;
  const code = kinds.find(([pattern]) => pattern.test(e.code))?.[1] ?? 'KERNEL_INVALID';
  const path = paths[code];
  return new NyxError(
    code,
    { expected: e.expected, got: path ? `${path}: ${e.got}` : e.got, hint: e.advice },
    { cause: e },
  );
};

export class BootLoader {
  readonly #ram: GuestRam;

  constructor(
    readonly spec: VmSpec,
    readonly files: OpenedFiles,
    { ram, lowBytes, savedPages }: Pick<Resources, 'ram' | 'lowBytes' | 'savedPages'>,
    readonly tpm?: TpmHost,
  ) {
    this.#ram = new GuestRam(ram.buffer, lowBytes, ram.fd);
    this.#ram.changing = (at, length) => {
      if (savedPages.saving) savedPages.save(at, length);
    };
    this.#ram.isFresh = true;
  }

  get cmdline(): string {
    const { append, agent, command } = this.spec;
    return [append, agent && execWire.parameter, command && execWire.first(command)]
      .filter(Boolean)
      .join(' ');
  }

  /**
   * Unpacks a gzip initrd to see whether it is whole; the guest would only say that it finds no init. Takes a while: run
   * it beside other work. @throws NyxError INITRD_INVALID
   */
  async verify(): Promise<void> {
    if (this.files.initrd === undefined) return;
    const magic = Buffer.alloc(2);
    if (readSync(this.files.initrd, magic, 0, 2, 0) < 2 || magic.readUInt16BE() !== 0x1f8b) return;
    const initrd = readWhole(this.files.initrd);
    await promisify(gunzip)(initrd).catch((e: Error) => {
      throw new NyxError('INITRD_INVALID', {
        expected: 'a whole gzip file',
        got: `${this.spec.initrd}: ${e.message} after ${initrd.length} bytes`,
      });
    });
  }

  /** @throws NyxError KERNEL_INVALID, INITRD_INVALID, MEMORY_TOO_SMALL */
  load(): Payload {
    const { spec, files } = this;
    try {
      // Firmware on a board would do it; under it are pages that need only be given back.
      if (this.tpm?.takeOverwrite()) {
        fallocate(this.#ram.fd!, 'punchHole', 0, this.#ram.buffer.byteLength);
        this.#ram.isFresh = true;
      }
      if (files.bios !== undefined) {
        const { plan, rom } = loadFirmware(this.#ram, readWhole(files.bios));
        return { plan, rom };
      }
      if (files.kernel === undefined) return { plan: planReset };
      const initrd = files.initrd === undefined ? undefined : readWhole(files.initrd);
      if (initrd) checkInitrd(initrd);
      const kernel = descriptorFile(files.kernel, fstatSync(files.kernel).size);
      const plan = loadKernel(this.#ram, {
        kernel,
        initrd,
        cmdline: this.cmdline,
        e820: e820Map(spec.memory),
        rsdp: writeAcpi(this.#ram, { cpus: spec.cpus, hasMouse: true, tpm: spec.tpm?.model }),
        seed: spec.deterministic ? fixedSeed : randomBytes(32),
        protocol: spec.bootProtocol,
      });
      this.tpm?.measure(this.#ram, { kernel: files.kernel, initrd: files.initrd, cmdline: this.cmdline });
      return { plan };
    } catch (e) {
      throw bootError(e, { KERNEL_INVALID: spec.kernel ?? spec.bios, INITRD_INVALID: spec.initrd });
    } finally {
      this.#ram.isFresh = false;
    }
  }
}
