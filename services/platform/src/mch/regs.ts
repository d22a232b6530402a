/** Host bridge of a Q35 (82P35 MCH, Intel 316966): the registers that firmware and guests look at. */

import { PciState } from '@nyx/device';
import { pad, registers, struct, structs, u8, u16, u64 } from '@nyx/layout';

export const identity = {
  vendorId: 0x8086,
  deviceId: 0x29c0,
  classCode: 0x060000,
  subsystemVendorId: 0x1af4,
  subsystemId: 0x1100,
} as const;

export const PciExBar = { enable: 1, length: 6, base: 0xb000_0000 } as const;
export const Smram = { open: 0x40, closed: 0x20, locked: 0x10, enable: 0x08, base: 0x02 } as const;

export const mchRegisters = registers('mch', 0x100, {
  pciexbar: {
    at: 0x60,
    width: 8,
    doc: 'ECAM window: bit 0 enable, 2..1 length, 35..26 base',
    mask: 0xf_fc00_0007,
  },
  pam0: { at: 0x90, width: 1, doc: 'F0000..FFFFF; stored, that memory is RAM', mask: 0x30, reset: 0 },
  pam1: { at: 0x91, width: 1, doc: 'C0000..C7FFF', mask: 0x33, reset: 0 },
  pam2: { at: 0x92, width: 1, doc: 'C8000..CFFFF', mask: 0x33, reset: 0 },
  pam3: { at: 0x93, width: 1, doc: 'D0000..D7FFF', mask: 0x33, reset: 0 },
  pam4: { at: 0x94, width: 1, doc: 'D8000..DFFFF', mask: 0x33, reset: 0 },
  pam5: { at: 0x95, width: 1, doc: 'E0000..E7FFF', mask: 0x33, reset: 0 },
  pam6: { at: 0x96, width: 1, doc: 'E8000..EFFFF', mask: 0x33, reset: 0 },
  smram: { at: 0x9d, width: 1, doc: 'SMRAM control; there is no SMM', mask: 0x78, reset: Smram.base },
  esmramc: { at: 0x9e, width: 1, doc: 'Extended SMRAM control', mask: 0x87, reset: 0x38 },
  tolud: { at: 0xb0, width: 2, doc: 'Top of low usable DRAM: storage', mask: 0xfff0 },
  touud: { at: 0xa2, width: 2, doc: 'Top of upper usable DRAM: storage' },
});

export const MchState = struct(
  'MchState',
  {
    pci: structs(PciState, 1),
    pciexbar: u64('', { reset: PciExBar.base + PciExBar.enable }),
    pam0: u8(),
    pam1: u8(),
    pam2: u8(),
    pam3: u8(),
    pam4: u8(),
    pam5: u8(),
    pam6: u8(),
    smram: u8('', { reset: Smram.base }),
    esmramc: u8('', { reset: 0x38 }),
    pad1: pad(1),
    tolud: u16(),
    touud: u16(),
    pad2: pad(2),
  },
  { doc: 'State of the host bridge.' },
);
