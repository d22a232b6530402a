export type { Recovered, Status, VmEvent, VmState } from '@nyx/protocol/control';
export * from '@nyx/protocol/errors';
export type { FaultPlan, FaultPlanInput } from '@nyx/protocol/fault-plan';
export type { VmSpec, VmSpecInput } from '@nyx/protocol/spec';
export { BuiltVm, ProductionVMBuilder } from './builder.ts';
export type { ExecOptions, ExecResult } from './exec.ts';
export { imageError } from './image.ts';
export { type FaultRuleInput, forceStop, type Metrics, type StartOptions, Vm } from './vm.ts';
