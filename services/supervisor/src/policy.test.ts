import { vmStates } from '@nyx/protocol/control';
import { describe, expect, test } from 'vitest';
import { isFinal, Lifecycle, transitions } from './lifecycle.ts';
import { HangDetector } from './recovery.ts';

describe('lifecycle', () => {
  test('every state but the final ones can be stopped or fail', () => {
    for (const s of vmStates)
      if (!isFinal(s)) expect(transitions[s].some((t) => t === 'stopping' || t === 'stopped')).toBe(true);
    for (const s of vmStates) if (!isFinal(s)) expect(transitions[s]).toContain('failed');
  });
  test('what is not in the table is refused and changes nothing', () => {
    const seen: string[] = [];
    const l = new Lifecycle((from, to) => seen.push(`${from}>${to}`));
    expect(() => l.go('paused')).toThrowError(expect.objectContaining({ code: 'VM_STATE' }));
    l.go('starting');
    l.go('running');
    expect(() => l.require('paused')).toThrowError(expect.objectContaining({ code: 'VM_STATE' }));
    expect(l.state).toBe('running');
    expect(seen).toEqual(['created>starting', 'starting>running']);
  });
});

describe('hangs', () => {
  const run = (
    vital: (t: number) => { heartbeat: number; head: number; tail: number },
    until: number,
    skip: (t: number) => boolean = () => false,
  ) => {
    const d = new HangDetector(3000);
    for (let t = 0; t <= until; t += 250) {
      if (skip(t)) continue;
      const v = vital(t);
      const r = d.look(t, { heartbeat: v.heartbeat, rings: [{ head: v.head, tail: v.tail }] });
      if (r) return `${t} ${r}`;
    }
    return 'lives';
  };
  test('idle is not a hang', () =>
    expect(run((t) => ({ heartbeat: t, head: 5, tail: 5 }), 20_000)).toBe('lives'));
  test('busy is not a hang', () =>
    expect(run((t) => ({ heartbeat: t, head: t + 9, tail: t }), 20_000)).toBe('lives'));
  test('no heartbeat is', () =>
    expect(run((t) => ({ heartbeat: Math.min(t, 1000), head: 5, tail: 5 }), 20_000)).toBe(
      '4000 hangs: no heartbeat',
    ));
  test('a request that is never answered is, heartbeat or not', () =>
    expect(run((t) => ({ heartbeat: t, head: 6, tail: 5 }), 20_000)).toBe(
      '3000 hangs: request 6 of ring 0 is not answered',
    ));
  test('time in which nobody looked does not count', () =>
    expect(
      run(
        () => ({ heartbeat: 1, head: 5, tail: 5 }),
        5000,
        (t) => t > 1000 && t < 4500,
      ),
    ).toBe('lives'));
});
