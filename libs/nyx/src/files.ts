/** Names in a run directory. In a file of its own: whoever starts first loads nothing else. */
export const files = {
  pids: 'pids.json',
  spec: 'spec.json',
  result: 'result.json',
  /** pino JSON, a line a record. */
  log: 'nyxd.log',
  vcpuLog: 'nyx-vcpu.log',
  deviceLog: 'devices.log',
  console: 'console.log',
  /** Socket of who keeps nyxd's descriptors (libs/native/src/keeper). */
  keeper: 'keeper.sock',
  /** Behind the name of a device process: its log ring (libs/log/src/ring.ts), a mapped file. */
  ring: '.logring',
} as const;
