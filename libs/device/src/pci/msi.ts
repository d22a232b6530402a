/**
 * MSI (PCI 3.0 section 6.8.1): one message, 64-bit address, no masking. Its registers are fields of `PciState`; messages
 * are counted in the state of the device, and its entry of the interrupt page is a function of that.
 */
import { type Capability, MsiControl } from './capability.ts';
import type { PciFunction } from './function.ts';
import type { MessageSink } from './msix.ts';
import { CapabilityId } from './regs.ts';

/** @param at a fixed place, as chipsets have it */
export const msiCapability = (at?: number): Capability => ({
  id: CapabilityId.msi,
  name: 'msi',
  bytes: 14,
  ...(at === undefined ? {} : { at }),
  registers: {
    msiControl: { at: 2, width: 2, doc: 'Message control', mask: MsiControl.enable, ones: MsiControl.wide },
    msiAddressLo: { at: 4, width: 4, doc: 'Message address', mask: 0xffff_fffc },
    msiAddressHi: { at: 8, width: 4, doc: 'Message upper address' },
    msiData: { at: 12, width: 2, doc: 'Message data' },
  },
});

export class Msi {
  /**
   * @param counter of the state: messages sent so far; a machine reset keeps it (DeviceKind.keep)
   * @param entry among the interrupt sources of the device
   */
  constructor(
    private readonly fn: PciFunction,
    private readonly counter: { msiCount: number },
    private readonly entry: number,
  ) {}

  get enabled(): boolean {
    return (this.fn.state.msiControl & MsiControl.enable) !== 0;
  }

  /** Sends the message; nothing when it is not enabled, or may not reach memory. In a handler. */
  signal(): void {
    if (this.enabled && this.fn.busMaster) this.counter.msiCount = (this.counter.msiCount + 1) >>> 0;
  }

  settle(sink: MessageSink): void {
    const { msiAddressLo, msiAddressHi, msiData } = this.fn.state;
    sink.message(this.entry, msiAddressLo, msiAddressHi, msiData, this.counter.msiCount);
  }
}
