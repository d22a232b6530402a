export * from './device.ts';
export * from './memory.ts';
