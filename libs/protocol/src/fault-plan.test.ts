import { describe, expect, test } from 'vitest';
import { parseChaosText } from './chaos-plan.ts';
import { parseFaultPlan, parseFaultText } from './fault-file.ts';
import { ruleOf } from './fault-plan.ts';

const refused = (text: string): unknown => {
  try {
    parseFaultText(text, 'plan.yaml');
  } catch (e) {
    const { code, expected, got, hint } = e as Record<string, unknown>;
    return [code, expected, got, hint];
  }
  return 'accepted';
};

describe('a fault plan', () => {
  test('gets its defaults, and becomes rules', () => {
    const plan = parseFaultText(
      'rules:\n  - { point: io, verb: delay, device: disk0, type: write, offset: [512, 1023], delay: 0.5 }',
      'p',
    );
    expect(plan.seed).toBe(1);
    expect(ruleOf(plan.rules[0]!, plan.seed, 3)).toEqual({
      slot: 3,
      point: 'io',
      verb: 'delay',
      device: 'disk0',
      types: ['write'],
      from: 512,
      to: 1023,
      place: 'handler',
      after: 0,
      every: 1,
      count: 0,
      probability: 1,
      seed: 1,
      delayNs: 5e8,
      mask: 0,
      bytes: 512,
      again: false,
    });
  });

  test('is the same as JSON', () => {
    const rules = [{ point: 'exit', verb: 'kill', probability: 0.5 }];
    expect(parseFaultText(JSON.stringify({ rules }), 'p')).toEqual(parseFaultPlan({ rules }));
  });

  test.each([
    ['rules: [{ point: exit, verb: short }]', /one of drop, delay, .* at point exit/],
    ['rules: [{ point: process, verb: kill, type: read }]', /'type' only at exit, reply, io/],
    ['rules: [{ point: io, verb: error, type: intAck }]', /one of read, write, flush, .* at point io/],
    ['rules: [{ point: nowhere, verb: kill }]', /"exit"\|"reply"/],
    ['rules: [{ point: io, verb: error, probability: 2 }]', /<=\s?1/],
    ['rules: [{ point: io, verb: error, every: 0 }]', />=\s?1/],
    ['seed: -1', />=\s?0/],
  ])('%s: refused', (text, expected) => {
    expect(refused(text)).toEqual([
      'SPEC_INVALID',
      expect.stringMatching(expected),
      expect.stringContaining('plan.yaml'),
      expect.anything(),
    ]);
  });

  test('keys that it does not know are told with the nearest that exists', () => {
    expect(refused('rules: [{ point: io, verb: error, probabilty: 1 }]')).toEqual([
      'SPEC_UNKNOWN_KEY',
      expect.stringContaining('point, verb, device'),
      expect.stringContaining('probabilty'),
      "Did you mean 'probability'?",
    ]);
    expect(refused('rules: [')).toEqual([
      'SPEC_SYNTAX',
      undefined,
      expect.stringContaining('plan.yaml'),
      expect.anything(),
    ]);
  });
});

test('a campaign: what is wrong with its machine or its pattern is told too', () => {
  const plan = (more: string): string =>
    `machine: { image: debian }\nrun: "true"\nrules: [{ point: io, verb: error }]\n${more}`;
  expect(parseChaosText(plan(''), 'p')).toMatchObject({
    timeout: 120,
    expect: { status: 0, faults: 1 },
    machine: { agent: true },
  });
  expect(() => parseChaosText(plan("expect: { output: '(' }"), 'p')).toThrow(/regular expression/);
  expect(() => parseChaosText(plan('').replace('image', 'imaeg'), 'p')).toThrow(/imaeg/);
  expect(() => parseChaosText('run: x', 'p')).toThrow();
});
