// Length: one group a clause of the specification; they share one driver and one device.
import { pad, struct } from '@nyx/layout';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { CrashRig } from '../crash-rig.ts';
import { defineDevice } from '../device.ts';
import { Command, Config, findCapability, MsixLayout, rangesOf } from '../pci/index.ts';
import { VirtioDriver } from './driver.ts';
import {
  CfgType,
  type Chain,
  noVector,
  type VirtioDevice,
  VirtioFeature,
  VirtioLayout,
  VirtioPci,
  VirtioStatus,
  type VirtioView,
  virtioBars,
  virtioFields,
  virtioKeep,
  virtioRegion,
} from './index.ts';

const State = struct('EchoState', { ...virtioFields(2, 4, 4), pad0: pad(4) });
const S = VirtioStatus;
const all = ((1 << VirtioFeature.indirectDesc) | (1 << VirtioFeature.eventIdx)) >>> 0;

/** Copies the readable part, byte for byte plus one, into the writable part, when it is told to. */
class Echo implements VirtioDevice {
  readonly type = 42;
  readonly classCode = 0xff0000;
  readonly queues = 2;
  readonly queueSize = 16;
  readonly features = 0b101;
  readonly configBytes = 8;
  readonly pending: { slot: number; bytes: Uint8Array; chain: { at: number; room: number } }[] = [];
  taken = 0;
  submitted = 0;
  resets = 0;
  pci!: VirtioPci;

  configRead(offset: number, width: number): number {
    return offset * 16 + width;
  }
  configWrite(): void {}
  take(slot: number, _queue: number, chain: Chain): void {
    this.taken++;
    const bytes = Uint8Array.from({ length: chain.readableBytes }, (_, i) => chain.readable32(i) & 0xff);
    this.pending.push({ slot, bytes, chain: { at: chain.writableAt(0), room: chain.writableBytes } });
  }
  submit(): void {
    this.submitted = this.pending.length;
  }
  reset(): void {
    this.resets++;
  }
  drain(): boolean {
    for (const p of this.pending.splice(0)) this.pci.finish(p.slot, 0);
    return true;
  }
}

const make = (msix = true) => {
  let echo = new Echo();
  let event: (change: () => void) => void = () => {};
  let isolated = false;
  const kind = defineDevice({
    kind: 'echo',
    stateVersion: 1,
    state: State,
    keep: virtioKeep,
    regions: [
      { name: 'virtio', size: VirtioLayout.bytes, table: virtioRegion },
      { name: 'msix', size: MsixLayout.bytes },
    ],
    ranges: rangesOf(virtioBars),
    irqs: () => 5,
    create: (ctx) => {
      echo = new Echo();
      Object.defineProperty(ctx, 'isolated', { value: isolated, configurable: true });
      event = (change) => ctx.event(change);
      echo.pci = new VirtioPci(ctx, ctx.state as unknown as VirtioView, echo);
      return echo.pci;
    },
  });
  const rig = new CrashRig({ kind, config: {} });
  const driver = new VirtioDriver(rig, rig.memory);
  if (msix) driver.enableMsix(4);
  const { view } = rig.memory;
  return {
    rig,
    driver,
    view,
    get echo(): Echo {
      return echo;
    },
    counts: (): number[] => rig.messages.slice(1).map((m) => m.count),
    /** The process is gone; another one answers for the device, or serves it again. */
    isolate(on: boolean): void {
      isolated = on;
      rig.attach();
    },
    /** Finishes the n oldest requests: an event of the device that is alive. */
    complete(n = echo.pending.length): void {
      rig.host(() =>
        event(() => {
          for (const p of echo.pending.splice(0, n)) {
            const bytes = p.bytes.subarray(0, p.chain.room);
            bytes.forEach((b, i) => {
              view.setUint8(p.chain.at + i, b + 1);
            });
            echo.pci.finish(p.slot, bytes.length);
          }
          echo.pci.finished();
        }),
      );
    },
    /** negotiated, one queue, running */
    run(features = all, vector: number = msix ? 1 : noVector) {
      driver.negotiate(features);
      driver.setCommon(0x10, 2, 0);
      const q = driver.setUpQueue(0, 0x8000, { vector });
      driver.start();
      return q;
    },
    put(address: number, bytes: number[]): void {
      bytes.forEach((b, i) => {
        view.setUint8(address + i, b);
      });
    },
  };
};

let t: ReturnType<typeof make>;
beforeEach(() => {
  t = make();
});

describe('4.1.2 discovery, 4.1.4 capabilities', () => {
  it('vendor 0x1af4, device 0x1040 + type, revision and subsystem of a modern device', () => {
    expect(t.rig.configRead(0, 4)).toBe((0x1040 + 42) * 65536 + 0x1af4);
    expect(t.rig.configRead(8, 1)).toBeGreaterThanOrEqual(1);
    expect(t.rig.configRead(0x2e, 2)).toBeGreaterThanOrEqual(0x40);
  });
  it('one structure of each type, aligned, inside its BAR, cap_len covers all fields', () => {
    for (const type of [CfgType.common, CfgType.notify, CfgType.isr, CfgType.device, CfgType.pci]) {
      const s = t.driver.structures.get(type)!;
      expect(t.rig.configRead(s.at + 2, 1)).toBe(type === CfgType.notify || type === CfgType.pci ? 20 : 16);
      if (type === CfgType.pci) continue;
      expect([s.bar, s.offset % 4]).toEqual([4, 0]);
      expect(s.offset + s.length).toBeLessThanOrEqual(VirtioLayout.bytes);
    }
  });
  it('4.1.4.4.1: the multiplier is an even power of 2 and length covers every queue', () => {
    expect(t.driver.multiplier).toBe(4);
    const { length } = t.driver.structures.get(CfgType.notify)!;
    for (let q = 0; q < 2; q++) {
      t.driver.setCommon(0x16, 2, q);
      expect(length).toBeGreaterThanOrEqual(t.driver.common(0x1e, 2) * 4 + 2);
    }
  });
  it('4.1.4.9.1: the configuration access capability reads and writes BAR registers', () => {
    const { at } = t.driver.structures.get(CfgType.pci)!;
    const access = (bar: number, offset: number, length: number): void => {
      t.rig.configWrite(at + 4, 1, bar);
      t.rig.configWrite(at + 8, 4, offset);
      t.rig.configWrite(at + 12, 4, length);
    };
    access(4, VirtioLayout.common + 0x12, 2);
    expect(t.rig.configRead(at + 16, 4)).toBe(2);
    access(4, VirtioLayout.common + 0x14, 1);
    t.rig.configWrite(at + 16, 4, 0xffffff01);
    expect(t.driver.status).toBe(1);
    for (const [bar, offset, length] of [
      [4, 1, 2],
      [2, 0, 4],
      [4, 0x3ffe, 4],
      [4, 0xffffffff, 1],
      [4, 0, 3],
      [4, 0, 0],
    ] as const) {
      access(bar, offset, length);
      expect(t.rig.configRead(at + 16, 4)).toBe(0);
      t.rig.configWrite(at + 16, 4, 0xffffffff);
    }
    expect(t.driver.status).toBe(1);
  });
});

describe('2.1 device status, 2.2 features, 3.1 initialization', () => {
  it('4.1.4.3.1: features appear in their window, 0 for any other select', () => {
    const windows = [0, 1, 2, 0xffffffff].map((select) => {
      t.driver.setCommon(0, 4, select);
      return t.driver.common(4, 4);
    });
    expect(windows).toEqual([(all | 0b101) >>> 0, 0x101, 0, 0]);
  });
  it('a driver that takes a subset with VERSION_1 gets FEATURES_OK', () => {
    expect(t.driver.negotiate(all)).toBe(true);
    expect(t.driver.status).toBe(11);
  });
  it('2.2.1: a bit that was not offered, or no VERSION_1, is refused, and DRIVER_OK stays clear', () => {
    for (const [lo, hi] of [
      [0b10, 1],
      [0, 0],
      [0, 3],
    ] as const) {
      t.driver.status = 0;
      t.driver.status = 3;
      t.driver.setCommon(8, 4, 0);
      t.driver.setCommon(12, 4, lo);
      t.driver.setCommon(8, 4, 1);
      t.driver.setCommon(12, 4, hi);
      t.driver.status = 11;
      expect(t.driver.status).toBe(3);
      t.driver.status = 15;
      expect(t.driver.status).toBe(3);
    }
  });
  it('2.2: features are closed after FEATURES_OK', () => {
    t.driver.negotiate(0);
    t.driver.setCommon(8, 4, 0);
    t.driver.setCommon(12, 4, all);
    expect(t.driver.common(12, 4)).toBe(0);
  });
  it("2.1.1: writing status only adds bits; NEEDS_RESET is not the driver's", () => {
    t.driver.negotiate(0);
    t.driver.status = 1;
    expect(t.driver.status).toBe(11);
    t.driver.status = 64;
    expect(t.driver.status).toBe(11);
  });
  it('2.4.1: a reset brings every register to its initial value', () => {
    const dump = (): number[] => Array.from({ length: 16 }, (_, i) => t.driver.common(4 * i, 4));
    const before = dump();
    t.run();
    t.driver.setCommon(0x16, 2, 1);
    t.driver.status = 0;
    expect(dump()).toEqual(before);
  });
  it('4.1.5.1.2.1: vectors are unmapped at first; one that does not exist reads back NO_VECTOR', () => {
    expect([t.driver.common(0x10, 2), t.driver.common(0x1a, 2)]).toEqual([noVector, noVector]);
    t.driver.setCommon(0x10, 2, 3);
    t.driver.setCommon(0x1a, 2, 4);
    expect([t.driver.common(0x10, 2), t.driver.common(0x1a, 2)]).toEqual([3, noVector]);
  });
  it('4.1.4.3: a queue that does not exist has size 0; sizes that are no power of 2 or too large are not taken', () => {
    t.driver.setCommon(0x16, 2, 2);
    expect(t.driver.common(0x18, 2)).toBe(0);
    t.driver.setCommon(0x1c, 2, 1);
    t.driver.setCommon(0x16, 2, 0);
    for (const size of [0, 3, 32, 0xffff]) {
      t.driver.setCommon(0x18, 2, size);
      expect(t.driver.common(0x18, 2)).toBe(16);
    }
    t.driver.setCommon(0x18, 2, 8);
    expect(t.driver.common(0x18, 2)).toBe(8);
  });
  it('an enabled queue keeps its addresses, and both halves of an address are independent', () => {
    t.run();
    t.driver.setCommon(0x20, 4, 0x1234);
    expect(t.driver.common(0x20, 4)).toBe(0x8000);
    t.driver.setCommon(0x16, 2, 1);
    t.driver.setCommon(0x24, 4, 7);
    t.driver.setCommon(0x20, 4, 0x10);
    expect([t.driver.common(0x20, 4), t.driver.common(0x24, 4)]).toEqual([0x10, 7]);
  });
  it('rings outside of memory or unaligned need a reset', () => {
    for (const [at, address] of [
      [0x20, 0xfffffff0],
      [0x24, 0x7fffffff],
      [0x20, 8],
      [0x30, 2],
      [0x28, 0x100000 - 8],
    ] as const) {
      t = make();
      t.driver.negotiate(all);
      t.driver.setCommon(0x16, 2, 0);
      t.driver.setCommon(at, 4, address);
      t.driver.setCommon(0x1c, 2, 1);
      expect(t.driver.status & S.needsReset).toBe(S.needsReset);
      t.driver.status = 0;
      expect(t.driver.status).toBe(0);
    }
  });
  it("the device configuration structure is the device's", () => {
    expect(t.driver.read(CfgType.device, 4, 2)).toBe(66);
  });
});

describe('2.7 split virtqueues', () => {
  const echoOnce = (q: ReturnType<typeof t.run>, indirect = false): number => {
    t.put(0x20000, [1, 2, 3, 4]);
    t.put(0x20100, [5, 6]);
    const head = q.add(
      [
        [0x20000, 4],
        [0x20100, 2],
      ],
      [
        [0x21000, 2],
        [0x21100, 6],
      ],
      indirect,
    );
    q.kick();
    return head;
  };

  it('a chain is taken after the doorbell, and used with its head and length', () => {
    const q = t.run();
    const head = echoOnce(q);
    expect([t.echo.taken, q.usedIdx, t.counts()[1]]).toEqual([1, 0, 0]);
    t.complete();
    expect(q.harvest()).toEqual([{ id: head, length: 6 }]);
    expect([t.counts()[1], t.view.getUint16(0x21000, true)]).toEqual([1, 0x0302]);
  });
  it('2.7.5.3: indirect tables, also after normal descriptors', () => {
    const q = t.run();
    echoOnce(q, true);
    t.complete();
    expect(q.harvest()).toHaveLength(1);
    q.descriptor(q.descAt, 0, 0x20000, 4, 1, 1);
    q.descriptor(q.descAt, 1, 0x30000, 16, 4 | 2, 0);
    q.descriptor(0x30000, 0, 0x21000, 8, 2, 0);
    q.offer(0);
    q.kick();
    expect([
      t.driver.status & S.needsReset,
      t.echo.pending[0]!.bytes.length,
      t.echo.pending[0]!.chain.room,
    ]).toEqual([0, 4, 8]);
  });
  it('before DRIVER_OK nothing is consumed; DRIVER_OK looks for what is there', () => {
    t.driver.negotiate(all);
    const q = t.driver.setUpQueue(0, 0x8000, { vector: 1 });
    q.add([[0x20000, 4]], [[0x21000, 4]]);
    q.kick();
    expect(t.echo.taken).toBe(0);
    t.driver.start();
    expect(t.echo.taken).toBe(1);
  });
  it('without Bus Master Enable nothing is consumed until it is set', () => {
    const q = t.run();
    t.rig.configWrite(Config.command, 2, Command.memory);
    echoOnce(q);
    expect(t.echo.taken).toBe(0);
    t.rig.configWrite(Config.command, 2, Command.memory | Command.busMaster);
    expect(t.echo.taken).toBe(1);
  });
  it('2.7.10: avail_event asks for the next doorbell only', () => {
    const q = t.run();
    expect(echoOnce(q) >= 0 && t.echo.taken).toBe(1);
    expect(t.view.getUint16(q.usedAt + 4 + 8 * q.size, true)).toBe(1);
    expect(t.view.getUint16(q.usedAt, true)).toBe(0);
  });
  it('2.7.7.2: used_event suppresses interrupts until its index is passed', () => {
    const q = t.run();
    t.view.setUint16(q.availAt + 4 + 2 * q.size, 1, true);
    for (let i = 0; i < 3; i++) q.add([[0x20000, 1]], [[0x21000, 1]]);
    q.kick();
    t.complete(1);
    expect(t.counts()[1]).toBe(0);
    t.complete(1);
    expect(t.counts()[1]).toBe(1);
    t.complete(1);
    expect(t.counts()[1]).toBe(1);
  });
  it('2.7.7.2: a driver that asks for an interrupt between the decision and the new index gets it', () => {
    const q = t.run();
    const usedEvent = q.availAt + 4 + 2 * q.size;
    t.view.setUint16(usedEvent, 5, true);
    echoOnce(q);
    const { memory } = t.rig;
    const dirty = memory.dirty.bind(memory);
    let asked = 0;
    memory.dirty = (at, length) => {
      if (at === q.usedAt + 2) {
        asked++;
        t.view.setUint16(usedEvent, 0, true);
      }
      dirty(at, length);
    };
    t.complete();
    expect([asked, t.counts()[1], t.echo.pci.counters.rechecks]).toEqual([1, 1, 1]);
  });
  it('2.7.10: a chain that comes between the last look and avail_event is taken', () => {
    const q = t.run();
    const { memory } = t.rig;
    const dirty = memory.dirty.bind(memory);
    let late = 0;
    memory.dirty = (at, length) => {
      if (at === q.usedAt + 4 + 8 * q.size && late++ === 0) {
        q.add([[0x20000, 1]], [[0x21000, 1]]);
        // Shown, but the old event index asks for no doorbell.
        t.view.setUint16(q.availAt + 2, q.availIdx, true);
      }
      dirty(at, length);
    };
    echoOnce(q);
    expect(t.echo.taken).toBe(2);
  });
  it('2.7.7.2: without EVENT_IDX avail.flags suppresses them', () => {
    const q = t.run(0);
    t.view.setUint16(q.availAt, 1, true);
    echoOnce(q);
    t.complete();
    expect([q.usedIdx, t.counts()[1]]).toEqual([1, 0]);
    t.view.setUint16(q.availAt, 0, true);
    echoOnce(q);
    t.complete();
    expect(t.counts()[1]).toBe(1);
  });
  it('4.1.5.3: a queue without a vector interrupts nobody', () => {
    const q = t.run(all, noVector);
    echoOnce(q);
    t.complete();
    expect([q.usedIdx, ...t.counts()]).toEqual([1, 0, 0, 0, 0]);
  });
  it("an indices' wrap at 65536 is nothing special", () => {
    const q = t.run();
    for (let i = 0; i < 66000 / 4; i++) {
      for (let n = 0; n < 4; n++) q.add([[0x20000, 1]], [[0x21000, 1]]);
      q.kick();
      t.complete();
      if (q.harvest().length !== 4) throw new Error(`round ${i}`);
    }
    expect([t.echo.taken, q.usedIdx]).toEqual([66000, 66000 % 65536]);
  });
  it('more chains than slots wait in the ring, and are taken when slots are free', () => {
    const q = t.run();
    for (let i = 0; i < 8; i++) q.add([[0x20000, 1]], [[0x21000, 1]]);
    q.kick();
    expect(t.echo.pending).toHaveLength(4);
    t.complete(3);
    expect(t.echo.pending).toHaveLength(4);
    t.complete();
    t.complete();
    expect(q.harvest()).toHaveLength(8);
  });
});

describe('2.1.2 NEEDS_RESET on a broken ring, and the way back', () => {
  const broken: [string, (q: ReturnType<typeof t.run>) => void][] = [
    ['head out of range', (q) => q.offer(16)],
    [
      'available index ahead by more than the queue',
      (q) => {
        q.availIdx += 17;
      },
    ],
    [
      'next out of range',
      (q) => {
        q.descriptor(q.descAt, 0, 0x20000, 4, 1, 16);
        q.offer(0);
      },
    ],
    [
      'a loop of one',
      (q) => {
        q.descriptor(q.descAt, 0, 0x20000, 4, 1, 0);
        q.offer(0);
      },
    ],
    [
      'a loop of two',
      (q) => {
        q.descriptor(q.descAt, 0, 0x20000, 4, 1, 1);
        q.descriptor(q.descAt, 1, 0x20000, 4, 1, 0);
        q.offer(0);
      },
    ],
    [
      'a descriptor of no bytes',
      (q) => {
        q.descriptor(q.descAt, 0, 0x20000, 0, 0, 0);
        q.offer(0);
      },
    ],
    [
      'a buffer outside of memory',
      (q) => {
        q.descriptor(q.descAt, 0, 0x100000 - 4, 8, 0, 0);
        q.offer(0);
      },
    ],
    [
      'an address of 64 bits',
      (q) => {
        q.descriptor(q.descAt, 0, 2 ** 63, 8, 0, 0);
        q.offer(0);
      },
    ],
    [
      'readable after writable',
      (q) => {
        q.descriptor(q.descAt, 0, 0x20000, 4, 3, 1);
        q.descriptor(q.descAt, 1, 0x20000, 4, 0, 0);
        q.offer(0);
      },
    ],
    [
      'indirect with next',
      (q) => {
        q.descriptor(q.descAt, 0, 0x20000, 16, 5, 1);
        q.offer(0);
      },
    ],
    [
      'indirect of 15 bytes',
      (q) => {
        q.descriptor(q.descAt, 0, 0x20000, 15, 4, 0);
        q.offer(0);
      },
    ],
    [
      'indirect of 0 bytes',
      (q) => {
        q.descriptor(q.descAt, 0, 0x20000, 0, 4, 0);
        q.offer(0);
      },
    ],
    [
      'indirect table outside of memory',
      (q) => {
        q.descriptor(q.descAt, 0, 0x100000, 16, 4, 0);
        q.offer(0);
      },
    ],
    [
      'indirect in indirect',
      (q) => {
        q.descriptor(q.descAt, 0, 0x30000, 16, 4, 0);
        q.descriptor(0x30000, 0, 0x31000, 16, 4, 0);
        q.offer(0);
      },
    ],
    [
      'indirect next out of its table',
      (q) => {
        q.descriptor(q.descAt, 0, 0x30000, 16, 4, 0);
        q.descriptor(0x30000, 0, 0x31000, 16, 1, 1);
        q.offer(0);
      },
    ],
  ];
  for (const [name, breakIt] of broken)
    it(`2.7: ${name}`, () => {
      const q = t.run();
      breakIt(q);
      q.kick();
      expect(t.driver.status & S.needsReset).toBe(S.needsReset);
      expect(t.echo.taken).toBe(0);
      // A configuration change notification tells the driver.
      expect(t.counts()[0]).toBe(1);
      const again = t.run();
      again.add([[0x20000, 4]], [[0x21000, 4]]);
      again.kick();
      t.complete();
      expect([t.driver.status, again.harvest().length]).toEqual([15, 1]);
    });
  it('indirect descriptors that were not negotiated', () => {
    const q = t.run(0);
    q.add([[0x20000, 4]], [[0x21000, 4]], true);
    q.kick();
    expect(t.driver.status & S.needsReset).toBe(S.needsReset);
  });
  it('random rings, descriptors and registers never throw, hang or leave memory', () => {
    const word = fc.oneof(
      fc.integer({ min: 0, max: 0xffffffff }),
      fc.integer({ min: 0, max: 40 }),
      fc.constantFrom(0x8000, 0x20000, 0x9000),
    );
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(3), word, word, word), { maxLength: 120 }),
        fc.boolean(),
        (ops, eventIdx) => {
          t = make();
          const q = t.run(eventIdx ? all : 1 << VirtioFeature.indirectDesc);
          for (const [op, a, b, c] of ops) {
            if (op === 0) q.descriptor(q.descAt, a % 16, b, c % 5 ? c % 5000 : c, a % 8, (a >>> 8) % 18);
            else if (op === 1) {
              q.offer(a % 17);
              q.kick();
            } else if (op === 2) t.rig.write(a % 2, b % 0x1000, [1, 2, 4][c % 3]!, c);
            else t.complete();
            expect(t.driver.status).toBeLessThan(256);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('resets while requests are in flight', () => {
  it('4.1.4.3.1: the status reads 0 only when no request touches memory any more', () => {
    const q = t.run();
    q.add([[0x20000, 4]], [[0x21000, 4]]);
    q.kick();
    const { resets } = t.echo;
    t.driver.status = 0;
    expect(t.driver.status).toBe(15);
    t.driver.status = 15;
    t.complete();
    expect([t.driver.status, q.usedIdx, t.echo.resets]).toEqual([0, 0, resets + 1]);
  });
  it('a process that dies while a reset waits finishes it', () => {
    const q = t.run();
    q.add([[0x20000, 4]], [[0x21000, 4]]);
    q.kick();
    t.driver.status = 0;
    t.rig.attach();
    expect([t.driver.status, t.echo.taken]).toEqual([0, 0]);
  });
  it('4.1.4.3.1: queue_reset reads 1 until the queue is drained, then all its fields are reset', () => {
    t.driver.negotiate(all);
    t.driver.status = 0;
    t.driver.status = 3;
    t.driver.setCommon(8, 4, 1);
    t.driver.setCommon(12, 4, 0x101);
    t.driver.status = 11;
    const q = t.driver.setUpQueue(0, 0x8000, { size: 8, vector: 1 });
    t.driver.start();
    q.add([[0x20000, 4]], [[0x21000, 4]]);
    t.driver.notify(q);
    q.kick();
    expect(t.echo.taken).toBe(1);
    t.driver.setCommon(0x3a, 2, 1);
    expect([t.driver.common(0x3a, 2), t.driver.common(0x1c, 2)]).toEqual([1, 0]);
    t.complete();
    expect([t.driver.common(0x3a, 2), t.driver.common(0x18, 2), q.usedIdx]).toEqual([0, 16, 0]);
    const again = t.driver.setUpQueue(0, 0x10000, { vector: 1 });
    again.add([[0x20000, 4]], [[0x21000, 4]]);
    again.kick();
    t.complete();
    expect(again.harvest()).toHaveLength(1);
  });
  it('a machine reset drops them, falls back to power-on, and goes on counting messages', () => {
    const q = t.run();
    q.add([[0x20000, 4]], [[0x21000, 4]]);
    q.kick();
    t.complete();
    q.add([[0x20000, 4]], [[0x21000, 4]]);
    q.kick();
    t.rig.reset();
    expect([
      t.driver.status,
      t.rig.configRead(Config.command, 2),
      t.counts()[1],
      t.echo.pending.length,
    ]).toEqual([0, 0, 1, 0]);
    expect(t.rig.ranges.every((r) => r.space === 0)).toBe(true);
    t.rig.configWrite(Config.command, 2, Command.busMaster);
    t.driver.enableMsix(4);
    const again = t.run();
    again.add([[0x20000, 4]], [[0x21000, 4]]);
    again.kick();
    t.complete();
    expect([again.harvest().length, t.counts()[1]]).toEqual([1, 2]);
  });
  it('a function level reset is a device reset and masks all vectors', () => {
    const q = t.run();
    q.add([[0x20000, 4]], [[0x21000, 4]]);
    q.kick();
    const express = findCapability((r, w) => t.rig.configRead(r, w), 0x10);
    t.rig.configWrite(express + 8, 2, 0x8000);
    t.complete();
    expect([t.driver.status, t.rig.read(1, 12, 4), q.usedIdx]).toEqual([0, 1, 0]);
  });
});

describe('4.1.4.5 ISR and INTx', () => {
  it('the queue bit and the wire rise together, a read takes both back', () => {
    t = make(false);
    const q = t.run();
    q.add([[0x20000, 4]], [[0x21000, 4]]);
    q.kick();
    t.complete();
    expect([t.rig.lines[0], t.rig.configRead(Config.status, 2) & 8]).toEqual([0b11, 8]);
    expect(t.driver.read(CfgType.isr, 0, 1)).toBe(1);
    expect([
      t.rig.lines[0],
      t.driver.read(CfgType.isr, 0, 1),
      t.rig.configRead(Config.status, 2) & 8,
    ]).toEqual([0b10, 0, 0]);
  });
  it('the configuration bit tells of NEEDS_RESET', () => {
    t = make(false);
    const q = t.run();
    q.offer(99);
    q.kick();
    expect([t.rig.lines[0], t.driver.read(CfgType.isr, 0, 1)]).toEqual([0b11, 2]);
  });
  it('with MSI-X enabled the wire stays low', () => {
    const q = t.run();
    q.add([[0x20000, 4]], [[0x21000, 4]]);
    q.kick();
    t.complete();
    expect([t.rig.lines[0], t.driver.read(CfgType.isr, 0, 1)]).toEqual([0, 0]);
  });
});

describe('2.1.2 a device that was taken out', () => {
  const add = (q: ReturnType<typeof t.run>): void => {
    q.add([[0x20000, 4]], [[0x21000, 4]]);
    q.kick();
  };
  it('says that it needs a reset, tells the driver once, and does nothing', () => {
    const q = t.run();
    t.driver.setCommon(0x10, 2, 0);
    const before = t.driver.common(0x15, 1);
    add(q);
    t.isolate(true);
    expect(t.driver.status).toBe(S.acknowledge | S.driver | S.featuresOk | S.driverOk | S.needsReset);
    expect(t.driver.common(0x15, 1)).toBe(before + 1);
    expect(t.rig.messages[1]!.count).toBe(1);
    add(q);
    expect([t.echo.taken, q.harvest()]).toEqual([0, []]);
  });
  it('healed, it does what waited, and what came meanwhile', () => {
    const q = t.run();
    add(q);
    t.isolate(true);
    add(q);
    t.isolate(false);
    expect(t.driver.status & S.needsReset).toBe(0);
    expect(t.echo.taken).toBe(2);
    t.complete();
    expect(q.harvest().length).toBe(2);
  });
  it('a driver may reset it, and learns at FEATURES_OK that nobody is there', () => {
    const q = t.run();
    add(q);
    t.isolate(true);
    t.driver.setCommon(0x14, 1, 0);
    expect(t.driver.status).toBe(0);
    t.driver.setCommon(0x14, 1, S.acknowledge | S.driver);
    t.driver.setCommon(0x14, 1, S.acknowledge | S.driver | S.featuresOk);
    expect(t.driver.status).toBe(S.acknowledge | S.driver | S.needsReset);
    t.isolate(false);
    t.driver.setCommon(0x14, 1, 0);
    expect(t.run().harvest()).toEqual([]);
  });
});
