/** Attachment of the AHCI controller: PCI function and registers on one side, a drive a port and its disk on the other. */
import {
  type Device,
  type DeviceContext,
  type DeviceKind,
  defineDevice,
  Msi,
  PciFunction,
  rangesOf,
} from '@nyx/device';
import { cdPage } from '@nyx/device/cd-page';
import { viewAt } from '@nyx/layout';
import type { DeviceOrder } from '@nyx/protocol';
import type { BlockDriver, BlockRequest, OpenBlock } from '../block/block.ts';
import { badLayers, type DiskLayer } from '../block/open.ts';
import { type LayerConfig, layered } from '../block/stack.ts';
import { AtaDisk } from './ata.ts';
import { CdDrive } from './atapi.ts';
import type { SlotRequest } from './command.ts';
import type { Drive } from './drive.ts';
import { Hba } from './hba.ts';
import { Port } from './port.ts';
import {
  AhciState,
  ahciBars,
  ahciCapabilities,
  ahciIdentity,
  capabilities,
  Ghc,
  hbaRegisters,
  IndexPair,
  Irq,
  PortState,
  type PortView,
  portOffset,
  ports,
  Region,
  version,
} from './regs.ts';

/** What is plugged into a port. */
export interface PortConfig extends LayerConfig {
  type: 'disk' | 'cd';
  /** Up to 20 ASCII characters (default: name of the device and number of the port). */
  serial?: string;
  readOnly?: boolean;
  discard?: boolean;
  /** Bytes, for a block device; default: the size of the file. */
  size?: number;
  layers?: DiskLayer[];
  /** Of a CD drive: grow with every change of the medium, and every wish that it be ejected. */
  generation?: number;
  ejects?: number;
}

export interface AhciConfig {
  /** Up to 6; null: nothing is plugged in. */
  ports?: (PortConfig | null)[];
}

/** Opens the disk or medium of a port; undefined: a drive without a medium. */
export type OpenPort = (
  ctx: DeviceContext<typeof AhciState>,
  config: PortConfig,
  port: number,
) => OpenBlock | undefined;

/** @throws coded error CONFIG_INVALID */
export function checkAhciConfig(name: string, config: AhciConfig): void {
  const wrong = (what: string): never => {
    throw Object.assign(new Error(`${name}: ${what}`), { code: 'CONFIG_INVALID' });
  };
  const { ports: list = [] } = config;
  if (!Array.isArray(list) || list.length > ports) wrong(`expected a list of at most ${ports} ports`);
  list.forEach((p, i) => {
    if (p === null) return;
    if (p?.type !== 'disk' && p?.type !== 'cd') wrong(`port ${i}, expected type 'disk' or 'cd'`);
    const { serial = '' } = p;
    if (typeof serial !== 'string' || !/^[\x20-\x7e]{0,20}$/.test(serial))
      wrong(`serial ${JSON.stringify(serial)}, expected at most 20 printable ASCII characters`);
    const bad = badLayers(p.layers);
    if (bad !== undefined) wrong(`port ${i}: ${bad}`);
    for (const n of [p.generation ?? 0, p.ejects ?? 0])
      if (!Number.isInteger(n) || n < 0 || n > 0xffffffff) wrong(`generation and ejects, expected numbers`);
  });
}

/** What the disks of one port have finished, until it is part of an event. */
class Batch {
  /** transient: a successor runs every command again that is not finished. */
  readonly list: SlotRequest[] = [];
  /** transient: as above. */
  count = 0;
}

class Ahci implements Device {
  readonly #ctx: DeviceContext<typeof AhciState>;
  readonly #fn: PciFunction;
  readonly #msi: Msi;
  readonly #ports: readonly Port[];
  readonly #batches: readonly Batch[];
  readonly #disks: readonly (BlockDriver | undefined)[];
  readonly #hba: Hba;
  readonly #implemented: number;
  readonly #pages: readonly (ReturnType<typeof cdPage> | undefined)[];
  /** Guest ns at which requests that somebody waits for are given up. transient: a successor has none under way. */
  #deadline = Number.POSITIVE_INFINITY;
  /** transient: of the call under way. */
  #depth = 0;
  /** transient: of the call under way. */
  #draining = false;
  readonly #complete = (): void => this.#completeAll();
  readonly #recover = (): void => {
    for (const p of this.#ports) if (p.needsRecovery) p.recover();
    this.#hba.update();
  };

  constructor(ctx: DeviceContext<typeof AhciState>, config: AhciConfig, open: OpenPort) {
    checkAhciConfig(ctx.name, config);
    const plugged = config.ports ?? [];
    const s = ctx.state;
    this.#ctx = ctx;
    this.#batches = Array.from({ length: ports }, () => new Batch());
    this.#disks = this.#batches.map((batch, i) => {
      const p = plugged[i];
      if (!p) return undefined;
      const opener = open(ctx, p, i);
      if (!opener) return undefined;
      const stack = layered(ctx, p, opener);
      const disk = stack(ctx.memory.buffer, (list, count) => this.#reported(batch, list, count));
      // A predecessor may have died with requests under way; none of them may take effect after ours.
      disk.fence();
      return disk;
    });
    this.#fn = new PciFunction(
      { identity: ahciIdentity, bars: ahciBars, capabilities: ahciCapabilities },
      s.pci.at(0),
      ctx,
      {
        changed: () => this.#hba.pciChanged(),
        msiChanged: () => this.#hba.pciChanged(),
      },
    );
    const fn = this.#fn;
    this.#msi = new Msi(fn, s, Irq.msi);
    const context = {
      memory: ctx.memory,
      now: () => ctx.now(),
      log: (level: 'debug' | 'info' | 'warn', message: string) => ctx.log(level, message),
      get busMaster() {
        return fn.busMaster;
      },
    };
    const drive = (i: number, view: PortView): Drive | undefined => {
      const p = plugged[i];
      if (!p) return undefined;
      const serial = p.serial ?? `${ctx.name}-${i}`.slice(-20);
      return p.type === 'cd'
        ? new CdDrive(view, context, this.#disks[i], serial, p)
        : new AtaDisk(view, context, this.#disks[i]!, serial);
    };
    this.#ports = Array.from({ length: ports }, (_, i) => {
      const view = viewAt(PortState, s.$root, s.$offset + portOffset(i)) as PortView;
      return new Port(i, view, context, drive(i, view));
    });
    this.#implemented = plugged.reduce((bits, p, i) => (p ? bits | (1 << i) : bits), 0);
    this.#pages = plugged.map((p, i) =>
      p?.type === 'cd' && ctx.has(`p${i}.page`) ? cdPage(ctx.bulk(`p${i}.page`)) : undefined,
    );
    this.#hba = new Hba(s, this.#ports, fn, this.#msi, () => this.#resetController());
  }

  // ---- accesses ----

  configRead(_fn: number, register: number, width: number): number {
    return this.#fn.read(register, width);
  }
  configWrite(_fn: number, register: number, width: number, value: number): void {
    this.#fn.write(register, width, value);
  }

  read(region: number, offset: number, width: number): number {
    if (width === 8) {
      this.#ctx.replyHi = this.read(region, offset + 4, 4);
      return this.read(region, offset, 4);
    }
    if (region === Region.hba) return this.#hba.bank.read(offset, width);
    // 8.1: the index names a register by its offset.
    const { index } = this.#ctx.state;
    const word =
      (offset & ~3) === IndexPair.index
        ? index
        : (offset & ~3) === IndexPair.data
          ? this.#hba.bank.read(index, 4)
          : 0;
    return width === 4 ? word : (word >>> (8 * (offset & 3))) & (width === 1 ? 0xff : 0xffff);
  }

  write(region: number, offset: number, width: number, value: number, valueHi: number): void {
    if (width === 8) {
      this.write(region, offset, 4, value, 0);
      this.write(region, offset + 4, 4, valueHi, 0);
      return;
    }
    if (region === Region.index) {
      if (width !== 4) return;
      if (offset === IndexPair.index) this.#ctx.state.index = value & 0xffc;
      if (offset !== IndexPair.data) return;
      this.#hba.bank.write(this.#ctx.state.index, 4, value);
    } else this.#hba.bank.write(offset, width, value);
    this.#hba.update();
  }

  // ---- requests ----

  #reported(batch: Batch, list: readonly BlockRequest[], count: number): void {
    for (let i = 0; i < count; i++) batch.list[batch.count++] = list[i] as SlotRequest;
    if (this.#draining) this.#completeAll();
    else this.#ctx.event(this.#complete);
  }

  /** Disks reported: an event of its own. */
  #completeAll(): void {
    for (let i = 0; i < ports; i++) {
      const batch = this.#batches[i]!;
      if (batch.count === 0) continue;
      const { count } = batch;
      batch.count = 0;
      this.#ports[i]!.completed(batch.list, count);
    }
    this.#hba.update();
  }

  /** Gives the disks what was prepared. What the page cache answers is there at once. */
  #submit(): void {
    let any = false;
    for (const p of this.#ports) if (p.submit()) any = true;
    // Its event settles and may come back here: not without end.
    if (!any || this.#depth >= MOST_POLLS) return;
    this.#depth++;
    for (const disk of this.#disks) disk?.poll();
    this.#depth--;
  }

  order(order: DeviceOrder['order'], fds: readonly number[]): void {
    for (const disk of this.#disks) disk?.order?.(order, fds);
  }

  // ---- life ----

  /** Registers of the controller and its ports, 10.4.3; not what drives remember, which see a COMRESET. */
  #resetController(): void {
    const { state } = this.#ctx;
    state.is = 0;
    state.ghc = Ghc.ae;
    for (const p of this.#ports) p.resetRegisters();
  }

  reset(): void {
    const { state } = this.#ctx;
    for (const p of this.#ports) {
      this.#draining = true;
      if (!p.drain(DRAIN_MS)) this.#ctx.log('error', 'ahci: requests in flight outlive a machine reset');
      this.#draining = false;
    }
    state.cap = capabilities;
    state.vs = version;
    state.pi = this.#implemented;
    this.#fn.reset();
    for (const p of this.#ports) p.powerOn();
    this.#hba.update();
  }

  /** Requests that somebody waits for do not come back: a backend that hangs, or drops them. */
  timer(): void {
    this.#deadline = Number.POSITIVE_INFINITY;
    this.#draining = true;
    for (const p of this.#ports) if (p.isWaiting) p.giveUp(PATIENCE_MS);
    this.#draining = false;
    this.#hba.update();
  }

  busy(): boolean {
    return this.#ports.some((p) => p.inFlight > 0);
  }

  settle(): void {
    const ctx = this.#ctx;
    const { state } = ctx;
    this.#msi.settle(ctx);
    ctx.line(Irq.intx, this.#fn.state.intxWord);
    let waiting = false;
    for (let i = 0; i < ports; i++) {
      const port = this.#ports[i]!;
      if (port.isWaiting) waiting = true;
      const page = this.#pages[i];
      if (!page) continue;
      page.generation = port.s.medium;
      page.ejects = port.s.ejects;
      page.locked = port.s.locked;
      page.trayOpen = port.s.trayOpen;
    }
    // Not later because the guest asks meanwhile whether it is done.
    if (!waiting) this.#deadline = Number.POSITIVE_INFINITY;
    else if (this.#deadline === Number.POSITIVE_INFINITY) this.#deadline = ctx.now() + WAIT_NS;
    ctx.timerAt(this.#deadline);
    this.#submit();
    // An event may run at once and settle again: it comes last.
    if (this.#ports.some((p) => p.needsRecovery) && state.pi !== 0) ctx.event(this.#recover);
  }
}

/** Submissions within submissions. */
const MOST_POLLS = 3;
/** Longest wait for backends at a machine reset. */
const DRAIN_MS = 2000;
/** How long a stop or a reset waits for requests under way before it asks after them, and how long it then waits. */
const WAIT_NS = 200_000_000;
const PATIENCE_MS = 50;

/** The device kind over disks that `open` opens. */
export const ahci = (open: OpenPort): DeviceKind<typeof AhciState, AhciConfig> =>
  defineDevice({
    kind: 'ahci',
    stateVersion: 1,
    state: AhciState,
    keep: ['msiCount'],
    regions: [
      { name: 'hba', size: 0x1000, table: hbaRegisters },
      { name: 'index', size: IndexPair.bytes },
    ],
    ranges: rangesOf(ahciBars),
    irqs: () => 2,
    create: (ctx, config): Device => new Ahci(ctx, config, open),
  });
