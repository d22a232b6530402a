export * from './engine.ts';
export * from './injector.ts';
export * from './page.ts';
export * from './transcript.ts';
