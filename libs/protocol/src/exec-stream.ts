/** The bytes of the exec socket, both ways. */
import * as z from 'zod/mini';
import { controlWire } from './control.ts';
import { NyxError } from './errors.ts';

/**
 * The exec socket. The client sends one line of JSON (ExecAsk) and then reads frames until `exit` or `error`:
 * kind u8, length u32 (little-endian), payload. Payload of exit: the status as u32; of error: JSON of a WireError.
 */
export const ExecFrame = { stdout: 1, stderr: 2, exit: 3, error: 4 } as const;
export const ExecAsk = z.strictObject({
  v: z.literal(controlWire.version),
  command: z.string().check(z.minLength(1)),
  timeout: z.number().check(z.positive(), z.lte(86_400)),
});

export const encodeFrame = (kind: number, payload: Uint8Array): Buffer => {
  const frame = Buffer.allocUnsafe(5 + payload.length);
  frame[0] = kind;
  frame.writeUInt32LE(payload.length, 1);
  frame.set(payload, 5);
  return frame;
};

/** Cuts a byte stream into frames. @throws NyxError PROTOCOL_INVALID */
export class FrameReader {
  #held: Buffer = Buffer.alloc(0);
  *feed(bytes: Buffer): Generator<{ kind: number; payload: Buffer }> {
    this.#held = this.#held.length ? Buffer.concat([this.#held, bytes]) : bytes;
    while (this.#held.length >= 5) {
      const length = this.#held.readUInt32LE(1);
      if (length > controlWire.maxBytes)
        throw new NyxError('PROTOCOL_INVALID', {
          expected: `frames of at most ${controlWire.maxBytes} bytes`,
          got: `${length}`,
        });
      if (this.#held.length < 5 + length) return;
      const kind = this.#held[0]!;
      const payload = this.#held.subarray(5, 5 + length);
      this.#held = this.#held.subarray(5 + length);
      yield { kind, payload };
    }
  }
}
