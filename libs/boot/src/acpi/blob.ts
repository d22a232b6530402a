/**
 * A run of ACPI tables with pointers between them, before it is known where it will lie. It is delivered in two ways: linked to
 * an address here (direct boot), or with a script by which firmware places and links it (fw_cfg, "etc/table-loader").
 */
import { BootError } from '../errors.ts';
import { ascii, cat, le } from './aml.ts';

const HEADER = 36;

export class TableBlob {
  #bytes: Uint8Array = new Uint8Array(0);
  readonly pointers: { at: number; size: number }[] = [];
  readonly checksums: { at: number; start: number; length: number }[] = [];

  get bytes(): Uint8Array {
    return this.#bytes;
  }

  /** Appends raw bytes. @returns their offset */
  raw(data: Uint8Array, align = 16): number {
    const at = Math.ceil(this.#bytes.length / align) * align;
    this.#bytes = cat(this.#bytes, new Uint8Array(at - this.#bytes.length), data);
    return at;
  }

  /** Appends a table with its standard header (section 5.2.6). @returns its offset */
  table(signature: string, revision: number, body: Uint8Array): number {
    const header = cat(
      ascii(signature),
      le(HEADER + body.length, 4),
      [revision, 0],
      ascii('NYX   '),
      ascii('NYXPC   '),
      le(1, 4),
      ascii('NYX '),
      le(1, 4),
    );
    const at = this.raw(cat(header, body));
    this.checksums.push({ at: at + 9, start: at, length: HEADER + body.length });
    return at;
  }

  /** The `size` bytes at `at` shall hold the address of offset `target`. */
  point(at: number, size: 4 | 8, target: number): void {
    this.#bytes.set(le(target, size), at);
    this.pointers.push({ at, size });
  }

  /**
   * The blob as it looks at `address`, pointers and checksums filled in.
   * @throws BootError ACPI_TOO_LARGE when it does not fit below `end`
   */
  link(address: number, end: number): Uint8Array {
    if (address + this.#bytes.length > end)
      throw new BootError(
        'ACPI_TOO_LARGE',
        `ACPI tables of at most ${end - address} bytes`,
        `${this.#bytes.length}`,
        'Use fewer vCPUs.',
      );
    const out = this.#bytes.slice();
    const v = new DataView(out.buffer);
    for (const p of this.pointers) v.setUint32(p.at, v.getUint32(p.at, true) + address, true);
    for (const c of this.checksums) out[c.at] = checksum(out, c.start, c.length, c.at);
    return out;
  }
}

/** The byte at `at` that makes the sum of the range 0. */
export function checksum(data: Uint8Array, start: number, length: number, at: number): number {
  let sum = 0;
  for (let i = start; i < start + length; i++) if (i !== at) sum += data[i]!;
  return -sum & 0xff;
}
