/** FISes from a device to the host: into the received FIS area, the task file and PxIS (AHCI 1.3.1 sections 4.2.1 and 5.3.7). */
import type { GuestMemory } from '@nyx/device';
import type { Command } from './command.ts';
import { Fis, Halt, PortCmd, PortIs, type PortView, Received, Status } from './regs.ts';

export class Fises {
  /** @param c what the FISes carry */
  constructor(
    private readonly s: PortView,
    private readonly memory: GuestMemory,
    private readonly c: Command,
  ) {}

  /** Place of the received FIS area in the RAM mapping; -1: nothing is to be posted. */
  #received(at: number, bytes: number): number {
    const { s } = this;
    if (!(s.cmd & PortCmd.fr)) return -1;
    const place = this.memory.offset(s.fbu * 4294967296 + s.fb, Received.bytes);
    if (place < 0) {
      s.is |= PortIs.hbfs;
      s.halt = Halt.fatal;
      return -1;
    }
    this.memory.dirty(place + at, bytes);
    return place + at;
  }

  /** Device to host register FIS of what is in the command. */
  register(interrupt: boolean): void {
    const { s, c } = this;
    s.tfd = (c.error << 8) | c.status;
    if (interrupt) s.is |= PortIs.dhrs;
    const at = this.#received(Received.register, 20);
    if (at < 0) return;
    const { view } = this.memory;
    const type = Fis.deviceToHost | (interrupt ? 0x4000 : 0);
    view.setUint32(at, (type | (c.status << 16) | (c.error << 24)) >>> 0, true);
    this.#registers(view, at);
    view.setUint32(at + 16, 0, true);
  }

  #registers(view: DataView, at: number): void {
    const { c } = this;
    view.setUint32(at + 4, (c.lbaLo | (c.device << 24)) >>> 0, true);
    view.setUint32(at + 8, c.lbaHi, true);
    view.setUint32(at + 12, c.count, true);
  }

  /** The last block of data that came by PIO; PxTFD gets what the status is behind it. */
  pioSetup(): void {
    const { s, c } = this;
    s.tfd = (c.error << 8) | c.status;
    s.is |= PortIs.pss;
    const at = this.#received(Received.pioSetup, 20);
    if (at < 0) return;
    const { view } = this.memory;
    const before = c.status | Status.drq;
    view.setUint32(at, (Fis.pioSetup | 0x6000 | (before << 16) | (c.error << 24)) >>> 0, true);
    this.#registers(view, at);
    view.setUint32(at + 12, (c.count | (c.status << 24)) >>> 0, true);
    view.setUint32(at + 16, Math.min(c.moved, 512), true);
  }

  /** Set device bits: queued commands that are done. */
  deviceBits(done: number, status: number, error: number): void {
    const { s } = this;
    // 3.3.8: bits 7 and 3 of the status are not this FIS's.
    s.tfd = (error << 8) | (s.tfd & 0x88) | (status & 0x77);
    s.sact = (s.sact & ~done) >>> 0;
    s.is |= PortIs.sdbs;
    const at = this.#received(Received.deviceBits, 8);
    if (at < 0) return;
    const { view } = this.memory;
    view.setUint32(at, (Fis.deviceBits | 0x4000 | ((status & 0x77) << 16) | (error << 24)) >>> 0, true);
    view.setUint32(at + 4, done, true);
  }
}
