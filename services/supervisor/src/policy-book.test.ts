import { readFileSync } from 'node:fs';
import { faultKinds, faultNames, strategies } from '@nyx/protocol';
import type { NyxError } from '@nyx/protocol/errors';
import { parseActions, parseRule } from '@nyx/protocol/policy';
import { parseSpec } from '@nyx/protocol/spec';
import { parseSpecText } from '@nyx/protocol/spec-file';
import { describe, expect, test } from 'vitest';
import { PolicyBook } from './policy-book.ts';

const book = (policy: Record<string, unknown> = {}, recovery: Record<string, number> = {}): PolicyBook => {
  const spec = parseSpec({ bios: 'x', policy, recovery });
  return new PolicyBook(spec.policy, spec.recovery, ['platform', 'com1', 'disk0']);
};
const error = (f: () => unknown): NyxError => {
  try {
    f();
  } catch (e) {
    return e as NyxError;
  }
  throw new Error('no error was thrown');
};

describe('kinds of faults', () => {
  test('there are enough of them, and each says what may be done', () => {
    expect(faultNames.length).toBeGreaterThanOrEqual(19);
    for (const name of faultNames) {
      const k = faultKinds[name];
      expect(k.doc).toMatch(/^[A-Z].*\.$/);
      expect(k.allowed).toContain(k.strategy);
      if ('escalate' in k) expect(k.allowed).toContain(k.escalate);
    }
  });
  test('docs/recovery.md has them all, as they are', () => {
    const doc = readFileSync(new URL('../../../docs/recovery.md', import.meta.url), 'utf8');
    for (const name of faultNames) {
      const k = faultKinds[name];
      expect(doc).toContain(`| \`${name}\` | ${k.severity} | ${k.by} | \`${k.strategy}\` | ${k.doc} |`);
    }
    for (const [name, s] of Object.entries(strategies))
      expect(doc).toContain(`| \`${name}\` | ${s.words.map((w) => `\`${w}\``).join(', ')} | ${s.doc} |`);
  });
  test('its examples are legal', () => {
    const doc = readFileSync(new URL('../../../docs/recovery.md', import.meta.url), 'utf8');
    const examples = [...doc.matchAll(/^```yaml\n([\s\S]*?)^```$/gm)].map((m) => m[1]!);
    expect(examples.length).toBeGreaterThan(1);
    for (const text of examples) parseSpecText(`bios: seabios\n${text}`, 'docs/recovery.md');
  });
  test('a word of QEMU or Xen means one strategy', () => {
    const all = Object.values(strategies).flatMap((s) => [...s.words]);
    expect(new Set(all).size).toBe(all.length);
    for (const w of all) expect(strategies).not.toHaveProperty(w);
  });
});

describe('restarts', () => {
  const rules = { budget: 6, window: 10, backoff: 0.1, maxBackoff: 0.3 };
  const crash = (b: PolicyBook, t: number) => b.decide('deviceCrash', ['disk0'], t);
  test('three at once, then later and later, then isolated', () => {
    const b = book({}, rules);
    expect([1, 2, 3, 4, 5, 6].map((t) => crash(b, t).wait)).toEqual([0, 0, 0, 100, 200, 300]);
    expect(crash(b, 7)).toEqual({ strategy: 'isolate', escalated: true, wait: 0 });
  });
  test('old restarts do not count; forgiven ones neither', () => {
    const b = book({}, rules);
    for (let t = 0; t < 6; t++) crash(b, t);
    expect(crash(b, 9_999).strategy).toBe('isolate');
    expect(crash(b, 10_010)).toEqual({ strategy: 'restart', escalated: false, wait: 0 });
    for (let t = 0; t < 6; t++) crash(b, 10_011 + t);
    b.forgive('platform');
    expect(crash(b, 10_020).escalated).toBe(true);
    b.forgive('disk0');
    expect(crash(b, 10_020).escalated).toBe(false);
    for (let t = 0; t < 10; t++) b.decide('tripleFault', [], 10_020);
    b.forgive();
    expect(b.decide('tripleFault', [], 10_020).escalated).toBe(true);
  });
  test('all ways in which a process fails share one budget; processes do not', () => {
    const b = book({}, { ...rules, budget: 2 });
    crash(b, 1);
    b.decide('deviceHang', ['disk0'], 2);
    expect(b.decide('protocolViolation', ['disk0'], 3).escalated).toBe(true);
    expect(b.decide('deviceCrash', ['platform', 'com1'], 3).escalated).toBe(false);
  });
});

describe('rules', () => {
  test("a device's own comes first, then the kind's, then what is usual", () => {
    const b = book({
      deviceCrash: { budget: 5 },
      devices: {
        disk0: { deviceCrash: { budget: 1, escalate: 'pause' } },
        com1: { deviceCrash: 'shutdown' },
      },
    });
    expect(b.rule('deviceCrash', ['platform'])).toMatchObject({
      action: 'restart',
      budget: 5,
      escalate: 'isolate',
    });
    expect(b.rule('deviceCrash', ['disk0', 'disk0'])).toMatchObject({ budget: 1, escalate: 'pause' });
    // A rule for a device holds for the process that it is in.
    expect(b.rule('deviceCrash', ['platform', 'com1'])).toMatchObject({ action: 'shutdown', budget: 5 });
    expect(b.rule('guestPanic', [])).toMatchObject({ action: 'fail' });
  });
  test('are changed and taken back while the machine runs', () => {
    const b = book({ guestPanic: 'pause' });
    b.set('guestPanic', parseRule('guestPanic', { action: 'reset', budget: 1, escalate: 'shutdown' }));
    expect([1, 2].map((t) => b.decide('guestPanic', [], t).strategy)).toEqual(['reset', 'shutdown']);
    b.reset('guestPanic');
    expect(b.decide('guestPanic', [], 3).strategy).toBe('pause');
    b.set('deviceCrash', { action: 'isolate' }, 'disk0');
    expect(b.list().find((r) => r.source === 'disk0')).toMatchObject({
      kind: 'deviceCrash',
      action: 'isolate',
    });
    b.reset();
    expect(b.list().some((r) => r.source !== '')).toBe(false);
  });
  test('that cannot be are refused, with what can', () => {
    const b = book();
    expect(error(() => b.set('deviceCrash', {}, 'disk7'))).toMatchObject({ code: 'DEVICE_UNKNOWN' });
    expect(error(() => b.set('guestPanic', {}, 'disk0'))).toMatchObject({ code: 'POLICY_INVALID' });
    expect(error(() => book({ devices: { disk9: {} } })).code).toBe('DEVICE_UNKNOWN');
    expect(error(() => parseRule('tripleFault', 'ignore')).expected).toMatch(/one of reset, rollback, pause/);
    expect(error(() => parseRule('guestPanic', 'pausse'))).toMatchObject({ code: 'POLICY_INVALID' });
    expect(error(() => parseRule('guestPanic', { budgt: 1 })).code).toBe('POLICY_INVALID');
    expect(error(() => parseSpec({ bios: 'x', policy: { guestPanick: 'pause' } }))).toMatchObject({
      code: 'SPEC_UNKNOWN_KEY',
      hint: "Did you mean 'guestPanic'?",
    });
    expect(error(() => parseSpec({ bios: 'x', policy: { guestPanic: 'isolate' } })).expected).toContain(
      'guestPanic',
    );
  });
});

describe('words of others', () => {
  test.each([
    [
      'panic=pause,reboot=shutdown,shutdown=pause',
      { guestPanic: 'pause', guestReset: 'shutdown', guestShutdown: 'pause' },
    ],
    ['panic=exit-failure,watchdog=inject-nmi', { guestPanic: 'fail', watchdogExpired: 'nmi' }],
    [
      'panic=none,shutdown=poweroff,reboot=reset',
      { guestPanic: 'ignore', guestShutdown: 'shutdown', guestReset: 'reset' },
    ],
    // QEMU's watchdog: shutdown asks the guest, poweroff does not.
    ['watchdog=shutdown', { watchdogExpired: 'poweroff' }],
    ['watchdog=poweroff', { watchdogExpired: 'shutdown' }],
    ['on_crash=restart,on_reboot=destroy', { guestPanic: 'reset', guestReset: 'shutdown' }],
    ['on_crash=preserve', { guestPanic: 'pause' }],
    ['deviceCrash=restart,guestHang=pause', { deviceCrash: 'restart', guestHang: 'pause' }],
  ])('%s', (text, rules) => expect(parseActions(text)).toEqual(rules));
  test.each(['panic', 'panic=explode', 'fire=pause', 'panic=pause=reset', ''])('%j is refused', (text) =>
    expect(error(() => parseActions(text)).code).toBe('POLICY_INVALID'),
  );
});
