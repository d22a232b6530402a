/**
 * The suite that every device passes (call it from the device's test file): what makes a device safe to kill and
 * safe from its guest. It needs vitest and fast-check, so it is an entry point of its own.
 */
import { firstIllegal, Memory, type Struct } from '@nyx/layout';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DeviceKind } from './device.ts';
import { type Outcome, Rig, type RigOptions } from './testing.ts';

type Op =
  | { op: 'read' | 'write'; region: number; offset: number; width: number; value: number }
  | {
      op: 'readBurst' | 'writeBurst';
      region: number;
      offset: number;
      width: number;
      value: number;
      count: number;
    }
  | { op: 'configRead' | 'configWrite'; register: number; width: number; value: number }
  | { op: 'line'; gsi: number; word: number }
  | { op: 'eoi'; vector: number }
  | { op: 'pass'; ns: number }
  | { op: 'intAck' | 'timer' | 'reset' };

const widths = fc.constantFrom(1, 2, 4, 8);
const values = fc.oneof(
  fc.integer({ min: 0, max: 0xff }),
  fc.integer({ min: 0, max: 0xffffffff }),
  fc.constantFrom(0, 0x80, 0xff, 0xffff, 0xffffffff),
);

/** Accesses of one device: any offset of any region, often a register's own. */
function ops(kind: DeviceKind<Struct, never>, can: (method: string) => boolean): fc.Arbitrary<Op> {
  const places = kind.regions.map((r, region) => {
    const own = r.table?.registers.map((x) => x.at) ?? [];
    const any = fc.integer({ min: 0, max: r.size - 1 });
    return (
      own.length
        ? fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...own) }, { weight: 1, arbitrary: any })
        : any
    ).map((offset) => ({ region, offset }));
  });
  const list: { weight: number; arbitrary: fc.Arbitrary<Op> }[] = [
    {
      weight: 4,
      arbitrary: fc.record({
        op: fc.constant('pass'),
        ns: fc.oneof(fc.integer({ min: 0, max: 100_000 }), fc.integer({ min: 0, max: 2_000_000_000 })),
      }) as fc.Arbitrary<Op>,
    },
    { weight: 3, arbitrary: fc.constant({ op: 'timer' } as Op) },
    { weight: 1, arbitrary: fc.constant({ op: 'reset' } as Op) },
  ];
  const add = (weight: number, arbitrary: fc.Arbitrary<unknown>): number =>
    list.push({ weight, arbitrary: arbitrary as fc.Arbitrary<Op> });
  if (places.length) {
    const place = fc.oneof(...places);
    const access = (op: string) =>
      fc.tuple(place, widths, values).map(([p, width, value]) => ({
        op,
        ...p,
        width,
        value: width === 1 ? value & 0xff : width === 2 ? value & 0xffff : value,
      }));
    add(10, access('read'));
    add(20, access('write'));
    const burst = (op: string) =>
      fc
        .tuple(place, fc.constantFrom(1, 2, 4), fc.integer({ min: 1, max: 40 }), values)
        .map(([p, width, count, value]) => ({ op, ...p, width, count, value }));
    if (can('readBurst')) add(2, burst('readBurst'));
    if (can('writeBurst')) add(2, burst('writeBurst'));
  }
  if (can('configRead')) {
    const config = (op: string) =>
      fc.record({
        op: fc.constant(op),
        register: fc.integer({ min: 0, max: 0xfff }),
        width: fc.constantFrom(1, 2, 4),
        value: values,
      });
    const near = (op: string) =>
      fc.record({
        op: fc.constant(op),
        register: fc.integer({ min: 0, max: 0xff }).map((r) => r & ~3),
        width: fc.constantFrom(1, 2, 4),
        value: values,
      });
    add(5, config('configRead'));
    add(10, near('configWrite'));
    add(3, config('configWrite'));
  }
  if (can('line'))
    add(
      10,
      fc.record({
        op: fc.constant('line'),
        gsi: fc.integer({ min: 0, max: 30 }),
        word: fc.oneof(fc.integer({ min: 0, max: 9 }), values),
      }),
    );
  if (can('eoi')) add(5, fc.record({ op: fc.constant('eoi'), vector: fc.integer({ min: 0, max: 255 }) }));
  if (can('intAck')) add(5, fc.constant({ op: 'intAck' }));
  return fc.oneof(...list);
}

function apply<S extends Struct, C>(rig: Rig<S, C>, op: Op): Outcome & { bytes?: number[] } {
  switch (op.op) {
    case 'pass':
      rig.ctx.time += op.ns;
      return rig.run(() => {});
    case 'timer':
      // Only a timer that was armed fires, and not before its time.
      if (rig.ctx.timerNs === Number.POSITIVE_INFINITY) return rig.run(() => {});
      rig.ctx.time = Math.max(rig.ctx.time, rig.ctx.timerNs);
      return rig.run((d) => d.timer?.());
    case 'reset':
      return rig.run(() => rig.reset());
    case 'read':
      return rig.run((d) => d.read(op.region, op.offset, op.width));
    case 'write':
      return rig.run((d) => d.write(op.region, op.offset, op.width, op.value, 0));
    case 'readBurst': {
      const out = new Uint8Array(op.count * op.width);
      return { ...rig.run((d) => d.readBurst?.(op.region, op.offset, op.width, out)), bytes: [...out] };
    }
    case 'writeBurst': {
      const data = new Uint8Array(op.count * op.width).fill(op.value & 0xff);
      return rig.run((d) => d.writeBurst?.(op.region, op.offset, op.width, data));
    }
    case 'configRead':
      return rig.run((d) => d.configRead?.(0, op.register, op.width));
    case 'configWrite':
      return rig.run((d) => d.configWrite?.(0, op.register, op.width, op.value));
    case 'line':
      return rig.run((d) => d.line?.(op.gsi, op.word));
    case 'eoi':
      return rig.run((d) => d.eoi?.(op.vector));
    case 'intAck':
      return rig.run((d) => d.intAck?.());
  }
}

/** Everything beyond the reply by which two devices could be told apart. */
const outside = <S extends Struct, C>(rig: Rig<S, C>): unknown => ({
  state: [...rig.ctx.bytes],
  lines: [...rig.ctx.lines],
  messages: structuredClone(rig.ctx.messages),
  ranges: structuredClone(rig.ctx.ranges),
  timer: rig.ctx.timerNs,
});

export interface ConformanceOptions<S extends Struct, C> extends RigOptions<S, C> {
  /** Random sequences per property (default 100). */
  runs?: number;
  /** Registers whose reset value depends on configuration or time, so that the table cannot state it. */
  resetVaries?: readonly string[];
}

export function conformance<S extends Struct, C>(
  kind: DeviceKind<S, C>,
  options: ConformanceOptions<S, C>,
): void {
  const make = (): Rig<S, C> => new Rig(kind, options);
  const probe = make().device as unknown as Record<string, unknown>;
  const sequence = fc.array(
    ops(kind as unknown as DeviceKind<Struct, never>, (m) => typeof probe[m] === 'function'),
    { minLength: 1, maxLength: 60 },
  );
  const params = { numRuns: options.runs ?? 100 };
  const legal = (rig: Rig<S, C>): string | undefined =>
    firstIllegal(kind.state, new Memory(rig.ctx.state.$root.mem.buffer), 0);

  describe(`${kind.kind} conforms`, () => {
    it('registers fit their region, and classes fit the state', () => {
      for (const r of kind.regions) {
        expect(r.table === undefined || r.table.size <= r.size).toBe(true);
        for (const reg of r.table?.registers ?? [])
          if (reg.read === 'shadow' || reg.read === 'counter')
            expect(
              kind.state.placed.map((p) => p.name),
              `state of ${kind.kind}`,
            ).toContain(reg.name);
      }
    });

    it('reset values are those of the tables', () => {
      kind.regions.forEach((r, region) => {
        for (const reg of r.table?.registers ?? []) {
          if (reg.reset === undefined || options.resetVaries?.includes(reg.name)) continue;
          expect(make().read(region, reg.at, Math.min(reg.width, 4)), reg.name).toBe(
            ((reg.reset | (reg.ones ?? 0)) >>> 0) % 2 ** 32,
          );
        }
      });
      expect(legal(make())).toBeUndefined();
    });

    it('a reset takes it back to the power-on answers', () => {
      fc.assert(
        fc.property(sequence, (list) => {
          const rig = make();
          for (const op of list) apply(rig, op);
          rig.reset();
          kind.regions.forEach((r, region) => {
            for (const reg of r.table?.registers ?? [])
              if (reg.reset !== undefined && !options.resetVaries?.includes(reg.name))
                expect(rig.read(region, reg.at, Math.min(reg.width, 4)), reg.name).toBe(
                  ((reg.reset | (reg.ones ?? 0)) >>> 0) % 2 ** 32,
                );
          });
        }),
        params,
      );
    });

    it('shadow registers answer what the state holds, without a side effect', () => {
      fc.assert(
        fc.property(sequence, (list) => {
          const rig = make();
          for (const op of list) apply(rig, op);
          kind.regions.forEach((r, region) => {
            for (const reg of r.table?.registers ?? []) {
              if (reg.read !== 'shadow') continue;
              const before = [...rig.ctx.bytes];
              const shadow = ((rig.ctx.state as Record<string, number>)[reg.name]! | (reg.ones ?? 0)) >>> 0;
              expect(rig.read(region, reg.at, reg.width), reg.name).toBe(shadow);
              expect([...rig.ctx.bytes], reg.name).toEqual(before);
            }
          });
        }),
        params,
      );
    });

    it('hostile accesses never throw, give whole numbers, and leave a legal state', () => {
      fc.assert(
        fc.property(sequence, (list) => {
          const rig = make();
          for (const op of list) {
            const { value, high } = apply(rig, op);
            expect(
              Number.isInteger(value) &&
                value >= 0 &&
                value <= 0xffffffff &&
                Number.isInteger(high) &&
                high >= 0 &&
                high <= 0xffffffff,
              `${JSON.stringify(op)} gave ${value}, ${high}`,
            ).toBe(true);
            expect(legal(rig)).toBeUndefined();
          }
        }),
        params,
      );
    });

    it('amnesia: a new device over the same state after every access answers as the old one', () => {
      fc.assert(
        fc.property(sequence, (list) => {
          const old = make();
          const young = make();
          for (const op of list) {
            expect(apply(young, op), JSON.stringify(op)).toEqual(apply(old, op));
            young.restart();
            expect(outside(young), JSON.stringify(op)).toEqual(outside(old));
          }
        }),
        params,
      );
    });

    it('settle is idempotent and changes no state', () => {
      fc.assert(
        fc.property(sequence, (list) => {
          const rig = make();
          for (const op of list) {
            apply(rig, op);
            const once = outside(rig);
            rig.settle();
            expect(outside(rig)).toEqual(once);
          }
        }),
        params,
      );
    });

    // The kit spares itself such a line, and its commit.
    const hears = make().device.hasHeard !== undefined;
    if (hears)
      it('a line that it has heard changes nothing', () => {
        let heard = 0;
        fc.assert(
          fc.property(sequence, (list) => {
            const rig = make();
            for (const op of list) {
              if (op.op === 'line' && rig.device.hasHeard!(op.gsi, op.word)) {
                heard++;
                const before = [...rig.ctx.bytes];
                rig.device.line!(op.gsi, op.word);
                expect([...rig.ctx.bytes], JSON.stringify(op)).toEqual(before);
              } else {
                apply(rig, op);
                if (op.op === 'line') expect(rig.device.hasHeard!(op.gsi, op.word)).toBe(true);
              }
            }
          }),
          params,
        );
        expect(heard).toBeGreaterThan(0);
      });

    it('saved state, restored elsewhere, goes on the same', () => {
      fc.assert(
        fc.property(sequence, sequence, (before, after) => {
          const a = make();
          for (const op of before) apply(a, op);
          const b = make();
          b.ctx.bytes.set(a.ctx.bytes);
          b.ctx.time = a.ctx.time;
          a.ctx.ranges.forEach((r, i) => {
            b.ctx.ranges[i] = { ...r };
          });
          for (const [name, buffer] of a.ctx.bulks)
            new Uint8Array(b.ctx.bulks.get(name)!).set(new Uint8Array(buffer));
          new Uint8Array(b.ctx.memory.buffer).set(new Uint8Array(a.ctx.memory.buffer));
          b.restart();
          for (const op of after) expect(apply(b, op), JSON.stringify(op)).toEqual(apply(a, op));
          expect(outside(b)).toEqual(outside(a));
        }),
        params,
      );
    });
  });
}
