export * from './cpp.ts';
export * from './registers.ts';
export * from './struct.ts';
export * from './view.ts';
