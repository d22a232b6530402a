// What device processes may load. The control plane (zod, msgpackr) has its own entry points: see package.json.
export * from './device-message.ts';
export * from './exec.ts';
export * from './fault-kinds.ts';
export * from './fault-rule.ts';
export * from './machine.ts';
export * from './machine-state.ts';
export * from './role.ts';
export * from './tpm.ts';
