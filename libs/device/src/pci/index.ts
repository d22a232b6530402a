export * from './capability.ts';
export * from './function.ts';
export * from './msi.ts';
export * from './msix.ts';
export * from './regs.ts';
