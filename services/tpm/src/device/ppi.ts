/**
 * The page of memory that firmware and ACPI share for physical presence (libs/boot/src/acpi/tpm.ts): it keeps what is written, over
 * resets and the death of this process.
 */
import type { DeviceContext } from '@nyx/device';
import { tpmWire } from '@nyx/protocol';

export const ppiRegion = { name: 'ppi', size: tpmWire.ppiBytes };

export class PresencePage {
  readonly #page: DataView;
  constructor(private readonly ctx: Pick<DeviceContext, 'bulk' | 'replyHi'>) {
    this.#page = new DataView(ctx.bulk('buffer'), tpmWire.ppiAt, tpmWire.ppiBytes);
  }
  #part(offset: number, width: number): number {
    let value = 0;
    for (let i = 0; i < width; i++) value |= this.#byte(offset + i) << (8 * i);
    return value >>> 0;
  }
  #byte(at: number): number {
    return at < tpmWire.ppiBytes ? this.#page.getUint8(at) : 0xff;
  }
  read(offset: number, width: number): number {
    if (width === 8) this.ctx.replyHi = this.#part(offset + 4, 4);
    return this.#part(offset, Math.min(width, 4));
  }
  write(offset: number, width: number, value: number, valueHi: number): void {
    for (let i = 0; i < width; i++) {
      const byte = (i < 4 ? value >>> (8 * i) : valueHi >>> (8 * (i - 4))) & 0xff;
      if (offset + i < tpmWire.ppiBytes) this.#page.setUint8(offset + i, byte);
    }
  }
}
