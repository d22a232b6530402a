export * from './block.ts';
export * from './error.ts';
export * from './pages.ts';
export * from './rings.ts';
export * from './server.ts';
export * from './wire.ts';
