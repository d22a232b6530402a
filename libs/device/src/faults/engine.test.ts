import { ctl, place } from '@nyx/native';
import type { FaultRule } from '@nyx/protocol';
import { ExitKind } from '@nyx/ring';
import { describe, expect, test } from 'vitest';
import { Before, FaultEngine } from './engine.ts';
import { faultPageBytes } from './page.ts';

const rule = (r: Partial<FaultRule>): FaultRule => ({
  slot: 0,
  point: 'exit',
  verb: 'drop',
  device: '*',
  place: 'handler',
  after: 0,
  every: 1,
  count: 0,
  probability: 1,
  seed: 1,
  delayNs: 1000,
  mask: 0,
  bytes: 512,
  again: false,
  ...r,
});

/** A process with two devices, whose life may end (`strike`) and begin again over the same page. */
const rig = (rules: FaultRule[], page = new ArrayBuffer(faultPageBytes)) => {
  const words = new Uint32Array(32);
  let strikes = 0;
  const engine = new FaultEngine(page, { words, now: () => 5, strike: () => strikes++ });
  engine.setRules(rules, ['a', 'b']);
  let seq = 0;
  return {
    engine,
    words,
    page,
    strikes: () => strikes,
    exit(
      o: {
        seq?: number;
        device?: number;
        kind?: number;
        region?: number;
        offset?: number;
        data?: number;
      } = {},
    ): number {
      seq = o.seq ?? seq + 1;
      words[ctl.ring] = 0;
      words[ctl.seqLo] = seq;
      words[ctl.device] = o.device ?? 0;
      words[ctl.kind] = o.kind ?? ExitKind.write;
      words[ctl.region] = o.region ?? 0;
      words[ctl.offsetLo] = o.offset ?? 0;
      words[ctl.width] = 4;
      words[ctl.dataLo] = o.data ?? 0;
      const then = engine.before();
      engine.over();
      return then;
    },
  };
};
const fired = (rules: FaultRule[], n: number): number[] => {
  const r = rig(rules);
  return Array.from({ length: n }, (_, i) => (r.exit() === Before.drop ? i + 1 : 0)).filter(Boolean);
};

describe('decisions', () => {
  test('after, every and count', () => {
    expect(fired([rule({ after: 3 })], 6)).toEqual([4, 5, 6]);
    expect(fired([rule({ after: 1, every: 3 })], 10)).toEqual([2, 5, 8]);
    expect(fired([rule({ every: 2, count: 2 })], 10)).toEqual([1, 3]);
  });

  test('by probability: as often as said, the same for the same seed, others for another', () => {
    const draw = (seed: number): number[] => fired([rule({ probability: 0.25, seed })], 4000);
    expect(draw(1).length).toBeGreaterThan(900);
    expect(draw(1).length).toBeLessThan(1100);
    expect(draw(1)).toEqual(draw(1));
    expect(draw(2)).not.toEqual(draw(1));
    expect(fired([rule({ probability: 0 })], 1000)).toEqual([]);
  });

  test('two rules that say different things decide differently with one seed', () => {
    const r = rig([
      rule({ probability: 0.5, verb: 'drop' }),
      rule({ slot: 1, probability: 0.5, verb: 'error' }),
    ]);
    for (let i = 0; i < 400; i++) r.exit();
    const at = (slot: number): number[] =>
      r.engine.faults
        .list()
        .filter((f) => f.slot === slot)
        .map((f) => f.match);
    expect(at(0)).not.toEqual(at(1));
    expect(at(0).length).toBe(r.engine.faults.count(0).fired);
  });

  test('a successor goes on counting where the page says', () => {
    const rules = [rule({ every: 5, after: 4 })];
    const first = rig(rules);
    for (let i = 1; i <= 7; i++) first.exit({ seq: i });
    const second = rig(rules, first.page);
    expect([8, 9, 10].map((seq) => second.exit({ seq }))).toEqual([Before.run, Before.run, Before.drop]);
    expect(second.engine.faults.page.exits).toBe(10);
  });
});

describe('an exit that is executed again', () => {
  test('is no new match, and suffers what it suffered', () => {
    const rules = [rule({ every: 2 })];
    const first = rig(rules);
    expect(first.exit({ seq: 1 })).toBe(Before.drop);
    const second = rig(rules, first.page);
    expect(second.exit({ seq: 1 })).toBe(Before.drop);
    expect(second.exit({ seq: 2 })).toBe(Before.run);
    expect(second.engine.faults.count(0)).toEqual({ matches: 2, fired: 1 });
  });

  test('is killed again only when the rule says so', () => {
    for (const again of [false, true]) {
      const rules = [rule({ point: 'process', verb: 'kill', device: 'p', again })];
      const first = rig(rules);
      first.exit({ seq: 1 });
      expect(first.strikes()).toBe(1);
      const second = rig(rules, first.page);
      second.exit({ seq: 1 });
      expect(second.strikes()).toBe(again ? 1 : 0);
    }
  });
});

describe('selectors', () => {
  const hit = (r: Partial<FaultRule>, e: Parameters<ReturnType<typeof rig>['exit']>[0]): boolean =>
    rig([rule(r)]).exit(e) === Before.drop;
  test('device, type, region, offset', () => {
    expect(hit({ device: 'b' }, { device: 1 })).toBe(true);
    expect(hit({ device: 'b' }, { device: 0 })).toBe(false);
    expect(hit({ device: 'elsewhere' }, { device: 0 })).toBe(false);
    expect(hit({ types: ['read', 'configRead'] }, { kind: ExitKind.configRead })).toBe(true);
    expect(hit({ types: ['read'] }, { kind: ExitKind.write })).toBe(false);
    expect(hit({ region: 1 }, { region: 1 })).toBe(true);
    expect(hit({ region: 1 }, { region: 0 })).toBe(false);
    expect(hit({ from: 4 }, { offset: 4 })).toBe(true);
    expect(hit({ from: 4 }, { offset: 5 })).toBe(false);
    expect(hit({ from: 4, to: 8 }, { offset: 8 })).toBe(true);
  });

  test('places of a process rule, and what corrupt does', () => {
    for (const name of ['commit', 'reply', 'tail', 'settle', 'done'] as const) {
      const r = rig([rule({ point: 'process', verb: 'kill', place: name })]);
      r.exit();
      expect([r.words[ctl.faultPlace], r.strikes()]).toEqual([place[name], 0]);
    }
    const r = rig([rule({ verb: 'corrupt', mask: 0x81 })]);
    r.exit({ data: 0xff });
    expect(r.words[ctl.dataLo]).toBe(0x7e);
    const one = rig([rule({ point: 'reply', verb: 'corrupt' })]);
    one.exit();
    const bits = (one.engine.answer(0) >>> 0).toString(2).replaceAll('0', '');
    expect(bits).toBe('1');
  });
});
