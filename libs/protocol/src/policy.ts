/**
 * What is done about faults, as a user writes it: `policy:` of a machine file, `nyx policy set`, `nyx run --action`. A rule
 * for a kind of fault (fault-kinds.ts) is a strategy, or a strategy with budget, back-off and what comes when the budget
 * is spent; what it leaves out is taken from the kind and from `recovery`.
 */
import * as z from 'zod/mini';
import { NyxError } from './errors.ts';
import {
  type FaultKind,
  faultKind,
  faultNames,
  isFaultKind,
  type Strategy,
  strategies,
} from './fault-kinds.ts';
import { nearest } from './nearest.ts';

const words = new Map<string, Strategy>(
  (Object.keys(strategies) as Strategy[]).flatMap((s) => [
    [s, s] as const,
    ...strategies[s].words.map((w) => [w, s] as const),
  ]),
);

/**
 * QEMU's `-action` and Xen's `on_...`: what they call an event, and words that mean something else there than here.
 * QEMU: panic=pause|shutdown|exit-failure|none, reboot=reset|shutdown, shutdown=poweroff|pause,
 * watchdog=reset|shutdown|poweroff|inject-nmi|pause|debug|none. Xen: destroy, restart, rename-restart, preserve.
 */
const foreign: Record<string, { kind: FaultKind; words: Record<string, Strategy> }> = {
  reboot: { kind: 'guestReset', words: { restart: 'reset' } },
  shutdown: { kind: 'guestShutdown', words: { poweroff: 'shutdown', restart: 'reset' } },
  panic: { kind: 'guestPanic', words: { restart: 'reset' } },
  // There, shutdown asks the guest and poweroff does not.
  watchdog: {
    kind: 'watchdogExpired',
    words: { shutdown: 'poweroff', poweroff: 'shutdown', restart: 'reset' },
  },
};
const xen: Record<string, string> = {
  on_poweroff: 'shutdown',
  on_reboot: 'reboot',
  on_crash: 'panic',
  on_watchdog: 'watchdog',
};

/** @throws NyxError POLICY_INVALID */
export const parseKind = (name: string): FaultKind => {
  if (isFaultKind(name)) return name;
  const known = foreign[xen[name] ?? name];
  if (known) return known.kind;
  const all = [...faultNames, ...Object.keys(foreign), ...Object.keys(xen)];
  throw new NyxError('POLICY_INVALID', {
    expected: 'a kind of fault',
    got: `'${name}'`,
    hint: `Did you mean '${nearest(name, all)}'? docs/recovery.md lists them.`,
  });
};

/** The strategy that a word means for a kind of fault (or for QEMU's or Xen's name of one). @throws NyxError POLICY_INVALID */
export const parseStrategy = (event: string, word: string): Strategy => {
  const kind = parseKind(event);
  const k = faultKind(kind);
  const restart: Strategy | undefined = k.of === 'machine' && word === 'restart' ? 'reset' : undefined;
  const strategy =
    foreign[xen[event] ?? event]?.words[word] ??
    (k.allowed.includes(word as Strategy) ? (word as Strategy) : (restart ?? words.get(word)));
  if (strategy === undefined || !k.allowed.includes(strategy))
    throw new NyxError('POLICY_INVALID', {
      expected: `${kind}: one of ${[...new Set(k.allowed)].join(', ')}`,
      got: `'${word}'`,
      ...(strategy === undefined
        ? { hint: `Did you mean '${nearest(word, [...words.keys()])}'?` }
        : { hint: `'${strategy}' makes no sense for this kind of fault: ${k.doc}` }),
    });
  return strategy;
};

/** A rule with nothing left out. Seconds. */
export interface FullRule {
  action: Strategy;
  /** Times within `window` seconds that `action` is taken; after that it is `escalate`. 0: at once. Infinity: for ever. */
  budget: number;
  window: number;
  /** Wait before the n-th restart in the window (n > 3): this * 2^(n - 4), at most `maxBackoff`. */
  backoff: number;
  maxBackoff: number;
  escalate: Strategy;
}

const positive = z.number().check(z.positive(), z.lte(86_400));
const Parts = z.strictObject({
  action: z.optional(z.string()),
  budget: z.optional(z.int().check(z.gte(0), z.lte(10_000))),
  window: z.optional(positive),
  backoff: z.optional(positive),
  maxBackoff: z.optional(positive),
  escalate: z.optional(z.string()),
});
type RuleInput = string | z.output<typeof Parts>;
export type Rule = Partial<FullRule>;

const rule = (kind: FaultKind) =>
  z.pipe(
    z.union([z.string(), Parts]),
    z.transform((v: RuleInput, ctx): Rule => {
      const parts: z.output<typeof Parts> = typeof v === 'string' ? { action: v } : v;
      try {
        const { action, escalate, ...rest } = parts;
        return {
          ...rest,
          ...(action === undefined ? {} : { action: parseStrategy(kind, action) }),
          ...(escalate === undefined ? {} : { escalate: parseStrategy(kind, escalate) }),
        } as Rule;
      } catch (e) {
        const { expected, hint } = e as NyxError;
        ctx.issues.push({ code: 'custom', message: `expected ${expected}. ${hint}`, input: v });
        return z.NEVER;
      }
    }),
  );

/** A rule for a kind, as in a machine file. @throws NyxError POLICY_INVALID */
export const parseRule = (kind: FaultKind, value: unknown): Rule => {
  const result = rule(kind).safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const at = issue.path.join('.');
  throw new NyxError('POLICY_INVALID', {
    expected: issue.message.replace(/^Invalid input: |^expected /g, ''),
    got: `${kind}${at && `.${at}`}: ${JSON.stringify(value)}`,
  });
};

const rules = (of: readonly FaultKind[]) =>
  Object.fromEntries(of.map((k) => [k, z.optional(rule(k))])) as Record<
    FaultKind,
    z.ZodMiniOptional<ReturnType<typeof rule>>
  >;
const deviceKinds = faultNames.filter((k) => faultKind(k).of === 'device');

export const DevicePolicy = z.strictObject(rules(deviceKinds));
export const Policy = z.strictObject({
  ...rules(faultNames),
  /** Seconds without progress until it is a `guestHang`; 0: nobody looks. */
  hangTime: z._default(z.number().check(z.gte(0), z.lte(86_400)), 10),
  /** Interrupts a second of one device process from which it is an `interruptStorm`. */
  stormLimit: z._default(z.int().check(z.gte(100)), 200_000),
  /** By device (or process) instead of for all. */
  devices: z._default(z.record(z.string(), DevicePolicy), {}),
});
export type Policy = z.output<typeof Policy>;

/**
 * `panic=pause,reboot=shutdown` as rules. Kinds of fault, QEMU's and Xen's names; words of all three.
 * @throws NyxError POLICY_INVALID
 */
export const parseActions = (text: string): Partial<Record<FaultKind, Strategy>> => {
  const made: Partial<Record<FaultKind, Strategy>> = {};
  for (const part of text.split(',')) {
    const [event, word, ...more] = part.split('=').map((s) => s.trim());
    if (!event || !word || more.length > 0)
      throw new NyxError('POLICY_INVALID', { expected: 'EVENT=ACTION,...', got: `'${part}'` });
    made[parseKind(event)] = parseStrategy(event, word);
  }
  return made;
};

/** What holds for a kind of fault of a device: the device's rule, the kind's, `recovery`, the table. */
export const resolveRule = (
  kind: FaultKind,
  recovery: Pick<FullRule, 'budget' | 'window' | 'backoff' | 'maxBackoff'>,
  general: Rule | undefined,
  own: Rule | undefined,
): FullRule => {
  const k = faultKind(kind);
  const restarts = k.group === 'process';
  const action = own?.action ?? general?.action ?? k.strategy;
  return {
    action: k.strategy,
    budget: k.budget ?? (restarts ? recovery.budget : action === 'rollback' ? 10 : Number.POSITIVE_INFINITY),
    window: k.window ?? (action === 'rollback' && !restarts ? 60 : recovery.window),
    backoff: recovery.backoff,
    maxBackoff: recovery.maxBackoff,
    escalate: k.escalate ?? (k.of === 'device' ? 'isolate' : 'fail'),
    ...general,
    ...own,
  };
};
