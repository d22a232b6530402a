/**
 * One PCI function: its configuration space, BAR decoding and INTx, over `PciState`. Pure logic; it learns of the
 * world through `PciContext` (a part of DeviceContext).
 */
import {
  RegisterBank,
  type RegisterSpec,
  type RegisterTable,
  registers,
  resetValues,
  type View,
} from '@nyx/layout';
import { Space, wire } from '@nyx/ring/wire';
import { withLevel } from '../line.ts';
import { type Capability, initiateFlr, placeCapabilities } from './capability.ts';
import {
  type Bar,
  barRegisters,
  Command,
  Config,
  headerRegisters,
  type Identity,
  PciState,
  PciStatus,
} from './regs.ts';

/** What a function needs of its surroundings; DeviceContext has it. */
export interface PciContext {
  setRange(i: number, space: number, region: number, base: number, length: number): void;
}

/** Registers of a device beyond the standard ones, e.g. of a chipset: absolute offsets, own backing store. */
export interface ExtraRegisters {
  readonly table: RegisterTable;
  readonly bank: {
    read(offset: number, width: number): number;
    write(offset: number, width: number, value: number): void;
  };
}

export interface FunctionSpec {
  readonly identity: Identity;
  readonly bars?: readonly Bar[];
  readonly capabilities?: readonly Capability[];
  /** Bytes of configuration space: 256 (default), or 4096 for PCI Express. Beyond them all ones are read. */
  readonly bytes?: 256 | 4096;
  /** Writable bits of the command register, when not what BARs and interrupt pin ask for. */
  readonly commandMask?: number;
  /** Bits of the command register that always read as one. */
  readonly commandOnes?: number;
}

export interface FunctionHooks {
  /** Command or BARs changed (a handler is running). */
  changed?(): void;
  /** MSI-X message control changed. */
  msixChanged?(): void;
  /** MSI message control changed. */
  msiChanged?(): void;
  /** Function level reset; the configuration space has its reset values already. */
  flr?(): void;
}

/** BARs decode below this; x86 guests size BARs with decoding on, which makes huge addresses for a moment. */
const ADDRESS_LIMIT = 2 ** 46;

export class PciFunction {
  readonly #bank: RegisterBank<string>;
  /** Per dword: 1 when `extra` answers it. transient: made of the capabilities. */
  readonly #extraAt: Uint8Array;
  readonly bytes: number;
  /** Offset of each capability, by name. */
  readonly capabilityAt: ReadonlyMap<string, number>;

  constructor(
    readonly spec: FunctionSpec,
    readonly state: View<typeof PciState>,
    private readonly ctx: PciContext,
    private readonly hooks: FunctionHooks = {},
    private readonly extra?: ExtraRegisters,
  ) {
    this.bytes = spec.bytes ?? 256;
    const bars = spec.bars ?? [];
    const placed = placeCapabilities(spec.capabilities ?? []);
    this.capabilityAt = placed.at;
    const pin = spec.identity.interruptPin ?? 0;
    const command =
      spec.commandMask ??
      (bars.some((b) => b.kind === 'io') ? Command.io : 0) |
        (bars.some((b) => b.kind !== 'io') ? Command.memory : 0) |
        (pin ? Command.interruptDisable : 0) |
        Command.busMaster |
        Command.parityError |
        Command.serr;
    const header = headerRegisters(spec.identity, command, placed.first);
    if (spec.commandOnes) header.command = { ...(header.command as RegisterSpec), ones: spec.commandOnes };
    const specs: Record<string, RegisterSpec> = {};
    for (const [name, r] of [header, barRegisters(bars), placed.registers].flatMap((s) =>
      Object.entries(s),
    )) {
      if (name in specs) throw new Error(`two registers of the function are called ${name}`);
      specs[name] = r;
    }
    const table = registers('pci', Config.bytes, specs);

    this.#extraAt = new Uint8Array(this.bytes / 4);
    for (const r of extra?.table.registers ?? [])
      for (let at = r.at; at < r.at + r.width; at++) this.#extraAt[at >> 2] = 1;

    const read: Record<string, () => number> = {};
    for (const r of table.registers) {
      if (r.mask !== 0 || r.w1c || r.name in state) continue;
      const value = r.reset ?? 0;
      read[r.name] = () => value;
    }
    const status = header.status as RegisterSpec;
    read.status = () => state.status | (status.ones ?? 0) | (state.intx ? PciStatus.interrupt : 0);
    const decode = (): void => this.#decode();
    const changed: Record<string, (value: number, old: number) => void> = {
      command: decode,
      msixControl: () => this.hooks.msixChanged?.(),
      msiControl: () => this.hooks.msiChanged?.(),
      deviceControl: (value) => {
        state.deviceControl = value & ~initiateFlr;
        if (value & initiateFlr) this.#flr();
      },
    };
    for (let i = 0; i < 6; i++) changed[`bar${i}`] = decode;
    this.#bank = new RegisterBank(table, state, { read, changed }, 0);
  }

  /** Configuration read of 1, 2 or 4 bytes. */
  read(register: number, width: number): number {
    if (register + width > this.bytes) return width === 4 ? 0xffffffff : (1 << (8 * width)) - 1;
    if (this.extra && this.#extraAt[register >> 2]) return this.extra.bank.read(register, width);
    // No extended capability: an empty list begins with a zero (PCIe 7.9.1).
    return register < Config.bytes ? this.#bank.read(register, width) : 0;
  }

  write(register: number, width: number, value: number): void {
    if (register + width > this.bytes) return;
    if (this.extra && this.#extraAt[register >> 2]) this.extra.bank.write(register, width, value);
    else if (register < Config.bytes) this.#bank.write(register, width, value);
  }

  get memoryEnabled(): boolean {
    return (this.state.command & Command.memory) !== 0;
  }
  get busMaster(): boolean {
    return ((this.state.command | (this.spec.commandOnes ?? 0)) & Command.busMaster) !== 0;
  }

  /** Address that BAR `index` shows, as programmed. */
  barAddress(index: number): number {
    const bar = this.spec.bars?.find((b) => b.index === index);
    if (!bar) return 0;
    const low = (this.#bar(index) & (bar.kind === 'io' ? 0xfffc : 0xffff_fff0)) >>> 0;
    return bar.kind === 'mem64' ? this.#bar(index + 1) * 4294967296 + low : low;
  }

  #bar(index: number): number {
    return (this.state as unknown as Record<string, number>)[`bar${index}`] as number;
  }

  /** The device wants its INTx asserted, or no longer. In a handler. */
  interrupt(on: boolean): void {
    this.state.intx = on ? 1 : 0;
    this.#updateLine();
  }

  /** Level of the INTx wire: asked for, and not disabled by the command register. Edges are counted in the state. */
  #updateLine(): void {
    const s = this.state;
    s.intxWord = withLevel(s.intxWord, s.intx !== 0 && !(s.command & Command.interruptDisable));
  }

  /** Publishes the ranges that command register and BARs ask for. */
  #decode(): void {
    const { command } = this.state;
    for (const bar of this.spec.bars ?? []) {
      const io = bar.kind === 'io';
      const base = this.barAddress(bar.index);
      const limit = io ? 0x10000 : bar.kind === 'mem32' ? 0x1_0000_0000 : ADDRESS_LIMIT;
      const on = command & (io ? Command.io : Command.memory) && base !== 0 && base + bar.size <= limit;
      if (on) this.ctx.setRange(bar.range, io ? Space.pio : Space.mmio, bar.region, base, bar.size);
      else this.ctx.setRange(bar.range, Space.none, 0, 0, 0);
    }
    this.#updateLine();
    this.hooks.changed?.();
  }

  /** PCIe 6.6.2, and power-on: everything goes to its reset value, but edges of the line go on being counted. */
  reset(): void {
    const { state } = this;
    const word = state.intxWord;
    resetValues(PciState, state.$root.mem, state.$root.base + state.$offset);
    state.intxWord = word;
    this.#decode();
  }

  #flr(): void {
    this.reset();
    this.hooks.msixChanged?.();
    this.hooks.flr?.();
  }
}

/** Entries of the range table that a device with these BARs needs. */
export const rangesOf = (bars: readonly Bar[]): number => {
  const n = bars.reduce((most, b) => Math.max(most, b.range + 1), 0);
  if (n > wire.maxRanges) throw new Error(`${n} ranges, at most ${wire.maxRanges}`);
  return n;
};

/** Finds a capability as software does; 0 when there is none. For tests and tools. */
export function findCapability(
  read: (register: number, width: number) => number,
  id: number,
  after = 0,
): number {
  if (!(read(Config.status, 2) & PciStatus.capabilities)) return 0;
  let at = after ? read(after + 1, 1) : read(Config.capabilities, 1);
  for (let hops = 0; at >= Config.headerEnd && hops < 48; hops++) {
    if (read(at, 1) === id) return at;
    at = read(at + 1, 1);
  }
  return 0;
}
