export * from './nbd-connect.ts';
export * from './nbd-uri.ts';
