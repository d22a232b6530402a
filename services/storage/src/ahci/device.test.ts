import { beforeEach, describe, expect, it } from 'vitest';
import { BlockResult } from '../block/block.ts';
import { Ata } from './ata.ts';
import { Bench } from './bench.ts';
import { checkAhciConfig } from './device.ts';
import { Ghc, Irq, PortCmd, PortIs, Received } from './regs.ts';

const good = 0x50;
let b: Bench;
beforeEach(() => {
  b = new Bench();
  b.start();
});
const word = (bytes: Uint8Array, i: number): number => bytes[2 * i]! | (bytes[2 * i + 1]! << 8);

describe('PCI', () => {
  it('is the SATA controller of an ICH9, with MSI and SATA capabilities where that has them', () => {
    expect([b.rig.configRead(0, 4), b.rig.configRead(8, 4) >>> 8]).toEqual([0x29228086, 0x010601]);
    expect([b.rig.configRead(0x34, 1), b.rig.configRead(0x80, 2), b.rig.configRead(0xa8, 2)]).toEqual([
      0x80, 0xa805, 0x0012,
    ]);
  });
  it('8: the index-data pair reaches the same registers', () => {
    b.rig.write(1, 0x10, 4, 0x100 + 0x28);
    expect(b.rig.read(1, 0x14, 4)).toBe(0x123);
    b.rig.write(1, 0x10, 4, 4);
    b.rig.write(1, 0x14, 4, Ghc.ae);
    expect(b.read('ghc')).toBe(Ghc.ae);
  });
  it('refuses a configuration that it cannot be', () => {
    const wrong = (ports: unknown): void =>
      expect(() => checkAhciConfig('ahci', { ports } as never)).toThrow(
        expect.objectContaining({ code: 'CONFIG_INVALID' }),
      );
    wrong([null, null, null, null, null, null, null]);
    wrong([{ type: 'tape' }]);
    wrong([{ type: 'disk', serial: 'x'.repeat(21) }]);
    wrong([{ type: 'cd', generation: -1 }]);
  });
});

describe('10.4 resets', () => {
  it('10.4.2: COMRESET; the signature comes with the first FIS, and PCS and PRCS until PxSERR is cleared', () => {
    b.setPort(0, 'cmd', PortCmd.fre);
    b.setPort(0, 'sctl', 0x301);
    expect([b.port(0, 'ssts'), b.port(0, 'tfd'), b.port(0, 'sig')]).toEqual([0, 0x7f, 0xffff_ffff]);
    b.setPort(0, 'sctl', 0x300);
    expect([b.port(0, 'ssts'), b.port(0, 'tfd'), b.port(0, 'sig')]).toEqual([0x123, 0x150, 0x101]);
    expect(b.port(0, 'is') & (PortIs.pcs | PortIs.prcs)).toBe(PortIs.pcs | PortIs.prcs);
    b.setPort(0, 'is', 0xffff_ffff);
    expect(b.port(0, 'is') & PortIs.pcs).toBe(PortIs.pcs);
    b.setPort(0, 'serr', 0xffff_ffff);
    expect(b.port(0, 'is') & (PortIs.pcs | PortIs.prcs)).toBe(0);
    expect([...b.received(0, Received.register, 16)]).toEqual([
      0x34,
      0,
      good,
      1,
      1,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      1,
      0,
      0,
      0,
    ]);
    expect(b.port(1, 'sig')).toBe(0xeb140101);
    b.setPort(0, 'sctl', 4);
    expect(b.port(0, 'ssts')).toBe(4);
  });
  it('10.4.3: HR leaves PxCLB and PxFB, and takes interrupts and engines back', () => {
    const clb = b.port(0, 'clb');
    b.write('ghc', Ghc.ae | Ghc.hr);
    expect([b.read('ghc'), b.port(0, 'clb'), b.port(0, 'cmd'), b.port(0, 'ie')]).toEqual([Ghc.ae, clb, 6, 0]);
    expect(b.port(0, 'ssts')).toBe(0x123);
  });
  it('10.4.1: SRST by two FISes', () => {
    b.prepare(0, 0, { command: 0, control: 4, flags: 0x500 });
    b.prepare(0, 1, { command: 0, control: 0 });
    b.issue(0, 1);
    expect(b.port(0, 'ci')).toBe(0);
    b.issue(0, 2);
    expect([b.port(0, 'ci'), b.port(0, 'tfd'), b.port(0, 'sig')]).toEqual([0, 0x150, 0x101]);
  });
  it('a stop waits for what is under way, and nothing reaches memory behind it', () => {
    b.content.fill(7);
    b.prepare(0, 0, { command: Ata.readDmaExt, lba: 0, count: 1, prds: [[b.data(0), 512]] });
    b.issue(0, 1);
    expect(b.port(0, 'tfd') & 0x80).toBe(0x80);
    b.setPort(0, 'cmd', PortCmd.fre);
    expect(b.port(0, 'cmd') & PortCmd.cr).toBe(PortCmd.cr);
    b.finish();
    expect([b.port(0, 'cmd') & PortCmd.cr, b.port(0, 'ci'), b.port(0, 'tfd')]).toEqual([0, 0, good]);
  });
});

describe('10.7 interrupts', () => {
  it('MSI: one for a new bit of IS, another when a write leaves bits', () => {
    const count = (): number => b.rig.messages[Irq.msi]!.count;
    expect(b.rig.messages[Irq.msi]).toMatchObject({ addressLo: 0xfee0_0000, data: 0x4041 });
    const before = count();
    b.prepare(0, 0, { command: Ata.identify, prds: [[b.data(0), 512]] });
    b.issue(0, 1);
    expect([count() - before, b.read('is'), b.rig.lines[Irq.intx]! & 1]).toEqual([1, 1, 0]);
    // IS is a latch: while PxIS holds, clearing it brings it back, and the message again.
    b.write('is', 1);
    expect([count() - before, b.read('is')]).toEqual([2, 1]);
    b.setPort(0, 'is', 0xffff_ffff);
    b.write('is', 1);
    expect([count() - before, b.read('is')]).toEqual([2, 0]);
    for (const p of [0, 1]) {
      b.prepare(p, 0, { command: Ata.idle });
      b.issue(p, 1);
    }
    expect([count() - before, b.read('is')]).toEqual([4, 3]);
    b.setPort(0, 'is', 0xffff_ffff);
    b.write('is', 1);
    expect([count() - before, b.read('is')]).toEqual([5, 2]);
  });
  it('INTx: the wire follows IS and GHC.IE', () => {
    b = new Bench({ msi: false });
    b.start();
    const level = (): number => b.rig.lines[Irq.intx]! & 1;
    b.prepare(0, 0, { command: Ata.identify, prds: [[b.data(0), 512]] });
    b.issue(0, 1);
    expect([level(), b.rig.configRead(6, 2) & 8]).toEqual([1, 8]);
    b.write('ghc', Ghc.ae);
    expect(level()).toBe(0);
    b.write('ghc', Ghc.ae | Ghc.ie);
    b.setPort(0, 'is', 0xffff_ffff);
    expect(level()).toBe(1);
    b.write('is', 1);
    expect(level()).toBe(0);
  });
  it('3.3.5: DPS when a PRD with the interrupt bit was moved; PSS ends PIO in, DHRS the rest', () => {
    b.prepare(0, 0, { command: Ata.identify, prds: [[b.data(0), 512]] });
    b.view.setUint32(b.table(0, 0) + 0x8c, (0x8000_0000 | 511) >>> 0, true);
    b.issue(0, 1);
    expect(b.port(0, 'is')).toBe((PortIs.pss | PortIs.dps) >>> 0);
    b.setPort(0, 'is', 0xffff_ffff);
    expect(b.run(0, { command: Ata.flush }).is).toBe(PortIs.dhrs);
  });
});

describe('5 commands', () => {
  it('writes and reads by DMA and PIO, whatever the PRDs; PRDBC tells the bytes', () => {
    for (let i = 0; i < 4096; i++) b.view.setUint8(b.data(0) + i, i * 7);
    const w = b.run(0, {
      command: Ata.writeDmaExt,
      lba: 3,
      count: 8,
      write: true,
      prds: [
        [b.data(0), 2],
        [b.data(0) + 2, 1022],
        [b.data(0) + 1024, 3072],
      ],
    });
    expect(w).toMatchObject({ tfd: good, moved: 4096, ci: 0, is: PortIs.dhrs });
    expect(Buffer.compare(b.content.subarray(3 * 512, 3 * 512 + 4096), b.bytes(b.data(0), 4096))).toBe(0);
    for (const [command, is] of [
      [Ata.readDma, PortIs.dhrs],
      [Ata.readSectors, PortIs.pss],
    ] as const) {
      b.fill(b.data(2), 4096, 0);
      const r = b.run(0, {
        command,
        lba: 3,
        count: 8,
        prds: Array.from({ length: 8 }, (_, i) => [b.data(2) + 512 * i, 512] as const),
      });
      expect(r).toMatchObject({ tfd: good, moved: 4096, is });
      expect(Buffer.compare(b.bytes(b.data(2), 4096), b.bytes(b.data(0), 4096))).toBe(0);
    }
  });
  it('a transfer of more pieces than one request of the disk has', () => {
    b.content.forEach((_, i, c) => {
      c[i] = i * 13;
    });
    // Every second word of memory, so that no two entries lie side by side.
    const many = 1024;
    const table = 0xc0000;
    b.prepare(0, 0, { command: Ata.readDmaExt, lba: 1, count: 8 });
    b.view.setUint32(b.header(0, 0), (5 | (many << 16)) >>> 0, true);
    b.view.setUint32(b.header(0, 0) + 8, table, true);
    b.rig.memory.bytes(table, 64).set(b.bytes(b.table(0, 0), 64));
    for (let i = 0; i < many; i++) {
      b.view.setUint32(table + 0x80 + 16 * i, b.data(0) + 8 * i, true);
      b.view.setUint32(table + 0x80 + 16 * i + 12, 3, true);
    }
    b.issue(0, 1);
    b.finish();
    expect([b.port(0, 'tfd'), b.view.getUint32(b.header(0, 0) + 4, true)]).toEqual([good, 4096]);
    for (let i = 0; i < 4096; i++)
      if (b.view.getUint8(b.data(0) + 8 * (i >> 2) + (i & 3)) !== b.content[512 + i])
        throw new Error(`byte ${i}`);
  });
  it('5.6.4: queued commands overlap; Set Device Bits clears PxSACT', () => {
    for (const slot of [0, 5, 31]) {
      b.fill(b.data(slot), 4096, slot + 1);
      b.prepare(0, slot, {
        command: Ata.writeQueued,
        lba: slot * 8,
        features: 8,
        count: slot << 3,
        prds: [[b.data(slot), 4096]],
      });
    }
    const bits = (2 ** 31 + 33) >>> 0;
    b.setPort(0, 'sact', bits);
    b.issue(0, bits);
    expect([b.port(0, 'ci'), b.port(0, 'sact'), b.disks[0]!.pending]).toEqual([0, bits, 3]);
    b.rig.host(() => b.disks[0]!.complete(2));
    const left = b.port(0, 'sact');
    expect([b.port(0, 'is') & PortIs.sdbs, [1, 32, 2 ** 31].includes(left)]).toEqual([PortIs.sdbs, true]);
    expect(b.received(0, Received.deviceBits, 4)[0]).toBe(0xa1);
    b.finish();
    expect([b.port(0, 'sact'), b.content[5 * 4096], b.content[31 * 4096]]).toEqual([0, 6, 32]);
  });
  it('6.2.2: a queued command that fails is told when the others have ended, and the log says which', () => {
    let fail = true;
    b = new Bench({ before: (r) => (fail && r.position === 4096 ? BlockResult.io : BlockResult.ok) });
    b.start();
    for (const slot of [0, 1, 2])
      b.prepare(0, slot, {
        command: Ata.readQueued,
        lba: slot * 8,
        features: 8,
        count: slot << 3,
        prds: [[b.data(slot), 4096]],
      });
    b.setPort(0, 'sact', 7);
    b.issue(0, 7);
    b.rig.host(() => b.disks[0]!.complete(1, () => 1));
    expect(b.port(0, 'is') & PortIs.tfes).toBe(0);
    b.finish();
    expect([b.port(0, 'is') & PortIs.tfes, b.port(0, 'sact'), b.port(0, 'tfd')]).toEqual([
      PortIs.tfes,
      2,
      0x4051,
    ]);
    b.restart(0);
    fail = false;
    // Nothing but its log until that is read.
    expect(b.run(0, { command: Ata.readDmaExt, count: 8, prds: [[b.data(0), 4096]] }).tfd).toBe(0x0451);
    b.restart(0);
    expect(b.run(0, { command: Ata.readLogExt, lba: 0x10, count: 1, prds: [[b.data(4), 512]] }).tfd).toBe(
      good,
    );
    const log = b.bytes(b.data(4), 512);
    expect([log[0], log[2], log[3], log[4]]).toEqual([1, 0x51, 0x40, 8]);
    expect(log.reduce((x, y) => (x + y) & 0xff, 0)).toBe(0);
    expect(b.run(0, { command: Ata.readDmaExt, count: 8, prds: [[b.data(0), 4096]] }).tfd).toBe(good);
  });
  it('a table without room: OFS and an error; memory that is not there: HBFS, and a stop brings it back', () => {
    const short = b.run(0, { command: Ata.readDmaExt, count: 2, prds: [[b.data(0), 512]] });
    expect([short.is & PortIs.ofs, short.tfd]).toEqual([PortIs.ofs, 0x0451]);
    b.restart(0);
    const gone = b.run(0, { command: Ata.readDmaExt, count: 1, prds: [[0x7000_0000, 512]] });
    expect([gone.is & PortIs.hbfs, gone.ci]).toEqual([PortIs.hbfs, 1]);
    b.restart(0);
    expect(b.run(0, { command: Ata.flush }).tfd).toBe(good);
    b.prepare(0, 0, { command: Ata.flush });
    b.view.setUint8(b.table(0, 0), 0x46);
    b.issue(0, 1);
    expect(b.port(0, 'is') & PortIs.ifs).toBe(PortIs.ifs);
  });
  it('without bus mastering nothing is fetched until it is there', () => {
    b.rig.configWrite(4, 2, 2);
    b.prepare(0, 0, { command: Ata.flush });
    b.issue(0, 1);
    b.finish();
    expect(b.port(0, 'ci')).toBe(1);
    b.rig.configWrite(4, 2, 6);
    b.finish();
    expect(b.port(0, 'ci')).toBe(0);
  });
});

describe('ATA8-ACS 7', () => {
  const identify = (): Uint8Array => {
    expect(b.run(0, { command: Ata.identify, prds: [[b.data(0), 512]] })).toMatchObject({
      tfd: good,
      moved: 512,
    });
    return b.bytes(b.data(0), 512);
  };
  it('IDENTIFY tells size, serial number, NCQ and trim', () => {
    const id = identify();
    expect([word(id, 60), word(id, 100), word(id, 75), word(id, 76) & 0x100, word(id, 169)]).toEqual([
      256, 256, 31, 0x100, 1,
    ]);
    expect(Buffer.from(id.subarray(20, 40)).swap16().toString().trim()).toBe('disk0');
    expect(id.reduce((x, y) => (x + y) & 0xff, 0)).toBe(0);
  });
  it('SET FEATURES: transfer mode, look-ahead, write cache; without the cache writes are stable', () => {
    expect(b.run(0, { command: Ata.setFeatures, features: 3, count: 0x42 }).tfd).toBe(good);
    expect(word(identify(), 88)).toBe(0x047f);
    expect(b.run(0, { command: Ata.setFeatures, features: 0x55 }).tfd).toBe(good);
    expect(b.run(0, { command: Ata.setFeatures, features: 0x82 }).tfd).toBe(good);
    expect(word(identify(), 85) & 0x60).toBe(0);
    expect(b.run(0, { command: Ata.setFeatures, features: 3, count: 0x47 }).tfd).toBe(0x0451);
    b.restart(0);
    const stable: boolean[] = [];
    const { execute } = b.disks[0]!;
    b.disks[0]!.execute = function (r) {
      stable.push(r.fua);
      execute.call(this, r);
    };
    const write = { command: Ata.writeDmaExt, count: 1, write: true, prds: [[b.data(1), 512]] as const };
    b.run(0, write);
    b.run(0, { command: Ata.setFeatures, features: 2 });
    b.run(0, write);
    b.run(0, { ...write, command: Ata.writeDmaFuaExt });
    expect(stable).toEqual([true, false, true]);
  });
  it('DATA SET MANAGEMENT: all ranges, none beyond the end', () => {
    b.content.fill(9);
    const range = (i: number, lba: number, count: number): void => {
      b.view.setUint32(b.data(0) + 8 * i, lba, true);
      b.view.setUint32(b.data(0) + 8 * i + 4, count << 16, true);
    };
    b.fill(b.data(0), 512, 0);
    range(0, 2, 3);
    range(1, 0, 0);
    range(2, 250, 6);
    const trim = {
      command: Ata.dataSetManagement,
      features: 1,
      count: 1,
      write: true,
      prds: [[b.data(0), 512]] as const,
    };
    expect(b.run(0, trim)).toMatchObject({ tfd: good });
    const zero = (s: number): boolean => b.content.subarray(s * 512, s * 512 + 512).every((x) => x === 0);
    expect([1, 2, 4, 5, 249, 250, 255].map(zero)).toEqual([false, true, true, false, false, true, true]);
    range(2, 250, 7);
    expect(b.run(0, trim).tfd).toBe(0x1051);
  });
  it('addresses: 28 and 48 bits, cylinders, beyond the end', () => {
    b.content.set([1, 2, 3, 4], 63 * 512);
    const r = (o: object): number => {
      b.fill(b.data(0), 4, 0);
      const { tfd } = b.run(0, { command: Ata.readDma, count: 1, prds: [[b.data(0), 512]], ...o });
      if (tfd & 1) b.restart(0);
      return tfd & 1 ? -(tfd >>> 8) : b.view.getUint32(b.data(0), true);
    };
    expect(r({ lba: 63 })).toBe(0x04030201);
    // Cylinder 0, head 1, sector 1.
    expect(r({ lba: 1, device: 0x01 })).toBe(0x04030201);
    expect([r({ lba: 0, device: 0 }), r({ lba: 256 }), r({ lba: 255, count: 2 })]).toEqual([
      -0x10, -0x10, -0x10,
    ]);
    expect(r({ command: Ata.readDmaExt, lba: 2 ** 40 + 63 })).toBe(-0x10);
    expect(r({ command: Ata.readMultiple, lba: 63 })).toBe(-0x04);
    b.run(0, { command: Ata.setMultiple, count: 8 });
    expect(r({ command: Ata.readMultiple, lba: 63 })).toBe(0x04030201);
  });
  it('power, SMART, diagnostics; a command that there is not', () => {
    expect(b.run(0, { command: Ata.standbyImmediate }).tfd).toBe(good);
    b.run(0, { command: Ata.checkPower });
    expect(b.received(0, Received.register, 16)[12]).toBe(0);
    expect(b.run(0, { command: Ata.smart, features: 0xda, lba: 0xc24f00 }).tfd).toBe(good);
    expect([...b.received(0, Received.register, 16).subarray(5, 7)]).toEqual([0x4f, 0xc2]);
    expect(b.run(0, { command: Ata.diagnostic }).tfd).toBe(0x0150);
    expect(b.run(0, { command: 0xff }).tfd).toBe(0x0451);
  });
  it('a disk that may not be written: reads work, writes and trims do not', () => {
    b = new Bench({ config: { ports: [{ type: 'disk', readOnly: true }] } });
    b.start();
    expect(b.run(0, { command: Ata.readDma, count: 1, prds: [[b.data(0), 512]] }).tfd).toBe(good);
    expect(b.run(0, { command: Ata.writeDma, count: 1, prds: [[b.data(0), 512]] }).tfd).toBe(0x0451);
  });
});

describe('MMC-5', () => {
  const ready = [0, 0, 0, 0, 0, 0];
  beforeEach(() => {
    expect(b.packet(ready)).toEqual({ sense: '6/29/00' });
    expect(b.packet(ready)).toEqual({ data: new Uint8Array(0) });
  });
  it('reads sectors, and says what it cannot', () => {
    expect(b.packet([0x28, 0, 0, 0, 0, 5, 0, 0, 1]).data).toEqual(b.cd.slice(5 * 2048, 6 * 2048));
    expect(b.packet([0xa8, 0, 0, 0, 0, 62, 0, 0, 0, 2]).data).toEqual(b.cd.slice(62 * 2048));
    expect(b.packet([0xbe, 0, 0, 0, 0, 9, 0, 0, 1, 0x10]).data).toEqual(b.cd.slice(9 * 2048, 10 * 2048));
    expect(b.packet([0x28, 0, 0, 0, 0, 63, 0, 0, 2])).toEqual({ sense: '5/21/00' });
    expect(b.packet([0xf0])).toEqual({ sense: '5/20/00' });
    expect(b.packet([0x25]).data).toEqual(Uint8Array.from([0, 0, 0, 63, 0, 0, 8, 0]));
  });
  it('allocation length cuts, PRDs that are too short are an overflow', () => {
    expect(b.packet([0x12, 0, 0, 0, 5]).data).toEqual(Uint8Array.from([5, 0x80, 5, 2, 31]));
    const r = b.run(1, { command: 0xa0, features: 1, packet: [0x12, 0, 0, 0, 36], prds: [[b.data(0), 8]] });
    expect([r.is & PortIs.ofs, r.moved, r.tfd]).toEqual([PortIs.ofs, 8, good]);
  });
  it('lock and tray', () => {
    b.packet([0x1e, 0, 0, 0, 1]);
    expect(b.packet([0x1b, 0, 0, 0, 2])).toEqual({ sense: '5/53/02' });
    b.packet([0x1e]);
    expect(b.packet([0x1b, 0, 0, 0, 2])).toHaveProperty('data');
    expect(b.packet(ready)).toEqual({ sense: '2/3a/02' });
    expect(b.packet([0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]).data).toEqual(
      Uint8Array.from([0, 6, 4, 16, 3, 1, 0, 0]),
    );
    b.packet([0x1b, 0, 0, 0, 3]);
    expect([b.packet(ready), b.packet(ready)]).toEqual([{ sense: '6/28/00' }, { data: new Uint8Array(0) }]);
  });
  it('a medium that was changed while nobody looked is told once, by every way', () => {
    const change = (present: boolean, ejects = 0): void => {
      const [, cd] = b.config.ports as [unknown, { generation?: number; ejects?: number }];
      if (ejects) cd.ejects = (cd.ejects ?? 0) + ejects;
      else cd.generation = (cd.generation ?? 0) + 1;
      b.hasMedium = present;
      b.rig.attach();
    };
    const event = (): number => b.packet([0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]).data![4]!;
    change(true, 1);
    expect([event(), event(), b.packet(ready)]).toEqual([1, 0, { data: new Uint8Array(0) }]);
    change(false);
    expect([event(), b.packet(ready), b.packet([0x28, 0, 0, 0, 0, 0, 0, 0, 1])]).toEqual([
      3,
      { sense: '2/3a/02' },
      { sense: '2/3a/02' },
    ]);
    b.packet([0x1b, 0, 0, 0, 3]);
    expect(b.packet(ready)).toEqual({ sense: '2/3a/01' });
    change(true);
    expect([event(), b.packet(ready), b.packet(ready), event()]).toEqual([
      2,
      { sense: '6/28/00' },
      { data: new Uint8Array(0) },
      0,
    ]);
    // From one to the next at once.
    change(true);
    expect([b.packet(ready), b.packet(ready)]).toEqual([{ sense: '6/28/00' }, { data: new Uint8Array(0) }]);
  });
  it('a medium that cannot be read is a medium error', () => {
    b = new Bench({ before: () => BlockResult.io });
    b.start();
    b.packet(ready);
    expect(b.packet([0x28, 0, 0, 0, 0, 5, 0, 0, 1])).toEqual({ sense: '3/11/00' });
  });
});
