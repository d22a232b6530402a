export * from './banked.ts';
export * from './console.ts';
export * from './device.ts';
export * from './line.ts';
export * from './memory.ts';
export * from './reset.ts';
export * from './time.ts';
export * from './pci/index.ts';
