/**
 * A hostile guest: registers, command headers, FISes, PRD tables and packets of any content, while the disk answers when it
 * likes and the process is replaced. Nothing may throw, hang, or leave the state illegal; and whatever was done, a driver
 * that resets the controller finds it working. NYX_FUZZ_SECONDS makes it longer; a failure names its seed.
 */
import { firstIllegal, Memory } from '@nyx/layout';
import { describe, expect, it } from 'vitest';
import { Bench } from './bench.ts';
import { AhciState, Ghc, hbaRegisters, Layout, slots } from './regs.ts';

const seconds = Number(process.env.NYX_FUZZ_SECONDS ?? 3);

class Random {
  constructor(private x: number) {}
  /** Below n. */
  of(n: number): number {
    this.x = (Math.imul(this.x, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.x / 4294967296) * n);
  }
  pick<T>(list: readonly T[]): T {
    return list[this.of(list.length)]!;
  }
  word(): number {
    const kind = this.of(5);
    if (kind === 0) return this.pick([0, 1, 0xffff_ffff, 0x8000_0000, 0x7fff_ffff, 0xff]);
    if (kind === 1) return (1 << this.of(32)) >>> 0;
    if (kind === 2) return this.of(0x10_0000);
    return (this.of(65536) * 65536 + this.of(65536)) >>> 0;
  }
}

/** Commands that do something, ATA and packet. */
const commands = [
  0x00, 0x06, 0x08, 0x20, 0x24, 0x25, 0x29, 0x2f, 0x30, 0x35, 0x3d, 0x40, 0x47, 0x60, 0x61, 0x90, 0x91, 0xa0,
  0xa1, 0xb0, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xe0, 0xe5, 0xe6, 0xe7, 0xea, 0xec, 0xef,
];
const packets = [
  0x00, 0x03, 0x12, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x2f, 0x43, 0x46, 0x4a, 0x51, 0x52, 0x5a, 0xa8, 0xad, 0xbb,
  0xbd, 0xbe,
];

function hostile(seed: number): void {
  const r = new Random(seed);
  const b = new Bench({ msi: r.of(2) === 0, sectors: 256, fate: () => r.of(3) / 2 });
  b.start();
  const { view } = b;
  const registers = hbaRegisters.registers;

  const command = (): void => {
    const [p, slot] = [r.of(2), r.of(slots)];
    const table = b.table(p, slot);
    b.prepare(p, slot, {
      command: r.of(4) === 0 ? r.of(256) : r.pick(commands),
      lba: r.of(3) === 0 ? r.word() * r.of(70000) : r.of(300),
      count: r.of(3) === 0 ? r.of(65536) : r.of(2) === 0 ? slot << 3 : r.of(9),
      features: r.of(3) === 0 ? r.of(65536) : r.of(9),
      device: r.of(4) === 0 ? r.of(256) : 0x40,
      prds: Array.from({ length: r.of(6) }, () => [
        r.of(5) === 0 ? r.word() : b.data(r.of(32)) + r.of(4) * 2,
        1 + r.of(r.of(8) === 0 ? 1 << 22 : 9000),
      ]),
      ...(r.of(2) === 0
        ? { packet: [r.pick(packets), ...Array.from({ length: 11 }, () => (r.of(2) ? r.of(256) : r.of(3)))] }
        : {}),
      ...(r.of(12) === 0 ? { control: r.of(8) } : {}),
      flags: r.of(8) === 0 ? r.of(65536) & ~0x1f : 0,
    });
    // Bits that turn over, in the header, the FIS, the packet and the table.
    for (let n = r.of(4) === 0 ? 1 + r.of(6) : 0; n > 0; n--)
      view.setUint32(
        r.of(2) === 0 ? b.header(p, slot) + 4 * r.of(4) : table + 4 * r.of((Layout.prdt + 64) / 4),
        r.word(),
        true,
      );
    if (r.of(2) === 0) b.setPort(p, 'sact', 2 ** slot);
    b.issue(p, r.of(6) === 0 ? r.word() : 2 ** slot);
  };

  for (let n = 0; n < 60; n++) {
    const what = r.of(20);
    if (what < 10) command();
    else if (what < 12) {
      const reg = r.pick(registers);
      b.rig.write(0, reg.at + (r.of(8) === 0 ? r.of(4) : 0), r.pick([1, 2, 4, 4, 4]), r.word());
    } else if (what < 13) b.rig.write(0, r.of(0x1000), r.pick([1, 2, 4, 8]), r.word());
    else if (what < 14) b.rig.write(1, r.of(32), r.pick([1, 2, 4]), r.word());
    else if (what < 15) b.rig.read(r.of(2), r.of(32) * 4, r.pick([1, 2, 4, 8]));
    else if (what < 16) b.restart(r.of(2));
    else if (what < 17) b.rig.attach();
    else if (what < 18 && b.rig.timerNs !== Number.POSITIVE_INFINITY) b.rig.fire();
    else if (b.pending > 0)
      b.rig.host(() => b.disks.forEach((d) => void d.complete(1 + r.of(4), (k) => r.of(k))));
    const illegal = firstIllegal(AhciState, new Memory(b.rig.state.$root.mem.buffer), 0);
    if (illegal) throw new Error(illegal);
  }

  // A driver that starts over.
  b.finish();
  b.write('ghc', Ghc.ae | Ghc.hr);
  b.finish();
  b.start();
  for (const p of [0, 1]) {
    const id = b.run(p, { command: p ? 0xa1 : 0xec, count: 1, prds: [[b.data(2), 512]] });
    expect([p, id.tfd & 0x89, id.moved, id.ci]).toEqual([p, 0, 512, 0]);
  }
  for (let i = 0; i < 3; i++) b.packet([0, 0, 0, 0]);
  b.fill(b.data(3), 4096, 0x5a);
  const w = b.run(0, { command: 0x35, lba: 8, count: 8, write: true, prds: [[b.data(3), 4096]] });
  expect([w.tfd & 0x89, w.moved, b.content[8 * 512]]).toEqual([0, 4096, 0x5a]);
}

describe('a hostile guest', () => {
  it(`neither stops nor breaks the controller, ${seconds} s`, { timeout: (seconds + 60) * 1000 }, () => {
    const first = Number(process.env.NYX_SEED);
    const end = Date.now() + seconds * 1000;
    let seed = first;
    for (; Date.now() < end || seed < first + 50; seed++) {
      try {
        hostile(seed);
      } catch (e) {
        throw new Error(`NYX_SEED=${seed}: ${(e as Error).message}`, { cause: e });
      }
    }
    console.info(`${seed - first} guests, seeds from ${first}`);
  });
});
