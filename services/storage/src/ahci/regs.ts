/**
 * The SATA controller of an ICH9 in AHCI mode as data: registers of AHCI 1.3.1 chapter 3, its PCI function (Intel 316972
 * chapter 14), and everything that it remembers. Bit names are those of the specification.
 */
import { type Bar, type Capability, CapabilityId, msiCapability, PciState } from '@nyx/device';
import {
  type Field,
  pad,
  type RegisterSpec,
  registers,
  type Struct,
  struct,
  structs,
  u8,
  u16,
  u32,
  type View,
} from '@nyx/layout';

/** Ports, and command slots of each. */
export const ports = 6;
export const slots = 32;

export const ahciIdentity = {
  vendorId: 0x8086,
  deviceId: 0x2922,
  revision: 2,
  classCode: 0x010601,
  subsystemVendorId: 0x1af4,
  subsystemId: 0x1100,
  multifunction: true,
  interruptPin: 1,
} as const;

export const Region = { hba: 0, index: 1 } as const;
/** Interrupt sources of the device. */
export const Irq = { intx: 0, msi: 1 } as const;

/** BAR 5: the registers; BAR 4: a pair of ports through which they can be reached without memory space. */
export const ahciBars: readonly Bar[] = [
  { index: 4, kind: 'io', size: 32, region: Region.index, range: 0 },
  { index: 5, kind: 'mem32', size: 0x1000, region: Region.hba, range: 1 },
];

/** Where the index-data pair lies in BAR 4. */
export const IndexPair = { index: 0x10, data: 0x14, bytes: 32 } as const;

/** SATA capability (AHCI 1.3.1 section 2.4): revision 1.0, the index-data pair is at 0x10 of BAR 4. */
const sataCapability: Capability = {
  id: CapabilityId.sata,
  name: 'sata',
  bytes: 8,
  at: 0xa8,
  registers: {
    sataRevision: { at: 2, width: 2, doc: 'Revision', mask: 0, reset: 0x0010 },
    sataIndex: { at: 4, width: 4, doc: 'Offset in dwords << 4 | BAR + 4', mask: 0, reset: 0x0048 },
  },
};
export const ahciCapabilities: readonly Capability[] = [msiCapability(0x80), sataCapability];

/** CAP, 3.1.1: 6 ports, 32 slots, PMD, AHCI only, 3 Gbit/s, CLO, NCQ, 64 bit. */
export const capabilities = 0xc1249f05;
/** VS, 3.1.5: 1.3.1. */
export const version = 0x00010301;

/** GHC, 3.1.2. */
export const Ghc = { hr: 1, ie: 2, ae: 0x8000_0000 } as const;

/** PxIS and PxIE, 3.3.5. */
export const PortIs = {
  dhrs: 1 << 0,
  pss: 1 << 1,
  dss: 1 << 2,
  sdbs: 1 << 3,
  ufs: 1 << 4,
  dps: 1 << 5,
  pcs: 1 << 6,
  prcs: 1 << 22,
  ofs: 1 << 24,
  ifs: 1 << 27,
  hbds: 1 << 28,
  hbfs: 1 << 29,
  tfes: 1 << 30,
} as const;
const isW1c = 0x7d80_00af;
const ieMask = 0x7dc0_00ff;

/** PxCMD, 3.3.7. */
export const PortCmd = {
  st: 1 << 0,
  sud: 1 << 1,
  pod: 1 << 2,
  clo: 1 << 3,
  fre: 1 << 4,
  ccsShift: 8,
  ccs: 0x1f00,
  fr: 1 << 14,
  cr: 1 << 15,
  atapi: 1 << 24,
} as const;

/** ATA status, error and device registers (ATA8-ACS chapter 6). */
export const Status = { err: 0x01, drq: 0x08, ready: 0x50, bsy: 0x80 } as const;
export const AtaError = { abrt: 0x04, idnf: 0x10, unc: 0x40 } as const;

/** PxSERR, 3.3.12: a protocol violation; PhyRdy changed; device exchanged. */
export const PortSerr = { protocol: 1 << 10, phyReady: 1 << 16, exchanged: 1 << 26 } as const;

/** PxSSTS, 3.3.10: device present and communicating at 3 Gbit/s, interface active; nothing; Phy off. */
export const PortSsts = { linked: 0x123, none: 0, offline: 4 } as const;

/** PxTFD before the first FIS of a device (3.3.8). */
export const noTaskFile = 0x7f;
/** PxSIG, 3.3.9. */
export const Signature = { none: 0xffff_ffff, disk: 0x0000_0101, packet: 0xeb14_0101 } as const;

/** Where in the received FIS area each kind is put, and bytes of the area (4.2.1). */
export const Received = {
  dmaSetup: 0,
  pioSetup: 0x20,
  register: 0x40,
  deviceBits: 0x58,
  bytes: 256,
} as const;
/** FIS types (SATA 10.3). */
export const Fis = { hostToDevice: 0x27, deviceToHost: 0x34, deviceBits: 0xa1, pioSetup: 0x5f } as const;

/** Command list and table (4.2.2, 4.2.3). */
export const Layout = { header: 32, list: 1024, packet: 0x40, prdt: 0x80, prd: 16 } as const;
/** Command header, dword 0. */
export const Header = { packet: 1 << 5, write: 1 << 6, reset: 1 << 8, clear: 1 << 10 } as const;

/** Registers of one port, at 0x100 + 0x80 * port, and the field of the same name. */
const portRegisters: Record<string, RegisterSpec> = {
  clb: { at: 0x00, width: 4, doc: 'Command list base', mask: 0xffff_fc00 },
  clbu: { at: 0x04, width: 4, doc: 'Command list base, upper half' },
  fb: { at: 0x08, width: 4, doc: 'Received FIS base', mask: 0xffff_ff00 },
  fbu: { at: 0x0c, width: 4, doc: 'Received FIS base, upper half' },
  is: { at: 0x10, width: 4, doc: 'Interrupt status', mask: 0, w1c: isW1c, read: 'shadow', write: 'posted' },
  ie: { at: 0x14, width: 4, doc: 'Interrupt enable', mask: ieMask, reset: 0 },
  cmd: { at: 0x18, width: 4, doc: 'Command and status' },
  tfd: { at: 0x20, width: 4, doc: 'Task file: error << 8 | status', mask: 0, read: 'shadow' },
  sig: { at: 0x24, width: 4, doc: 'Signature', mask: 0 },
  ssts: { at: 0x28, width: 4, doc: 'SATA status', mask: 0, read: 'shadow' },
  sctl: { at: 0x2c, width: 4, doc: 'SATA control', mask: 0x0000_0fff, reset: 0 },
  serr: { at: 0x30, width: 4, doc: 'SATA error', mask: 0, w1c: 0x07ff_0f03, read: 'shadow' },
  sact: { at: 0x34, width: 4, doc: 'SATA active', read: 'shadow', write: 'posted', reset: 0 },
  ci: { at: 0x38, width: 4, doc: 'Command issue', read: 'shadow', write: 'posted', reset: 0 },
};

/** Registers by port are top-level fields of the state, so that the vCPU process can answer reads by itself. */
export const portName = (port: number, name: string): string =>
  `p${port}${name[0]!.toUpperCase()}${name.slice(1)}`;

const hbaSpecs: Record<string, RegisterSpec> = {
  cap: { at: 0x00, width: 4, doc: 'Capabilities', mask: 0, reset: capabilities },
  ghc: { at: 0x04, width: 4, doc: 'Global control', mask: Ghc.ie, ones: Ghc.ae, reset: Ghc.ae },
  is: {
    at: 0x08,
    width: 4,
    doc: 'Interrupt status, a bit a port',
    read: 'shadow',
    write: 'posted',
    reset: 0,
  },
  pi: { at: 0x0c, width: 4, doc: 'Ports implemented', mask: 0 },
  vs: { at: 0x10, width: 4, doc: 'Version', mask: 0, reset: version },
};
for (let p = 0; p < ports; p++)
  for (const [name, r] of Object.entries(portRegisters))
    hbaSpecs[portName(p, name)] = { ...r, at: 0x100 + 0x80 * p + r.at };

export const hbaRegisters = registers('ahci', 0x100 + 0x80 * ports, hbaSpecs);

/** How far a port is with what a driver asked of it. */
export const Halt = { no: 0, taskFile: 1, fatal: 2 } as const;

/** One port: its registers, the engine of the controller, and the device at its other end. */
export const PortState = struct('AhciPort', {
  clb: u32(),
  clbu: u32(),
  fb: u32(),
  fbu: u32(),
  is: u32(),
  ie: u32(),
  cmd: u32('', { reset: PortCmd.sud | PortCmd.pod }),
  tfd: u32('', { reset: noTaskFile }),
  sig: u32('', { reset: Signature.none }),
  ssts: u32(),
  sctl: u32(),
  serr: u32(),
  sact: u32(),
  ci: u32(),
  queued: u32('tags that the device has accepted and not finished'),
  active: u8('slot + 1 of the command that is under way and not queued', { max: slots }),
  halt: u8('Halt: no command is fetched until ST is cleared', { max: 2 }),
  stopping: u8('ST was cleared, CR falls when nothing is under way', { max: 1 }),
  resetting: u8('COMRESET, or SRST: the device answers when nothing is under way', { max: 1 }),
  failing: u8('a queued command failed; told when nothing is under way', { max: 1 }),
  softReset: u8('SRST is set', { max: 1 }),
  logged: u8('the queued error log waits to be read', { max: 1 }),
  power: u8('255 active, 128 idle, 0 standby, 1 sleep', { reset: 255 }),
  // Of the queued command that failed (log 10h), and of the last command (device to host FIS).
  errorTag: u8(),
  errorStatus: u8(),
  errorCode: u8(),
  errorDevice: u8(),
  errorCount: u16(),
  multiple: u8('sectors of READ MULTIPLE, 0 off'),
  transfer: u8('transfer mode, SET FEATURES 03h', { reset: 0x46 }),
  errorLbaLo: u32('24 bits'),
  errorLbaHi: u32('24 bits'),
  writeCache: u8('', { reset: 1, max: 1 }),
  lookAhead: u8('', { reset: 1, max: 1 }),
  smart: u8('', { reset: 1, max: 1 }),
  // The CD drive.
  senseKey: u8('', { max: 15 }),
  asc: u8(),
  ascq: u8(),
  attention: u8('Attention: conditions to be told', { max: 3 }),
  trayOpen: u8('', { max: 1 }),
  locked: u8('PREVENT MEDIUM REMOVAL', { max: 1 }),
  mediaEvent: u8('event code to be told by GET EVENT STATUS NOTIFICATION', { max: 4 }),
  pad0: pad(2),
  medium: u32('generation of the medium that it has seen'),
  ejects: u32('requests to eject that it has seen'),
});
export type PortView = View<typeof PortState>;

const flat = (port: number): Record<string, Field> =>
  Object.fromEntries(
    PortState.placed.map(({ name, field }) => [
      field.kind === 'pad' ? `${name}p${port}` : portName(port, name),
      field,
    ]),
  );

/** transient: built once, of constants */
const portFields: Record<string, Field> = Object.assign(
  {},
  ...Array.from({ length: ports }, (_, p) => flat(p)),
);

const globalFields = {
  pci: structs(PciState, 1),
  cap: u32('', { reset: capabilities }),
  ghc: u32('', { reset: Ghc.ae }),
  is: u32(),
  pi: u32(),
  vs: u32('', { reset: version }),
  index: u32('of the index-data pair'),
  msiCount: u32('messages sent'),
};

export const AhciState = struct(
  'AhciState',
  { ...globalFields, ...portFields } as typeof globalFields & Record<string, never>,
  { doc: 'AHCI controller with its drives' },
) as unknown as Struct<typeof globalFields>;

/** Offset of a port's fields in the state. */
export const portOffset = (port: number): number =>
  (AhciState as Struct).placed.find((f) => f.name === portName(port, 'clb'))!.offset;
