/**
 * The fixed ACPI tables (ACPI specification 6.4, section 5.2) of the PC machine, and both ways to deliver them: written into
 * guest memory, and as fw_cfg files with the loader script that SeaBIOS and OVMF interpret.
 */
import { pc } from '../e820.ts';
import { low } from '../lowmem.ts';
import type { GuestRam } from '../ram.ts';
import { logArea } from '../tpm/measured.ts';
import { ascii, cat, le } from './aml.ts';
import { checksum, TableBlob } from './blob.ts';
import { type AcpiMachine, dsdtBody, pm } from './dsdt.ts';

const FADT_BYTES = 276;
const HEADER = 36;
const RSDP_BYTES = 36;
/** Local APIC identifiers from here on need x2APIC entries; 255 is broadcast. */
const X2APIC_FROM = 255;

/** Generic address: system I/O. Access size 1 to 3: 1, 2, 4 bytes. */
const ioAddress = (port: number, bytes: number): number[] => [
  1,
  bytes * 8,
  0,
  bytes === 4 ? 3 : bytes,
  ...le(port, 8),
];

function fadt(m: AcpiMachine): Uint8Array {
  const out = new Uint8Array(FADT_BYTES - HEADER);
  const put = (offset: number, bytes: readonly number[]): void => out.set(bytes, offset - HEADER);
  put(46, le(pm.sci, 2));
  // SMI_CMD stays 0: the machine is always in ACPI mode (SCI_EN reads as one).
  put(56, le(pm.event, 4));
  put(64, le(pm.control, 4));
  put(76, le(pm.timer, 4));
  put(88, [4, 2, 0, 4]);
  // Latencies over 100 and 1000 us: C2 and C3 are not supported.
  put(96, le(0x0fff, 2));
  put(98, le(0x0fff, 2));
  // Index of the century in CMOS.
  put(108, [0x32]);
  const LEGACY_DEVICES = 1;
  const HAS_8042 = 2;
  const VGA_NOT_PRESENT = 4;
  put(109, le(LEGACY_DEVICES | HAS_8042 | (m.hasVga ? 0 : VGA_NOT_PRESENT), 2));
  const WBINVD = 1;
  const PROC_C1 = 1 << 2;
  // Set: there is no fixed sleep button. PWR_BUTTON stays 0: the power button is a fixed feature.
  const SLP_BUTTON = 1 << 5;
  const FIX_RTC = 1 << 6;
  const TMR_VAL_EXT = 1 << 8;
  const RESET_REG_SUP = 1 << 10;
  put(112, le(WBINVD | PROC_C1 | SLP_BUTTON | FIX_RTC | TMR_VAL_EXT | RESET_REG_SUP, 4));
  put(116, ioAddress(pm.reset, 1));
  put(128, [pm.resetValue]);
  put(148, [1, 32, 0, 2, ...le(pm.event, 8)]);
  put(172, ioAddress(pm.control, 2));
  put(208, ioAddress(pm.timer, 4));
  put(268, ascii('Nyx'));
  return out;
}

/** Firmware ACPI control structure; 64 bytes, no checksum. */
const facs = (): Uint8Array => cat(ascii('FACS'), le(64, 4), new Uint8Array(24), [2], new Uint8Array(31));

function madt(m: AcpiMachine): Uint8Array {
  const ACTIVE_HIGH_LEVEL = 0x0d;
  const entries: number[][] = [];
  for (let i = 0; i < m.cpus; i++) {
    if (i < X2APIC_FROM) entries.push([0, 8, i, i, ...le(1, 4)]);
    else entries.push([9, 16, 0, 0, ...le(i, 4), ...le(1, 4), ...le(i, 4)]);
  }
  entries.push([1, 12, 0, 0, ...le(pc.ioapic, 4), ...le(0, 4)]);
  entries.push([2, 10, 0, 0, ...le(2, 4), 0, 0]);
  entries.push([2, 10, 0, pm.sci, ...le(pm.sci, 4), ACTIVE_HIGH_LEVEL, 0]);
  // NMI at LINT1 of all processors.
  entries.push([4, 6, 0xff, 0, 0, 1]);
  if (m.cpus > X2APIC_FROM) entries.push([0x0a, 12, 0, 0, ...le(0xffff_ffff, 4), 1, 0, 0, 0]);
  const PCAT_COMPAT = 1;
  return cat(le(pc.lapic, 4), le(PCAT_COMPAT, 4), ...entries);
}

const mcfg = (): Uint8Array => cat(new Uint8Array(8), le(pc.ecam, 8), le(0, 2), [0, 255], new Uint8Array(4));
/** 8086, legacy routing, 64-bit counter, 3 comparators, revision 1; minimum tick 128. */
const hpet = (): Uint8Array => cat(le(0x8086_a201, 4), [0, 64, 0, 0], le(pc.hpet, 8), [0], le(128, 2), [0]);

/** Offset of the log area's address in the table TPM2. */
const TPM2_LOG_ADDRESS = 68;
/** TCG ACPI Specification 1.3, section 8: a client platform; how a command is started, where the log is. */
function tpm2(model: 'tis' | 'crb', log: number): Uint8Array {
  const MEMORY_MAPPED = 6;
  const CRB = 7;
  const CRB_CONTROL_AREA = pc.tpm + 0x40;
  return cat(
    le(0, 4),
    le(model === 'crb' ? CRB_CONTROL_AREA : 0, 8),
    le(model === 'crb' ? CRB : MEMORY_MAPPED, 4),
    new Uint8Array(12),
    le(logArea.bytes, 4),
    le(log, 8),
  );
}

/**
 * All tables but the root pointer.
 * @param log address of the TPM's log area, when it is known
 * @returns the blob, the offset of the XSDT in it, and of the field for the address of the log area
 */
export function acpiTables(
  m: AcpiMachine,
  log = 0,
): { blob: TableBlob; xsdt: number; logAddressAt?: number | undefined } {
  const blob = new TableBlob();
  const facsAt = blob.raw(facs(), 64);
  const dsdtAt = blob.table('DSDT', 2, dsdtBody(m));
  const fadtAt = blob.table('FACP', 6, fadt(m));
  blob.point(fadtAt + 36, 4, facsAt);
  blob.point(fadtAt + 40, 4, dsdtAt);
  blob.point(fadtAt + 140, 8, dsdtAt);
  const tables = [fadtAt, blob.table('APIC', 5, madt(m)), blob.table('MCFG', 1, mcfg())];
  if (m.hasHpet) tables.push(blob.table('HPET', 1, hpet()));
  let logAddressAt: number | undefined;
  if (m.tpm) {
    const at = blob.table('TPM2', 4, tpm2(m.tpm, log));
    logAddressAt = at + TPM2_LOG_ADDRESS;
    tables.push(at);
  }
  const xsdt = blob.table('XSDT', 1, new Uint8Array(tables.length * 8));
  for (const [i, at] of tables.entries()) blob.point(xsdt + HEADER + i * 8, 8, at);
  return { blob, xsdt, logAddressAt };
}

/** Root pointer, revision 2 (section 5.2.5.3), without checksums; the XSDT address is at 24. */
const rsdp = (xsdt: number): Uint8Array =>
  cat(ascii('RSD PTR '), [0], ascii('NYX   '), [2], le(0, 4), le(RSDP_BYTES, 4), le(xsdt, 8), [0, 0, 0, 0]);

/**
 * Writes all tables into the reserved memory at 0xE0000, where a guest finds the root pointer by scanning as well.
 * @returns the address of the root pointer
 * @throws BootError ACPI_TOO_LARGE
 */
export function writeAcpi(ram: GuestRam, m: AcpiMachine): number {
  const { blob, xsdt } = acpiTables(m, logArea.address);
  const base = low.acpi + 64;
  const root = rsdp(base + xsdt);
  root[8] = checksum(root, 0, 20, 8);
  root[32] = checksum(root, 0, RSDP_BYTES, 32);
  ram.write(base, blob.link(base, m.tpm ? logArea.address : low.acpiEnd));
  ram.write(low.acpi, root);
  return low.acpi;
}

const file = (name: string): number[] => [...ascii(name), ...new Array<number>(56 - name.length).fill(0)];
const command = (op: number, ...fields: readonly (readonly number[])[]): Uint8Array =>
  cat(cat(le(op, 4), ...fields), new Uint8Array(124 - fields.reduce((n, f) => n + f.length, 0)));
const TABLES = 'etc/acpi/tables';
const RSDP = 'etc/acpi/rsdp';
const TPM_LOG = 'etc/tpm/log';
const ZONE_HIGH = 1;
const ZONE_FSEG = 2;

/**
 * The same tables as fw_cfg files. The loader script is a list of 128-byte commands: ALLOCATE (1: file, alignment, zone),
 * ADD_POINTER (2: file that holds it, file it points into, offset, size), ADD_CHECKSUM (3: file, offset, start, length).
 */
export function acpiFiles(m: AcpiMachine): Record<
  'etc/acpi/tables' | 'etc/acpi/rsdp' | 'etc/table-loader',
  Uint8Array
> & {
  'etc/tpm/log'?: Uint8Array;
} {
  const { blob, xsdt, logAddressAt } = acpiTables(m);
  const script = [
    command(1, file(RSDP), le(16, 4), [ZONE_FSEG]),
    command(1, file(TABLES), le(64, 4), [ZONE_HIGH]),
    ...(logAddressAt === undefined
      ? []
      : [
          command(1, file(TPM_LOG), le(1, 4), [ZONE_HIGH]),
          command(2, file(TABLES), file(TPM_LOG), le(logAddressAt, 4), [8]),
        ]),
    ...blob.pointers.map((p) => command(2, file(TABLES), file(TABLES), le(p.at, 4), [p.size])),
    ...blob.checksums.map((c) => command(3, file(TABLES), le(c.at, 4), le(c.start, 4), le(c.length, 4))),
    command(2, file(RSDP), file(TABLES), le(24, 4), [8]),
    command(3, file(RSDP), le(8, 4), le(0, 4), le(20, 4)),
    command(3, file(RSDP), le(32, 4), le(0, 4), le(RSDP_BYTES, 4)),
  ];
  return {
    'etc/acpi/tables': blob.bytes,
    'etc/acpi/rsdp': rsdp(xsdt),
    'etc/table-loader': cat(...script),
    ...(m.tpm ? { [TPM_LOG]: new Uint8Array(logArea.bytes) } : {}),
  };
}

export { type AcpiMachine, pciGsi, pm, pvpanicPort, sleepType } from './dsdt.ts';
