export * from './levels.ts';
export * from './logger.ts';
export * from './ring.ts';
