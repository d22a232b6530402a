export * from './chain.ts';
export * from './device.ts';
export * from './pci.ts';
export * from './queue.ts';
export * from './regs.ts';
export * from './transport.ts';
