/**
 * An ATA disk: the commands of ATA8-ACS (T13/1699-D) chapter 7 that drivers and firmware use. Pure but for the data that it
 * moves; what it remembers is in the port's state.
 */
import { type BlockDriver, BlockOp } from '../block/block.ts';
import { type Command, Protocol, type SlotRequest, Verdict } from './command.ts';
import { answered, type Drive, type DriveContext, diagnostic, errorOf, failed, good } from './drive.ts';
import { geometry, identifyDisk, mostMultiple, trimBlocks } from './identify.ts';
import { errorLog, smart } from './logs.ts';
import { AtaError, PortIs, type PortView, Signature } from './regs.ts';

/** Command codes. */
export const Ata = {
  nop: 0x00,
  dataSetManagement: 0x06,
  recalibrate: 0x10,
  readSectors: 0x20,
  readSectorsExt: 0x24,
  readDmaExt: 0x25,
  readMultipleExt: 0x29,
  readLogExt: 0x2f,
  writeSectors: 0x30,
  writeSectorsExt: 0x34,
  writeDmaExt: 0x35,
  writeMultipleExt: 0x39,
  writeDmaFuaExt: 0x3d,
  readVerify: 0x40,
  readVerifyExt: 0x42,
  readLogDmaExt: 0x47,
  readQueued: 0x60,
  writeQueued: 0x61,
  seek: 0x70,
  diagnostic: 0x90,
  initializeParameters: 0x91,
  smart: 0xb0,
  readMultiple: 0xc4,
  writeMultiple: 0xc5,
  setMultiple: 0xc6,
  readDma: 0xc8,
  writeDma: 0xca,
  writeMultipleFuaExt: 0xce,
  standbyImmediate: 0xe0,
  idleImmediate: 0xe1,
  standby: 0xe2,
  idle: 0xe3,
  checkPower: 0xe5,
  sleep: 0xe6,
  flush: 0xe7,
  flushExt: 0xea,
  identify: 0xec,
  setFeatures: 0xef,
} as const;

/** How a read or write says where and how much, and how its data moves. */
interface Access {
  write: boolean;
  ext: boolean;
  protocol: number;
  fua?: boolean;
  multiple?: boolean;
  verify?: boolean;
}
const { pioIn, pioOut, dma, none } = Protocol;
const accesses: Readonly<Record<number, Access>> = {
  [Ata.readSectors]: { write: false, ext: false, protocol: pioIn },
  [Ata.readSectorsExt]: { write: false, ext: true, protocol: pioIn },
  [Ata.readDma]: { write: false, ext: false, protocol: dma },
  [Ata.readDmaExt]: { write: false, ext: true, protocol: dma },
  [Ata.readMultiple]: { write: false, ext: false, protocol: pioIn, multiple: true },
  [Ata.readMultipleExt]: { write: false, ext: true, protocol: pioIn, multiple: true },
  [Ata.readVerify]: { write: false, ext: false, protocol: none, verify: true },
  [Ata.readVerifyExt]: { write: false, ext: true, protocol: none, verify: true },
  [Ata.writeSectors]: { write: true, ext: false, protocol: pioOut },
  [Ata.writeSectorsExt]: { write: true, ext: true, protocol: pioOut },
  [Ata.writeDma]: { write: true, ext: false, protocol: dma },
  [Ata.writeDmaExt]: { write: true, ext: true, protocol: dma },
  [Ata.writeDmaFuaExt]: { write: true, ext: true, protocol: dma, fua: true },
  [Ata.writeMultiple]: { write: true, ext: false, protocol: pioOut, multiple: true },
  [Ata.writeMultipleExt]: { write: true, ext: true, protocol: pioOut, multiple: true },
  [Ata.writeMultipleFuaExt]: { write: true, ext: true, protocol: pioOut, multiple: true, fua: true },
};

const LBA_BIT = 0x40;
const lba48 = (c: Command): number => c.lbaHi * 0x100_0000 + c.lbaLo;

export class AtaDisk implements Drive {
  readonly signature = Signature.disk;
  readonly isNew = false;

  constructor(
    private readonly s: PortView,
    private readonly ctx: DriveContext,
    readonly disk: BlockDriver,
    private readonly serial: string,
  ) {}

  get #sectors(): number {
    return Math.floor(this.disk.size / 512);
  }

  powerOn(): void {}
  attach(): void {}

  /** Settings go back to their defaults at power-on only; a reset ends what was under way (ATA8-ACS 4.18). */
  reset(): void {
    this.s.power = 255;
    this.s.multiple = 0;
  }

  take(c: Command, r: SlotRequest): number {
    const { s } = this;
    // After a failed queued command everything is refused until its log is read (ATA8-ACS 4.16.3).
    if (s.logged && c.command !== Ata.readLogExt && c.command !== Ata.readLogDmaExt)
      return failed(c, AtaError.abrt);
    const access = accesses[c.command];
    if (access !== undefined) return this.#access(c, r, access);
    switch (c.command) {
      case Ata.readQueued:
      case Ata.writeQueued:
        return this.#queued(c, r);
      case Ata.flush:
      case Ata.flushExt:
        r.plain(BlockOp.flush, 0, 0);
        return Verdict.submit;
      case Ata.dataSetManagement:
        return this.#trim(c, r);
      case Ata.identify:
        return answered(c, this.ctx.memory, this.#identify(), Protocol.pioIn);
      case Ata.setFeatures:
        return this.#setFeatures(c, r);
      case Ata.setMultiple:
        return this.#setMultiple(c);
      case Ata.readLogExt:
      case Ata.readLogDmaExt:
        return this.#readLog(c);
      case Ata.smart:
        return smart(c, s, this.ctx.memory);
      case Ata.initializeParameters:
        return this.#parameters(c);
      case Ata.recalibrate:
      case Ata.seek:
        return good(c);
      case Ata.diagnostic:
        return diagnostic(c, this.signature);
      case Ata.standbyImmediate:
      case Ata.standby:
        s.power = 0;
        return good(c);
      case Ata.idleImmediate:
      case Ata.idle:
        s.power = 128;
        return good(c);
      case Ata.sleep:
        s.power = 1;
        return good(c);
      case Ata.checkPower:
        c.count = s.power === 1 ? 0 : s.power;
        return good(c);
      default:
        return failed(c, AtaError.abrt);
    }
  }

  #identify(): Uint8Array {
    const { disk, serial } = this;
    return identifyDisk(
      { sectors: this.#sectors, physicalBytes: disk.physicalBytes, canTrim: disk.canDiscard, serial },
      this.s,
    );
  }

  /** First sector, or -1 for an address in cylinders, heads and sectors that is none. */
  #first(c: Command, ext: boolean): number {
    if (ext) return lba48(c);
    if (c.device & LBA_BIT) return (c.device & 15) * 0x100_0000 + c.lbaLo;
    const g = geometry(this.#sectors);
    const [sector, head] = [c.lbaLo & 0xff, c.device & 15];
    if (sector === 0 || sector > g.sectors || head >= g.heads) return -1;
    return ((c.lbaLo >>> 8) * g.heads + head) * g.sectors + sector - 1;
  }

  #access(c: Command, r: SlotRequest, a: Access): number {
    const { s, disk } = this;
    const count = a.ext ? c.count || 65536 : c.count & 0xff || 256;
    if (a.multiple && s.multiple === 0) return failed(c, AtaError.abrt);
    const first = this.#first(c, a.ext);
    if (first < 0 || first + count > this.#sectors) return failed(c, AtaError.idnf);
    if (a.write && disk.readOnly) return failed(c, AtaError.abrt);
    c.protocol = a.protocol;
    s.power = 255;
    // Verified is what can be read: nothing moves, and a backend has no more to say.
    if (a.verify) return good(c);
    return this.#transfer(c, r, first, count, a.write, a.fua === true);
  }

  #transfer(c: Command, r: SlotRequest, first: number, count: number, write: boolean, fua: boolean): number {
    const { memory } = this.ctx;
    if (!c.table.holds(memory.view, count * 512)) {
      c.interrupts |= PortIs.ofs;
      return failed(c, AtaError.abrt);
    }
    c.lend(r);
    const op = write ? BlockOp.write : BlockOp.read;
    const stable = write && (fua || this.s.writeCache === 0);
    return r.transfer(memory, op, first * 512, count * 512, stable) ? Verdict.submit : Verdict.fatal;
  }

  /** READ and WRITE FPDMA QUEUED, 7.32 and 7.67: count and features have changed places. */
  #queued(c: Command, r: SlotRequest): number {
    const count = c.features || 65536;
    const first = lba48(c);
    const write = c.command === Ata.writeQueued;
    // The tag is the slot (AHCI 5.6.4.1); other tags could not be told apart.
    if (c.count >>> 3 !== c.slot) return failed(c, AtaError.abrt);
    if (first + count > this.#sectors) return failed(c, AtaError.idnf);
    if (write && this.disk.readOnly) return failed(c, AtaError.abrt);
    c.protocol = Protocol.queued;
    this.s.power = 255;
    return this.#transfer(c, r, first, count, write, (c.device & 0x80) !== 0);
  }

  /** DATA SET MANAGEMENT with TRIM, 7.10: blocks of 64 ranges, of 48 bits LBA and 16 bits count. */
  #trim(c: Command, r: SlotRequest): number {
    const { disk } = this;
    const { memory } = this.ctx;
    const blocks = c.count;
    if (!(c.features & 1) || !disk.canDiscard || blocks === 0 || blocks > trimBlocks)
      return failed(c, AtaError.abrt);
    if (!c.table.holds(memory.view, blocks * 512)) {
      c.interrupts |= PortIs.ofs;
      return failed(c, AtaError.abrt);
    }
    const data = new Uint8Array(blocks * 512);
    if (c.table.copy(memory, data, data.length, false) < 0) return Verdict.fatal;
    c.moved = data.length;
    const view = new DataView(data.buffer);
    r.ranges ??= new Float64Array(2 * 64 * trimBlocks);
    let n = 0;
    for (let at = 0; at < data.length; at += 8) {
      const count = view.getUint16(at + 6, true);
      if (count === 0) continue;
      const first = view.getUint16(at + 4, true) * 4294967296 + view.getUint32(at, true);
      if (first + count > this.#sectors) return failed(c, AtaError.idnf);
      r.ranges[2 * n] = first * 512;
      r.ranges[2 * n + 1] = count * 512;
      n++;
    }
    c.protocol = Protocol.dma;
    if (n === 0) return good(c, Protocol.dma);
    c.lend(r);
    r.trim(BlockOp.discard, n);
    return Verdict.submit;
  }

  /** 7.48 */
  #setFeatures(c: Command, r: SlotRequest): number {
    const { s } = this;
    switch (c.features & 0xff) {
      case 0x02:
        s.writeCache = 1;
        return good(c);
      case 0x82:
        // 7.48.4: what is in the cache goes to the medium.
        s.writeCache = 0;
        r.plain(BlockOp.flush, 0, 0);
        return Verdict.submit;
      case 0x55:
        s.lookAhead = 0;
        return good(c);
      case 0xaa:
        s.lookAhead = 1;
        return good(c);
      case 0x66:
      case 0xcc:
        // Settings after a reset: there is none that a reset would change.
        return good(c);
      case 0x03: {
        const mode = c.count & 0xff;
        const [kind, n] = [mode & 0xf8, mode & 7];
        const fits =
          mode <= 1 || (kind === 0x08 && n <= 4) || (kind === 0x20 && n <= 2) || (kind === 0x40 && n <= 6);
        if (!fits) return failed(c, AtaError.abrt);
        s.transfer = mode;
        return good(c);
      }
      default:
        return failed(c, AtaError.abrt);
    }
  }

  /** 7.49 */
  #setMultiple(c: Command): number {
    const n = c.count & 0xff;
    if (n > mostMultiple || (n & (n - 1)) !== 0) return failed(c, AtaError.abrt);
    this.s.multiple = n;
    return good(c);
  }

  /** Only the geometry that it has: others would be addresses of another disk. */
  #parameters(c: Command): number {
    const g = geometry(this.#sectors);
    return (c.count & 0xff) === g.sectors && (c.device & 15) === g.heads - 1
      ? good(c)
      : failed(c, AtaError.abrt);
  }

  /** READ LOG (DMA) EXT, 7.28. */
  #readLog(c: Command): number {
    const { memory } = this.ctx;
    const page = ((c.lbaLo >>> 8) & 0xff) | ((c.lbaHi >>> 0) & 0xff00);
    const log = errorLog(this.s, c.lbaLo & 0xff, page, c.count);
    if (log === undefined) return failed(c, AtaError.abrt);
    if ((c.lbaLo & 0xff) === 0x10) this.s.logged = 0;
    return answered(c, memory, log, c.command === Ata.readLogExt ? Protocol.pioIn : Protocol.dma);
  }

  finish(c: Command, r: SlotRequest): void {
    const error = errorOf(r.result, r.op === BlockOp.read);
    if (error === 0) {
      c.moved = r.total;
      good(c, r.protocol);
      return;
    }
    failed(c, error);
    // The first sector that may not have been done: 6.4, where LBA is valid after an error.
    const lba = Math.floor(r.position / 512);
    c.lbaLo = lba % 0x100_0000;
    c.lbaHi = Math.floor(lba / 0x100_0000);
  }
}
