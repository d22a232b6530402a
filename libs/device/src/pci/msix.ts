/**
 * MSI-X (PCI 3.0 section 6.8.2): the vector table and the pending bit array as a memory region, and the rule when
 * a message is sent. Messages are counted in the state: entry i of the interrupt page is a function of it.
 */
import { type ScalarArray, type StructArray, struct, u16, u32, type View } from '@nyx/layout';
import { MsixControl } from './capability.ts';
import type { PciFunction } from './function.ts';

export const MsixVector = struct(
  'MsixVector',
  {
    addressLo: u32(),
    addressHi: u32(),
    data: u32(),
    control: u16('bit 0: masked', { reset: 1, max: 1 }),
    pending: u16('1: a message waits for the mask', { max: 1 }),
  },
  { bytes: 16, doc: 'One MSI-X vector.' },
);

const ENTRY_BYTES = 16;

/** Where table and PBA lie in their region: room for 128 vectors. */
export const MsixLayout = { table: 0, pba: 0x800, bytes: 0x1000, maxVectors: 128 } as const;

export interface MessageSink {
  message(i: number, addressLo: number, addressHi: number, data: number, count: number): void;
}

export class Msix {
  /** A word of the table changed since the last `settle`. transient: a new object publishes all. */
  #stale = true;

  /**
   * @param vectors of the state
   * @param counts of the state: messages sent so far by each vector; a machine reset keeps them (DeviceKind.keep)
   * @param irqBase entry of vector 0 among the interrupt sources of the device
   */
  constructor(
    private readonly fn: PciFunction,
    private readonly vectors: StructArray<View<typeof MsixVector>>,
    private readonly counts: ScalarArray,
    private readonly irqBase: number,
  ) {
    if (vectors.length > MsixLayout.maxVectors)
      throw new Error(`${vectors.length} vectors, at most ${MsixLayout.maxVectors}`);
  }

  get enabled(): boolean {
    return (this.fn.state.msixControl & MsixControl.enable) !== 0;
  }

  /** A read of 4 bytes of the region; reserved space reads as zero. */
  read(offset: number): number {
    const { vectors } = this;
    if (offset < vectors.length * ENTRY_BYTES) {
      const v = vectors.at(offset >>> 4);
      const field = (offset >>> 2) & 3;
      return field === 0 ? v.addressLo : field === 1 ? v.addressHi : field === 2 ? v.data : v.control;
    }
    let bits = 0;
    const first = (offset - MsixLayout.pba) * 8;
    if (first >= 0)
      for (let i = 0; i < 32 && first + i < vectors.length; i++) bits |= vectors.at(first + i).pending << i;
    return bits >>> 0;
  }

  /** A write of 4 bytes. The PBA is read-only. */
  write(offset: number, value: number): void {
    if (offset >= this.vectors.length * ENTRY_BYTES) return;
    const v = this.vectors.at(offset >>> 4);
    const field = (offset >>> 2) & 3;
    // 6.8.2.4: a message address is a multiple of 4.
    if (field === 0) v.addressLo = (value & ~3) >>> 0;
    else if (field === 1) v.addressHi = value;
    else if (field === 2) v.data = value;
    else v.control = value & 1;
    this.#stale = true;
    this.update();
  }

  /** Requests the message of a vector: sent now, or when it is unmasked (6.8.2.9 and 6.8.3.4). In a handler. */
  signal(vector: number): void {
    if (!this.enabled || vector >= this.vectors.length) return;
    const v = this.vectors.at(vector);
    if (this.#masked(v)) v.pending = 1;
    else this.#send(vector);
  }

  /** Masks, function mask, enable or bus master changed: sends what waited for it. In a handler. */
  update(): void {
    if (!this.enabled) return;
    for (let i = 0; i < this.vectors.length; i++) {
      const v = this.vectors.at(i);
      if (v.pending && !this.#masked(v)) {
        v.pending = 0;
        this.#send(i);
      }
    }
  }

  /** A message is a memory write, so it also waits for Bus Master Enable. */
  #masked(v: View<typeof MsixVector>): boolean {
    return (
      (v.control & 1) !== 0 ||
      (this.fn.state.msixControl & MsixControl.functionMask) !== 0 ||
      !this.fn.busMaster
    );
  }

  #send(vector: number): void {
    this.counts.set(vector, (this.counts.get(vector) + 1) >>> 0);
    this.#stale = true;
  }

  /** Publishes every vector's message word. */
  settle(sink: MessageSink): void {
    if (!this.#stale) return;
    for (let i = 0; i < this.vectors.length; i++) {
      const v = this.vectors.at(i);
      sink.message(this.irqBase + i, v.addressLo, v.addressHi, v.data, this.counts.get(i));
    }
    this.#stale = false;
  }

  /** The function was reset: table and pending bits as after power-on; the counts go on, they are told to others. */
  reset(): void {
    for (let i = 0; i < this.vectors.length; i++) {
      const v = this.vectors.at(i);
      v.addressLo = 0;
      v.addressHi = 0;
      v.data = 0;
      v.control = 1;
      v.pending = 0;
    }
    this.#stale = true;
  }

  /** The state was changed behind the object's back (machine reset). */
  invalidate(): void {
    this.#stale = true;
  }
}
