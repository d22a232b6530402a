/**
 * The devices of the PC machine, one line each, and nothing else: what it is, which process runs it, where it
 * answers, what its interrupts mean, which PCI function it is. Addresses are those of ARCHITECTURE.md, "Address space".
 */
import { pciGsi, pm, pvpanicPort } from '@nyx/boot';
import { isDiskFormat } from '@nyx/protocol/disk-formats';
import { parseNbdUri } from '@nyx/protocol/nbd';
import type { VmSpec } from '@nyx/protocol/spec';
import type { DiskFile } from './disk-files.ts';
import { sataLine } from './sata.ts';
import { tpmLine } from './tpm.ts';
import { wearOf } from './wear.ts';

/** [base, length, region of the device] */
export type Place = readonly [base: number, length: number, region: number];

/** What one interrupt source means. 'line n': GSI n; 'msi': a message; 'extint': INTR of the PIC. */
export type Route = `line ${number}` | 'msi' | 'extint';

export interface DeviceLine {
  name: string;
  /** DeviceKind.kind. */
  kind: string;
  process: string;
  /** Services differ by bundle, processes by name. */
  service: string;
  pio?: readonly Place[];
  mmio?: readonly Place[];
  irqs?: readonly Route[];
  /** bus << 8 | device << 3 | function */
  bdf?: number;
  config?: Record<string, unknown>;
  /** It reads or writes guest memory: its process is granted that. */
  dma?: true;
  /** Names of machine resources (resources.ts) that it gets, by the name the device knows them by. */
  fds?: Record<string, string>;
}

const bdf = (device: number, fn = 0): number => (device << 3) | fn;
/** PCI device number of disk i. */
export const diskSlot = (i: number): number => 2 + i;
const repeat = (n: number, r: Route): Route[] => Array.from({ length: n }, () => r);
const platform = { process: 'platform', service: 'platform' } as const;
const com = (n: 1 | 2): Record<string, string> => ({
  console: `com${n}`,
  consoleOut: `com${n}.out`,
  consoleIn: `com${n}.in`,
});

/** What the process of a disk is told of its files. */
const diskFiles = (
  i: number,
  disk: VmSpec['disks'][number],
  files: readonly DiskFile[],
  deterministic: boolean,
): Pick<DeviceLine, 'config' | 'fds'> => {
  const name = `disk${i}`;
  const { werror, rerror, throttle } = disk;
  const config = {
    readOnly: disk.readonly,
    serial: disk.serial ?? `nyx-${name}`,
    ...(werror ? { werror } : {}),
    ...(rerror ? { rerror } : {}),
    ...(throttle ? { throttle } : {}),
    ...(disk.lifetime && disk.bus === 'virtio' ? { lifetime: wearOf(disk.path) } : {}),
    ...(deterministic ? { inOrder: true } : {}),
  };
  const [top] = files;
  if (top === undefined || top.format === 'raw') {
    const raw = { ...config, size: top?.bytes };
    const direct: Record<string, string> = top?.direct === undefined ? {} : { direct: `${name}.direct` };
    if (disk.standby === undefined) return { config: raw, fds: { file: name, ...direct } };
    // What fails is held until the other backend is there.
    return {
      config: { ...raw, werror: 'stop', rerror: 'stop' },
      fds: { file: name, standby: `${name}.standby`, ...direct },
    };
  }
  if (top.format === 'nbd') {
    const { reconnectDelay } = disk;
    Object.assign(config, { exportName: parseNbdUri(disk.path)?.exportName, reconnectDelay });
  }
  const journal = isDiskFormat(top.format) ? { journal: `${name}.journal` } : {};
  const fds: Record<string, string> = { file: name, ...journal };
  for (let k = 1; k < files.length; k++) fds[`layer${k}`] = `${name}.${k}`;
  return { config: { ...config, layers: files.map((f) => ({ format: f.format, size: f.bytes })) }, fds };
};

/**
 * @param files of each disk
 * @param cds medium of each CD drive
 */
// biome-ignore format: a table, one line a device.
export const wiring = (spec: VmSpec, files: readonly (readonly DiskFile[])[], cds: readonly (DiskFile | undefined)[] = []): DeviceLine[] => [
  { name: 'pic', kind: 'pic8259', ...platform, pio: [[0x20, 2, 0], [0xa0, 2, 1], [0x4d0, 2, 2]], irqs: ['extint'] },
  { name: 'ioapic', kind: 'ioapic', ...platform, mmio: [[0xfec0_0000, 0x1000, 0]], irqs: repeat(24, 'msi') },
  { name: 'pit', kind: 'pit8254', ...platform, pio: [[0x40, 4, 0], [0x61, 1, 1]], irqs: ['line 2'] },
  { name: 'com1', kind: 'uart16550', ...platform, pio: [[0x3f8, 8, 0]], irqs: ['line 4'], fds: com(1) },
  { name: 'com2', kind: 'uart16550', ...platform, pio: [[0x2f8, 8, 0]], irqs: ['line 3'], fds: com(2) },
  { name: 'rtc', kind: 'rtc', ...platform, pio: [[0x70, 4, 0]], irqs: ['line 8'], config: { ramBytes: spec.memory, cpus: spec.cpus } },
  { name: 'i8042', kind: 'i8042', ...platform, pio: [[0x60, 1, 0], [0x64, 1, 1], [0x92, 1, 2]], irqs: ['line 1', 'line 12'] },
  { name: 'pm', kind: 'acpi-pm', ...platform, pio: [[pm.base, pm.bytes, 0], [0xb2, 2, 1]], irqs: [`line ${pm.sci}`], fds: { powerButton: 'powerButton' } },
  { name: 'debugcon', kind: 'debugcon', ...platform, pio: [[0x402, 1, 0]], fds: { console: 'debug', consoleOut: 'debug.out' } },
  { name: 'post', kind: 'post', ...platform, pio: [[0x80, 1, 0]] },
  { name: 'pvpanic', kind: 'pvpanic', ...platform, pio: [[pvpanicPort, 1, 0]] },
  { name: 'mch', kind: 'mch', ...platform, bdf: bdf(0) },
  { name: 'lpc', kind: 'lpc', ...platform, bdf: bdf(31), pio: [[pm.reset, 1, 0]], irqs: Array.from({ length: 16 }, (_, irq): Route => `line ${irq}`) },
  { name: 'fwcfg', kind: 'fw-cfg', ...platform, pio: [[0x510, 2, 0], [0x514, 8, 1]], dma: true, fds: { blob: 'fwcfg' } },
  ...(spec.watchdog === undefined ? [] : [{ name: 'watchdog', kind: spec.watchdog, ...platform, bdf: bdf(30) }]),
  ...spec.disks.flatMap((disk, i): DeviceLine[] => disk.bus === 'ahci' ? [] : [{
    name: `disk${i}`,
    kind: 'virtio-blk',
    process: `disk${i}`,
    service: disk.service ?? 'storage',
    bdf: bdf(diskSlot(i)),
    irqs: [`line ${pciGsi(diskSlot(i), 0)}`, ...repeat(9, 'msi')],
    dma: true,
    ...diskFiles(i, disk, files[i]!, spec.deterministic),
  }]),
  ...tpmLine(spec),
  ...sataLine(spec, (i) => diskFiles(i, spec.disks[i]!, files[i]!, spec.deterministic), cds),
];

/** Who answers interrupt acknowledge, and eoi and line. */
export const controllers = { pic: 'pic', ioapic: 'ioapic' } as const;
