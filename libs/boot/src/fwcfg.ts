/**
 * What SeaBIOS and OVMF read through the firmware configuration device (QEMU: docs/specs/fw_cfg.rst): numbered items and
 * named files. Only the content; the device numbers the files and keeps them.
 */
import { type AcpiMachine, acpiFiles, pvpanicPort } from './acpi/tables.ts';
import { tpmConfig } from './acpi/tpm.ts';
import { firmwareE820, packE820 } from './e820.ts';

export const FwCfgKey = {
  signature: 0,
  id: 1,
  uuid: 2,
  ramSize: 3,
  nographic: 4,
  cpus: 5,
  bootMenu: 0x0e,
  maxCpus: 0x0f,
  fileDir: 0x19,
  firstFile: 0x20,
  irq0Override: 0x8002,
} as const;

export type FwCfgItem = { key: number; bytes: Uint8Array } | { file: string; bytes: Uint8Array };

export interface FirmwareConfig extends AcpiMachine {
  ramBytes: number;
  /** The device offers its DMA interface (bit 1 of the id). */
  hasDma: boolean;
  /** Offer the boot menu for so many milliseconds. */
  bootMenuMs?: number;
  /** Open Firmware paths in the order to try, e.g. "/pci@i0cf8/scsi@3/disk@0,0". */
  bootOrder?: readonly string[];
  /** 16 bytes in RFC 4122 order. */
  uuid?: Uint8Array;
  /** More files, for example "opt/org.example/text". */
  files?: Readonly<Record<string, Uint8Array>>;
}

const u16 = (value: number): Uint8Array => Uint8Array.of(value & 255, value >>> 8);

function u64(value: number): Uint8Array {
  const out = new Uint8Array(8);
  new DataView(out.buffer).setBigUint64(0, BigInt(value), true);
  return out;
}

/** Milliseconds from "No bootable device" to the next try: never. SeaBIOS would reset the machine every minute. */
const BOOT_FAIL_WAIT = Uint8Array.of(0xff, 0xff, 0xff, 0xff);

/** S0 and S5 (bit 7: supported; low bits: SLP_TYP); no S3, no S4. */
const SYSTEM_STATES = Uint8Array.of(0x80, 0, 0, 1, 2, 0x80);

/** All items, in a fixed order; files are sorted by name, as the directory wants them. */
export function fwCfgItems(config: FirmwareConfig): FwCfgItem[] {
  const text = (s: string): Uint8Array => new TextEncoder().encode(s);
  const files: Record<string, Uint8Array> = {
    ...config.files,
    ...acpiFiles(config),
    'etc/boot-fail-wait': BOOT_FAIL_WAIT,
    'etc/e820': packE820(firmwareE820(config.ramBytes)),
    'etc/max-cpus': u16(config.cpus),
    'etc/pvpanic-port': u16(pvpanicPort),
    'etc/system-states': SYSTEM_STATES,
    ...(config.tpm ? { 'etc/tpm/config': tpmConfig() } : {}),
    ...(config.bootMenuMs === undefined ? {} : { 'etc/boot-menu-wait': u16(config.bootMenuMs) }),
    ...(config.bootOrder?.length ? { bootorder: text(`${config.bootOrder.join('\n')}\0`) } : {}),
  };
  return [
    { key: FwCfgKey.signature, bytes: text('QEMU') },
    { key: FwCfgKey.id, bytes: Uint8Array.of(config.hasDma ? 3 : 1, 0, 0, 0) },
    { key: FwCfgKey.uuid, bytes: config.uuid ?? new Uint8Array(16) },
    { key: FwCfgKey.ramSize, bytes: u64(config.ramBytes) },
    { key: FwCfgKey.nographic, bytes: u16(config.hasVga ? 0 : 1) },
    { key: FwCfgKey.cpus, bytes: u16(config.cpus) },
    { key: FwCfgKey.bootMenu, bytes: u16(config.bootMenuMs === undefined ? 0 : 1) },
    { key: FwCfgKey.maxCpus, bytes: u16(config.cpus) },
    { key: FwCfgKey.irq0Override, bytes: Uint8Array.of(1, 0, 0, 0) },
    ...Object.keys(files)
      .sort()
      .map((file) => ({ file, bytes: files[file]! })),
  ];
}
