/**
 * A plan of faults on purpose, as a user writes it: in a YAML or JSON file, in a machine file under `faults`, or as an
 * object. docs/fault-injection.md tells what each verb does; fault-rule.ts is what becomes of it.
 */
import * as z from 'zod/mini';
import {
  type FaultPoint,
  type FaultRule,
  type FaultVerb,
  faultPlaces,
  faultTypes,
  faultVerbs,
} from './fault-rule.ts';

const u32 = z.int().check(z.gte(0), z.lte(0xffffffff));
const counted = (usual: number, least = 0) => z._default(z.int().check(z.gte(least), z.lte(1e9)), usual);
const points = Object.keys(faultVerbs) as [FaultPoint, ...FaultPoint[]];
const verbs = [...new Set(Object.values(faultVerbs).flat())] as [FaultVerb, ...FaultVerb[]];
const types = [...new Set([...faultTypes.exit, ...faultTypes.io])] as [string, ...string[]];
const place = z.number().check(z.gte(0), z.lte(2 ** 53));

/** What does not belong to a point; checked after the single keys are. */
const onlyFor: Record<string, readonly FaultPoint[]> = {
  type: ['exit', 'reply', 'io'],
  region: ['exit', 'reply'],
  offset: ['exit', 'reply', 'io', 'dma'],
  source: ['interrupt'],
  place: ['process'],
};

export const FaultEntry = z
  .strictObject({
    point: z.enum(points),
    verb: z.enum(verbs),
    /** Device; for `process` also the name of a process. '*': all. */
    device: z._default(z.string().check(z.minLength(1), z.maxLength(64)), '*'),
    type: z.optional(z.union([z.enum(types), z.array(z.enum(types)).check(z.minLength(1))])),
    region: z.optional(z.int().check(z.gte(0), z.lte(255))),
    /** One offset, or the first and the last. */
    offset: z.optional(z.union([place, z.tuple([place, place])])),
    source: z.optional(z.int().check(z.gte(0), z.lte(4095))),
    place: z.optional(z.enum(faultPlaces)),
    after: counted(0),
    every: counted(1, 1),
    count: counted(0),
    probability: z._default(z.number().check(z.gte(0), z.lte(1)), 1),
    /** Seconds. */
    delay: z._default(z.number().check(z.gte(0), z.lte(60)), 0.01),
    mask: z._default(u32, 0),
    bytes: counted(512),
    again: z._default(z.boolean(), false),
  })
  .check((ctx) => {
    const { point, verb } = ctx.value;
    const complain = (key: string, expected: string): void => {
      ctx.issues.push({ code: 'custom', path: [key], message: expected, input: ctx.value });
    };
    if (!(faultVerbs[point] as readonly string[]).includes(verb))
      complain('verb', `one of ${faultVerbs[point].join(', ')} at point ${point}`);
    for (const [key, at] of Object.entries(onlyFor))
      if (ctx.value[key as 'type'] !== undefined && !at.includes(point))
        complain(key, `'${key}' only at ${at.join(', ')}`);
    const { type } = ctx.value;
    const legal: readonly string[] = point === 'io' ? faultTypes.io : faultTypes.exit;
    for (const t of type === undefined ? [] : [type].flat())
      if (!legal.includes(t)) complain('type', `one of ${legal.join(', ')} at point ${point}`);
  });

export const FaultPlan = z.strictObject({
  /** The same plan and seed make the same faults: match k of a rule is decided alike in every run. */
  seed: z._default(u32, 1),
  rules: z._default(z.array(FaultEntry).check(z.maxLength(64)), []),
  /** Folder, absolute, for a transcript of every exit (`npm run sweep`). Slows the machine. Only in a machine file. */
  transcript: z.optional(z.string().check(z.minLength(1))),
});

export type FaultEntry = z.output<typeof FaultEntry>;
export type FaultPlan = z.output<typeof FaultPlan>;
export type FaultPlanInput = z.input<typeof FaultPlan>;

/** What device processes are told of an entry. */
export const ruleOf = (e: FaultEntry, seed: number, slot: number): FaultRule => {
  const { point, verb, device, after, every, count, probability, mask, bytes, again } = e;
  const [from, to] = e.offset === undefined ? [] : [e.offset].flat();
  return {
    slot,
    point,
    verb,
    device,
    ...(e.type === undefined ? {} : { types: [e.type].flat() }),
    ...(e.region === undefined ? {} : { region: e.region }),
    ...(from === undefined ? {} : { from }),
    ...(to === undefined ? {} : { to }),
    ...(e.source === undefined ? {} : { source: e.source }),
    place: e.place ?? 'handler',
    after,
    every,
    count,
    probability,
    seed,
    delayNs: Math.round(e.delay * 1e9),
    mask,
    bytes,
    again,
  };
};
