export * from './device.ts';
export { relayBytes } from './relay.ts';
