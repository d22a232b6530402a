export * from './backend.ts';
export * from './connection.ts';
export * from './driver-ring.ts';
export * from './frontend.ts';
export * from './inflight.ts';
export * from './memory.ts';
export * from './protocol.ts';
export * from './worker.ts';
