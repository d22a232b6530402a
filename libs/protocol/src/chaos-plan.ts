/** A campaign of faults: a machine, a command in its guest, rules, and what must hold for every seed. */
import * as z from 'zod/mini';
import { NyxError } from './errors.ts';
import { FaultEntry } from './fault-plan.ts';
import { parseSpec, refuse, type VmSpec } from './spec.ts';
import { parseYaml } from './spec-file.ts';

const Expect = z.strictObject({
  /** Exit status of the command. */
  status: z._default(z.int().check(z.gte(0), z.lte(255)), 0),
  /** Regular expression that its output matches. */
  output: z.optional(z.string()),
  /** Faults that must have happened at least: a campaign that made none shows nothing. */
  faults: z._default(z.int().check(z.gte(0)), 1),
});

export const ChaosPlan = z.strictObject({
  name: z._default(
    z.string().check(z.regex(/^[\w .-]{1,60}$/, 'expected 1 to 60 letters, digits, spaces, . _ -')),
    'chaos',
  ),
  /** As in a machine file (docs/machine-file.md). */
  machine: z.record(z.string(), z.unknown()),
  /** Command in the guest, begun once it listens and the rules are in force. */
  run: z.string().check(z.minLength(1)),
  /** Seconds for boot and command. */
  timeout: z._default(z.number().check(z.positive(), z.lte(86_400)), 120),
  rules: z.array(FaultEntry).check(z.minLength(1), z.maxLength(64)),
  expect: z.prefault(Expect, {}),
});
export type ChaosPlan = Omit<z.output<typeof ChaosPlan>, 'machine'> & { machine: VmSpec };

const keysAt = (where: readonly PropertyKey[]): string[] =>
  Object.keys((where[0] === 'rules' ? FaultEntry : where[0] === 'expect' ? Expect : ChaosPlan).shape);

/** @throws NyxError SPEC_UNKNOWN_KEY, SPEC_INVALID */
export const parseChaosPlan = (value: unknown, from = 'the plan'): ChaosPlan => {
  const result = ChaosPlan.safeParse(value);
  if (!result.success) return refuse(result.error, value, from, keysAt);
  const plan = result.data;
  try {
    if (plan.expect.output !== undefined) new RegExp(plan.expect.output);
  } catch (e) {
    throw new NyxError('SPEC_INVALID', {
      expected: 'expect.output: a regular expression',
      got: (e as Error).message,
    });
  }
  return { ...plan, machine: parseSpec({ agent: true, ...plan.machine }, `${from}, machine`) };
};

/** @param text YAML or JSON. @throws NyxError SPEC_SYNTAX, and as parseChaosPlan */
export const parseChaosText = (text: string, from: string): ChaosPlan =>
  parseChaosPlan(parseYaml(text, from), from);
