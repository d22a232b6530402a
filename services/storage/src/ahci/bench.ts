/** The controller on the crash rig, with disks and a CD in memory, and a driver that works as those of systems do: for tests. */
import { CrashRig } from '@nyx/device/crash-rig';
import type { BlockRequest } from '../block/block.ts';
import { MemoryDisk, type MemoryDiskOptions } from '../block/memory.ts';
import { type AhciConfig, ahci } from './device.ts';
import { type AhciState, Fis, Ghc, Header, hbaRegisters, Layout, PortCmd, portName, Region } from './regs.ts';

export interface BenchOptions extends MemoryDiskOptions {
  config?: AhciConfig;
  sectors?: number;
  cdSectors?: number;
  msi?: boolean;
  /** What becomes of requests under way when the process dies: 0 lost, 1 done, 0.5 half of a write done. */
  fate?: () => number;
}

/** Guest addresses: of port p a page of command list and received FISes, its tables, data. */
const LISTS = 0x10000;
const TABLES = 0x20000;
const TABLE_BYTES = 0x400;
const DATA = 0x80000;
const BAR = 0xfe00_0000;

/** One entry of a PRD table: address and bytes. */
export type Prd = readonly [address: number, bytes: number];

export interface Issue {
  command: number;
  lba?: number;
  count?: number;
  features?: number;
  device?: number;
  prds?: readonly Prd[];
  packet?: readonly number[];
  write?: boolean;
  /** Bits of the header, and the control byte of a FIS that is no command. */
  flags?: number;
  control?: number;
}

export class Bench {
  readonly content: Uint8Array;
  readonly cd: Uint8Array;
  readonly rig: CrashRig<typeof AhciState, AhciConfig>;
  /** By port. */
  readonly disks: MemoryDisk[] = [];
  /** The CD drive has a medium. */
  hasMedium = true;
  readonly config: AhciConfig;

  constructor(readonly options: BenchOptions = {}) {
    const { sectors = 256, cdSectors = 64, config = usual } = options;
    this.content = new Uint8Array(sectors * 512);
    this.cd = Uint8Array.from({ length: cdSectors * 2048 }, (_, i) => (i >>> 11) + i * 7);
    this.config = structuredClone(config);
    const kind = ahci((_ctx, port, n) => {
      if (port.type === 'cd' && !this.hasMedium) return undefined;
      return (memory, completed) => {
        const disk = new MemoryDisk(port.type === 'cd' ? this.cd : this.content, memory, completed, {
          ...options,
          readOnly: port.type === 'cd' || (port.readOnly ?? false),
        });
        const { submit } = disk;
        // A submission is a step at which the process may die.
        disk.submit = (r: BlockRequest) => {
          this.rig?.step();
          submit.call(disk, r);
        };
        this.disks[n] = disk;
        return disk;
      };
    });
    this.rig = new CrashRig({
      kind,
      config: this.config,
      memoryBytes: 0x100000,
      died: () => {
        for (const d of this.disks) d?.abandon(options.fate ?? (() => 0));
      },
    });
  }

  get view(): DataView {
    return this.rig.memory.view;
  }
  get pending(): number {
    return this.disks.reduce((n, d) => n + (d?.pending ?? 0), 0);
  }

  read(name: string): number {
    return this.rig.read(Region.hba, hbaRegisters.byName(name).at, 4);
  }
  write(name: string, value: number): void {
    this.rig.write(Region.hba, hbaRegisters.byName(name).at, 4, value >>> 0);
  }
  port(p: number, name: string): number {
    return this.read(portName(p, name));
  }
  setPort(p: number, name: string, value: number): void {
    this.write(portName(p, name), value);
  }

  /** PCI, and every port that has a device, as section 10.1.2 says. */
  start(): void {
    const { rig } = this;
    rig.configWrite(0x24, 4, BAR);
    rig.configWrite(0x04, 2, 6);
    if (this.options.msi !== false) {
      rig.configWrite(0x84, 4, 0xfee0_0000);
      rig.configWrite(0x8c, 2, 0x4041);
      rig.configWrite(0x82, 2, 1);
    }
    this.write('ghc', Ghc.ae | Ghc.ie);
    for (let p = 0; p < (this.config.ports?.length ?? 0); p++) if (this.config.ports![p]) this.startPort(p);
  }
  startPort(p: number): void {
    this.setPort(p, 'clb', LISTS + p * 0x1000);
    this.setPort(p, 'clbu', 0);
    this.setPort(p, 'fbu', 0);
    this.setPort(p, 'fb', LISTS + p * 0x1000 + 0x400);
    this.setPort(p, 'cmd', PortCmd.fre);
    this.setPort(p, 'serr', 0xffff_ffff);
    this.setPort(p, 'is', 0xffff_ffff);
    this.setPort(p, 'ie', 0x7dc0_007f);
    this.setPort(p, 'cmd', PortCmd.fre | PortCmd.st);
  }

  /** Guest address of block i of 4 KiB of data. */
  data(i: number): number {
    return DATA + 4096 * i;
  }
  fill(address: number, length: number, value: number): void {
    this.rig.memory.bytes(address, length).fill(value);
  }
  bytes(address: number, length: number): Uint8Array {
    return this.rig.memory.bytes(address, length).slice();
  }

  header(p: number, slot: number): number {
    return LISTS + p * 0x1000 + Layout.header * slot;
  }
  table(p: number, slot: number): number {
    return TABLES + (p * 32 + slot) * TABLE_BYTES;
  }
  /** Received FIS area of a port. */
  received(p: number, at: number, bytes: number): Uint8Array {
    return this.bytes(LISTS + p * 0x1000 + 0x400 + at, bytes);
  }

  /** Fills a slot; nothing is told of it yet. */
  prepare(p: number, slot: number, i: Issue): void {
    const { view } = this;
    const { lba = 0, count = 0, features = 0, device = 0x40, prds = [], packet, flags = 0 } = i;
    const [header, table] = [this.header(p, slot), this.table(p, slot)];
    const dw0 = 5 | (packet ? Header.packet : 0) | (i.write ? Header.write : 0) | flags | (prds.length << 16);
    view.setUint32(header, dw0 >>> 0, true);
    view.setUint32(header + 4, 0, true);
    view.setUint32(header + 8, table, true);
    view.setUint32(header + 12, 0, true);
    const isCommand = i.control === undefined ? 0x8000 : 0;
    const word0 = Fis.hostToDevice | isCommand | (i.command << 16) | ((features & 0xff) << 24);
    view.setUint32(table, word0 >>> 0, true);
    view.setUint32(table + 4, ((lba % 0x100_0000) | (device << 24)) >>> 0, true);
    view.setUint32(table + 8, (Math.floor(lba / 0x100_0000) | ((features & 0xff00) << 16)) >>> 0, true);
    view.setUint32(table + 12, (count | ((i.control ?? 0) << 24)) >>> 0, true);
    view.setUint32(table + 16, 0, true);
    if (packet) for (let k = 0; k < 16; k++) view.setUint8(table + Layout.packet + k, packet[k] ?? 0);
    prds.forEach(([address, bytes], k) => {
      const at = table + Layout.prdt + Layout.prd * k;
      view.setUint32(at, address, true);
      view.setUint32(at + 4, 0, true);
      view.setUint32(at + 8, 0, true);
      view.setUint32(at + 12, (bytes - 1) >>> 0, true);
    });
  }

  issue(p: number, slots: number): void {
    this.setPort(p, 'ci', slots);
  }

  /** Lets the disks finish everything; completions may bring new work. */
  finish(): void {
    while (this.pending > 0) this.rig.host(() => this.disks.forEach((d) => d?.complete()));
  }

  /** One command that is not queued, to its end. `error`: register << 8 | status of the task file. */
  run(p: number, i: Issue, slot = 0): { tfd: number; is: number; moved: number; ci: number } {
    this.prepare(p, slot, i);
    this.issue(p, 1 << slot);
    this.finish();
    const is = this.port(p, 'is');
    this.setPort(p, 'is', is);
    this.write('is', 1 << p);
    return {
      tfd: this.port(p, 'tfd'),
      is,
      moved: this.view.getUint32(this.header(p, slot) + 4, true),
      ci: this.port(p, 'ci'),
    };
  }

  /** After an error: the engine is stopped and started (6.2.2). */
  restart(p: number): void {
    this.setPort(p, 'cmd', PortCmd.fre);
    this.setPort(p, 'serr', 0xffff_ffff);
    this.setPort(p, 'is', 0xffff_ffff);
    this.setPort(p, 'cmd', PortCmd.fre | PortCmd.st);
  }

  /** A packet command with room for `bytes` at data block 0; what came, or undefined and the sense data that says why. */
  packet(packet: readonly number[], bytes = 4096): { data?: Uint8Array; sense?: string } {
    const r = this.run(1, { command: 0xa0, features: 1, packet, prds: [[this.data(0), bytes]] });
    if (!(r.tfd & 1)) return { data: this.bytes(this.data(0), r.moved) };
    this.restart(1);
    const s = this.run(1, {
      command: 0xa0,
      features: 1,
      packet: [3, 0, 0, 0, 18],
      prds: [[this.data(1), 18]],
    });
    const d = this.bytes(this.data(1), s.moved);
    const hex = (n: number): string => n.toString(16).padStart(2, '0');
    return { sense: `${(d[2]! & 15).toString(16)}/${hex(d[12]!)}/${hex(d[13]!)}` };
  }
}

/** A disk at port 0, a CD drive at port 1. */
export const usual: AhciConfig = {
  ports: [
    { type: 'disk', serial: 'disk0' },
    { type: 'cd', serial: 'cd0' },
  ],
};
