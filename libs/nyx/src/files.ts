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
} as const;
