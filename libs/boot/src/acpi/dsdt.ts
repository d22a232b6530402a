/** The DSDT: what the guest cannot find by itself. Names follow what Linux and Windows know from other PCs. */
import { pc } from '../e820.ts';
import {
  type Aml,
  and,
  arg,
  cat,
  device,
  dwordField,
  eisaId,
  equal,
  int,
  local,
  method,
  name,
  not,
  or,
  otherwise,
  path,
  pkg,
  ret,
  scope,
  store,
  uuid,
  when,
} from './aml.ts';
import {
  busWindow,
  io,
  ioWindow,
  irq,
  memory32,
  memoryWindow32,
  memoryWindow64,
  resources,
} from './resources.ts';
import { tpmDevice } from './tpm.ts';

export interface AcpiMachine {
  cpus: number;
  hasHpet?: boolean;
  /** An auxiliary (mouse) port on the keyboard controller. */
  hasMouse?: boolean;
  hasVga?: boolean;
  /** A TPM 2.0 with the FIFO (TIS) or the command response buffer interface. */
  tpm?: 'tis' | 'crb' | undefined;
}

/** SLP_TYP values of PM1 control. S5 is 0 because OVMF writes that on this machine type without asking. */
export const sleepType = { s3: 1, s5: 0 } as const;

/** Ports of the power management block; the platform's chips answer there. */
export const pm = {
  base: 0x600,
  event: 0x600,
  control: 0x604,
  timer: 0x608,
  bytes: 0x80,
  sci: 9,
  reset: 0xcf9,
  resetValue: 6,
} as const;

/** The port by which a guest tells that it has panicked (QEMU docs/specs/pvpanic.rst). */
export const pvpanicPort = 0x505;

/** First GSI of the PCI interrupt pins; slot and pin are spread over 8 of them. */
const PCI_GSI = 16;
export const pciGsi = (slot: number, pin: number): number => PCI_GSI + ((slot + pin) & 7);

/** What we let the operating system control: native hotplug, PME, AER, capability structure; not SHPC. */
const OSC_GRANT = 0x1d;

/** Operating system capabilities of a PCI host bridge (PCI Firmware Specification 3.2, section 4.5). */
const osc = (): Aml =>
  method(
    '_OSC',
    4,
    dwordField(arg(3), 0, 'CDW1'),
    when(
      equal(arg(0), uuid('33db4d5b-1ff7-401c-9657-7441c03dd766')),
      dwordField(arg(3), 8, 'CDW3'),
      and(path('CDW3'), OSC_GRANT, local(0)),
      when(not(equal(arg(1), 1)), or(path('CDW1'), 0x08, path('CDW1'))),
      when(not(equal(path('CDW3'), local(0))), or(path('CDW1'), 0x10, path('CDW1'))),
      store(local(0), path('CDW3')),
    ),
    otherwise(or(path('CDW1'), 0x04, path('CDW1'))),
    ret(arg(3)),
  );

/** Four pins of each slot but the host bridge's. */
const routing = (): Aml => {
  const entries: Aml[] = [];
  for (let slot = 1; slot < 32; slot++)
    for (let pin = 0; pin < 4; pin++) entries.push(pkg(slot * 0x10000 + 0xffff, pin, 0, pciGsi(slot, pin)));
  return pkg(...entries);
};

const isa = (m: AcpiMachine): Aml[] => [
  device(
    'COM1',
    name('_HID', eisaId('PNP0501')),
    name('_UID', 1),
    name('_CRS', resources(io(0x3f8, 8), irq(4))),
  ),
  device(
    'COM2',
    name('_HID', eisaId('PNP0501')),
    name('_UID', 2),
    name('_CRS', resources(io(0x2f8, 8), irq(3))),
  ),
  device('RTC', name('_HID', eisaId('PNP0B00')), name('_CRS', resources(io(0x70, 2), irq(8)))),
  device('KBD', name('_HID', eisaId('PNP0303')), name('_CRS', resources(io(0x60, 1), io(0x64, 1), irq(1)))),
  device('PEVT', name('_HID', 'QEMU0001'), name('_STA', 0xf), name('_CRS', resources(io(pvpanicPort, 1)))),
  ...(m.hasMouse ? [device('MOU', name('_HID', eisaId('PNP0F13')), name('_CRS', resources(irq(12))))] : []),
];

const cpuName = (i: number): string => `C${i.toString(16).toUpperCase().padStart(3, '0')}`;

/** Definition block body; the caller adds the table header. */
export function dsdtBody(m: AcpiMachine): Aml {
  const windows = [
    busWindow(0, 255),
    ioWindow(0, 0xcf7),
    ioWindow(0xd00, 0xffff),
    ...(m.hasVga ? [memoryWindow32(0xa0000, 0xbffff, true)] : []),
    memoryWindow32(pc.pci32Low, pc.ecam - 1),
    memoryWindow32(pc.pci32, pc.pci32End - 1),
    memoryWindow64(pc.pci64, pc.pci64 + pc.pci64Bytes - 1),
  ];
  const pci = device(
    'PCI0',
    name('_HID', eisaId('PNP0A08')),
    name('_CID', eisaId('PNP0A03')),
    name('_UID', 0),
    name('_SEG', 0),
    name('_BBN', 0),
    name('_CRS', resources(...windows)),
    name('_PRT', routing()),
    osc(),
    device('ISA', name('_ADR', int(0x001f0000)), ...isa(m), ...(m.tpm === 'tis' ? [tpmDevice()] : [])),
  );
  // Addresses that belong to the board: without this entry Linux does not trust the MCFG.
  const board = device(
    'MB',
    name('_HID', eisaId('PNP0C02')),
    name('_UID', 1),
    name(
      '_CRS',
      resources(memory32(pc.ecam, pc.ecamBytes), io(pm.base, pm.bytes), io(0x402, 1), io(0x510, 12)),
    ),
  );
  const hpet = m.hasHpet
    ? [
        device(
          'HPET',
          name('_HID', eisaId('PNP0103')),
          name('_UID', 0),
          name('_CRS', resources(memory32(pc.hpet, 0x400))),
        ),
      ]
    : [];
  const processors = Array.from({ length: m.cpus }, (_, i) =>
    device(cpuName(i), name('_HID', 'ACPI0007'), name('_UID', i), name('_STA', 0xf)),
  );
  return cat(
    name('\\_S5', pkg(sleepType.s5, sleepType.s5, 0, 0)),
    scope('\\_SB', pci, board, ...hpet, ...(m.tpm === 'crb' ? [tpmDevice()] : []), ...processors),
  );
}
