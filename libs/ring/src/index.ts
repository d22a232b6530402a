export * from './block.ts';
export * from './error.ts';
export type { Migration } from './migrate.ts';
export * from './pages.ts';
export * from './rings.ts';
export * from './server.ts';
export * from './wire.ts';
