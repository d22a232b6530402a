/** What the supervisor and the process of a TPM share: names, sizes, and the memory with what is done at power on. */

export const tpmWire = {
  /** The state in a state directory. */
  stateFile: 'tpm.state',
  /** Shared memory that stands for the state file where there is none; it needs less. */
  stateBytes: 4 << 20,
  /** Of a command or a response. */
  bufferBytes: 4096,
  /** Of a measurement by hardware. */
  hashBytes: 64 * 1024,
  /** Where the memory that outlives the process has the response of a foreign TPM, behind both of them. */
  slotAt: 4096 + 64 * 1024,
  /** Where it has the page of the physical presence interface, which is plain memory to guest and firmware. */
  ppiAt: 4096 + 64 * 1024 + 8192,
  ppiBytes: 0x400,
  bulkBytes: 4096 + 64 * 1024 + 8192 + 0x400,
} as const;

/**
 * The memory with the commands that the TPM executes at power on, as firmware would: offsets of a u32 that its writer counts up
 * last, of the number of octets, and of the commands (each with its length, u32, in front); octets of all. Little-endian.
 */
export const tpmBoot = { generation: 0, length: 4, script: 8, bytes: 16 * 1024 } as const;

/** Commands one after the other, each with its length in front. */
export function packScript(commands: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(commands.reduce((n, c) => n + 4 + c.length, 0));
  const v = new DataView(out.buffer);
  let at = 0;
  for (const c of commands) {
    v.setUint32(at, c.length, true);
    out.set(c, at + 4);
    at += 4 + c.length;
  }
  return out;
}

/** Stops at what is cut short. */
export function* unpackScript(script: Uint8Array): Generator<Uint8Array> {
  const v = new DataView(script.buffer, script.byteOffset, script.byteLength);
  for (let at = 0; at + 4 <= script.length; ) {
    const length = v.getUint32(at, true);
    if (at + 4 + length > script.length) return;
    yield script.subarray(at + 4, at + 4 + length);
    at += 4 + length;
  }
}
