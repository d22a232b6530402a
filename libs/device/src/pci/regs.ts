/**
 * Configuration space of a type 0 function as data: PCI Local Bus Specification 3.0 chapter 6, PCI Express Base
 * Specification chapter 7. What a function can change lives in `PciState`; everything else of its 256 or 4096
 * bytes is constant and made from its description (`function.ts`), so a state block holds some 60 bytes of it.
 */
import { type RegisterSpec, struct, u8, u16, u32 } from '@nyx/layout';

/** Command register, offset 0x04. */
export const Command = {
  io: 0x0001,
  memory: 0x0002,
  busMaster: 0x0004,
  parityError: 0x0040,
  serr: 0x0100,
  interruptDisable: 0x0400,
} as const;

/** Status register, offset 0x06. */
export const PciStatus = {
  interrupt: 0x0008,
  capabilities: 0x0010,
  /** Master data parity error, signalled/received target abort, master abort, system error, parity error. */
  errors: 0xf900,
} as const;

/** Capability ids (PCI Code and ID Assignment Specification). */
export const CapabilityId = {
  power: 0x01,
  msi: 0x05,
  vendor: 0x09,
  express: 0x10,
  msix: 0x11,
  sata: 0x12,
} as const;

/** Byte offsets that code outside of the tables needs. */
export const Config = {
  vendorId: 0x00,
  command: 0x04,
  status: 0x06,
  bar0: 0x10,
  capabilities: 0x34,
  interruptLine: 0x3c,
  /** First byte after the header: where capabilities may begin. */
  headerEnd: 0x40,
  bytes: 0x100,
  extendedBytes: 0x1000,
} as const;

/** Everything that changes in the configuration space of one function. */
export const PciState = struct(
  'PciState',
  {
    command: u16('Command'),
    status: u16('PciStatus.errors; the other bits are computed'),
    cacheLineSize: u8(),
    latencyTimer: u8(),
    interruptLine: u8(),
    intx: u8('1: the function asks for its INTx', { max: 1 }),
    intxWord: u32('rising edges << 1 | level, as published'),
    bar0: u32(),
    bar1: u32(),
    bar2: u32(),
    bar3: u32(),
    bar4: u32(),
    bar5: u32(),
    msixControl: u16('enable and function mask'),
    deviceControl: u16('PCI Express', { reset: 0x2810 }),
    deviceStatus: u16('PCI Express'),
    deviceControl2: u16('PCI Express'),
    msiAddressLo: u32(),
    msiAddressHi: u32(),
    msiData: u16(),
    msiControl: u16('enable'),
  },
  { bytes: 56, doc: 'Writable part of a PCI configuration space.' },
);

export interface Identity {
  vendorId: number;
  deviceId: number;
  revision?: number;
  /** Base class << 16 | subclass << 8 | programming interface. */
  classCode: number;
  subsystemVendorId?: number;
  subsystemId?: number;
  /** Bit 7 of the header type: other functions share the slot. */
  multifunction?: boolean;
  /** 0 none (default), 1..4 INTA..INTD. */
  interruptPin?: 0 | 1 | 2 | 3 | 4;
}

/**
 * The header, offsets 0x00..0x3f, without BARs. `reset` of a read-only register is its constant value.
 * @param command writable bits of the command register
 * @param capabilities offset of the first capability, 0: none
 */
export function headerRegisters(
  id: Identity,
  command: number,
  capabilities: number,
): Record<string, RegisterSpec> {
  const constant = (at: number, width: 1 | 2, doc: string, reset: number): RegisterSpec => ({
    at,
    width,
    doc,
    mask: 0,
    reset,
  });
  return {
    vendorId: constant(0x00, 2, 'Vendor ID', id.vendorId),
    deviceId: constant(0x02, 2, 'Device ID', id.deviceId),
    command: { at: 0x04, width: 2, doc: 'Command', mask: command },
    status: {
      at: 0x06,
      width: 2,
      doc: 'Status',
      mask: 0,
      w1c: PciStatus.errors,
      ones: capabilities ? PciStatus.capabilities : 0,
    },
    revision: constant(0x08, 1, 'Revision ID', id.revision ?? 0),
    interface: constant(0x09, 1, 'Programming interface', id.classCode & 0xff),
    subclass: constant(0x0a, 1, 'Subclass', (id.classCode >>> 8) & 0xff),
    baseClass: constant(0x0b, 1, 'Base class', (id.classCode >>> 16) & 0xff),
    cacheLineSize: { at: 0x0c, width: 1, doc: 'Cache line size; read-write for software that expects it' },
    latencyTimer: constant(0x0d, 1, 'Latency timer: zero on PCI Express', 0),
    headerType: constant(0x0e, 1, 'Header type 0', id.multifunction ? 0x80 : 0),
    bist: constant(0x0f, 1, 'BIST: none', 0),
    subsystemVendorId: constant(0x2c, 2, 'Subsystem vendor ID', id.subsystemVendorId ?? 0),
    subsystemId: constant(0x2e, 2, 'Subsystem ID', id.subsystemId ?? 0),
    capabilities: constant(0x34, 1, 'First capability', capabilities),
    interruptLine: { at: 0x3c, width: 1, doc: 'Interrupt line: storage for software' },
    interruptPin: constant(0x3d, 1, 'Interrupt pin', id.interruptPin ?? 0),
    minGrant: constant(0x3e, 1, 'Min_Gnt', 0),
    maxLatency: constant(0x3f, 1, 'Max_Lat', 0),
  };
}

/** A base address register, or a pair of them. */
export interface Bar {
  /** 0..5; a mem64 takes this one and the next. */
  index: number;
  kind: 'io' | 'mem32' | 'mem64';
  /** Bytes: power of two; 4..256 for io, 16.. for memory. */
  size: number;
  prefetchable?: boolean;
  /** Region of the device that it shows. */
  region: number;
  /** Entry of the device's range table (wire.Range). */
  range: number;
}

/**
 * Registers of the BARs. A BAR is sized by writing ones: address bits below the size stay zero (6.2.5.1).
 * @throws Error on a mistake in the description.
 */
export function barRegisters(bars: readonly Bar[]): Record<string, RegisterSpec> {
  const specs: Record<string, RegisterSpec> = {};
  for (const bar of bars) {
    const { index, kind, size } = bar;
    const last = kind === 'mem64' ? index + 1 : index;
    if (!(index >= 0 && last <= 5)) throw new Error(`BAR ${index}: expected 0..5`);
    if (
      size < (kind === 'io' ? 4 : 16) ||
      !Number.isInteger(Math.log2(size)) ||
      size > (kind === 'io' ? 256 : 0x8000_0000)
    )
      throw new Error(`BAR ${index}: size ${size} is not a power of two in range`);
    const low = kind === 'io' ? 1 : (kind === 'mem64' ? 4 : 0) | (bar.prefetchable ? 8 : 0);
    for (let i = index; i <= last; i++) if (specs[`bar${i}`]) throw new Error(`BAR ${i} is described twice`);
    specs[`bar${index}`] = {
      at: Config.bar0 + 4 * index,
      width: 4,
      doc: `BAR ${index}: ${kind}`,
      mask: -size >>> 0,
      ones: low,
    };
    if (kind === 'mem64')
      specs[`bar${last}`] = { at: Config.bar0 + 4 * last, width: 4, doc: `BAR ${index}: high half` };
  }
  return specs;
}
