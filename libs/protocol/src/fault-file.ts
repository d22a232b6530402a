import { FaultEntry, FaultPlan } from './fault-plan.ts';
import { refuse } from './spec.ts';
import { parseYaml } from './spec-file.ts';

const keysAt = (where: readonly PropertyKey[]): string[] =>
  Object.keys(where[0] === 'rules' ? FaultEntry.shape : FaultPlan.shape);

/** @throws NyxError SPEC_UNKNOWN_KEY, SPEC_INVALID */
export const parseFaultPlan = (value: unknown, from = 'the fault plan'): FaultPlan => {
  const result = FaultPlan.safeParse(value);
  if (result.success) return result.data;
  return refuse(result.error, value, from, keysAt);
};

/** @param text YAML or JSON. @throws NyxError SPEC_SYNTAX, and as parseFaultPlan */
export const parseFaultText = (text: string, from: string): FaultPlan =>
  parseFaultPlan(parseYaml(text, from), from);
