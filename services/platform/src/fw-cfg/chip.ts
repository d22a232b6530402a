/**
 * fw_cfg: an item is selected and read byte by byte, or by DMA. A DMA access reads its parameters from guest memory and
 * in the end overwrites them with its result, so they are saved first (`DeviceContext.checkpoint`): executed again
 * after a crash, it finds what the guest wrote, not what it wrote itself.
 */
import type { FwCfgIndexEntry, GuestMemory } from '@nyx/device';
import type { View } from '@nyx/layout';
import { Dma, type FwCfgState, longestFill, selectorMask } from './regs.ts';

const lastOffset = 0xffff_ffff;

export class FwCfg {
  /** transient: shared memory that is only read. */
  readonly #blob: Uint8Array;

  constructor(
    readonly s: View<typeof FwCfgState>,
    blob: ArrayBuffer,
    readonly index: ReadonlyMap<number, FwCfgIndexEntry>,
    readonly memory: GuestMemory,
    readonly checkpoint: () => void,
  ) {
    this.#blob = new Uint8Array(blob);
  }

  select(selector: number): void {
    this.s.selector = selector & selectorMask;
    this.s.offset = 0;
  }

  readByte(): number {
    const { s } = this;
    const item = this.index.get(s.selector);
    if (item === undefined || s.offset >= item.size) return 0;
    const at = s.offset++;
    return item.writableAt < 0 ? this.#blob[item.offset + at]! : s.writable.get(item.writableAt + at);
  }

  /** The guest wrote the low half of an address: the access structure is there. */
  dma(low: number): void {
    const { s, memory } = this;
    if (!s.busy) {
      const address = s.dmaHigh * 4294967296 + low;
      s.dmaHigh = 0;
      const at = memory.offset(address, Dma.bytes);
      // There is nowhere to tell an error to.
      if (at < 0) return;
      const v = memory.view;
      s.at = address;
      s.control = v.getUint32(at);
      s.length = v.getUint32(at + 4);
      s.address = v.getUint32(at + 8) * 4294967296 + v.getUint32(at + 12);
      s.busy = 1;
      this.checkpoint();
    }
    const ok = this.#transfer();
    const at = memory.offset(s.at, 4);
    if (at >= 0) {
      memory.dirty(at, 4);
      memory.view.setUint32(at, ok ? 0 : Dma.error);
    }
    s.busy = 0;
  }

  #transfer(): boolean {
    const { s } = this;
    const { control, length } = s;
    if (control & Dma.select) this.select(control >>> 16);
    if (control & Dma.read) return this.#read(length);
    if (control & Dma.write) return this.#write(length);
    if (control & Dma.skip) s.offset = Math.min(lastOffset, s.offset + length);
    return true;
  }

  #read(length: number): boolean {
    const { s, memory } = this;
    const item = this.index.get(s.selector);
    const have = item === undefined ? 0 : Math.max(0, Math.min(length, item.size - s.offset));
    if (length - have > longestFill) return false;
    if (length === 0) return true;
    const at = memory.offset(s.address, length);
    if (at < 0) return false;
    memory.dirty(at, length);
    const target = memory.bytes(at, length);
    if (item !== undefined && have > 0) {
      if (item.writableAt < 0)
        target.set(this.#blob.subarray(item.offset + s.offset, item.offset + s.offset + have));
      else for (let i = 0; i < have; i++) target[i] = s.writable.get(item.writableAt + s.offset + i);
    }
    target.fill(0, have);
    s.offset = Math.min(lastOffset, s.offset + have);
    return true;
  }

  #write(length: number): boolean {
    const { s, memory } = this;
    const item = this.index.get(s.selector);
    if (item === undefined || item.writableAt < 0 || s.offset + length > item.size) return false;
    const at = memory.offset(s.address, length);
    if (at < 0) return false;
    const source = memory.bytes(at, length);
    for (let i = 0; i < length; i++) s.writable.set(item.writableAt + s.offset + i, source[i]!);
    s.offset += length;
    return true;
  }

  /** Writable items get their first content. */
  reset(): void {
    for (const item of this.index.values())
      for (let i = 0; item.writableAt >= 0 && i < item.size; i++)
        this.s.writable.set(item.writableAt + i, this.#blob[item.offset + i]!);
  }
}
