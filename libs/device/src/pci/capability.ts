/**
 * Capabilities as data. A capability is a list of registers relative to its first byte; `placeCapabilities` lays
 * them out behind the header, links them (PCI 3.0 section 6.7) and gives one table of registers with absolute offsets.
 */
import type { RegisterSpec } from '@nyx/layout';
import { CapabilityId, Config } from './regs.ts';

export interface Capability {
  /** CapabilityId. */
  readonly id: number;
  /** Unique in the function; prefix of its id and next registers. */
  readonly name: string;
  /** Bytes, with the two of the header. */
  readonly bytes: number;
  /** Offsets from the start of the capability, 2 and up. Names of writable ones are fields of PciState. */
  readonly registers: Record<string, RegisterSpec>;
  /** Only for a fixed place, e.g. of a chipset. */
  readonly at?: number;
}

export interface PlacedCapabilities {
  /** Offset of the first, 0 when there are none. */
  readonly first: number;
  readonly registers: Record<string, RegisterSpec>;
  /** Offset of each, by name. */
  readonly at: ReadonlyMap<string, number>;
}

/** @throws Error when they do not fit below 0x100 or two have one name. */
export function placeCapabilities(list: readonly Capability[]): PlacedCapabilities {
  const registers: Record<string, RegisterSpec> = {};
  const at = new Map<string, number>();
  let free: number = Config.headerEnd;
  const places = list.map((c) => {
    const place = c.at ?? free;
    if (place % 4 !== 0 || place < Config.headerEnd || place + c.bytes > Config.bytes)
      throw new Error(`capability ${c.name} does not fit at 0x${place.toString(16)}`);
    if (at.has(c.name)) throw new Error(`two capabilities are called ${c.name}`);
    at.set(c.name, place);
    free = (place + c.bytes + 3) & ~3;
    return place;
  });
  list.forEach((c, i) => {
    const place = places[i] as number;
    registers[`${c.name}CapId`] = { at: place, width: 1, doc: 'Capability ID', mask: 0, reset: c.id };
    registers[`${c.name}CapNext`] = {
      at: place + 1,
      width: 1,
      doc: 'Next capability',
      mask: 0,
      reset: places[i + 1] ?? 0,
    };
    for (const [name, r] of Object.entries(c.registers)) registers[name] = { ...r, at: place + r.at };
  });
  return { first: places[0] ?? 0, registers, at };
}

const constant = (at: number, width: 1 | 2 | 4, doc: string, reset: number): RegisterSpec => ({
  at,
  width,
  doc,
  mask: 0,
  reset,
});

/** Bits of MSI message control (PCI 3.0 section 6.8.1.3): enabled; takes 64-bit addresses. */
export const MsiControl = { enable: 0x0001, wide: 0x0080 } as const;

/** Bits of MSI-X message control (PCI 3.0 section 6.8.2.3). */
export const MsixControl = { enable: 0x8000, functionMask: 0x4000 } as const;

export interface MsixPlace {
  /** 1..2048. */
  vectors: number;
  /** BAR that holds table and PBA. */
  bar: number;
  /** Offsets in that BAR, multiples of 8. */
  table: number;
  pba: number;
}

/** MSI-X capability (PCI 3.0 section 6.8.2). */
export function msixCapability(place: MsixPlace): Capability {
  const { vectors, bar, table, pba } = place;
  if (vectors < 1 || vectors > 2048 || table % 8 || pba % 8)
    throw new Error('MSI-X: 1..2048 vectors, offsets multiples of 8');
  return {
    id: CapabilityId.msix,
    name: 'msix',
    bytes: 12,
    registers: {
      msixControl: { at: 2, width: 2, doc: 'Message control', mask: 0xc000, ones: vectors - 1 },
      msixTable: constant(4, 4, 'Table offset and BIR', (table | bar) >>> 0),
      msixPba: constant(8, 4, 'PBA offset and BIR', (pba | bar) >>> 0),
    },
  };
}

/** Bit of Device Control: Initiate Function Level Reset. Reads as zero. */
export const initiateFlr = 0x8000;

/**
 * PCI Express capability, version 2, of a Root Complex Integrated Endpoint (PCIe 7.5.3): no link, so all link, slot
 * and root registers are zero.
 */
export const expressCapability = (): Capability => ({
  id: CapabilityId.express,
  name: 'express',
  bytes: 0x3c,
  registers: {
    expressFlags: constant(2, 2, 'Version 2, Root Complex Integrated Endpoint', 0x0092),
    deviceCapabilities: constant(4, 4, 'FLR, role-based error reporting, 128-byte payload', 0x1000_8000),
    deviceControl: { at: 8, width: 2, doc: 'Device control', mask: 0x787f | initiateFlr },
    deviceStatus: { at: 10, width: 2, doc: 'Device status', mask: 0, w1c: 0x000f },
    deviceCapabilities2: constant(0x24, 4, 'Device capabilities 2', 0),
    deviceControl2: { at: 0x28, width: 2, doc: 'Device control 2', mask: 0 },
  },
});

/** Vendor specific capability; `registers` begin at offset 3 (offset 2 is the length). */
export const vendorCapability = (
  name: string,
  bytes: number,
  registers: Record<string, RegisterSpec>,
): Capability => ({
  id: CapabilityId.vendor,
  name,
  bytes,
  registers: { [`${name}Length`]: constant(2, 1, 'Bytes of the capability', bytes), ...registers },
});
