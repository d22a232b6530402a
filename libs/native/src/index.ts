export * from './native.ts';
export * from './syscalls.ts';
export type * from './types.ts';
