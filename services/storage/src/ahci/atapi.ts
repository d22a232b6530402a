/**
 * A CD or DVD drive with an image as its medium: PACKET (ATA8-ACS 7.22) and the commands of MMC-5 and SPC-3 that drivers and
 * firmware use. What it remembers (tray, lock, sense data, attentions) is in the port's state.
 */
import { type BlockDriver, BlockOp, BlockResult } from '../block/block.ts';
import { Ata } from './ata.ts';
import { type Command, Protocol, type SlotRequest, Verdict } from './command.ts';
import { answered, type Drive, type DriveContext, diagnostic, failed, good, sign } from './drive.ts';
import { identifyCd } from './identify.ts';
import {
  capacity,
  configuration,
  discInformation,
  discStructure,
  eventOf,
  eventStatus,
  inquiry,
  type Medium,
  mechanism,
  modeSense,
  Profile,
  profileOf,
  sectorBytes,
  senseData,
  toc,
  trackInformation,
  vitalData,
} from './mmc.ts';
import { AtaError, PortIs, type PortView, Signature } from './regs.ts';
import { Attention, MediaEvent, Sense } from './sense.ts';

const AtaPacket = { deviceReset: 0x08, packet: 0xa0, identify: 0xa1 } as const;

const Op = {
  testUnitReady: 0x00,
  requestSense: 0x03,
  inquiry: 0x12,
  startStop: 0x1b,
  preventAllow: 0x1e,
  readCapacity: 0x25,
  read10: 0x28,
  seek: 0x2b,
  verify: 0x2f,
  readToc: 0x43,
  getConfiguration: 0x46,
  getEventStatus: 0x4a,
  readDiscInformation: 0x51,
  readTrackInformation: 0x52,
  modeSense: 0x5a,
  read12: 0xa8,
  readDiscStructure: 0xad,
  setSpeed: 0xbb,
  mechanismStatus: 0xbd,
  readCd: 0xbe,
} as const;

/** Answered although an attention waits (MMC-5 4.1.6.1, SPC-3 5.9.7). */
const calm: readonly number[] = [Op.inquiry, Op.requestSense, Op.getConfiguration, Op.getEventStatus];
/** Need a medium that can be read. */
const needsMedium: readonly number[] = [
  Op.testUnitReady,
  Op.readCapacity,
  Op.read10,
  Op.seek,
  Op.verify,
  Op.readToc,
  Op.readDiscInformation,
  Op.readTrackInformation,
  Op.read12,
  Op.readDiscStructure,
  Op.readCd,
];

/** What the machine says of the medium. */
export interface MediumConfig {
  /** Grows with every change of the medium. */
  generation?: number;
  /** Grows with every request to eject that the guest is to hear of. */
  ejects?: number;
}

export class CdDrive implements Drive {
  readonly signature = Signature.packet;

  constructor(
    private readonly s: PortView,
    private readonly ctx: DriveContext,
    readonly disk: BlockDriver | undefined,
    private readonly serial: string,
    private readonly config: MediumConfig,
  ) {}

  get #sectors(): number {
    return this.s.trayOpen || !this.disk ? 0 : Math.floor(this.disk.size / sectorBytes);
  }
  get #medium(): Medium {
    const { s } = this;
    return { sectors: this.#sectors, trayOpen: s.trayOpen !== 0, locked: s.locked !== 0 };
  }

  // ---- life ----

  powerOn(): void {
    const { s, config } = this;
    s.medium = config.generation ?? 0;
    s.ejects = config.ejects ?? 0;
  }

  reset(hard: boolean): void {
    const { s } = this;
    s.power = 255;
    s.senseKey = 0;
    s.asc = 0;
    s.ascq = 0;
    if (!hard) return;
    s.attention |= Attention.reset;
    s.locked = 0;
  }

  get isNew(): boolean {
    const { generation = 0, ejects = 0 } = this.config;
    return this.s.medium !== generation || this.s.ejects !== ejects;
  }

  /** The medium was changed, or somebody wants it out. */
  attach(): void {
    const { s, config } = this;
    const { generation = 0, ejects = 0 } = config;
    if (s.ejects !== ejects) {
      s.ejects = ejects;
      s.mediaEvent = MediaEvent.ejectRequest;
    }
    if (s.medium === generation) return;
    s.medium = generation;
    const present = this.disk !== undefined;
    s.trayOpen = present ? 0 : 1;
    s.locked = 0;
    s.mediaEvent = eventOf(present);
    if (present) s.attention |= Attention.medium;
    else s.attention &= ~Attention.medium;
  }

  // ---- ATA ----

  take(c: Command, r: SlotRequest): number {
    const { s } = this;
    switch (c.command) {
      case AtaPacket.packet:
        return this.#packet(c, r);
      case AtaPacket.identify:
        return answered(c, this.ctx.memory, identifyCd(this.serial, s), Protocol.pioIn);
      case AtaPacket.deviceReset:
        this.reset(false);
        sign(c, this.signature);
        good(c);
        c.status = 0;
        c.error = 1;
        return Verdict.done;
      case Ata.identify:
      case Ata.readSectors:
        // 4.10: by this answer it is known what it is.
        sign(c, this.signature);
        return this.#abort(c);
      case Ata.diagnostic:
        return diagnostic(c, this.signature);
      case Ata.setFeatures:
        if ((c.features & 0xff) !== 0x03) return this.#abort(c);
        s.transfer = c.count & 0xff;
        return good(c);
      case Ata.standbyImmediate:
      case Ata.idleImmediate:
      case Ata.sleep:
        return good(c);
      case Ata.checkPower:
        c.count = 0xff;
        return good(c);
      default:
        return this.#abort(c);
    }
  }

  /** A command that it does not have; drivers ask for sense data after that, too. */
  #abort(c: Command): number {
    const { s } = this;
    s.senseKey = Sense.opcode >>> 16;
    s.asc = (Sense.opcode >>> 8) & 0xff;
    s.ascq = 0;
    return failed(c, AtaError.abrt);
  }

  // ---- packets ----

  /** Check condition (MMC-5 4.1.1): the sense key is in the error register, the rest is to be asked for. */
  #check(c: Command, sense: number): number {
    const { s } = this;
    s.senseKey = sense >>> 16;
    s.asc = (sense >>> 8) & 0xff;
    s.ascq = sense & 0xff;
    failed(c, ((sense >>> 16) << 4) | AtaError.abrt);
    c.count = 3;
    return Verdict.done;
  }

  #done(c: Command): number {
    c.count = 3;
    return good(c);
  }

  #data(c: Command, data: Uint8Array | undefined, room: number): number {
    if (data === undefined) return this.#check(c, Sense.field);
    c.count = 3;
    return answered(c, this.ctx.memory, data, Protocol.dma, Math.min(data.length, room));
  }

  /** The next attention, which is told by that; 0: none waits. */
  #nextAttention(): number {
    const { s } = this;
    const bit = s.attention & -s.attention;
    s.attention &= ~bit;
    return bit === Attention.reset ? Sense.reset : bit ? Sense.mediumChanged : Sense.none;
  }

  #packet(c: Command, r: SlotRequest): number {
    const { s } = this;
    const { view } = this.ctx.memory;
    // A packet command without a packet.
    if (!c.isPacket) return failed(c, AtaError.abrt);
    const b = (i: number): number => c.packet(view, i);
    const be16 = (i: number): number => (b(i) << 8) | b(i + 1);
    const be32 = (i: number): number => be16(i) * 65536 + be16(i + 2);
    const op = b(0);
    if (op === Op.requestSense) {
      let sense = (s.senseKey << 16) | (s.asc << 8) | s.ascq;
      if (sense === 0) sense = this.#nextAttention();
      s.senseKey = 0;
      s.asc = 0;
      s.ascq = 0;
      return this.#data(c, senseData(sense), b(4));
    }
    s.senseKey = 0;
    s.asc = 0;
    s.ascq = 0;
    if (s.attention && !calm.includes(op)) return this.#check(c, this.#nextAttention());
    if (needsMedium.includes(op) && this.#sectors === 0)
      return this.#check(c, s.trayOpen ? Sense.noMediumTrayOpen : Sense.noMediumTrayClosed);
    const medium = this.#medium;
    switch (op) {
      case Op.testUnitReady:
      case Op.setSpeed:
        return this.#done(c);
      case Op.inquiry:
        if (b(1) & 1) return this.#data(c, vitalData(b(2), this.serial), be16(3));
        return b(2) !== 0 ? this.#check(c, Sense.field) : this.#data(c, inquiry(), be16(3));
      case Op.startStop:
        return this.#startStop(c, b(4));
      case Op.preventAllow:
        s.locked = b(4) & 1;
        return this.#done(c);
      case Op.readCapacity:
        return this.#data(c, capacity(medium), 8);
      case Op.read10:
        return this.#read(c, r, be32(2), be16(7));
      case Op.read12:
        return this.#read(c, r, be32(2), be32(6));
      case Op.readCd:
        return this.#readCd(c, r, be32(2), (b(6) << 16) | be16(7), b(9), b(10));
      case Op.seek:
      case Op.verify:
        return be32(2) < medium.sectors ? this.#done(c) : this.#check(c, Sense.lbaRange);
      case Op.readToc:
        // Drives before MMC had the format in the control byte.
        return this.#data(c, toc(medium, b(2) & 15 || b(9) >>> 6, (b(1) & 2) !== 0, b(6)), be16(7));
      case Op.getConfiguration:
        return this.#data(c, configuration(medium, b(1) & 3, be16(2)), be16(7));
      case Op.getEventStatus:
        return this.#events(c, medium, b(1), b(4), be16(7));
      case Op.readDiscInformation:
        return this.#data(c, (b(1) & 7) === 0 ? discInformation() : undefined, be16(7));
      case Op.readTrackInformation:
        return this.#data(c, trackInformation(medium, (b(1) & 3) === 1, be32(2)), be16(7));
      case Op.modeSense:
        if (b(2) >>> 6 === 3) return this.#check(c, Sense.savingUnsupported);
        return this.#data(c, modeSense(medium, b(2) & 0x3f, b(2) >>> 6), be16(7));
      case Op.readDiscStructure:
        if (profileOf(medium) !== Profile.dvd) return this.#check(c, Sense.incompatibleMedium);
        return this.#data(c, discStructure(medium, b(7)), be16(8));
      case Op.mechanismStatus:
        return this.#data(c, mechanism(medium), be16(8));
      default:
        return this.#check(c, Sense.opcode);
    }
  }

  /** MMC-5 6.49: LoEj and Start move the tray. */
  #startStop(c: Command, how: number): number {
    const { s } = this;
    if (!(how & 2) || how >>> 4 !== 0) return this.#done(c);
    if (!(how & 1)) {
      if (s.locked) return this.#check(c, Sense.removalPrevented);
      if (!s.trayOpen && this.disk) s.mediaEvent = MediaEvent.removal;
      s.trayOpen = 1;
    } else if (s.trayOpen) {
      s.trayOpen = 0;
      if (this.disk) {
        s.mediaEvent = MediaEvent.newMedia;
        s.attention |= Attention.medium;
      }
    }
    return this.#done(c);
  }

  /** An event is told once. Only polling is offered. */
  #events(c: Command, m: Medium, mode: number, classes: number, room: number): number {
    const { s } = this;
    if (!(mode & 1)) return this.#check(c, Sense.field);
    const verdict = this.#data(c, eventStatus(m, classes, s.mediaEvent), room);
    if (classes & 0x10 && room >= 6) s.mediaEvent = MediaEvent.none;
    return verdict;
  }

  #read(c: Command, r: SlotRequest, first: number, count: number): number {
    const { memory } = this.ctx;
    if (first + count > this.#sectors) return this.#check(c, Sense.lbaRange);
    if (count === 0) return this.#done(c);
    const bytes = count * sectorBytes;
    if (!c.table.holds(memory.view, bytes)) {
      c.interrupts |= PortIs.ofs;
      return this.#check(c, Sense.field);
    }
    c.lend(r);
    return r.transfer(memory, BlockOp.read, first * sectorBytes, bytes, false)
      ? Verdict.submit
      : Verdict.fatal;
  }

  /** MMC-5 6.19: user data of data sectors; an image has nothing else. */
  #readCd(c: Command, r: SlotRequest, first: number, count: number, fields: number, channel: number): number {
    if (first + count > this.#sectors) return this.#check(c, Sense.lbaRange);
    if (channel & 7) return this.#check(c, Sense.field);
    if ((fields & 0xf8) === 0) return this.#done(c);
    return (fields & 0xfe) === 0x10 ? this.#read(c, r, first, count) : this.#check(c, Sense.field);
  }

  finish(c: Command, r: SlotRequest): void {
    if (r.result === BlockResult.ok) {
      c.moved = r.total;
      this.#done(c);
    } else this.#check(c, Sense.readError);
  }
}
