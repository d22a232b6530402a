/**
 * One port: the command engine of AHCI 1.3.1 chapter 5, the registers of section 3.3, and the life of a command.
 *
 *   PxCI -> fetch -> drive: done at once ------------------------------> FIS, PxCI / PxSACT clear, PxIS -> commit
 *                    drive: request -> commit -> settle submits it -> completion: an event of its own ---^
 *
 * A queued command is the drive's once it was fetched (PxCI clear, PxSACT set, `queued`); any other one is `active` until its
 * end. A process that attaches finds both in the state, reads the commands again from where the driver must still hold them,
 * and runs them again: reads and writes of a command that is not finished may be repeated. One that is finished, is not
 * there any more.
 *
 * A stop, a reset and an error let no I/O go on behind them: they are told when nothing is under way.
 *
 * Longer than other files: every stop and reset touches registers, commands and requests together, in an order that matters.
 */
import { BlockOp, BlockResult } from '../block/block.ts';
import { Command, Protocol, SlotRequest, Verdict } from './command.ts';
import { type Drive, type DriveContext, failed, sign } from './drive.ts';
import { Fises } from './fis.ts';
import {
  AtaError,
  Halt,
  Header,
  noTaskFile,
  PortCmd,
  PortIs,
  PortSerr,
  PortSsts,
  type PortView,
  Signature,
  Status,
  slots,
} from './regs.ts';

export interface PortContext extends DriveContext {
  /** The function may reach memory. */
  readonly busMaster: boolean;
  log(level: 'debug' | 'info' | 'warn', message: string): void;
}

const bit = (n: number): number => (1 << n) >>> 0;
/** How many are set. */
const bits = (word: number): number => {
  let n = 0;
  for (let w = word; w !== 0; w &= w - 1) n++;
  return n;
};

export class Port {
  readonly #c = new Command();
  readonly #fises: Fises;
  readonly #requests: readonly SlotRequest[];
  /** By slot: 1 while this process has a request of it at the disk. transient: a successor has none. */
  readonly #begun = new Uint8Array(slots);
  /** Their number. transient: as above. */
  #inFlight = 0;
  /** Prepared, not yet submitted. transient: a successor prepares them again. */
  readonly #ready: SlotRequest[] = [];
  /** transient: as above. */
  #readyCount = 0;
  /** Whether what a predecessor left has been looked at. transient: false in a successor, which then does. */
  #recovered = false;
  /** The machine is reset: what ends is nobody's. transient: of the call under way. */
  #dropping = false;
  /** Most commands at the disk at once, for the log. transient: counted anew. */
  #most = 0;

  constructor(
    readonly index: number,
    readonly s: PortView,
    private readonly ctx: PortContext,
    /** Undefined: nothing is plugged in. */
    readonly drive: Drive | undefined,
  ) {
    this.#fises = new Fises(s, ctx.memory, this.#c);
    this.#requests = Array.from({ length: drive ? slots : 0 }, (_, slot) => new SlotRequest(slot));
  }

  get inFlight(): number {
    return this.#inFlight;
  }
  /** Somebody waits for requests under way to end. */
  get isWaiting(): boolean {
    const { s } = this;
    return this.#inFlight > 0 && (s.stopping | s.resetting) !== 0;
  }

  // ---- registers ----

  /** PxCMD, 3.3.7. */
  writeCommand(value: number): void {
    const { s } = this;
    const old = s.cmd;
    const kept = PortCmd.sud | PortCmd.pod | PortCmd.cr | PortCmd.fr | PortCmd.ccs;
    s.cmd = ((old & kept) | (value & (PortCmd.st | PortCmd.fre | PortCmd.atapi))) >>> 0;
    if (s.cmd & PortCmd.fre) s.cmd |= PortCmd.fr;
    else if (!(s.cmd & PortCmd.cr)) s.cmd &= ~PortCmd.fr;
    // CLO works while the engine stands still, before ST.
    if (value & PortCmd.clo && !(old & PortCmd.cr)) s.tfd &= ~(Status.bsy | Status.drq);
    if (value & ~old & PortCmd.st) {
      s.halt = Halt.no;
      if (!s.stopping) s.cmd |= PortCmd.cr;
    } else if (old & ~value & PortCmd.st) {
      s.stopping = 1;
      this.#finishStop();
    }
    this.run();
  }

  /** What was prepared is not wanted any more. */
  #dropReady(): void {
    for (let i = 0; i < this.#readyCount; i++) this.#ended(this.#ready[i]!.id);
    this.#readyCount = 0;
  }

  /** ST was cleared: CR falls, and with it everything that was issued (3.3.7, 3.3.13, 3.3.14). */
  #finishStop(): void {
    const { s } = this;
    if (!s.stopping) return;
    this.#dropReady();
    if (this.#inFlight > 0 || !this.#recovered) return;
    s.stopping = 0;
    s.failing = 0;
    s.queued = 0;
    s.ci = 0;
    s.sact = 0;
    s.halt = Halt.no;
    if (s.active) {
      s.active = 0;
      s.tfd = Status.ready;
    }
    s.cmd &= ~(PortCmd.cr | PortCmd.ccs);
    // Software was early: it set ST again without waiting for CR.
    if (s.cmd & PortCmd.st) s.cmd |= PortCmd.cr;
    if (!(s.cmd & PortCmd.fre)) s.cmd &= ~PortCmd.fr;
  }

  /** PxSCTL, 3.3.11: DET 1 resets the interface, 4 turns it off, 0 lets it come back. */
  writeControl(value: number, old: number): void {
    const { s } = this;
    const [now, before] = [value & 15, old & 15];
    if (now === before) return;
    if (now === 1 || now === 4) {
      s.ssts = now === 4 ? PortSsts.offline : PortSsts.none;
      this.#startReset();
      s.resetting = 0;
    } else if (now === 0) {
      this.link();
      this.run();
    }
  }

  /** Everything under way is given up; its end is waited for. */
  #startReset(): void {
    const { s } = this;
    s.tfd = noTaskFile;
    s.sig = Signature.none;
    s.resetting = 1;
    s.softReset = 0;
    this.#dropReady();
    s.queued = 0;
    s.active = 0;
    s.failing = 0;
  }

  /** The interface comes up, if there is something at its other end (COMINIT, 10.4.2). In a handler. */
  link(): void {
    const { s, drive } = this;
    this.#startReset();
    if (drive === undefined) {
      s.resetting = 0;
      return;
    }
    s.ssts = PortSsts.linked;
    s.serr |= PortSerr.exchanged | PortSerr.phyReady;
    s.tfd = Status.bsy | noTaskFile;
    s.logged = 0;
    drive.reset(true);
    this.#finishReset();
  }

  /** The first FIS of the device: its signature, without an interrupt (3.3.9, SATA 11.4). */
  #finishReset(): void {
    const { s, drive } = this;
    if (!s.resetting || this.#inFlight > 0 || !this.#recovered || drive === undefined) return;
    s.resetting = 0;
    s.sig = drive.signature;
    const c = this.#c;
    sign(c, drive.signature);
    c.status = drive.signature === Signature.disk ? Status.ready : 0;
    c.error = 1;
    this.#fises.register(false);
  }

  writeActive(value: number): void {
    // 3.3.13: only while ST is set.
    if (this.s.cmd & PortCmd.st) this.s.sact = (this.s.sact | value) >>> 0;
  }
  writeIssue(value: number): void {
    const { s } = this;
    if (!(s.cmd & PortCmd.st)) return;
    s.ci = (s.ci | value) >>> 0;
    this.run();
  }

  // ---- the engine ----

  /** Fetches commands as long as the drive takes them. In a handler. */
  run(): void {
    const { s } = this;
    while (
      s.ci !== 0 &&
      s.cmd & PortCmd.cr &&
      s.cmd & PortCmd.st &&
      !(s.halt | s.stopping | s.resetting | s.failing | s.active) &&
      s.ssts === PortSsts.linked &&
      !(s.tfd & (Status.bsy | Status.drq)) &&
      this.#recovered &&
      this.ctx.busMaster
    ) {
      // 5.3.3: round robin, from the slot behind the last one.
      const last = (s.cmd & PortCmd.ccs) >>> PortCmd.ccsShift;
      const from = (last + 1) % slots;
      const turned = ((s.ci >>> from) | (from ? s.ci << (slots - from) : 0)) >>> 0;
      const slot = (from + 31 - Math.clz32(turned & -turned)) % slots;
      s.cmd = (s.cmd & ~PortCmd.ccs) | (slot << PortCmd.ccsShift);
      this.#fetch(slot);
    }
  }

  #fetch(slot: number): void {
    const { s, ctx, drive } = this;
    const c = this.#c;
    if (!c.read(ctx.memory, s.clb, s.clbu, slot)) {
      this.#fatal(PortIs.hbfs, 'command list or table is not in memory');
      return;
    }
    if (!c.isFis) {
      s.serr |= PortSerr.protocol;
      this.#fatal(PortIs.ifs, `a FIS of type 0x${c.fis.toString(16)}`);
      return;
    }
    if (!c.isCommand) {
      this.#deviceControl(slot);
      return;
    }
    const queued = (c.command & 0xfe) === 0x60;
    if (!queued && s.queued !== 0) {
      // ATA8-ACS 4.16.1: a command that is not queued among queued ones ends them all.
      this.#failQueued(slot, AtaError.abrt);
      return;
    }
    this.#begin(slot, drive!.take(c, this.#requests[slot]!), queued);
  }

  /** What becomes of a command that the drive has looked at. */
  #begin(slot: number, verdict: number, queued: boolean): void {
    const { s } = this;
    const c = this.#c;
    if (verdict === Verdict.fatal) {
      this.#fatal(PortIs.hbfs, 'data is not in memory');
      return;
    }
    if (verdict === Verdict.submit) {
      const r = this.#requests[slot]!;
      if (r.op === BlockOp.read) this.#dirty(r);
      this.#ready[this.#readyCount++] = r;
      this.#begun[slot] = 1;
      this.#inFlight++;
      if (this.#inFlight > this.#most) this.#busier();
      if (queued) this.#accept(slot);
      else {
        s.active = slot + 1;
        s.tfd = Status.bsy;
      }
    } else if (queued && c.status & Status.err) this.#failQueued(slot, c.error);
    else this.#finish(slot);
  }

  #busier(): void {
    this.#most = this.#inFlight;
    if ((this.#most & (this.#most - 1)) === 0)
      this.ctx.log('debug', `port ${this.index}: ${this.#most} commands at once`);
  }

  /** The drive has taken a queued command: a register FIS that clears its bit in PxCI (5.6.4). */
  #accept(slot: number): void {
    const { s } = this;
    s.queued = (s.queued | bit(slot)) >>> 0;
    s.ci = (s.ci & ~bit(slot)) >>> 0;
    const c = this.#c;
    c.status = Status.ready;
    c.error = 0;
    this.#fises.register(false);
  }

  /** A write of the control register: SRST resets the device when it falls (SATA 10.3.4, ATA8-ACS 4.18). */
  #deviceControl(slot: number): void {
    const { s, drive } = this;
    const c = this.#c;
    s.ci = (s.ci & ~bit(slot)) >>> 0;
    const set = c.control & 4;
    if (set) {
      this.#startReset();
      s.resetting = 0;
      s.softReset = 1;
      // 10.4.1: the C bit of the header lets the controller go on although the device is busy.
      s.tfd = c.flags & Header.clear ? Status.ready : Status.bsy;
    } else if (s.softReset) {
      s.softReset = 0;
      s.resetting = 1;
      s.logged = 0;
      drive!.reset(false);
      this.#finishReset();
    }
  }

  /** A command that is not queued is over, well or not. */
  #finish(slot: number): void {
    const { s, ctx } = this;
    const c = this.#c;
    const { view } = ctx.memory;
    s.active = 0;
    // 4.2.2: bytes that moved.
    ctx.memory.dirty(c.headerAt + 4, 4);
    view.setUint32(c.headerAt + 4, c.moved, true);
    s.is |= c.interrupts;
    if (c.moved > 0 && c.table.wantsInterrupt(view, c.moved)) s.is |= PortIs.dps;
    if (c.status & Status.err) {
      this.#fises.register(true);
      this.#halt(Halt.taskFile);
      return;
    }
    // 5.6.2: data that came by PIO ends with it; everything else with a register FIS.
    if (c.protocol === Protocol.pioIn) this.#fises.pioSetup();
    else this.#fises.register(true);
    s.ci = (s.ci & ~bit(slot)) >>> 0;
  }

  /** A queued command cannot be done. The others come to their end first, then it is told, and they are lost. */
  #failQueued(slot: number, error: number): void {
    const { s } = this;
    const c = this.#c;
    s.failing = 1;
    s.logged = 1;
    // A command that is not queued has no tag: NQ.
    s.errorTag = (c.command & 0xfe) === 0x60 ? slot : 0x80;
    s.errorStatus = Status.ready | Status.err;
    s.errorCode = error;
    s.errorDevice = c.device;
    s.errorCount = c.count;
    s.errorLbaLo = c.lbaLo;
    s.errorLbaHi = c.lbaHi;
    s.is |= c.interrupts;
    this.#finishFailure();
  }

  /** Set Device Bits with ERR (SATA 10.3.6): PxSACT keeps what was not done. */
  #finishFailure(): void {
    const { s } = this;
    if (!s.failing || this.#inFlight > 0 || !this.#recovered) return;
    s.failing = 0;
    s.queued = 0;
    if (s.errorTag & 0x80) {
      const c = this.#c;
      c.status = s.errorStatus;
      c.error = s.errorCode;
      this.#fises.register(true);
    } else this.#fises.deviceBits(0, s.errorStatus, s.errorCode);
    this.#halt(Halt.taskFile);
  }

  #fatal(interrupt: number, why: string): void {
    const { s } = this;
    this.ctx.log('warn', `port ${this.index}: ${why}`);
    s.is |= interrupt;
    s.active = 0;
    this.#halt(Halt.fatal);
  }

  #halt(why: number): void {
    const { s } = this;
    s.halt = why;
    if (why === Halt.taskFile) s.is |= PortIs.tfes;
  }

  // ---- interrupts ----

  /** Bits of PxIS that say what PxSERR holds (3.3.5). In a handler, after all else. */
  mirror(): void {
    const { s } = this;
    const is = s.is & ~(PortIs.pcs | PortIs.prcs);
    const { serr } = s;
    s.is = is | (serr & PortSerr.exchanged ? PortIs.pcs : 0) | (serr & PortSerr.phyReady ? PortIs.prcs : 0);
  }

  // ---- requests ----

  /** Tells that DMA writes the pieces of a read: before it begins, and again when the bytes are there. */
  #dirty(r: SlotRequest): void {
    const { memory } = this.ctx;
    for (let i = 0; i < r.count; i++) memory.dirty(r.offsets[i]!, r.lengths[i]!);
  }

  /** Gives the disk what was prepared. In settle. */
  submit(): boolean {
    if (this.#readyCount === 0) return false;
    const disk = this.drive!.disk!;
    for (let i = 0; i < this.#readyCount; i++) disk.submit(this.#ready[i]!);
    this.#readyCount = 0;
    disk.kick();
    return true;
  }

  /** The disk is done with these. In a handler. */
  completed(list: readonly SlotRequest[], count: number): void {
    const { s } = this;
    let tags = 0;
    for (let i = 0; i < count; i++) {
      const r = list[i]!;
      const slot = r.id;
      if (r.op === BlockOp.read) this.#dirty(r);
      const wanted = this.#owns(slot);
      if (wanted && r.result === BlockResult.ok) {
        const more = r.advance(this.ctx.memory);
        if (more > 0) {
          if (r.op === BlockOp.read) this.#dirty(r);
          this.#ready[this.#readyCount++] = r;
          continue;
        }
        if (more < 0) {
          this.#ended(slot);
          s.queued = (s.queued & ~bit(slot)) >>> 0;
          this.#fatal(PortIs.hbfs, 'data is not in memory');
          continue;
        }
      }
      this.#ended(slot);
      if (!wanted) continue;
      if (r.protocol === Protocol.queued && s.active !== slot + 1) tags |= this.#finishQueued(r, slot);
      else {
        this.drive!.finish(this.#c, r);
        this.#finish(slot);
      }
    }
    if (tags !== 0) this.#fises.deviceBits(tags >>> 0, Status.ready, 0);
    this.#settled();
  }

  /** Whether the request's command is still one that is to be answered. */
  #owns(slot: number): boolean {
    const { s } = this;
    if (this.#dropping || s.resetting || s.stopping || s.halt === Halt.fatal) return false;
    return s.active === slot + 1 || (s.queued & bit(slot)) !== 0;
  }

  #ended(slot: number): void {
    if (!this.#begun[slot]) return;
    this.#begun[slot] = 0;
    this.#inFlight--;
  }

  /** Bit of the tag when it went well. */
  #finishQueued(r: SlotRequest, slot: number): number {
    const { s, ctx } = this;
    s.queued = (s.queued & ~bit(slot)) >>> 0;
    if (r.result === BlockResult.ok) {
      if (r.table.wantsInterrupt(ctx.memory.view, r.total)) s.is |= PortIs.dps;
      return bit(slot);
    }
    const c = this.#c;
    // Another one failed before: this one is among those that are lost with it.
    if (s.failing || !c.read(ctx.memory, s.clb, s.clbu, slot)) return 0;
    this.drive!.finish(c, r);
    this.#failQueued(slot, c.error);
    return 0;
  }

  /** After requests ended: what waited for it, and the next commands. */
  #settled(): void {
    this.#finishFailure();
    this.#finishStop();
    this.#finishReset();
    this.run();
  }

  // ---- life ----

  /** Whether a predecessor may have left something. */
  get needsRecovery(): boolean {
    return !this.#recovered || (this.drive?.isNew ?? false);
  }

  /** Runs again what a predecessor had under way. In a handler. */
  recover(): void {
    const { s, drive } = this;
    this.#recovered = true;
    drive?.attach();
    if (drive && !s.stopping && !s.resetting && !s.failing && s.halt === Halt.no) {
      const left = bits(s.queued) + (s.active ? 1 : 0);
      if (left > 0) this.ctx.log('info', `port ${this.index}: ${left} commands in flight are run again`);
      if (s.active) this.#again(s.active - 1, false);
      for (let tags = s.queued; tags !== 0; ) {
        const slot = 31 - Math.clz32(tags);
        tags = (tags & ~bit(slot)) >>> 0;
        this.#again(slot, true);
      }
    }
    this.#settled();
  }

  #again(slot: number, queued: boolean): void {
    const { s, ctx, drive } = this;
    const c = this.#c;
    if (s.halt !== Halt.no || s.failing) return;
    if (!c.read(ctx.memory, s.clb, s.clbu, slot)) {
      this.#fatal(PortIs.hbfs, 'command list or table is not in memory');
      return;
    }
    // A driver that wrote over a command that is not finished: whatever it is now, it is not queued.
    if (queued && (c.command & 0xfe) !== 0x60) failed(c, AtaError.abrt);
    const verdict = c.status === 0 ? drive!.take(c, this.#requests[slot]!) : Verdict.done;
    s.active = 0;
    this.#begin(slot, verdict, queued);
  }

  /** Machine reset: the state has its reset values, nothing is under way. In a handler. */
  powerOn(): void {
    this.#recovered = true;
    this.drive?.powerOn();
    this.link();
  }

  /** GHC.HR: registers as after power-on, but for PxCLB and PxFB (10.4.3), and a COMRESET. In a handler. */
  resetRegisters(): void {
    const { s } = this;
    for (const name of ['is', 'ie', 'sctl', 'serr', 'sact', 'ci', 'ssts'] as const) s[name] = 0;
    s.cmd = PortCmd.sud | PortCmd.pod;
    s.stopping = 0;
    s.halt = Halt.no;
    this.link();
  }

  /** Waits for what is under way, and drops it; false when that took too long. */
  drain(timeoutMs: number): boolean {
    if (this.#inFlight === 0) return true;
    this.#dropping = true;
    this.#dropReady();
    const done = this.drive!.disk!.drain(timeoutMs);
    this.#dropping = false;
    return done;
  }

  /** As `drain`, for requests that somebody waits for: what came back is dropped. In a handler. */
  giveUp(timeoutMs: number): void {
    this.drain(timeoutMs);
    this.#settled();
  }
}
