/** The TPM of a machine, in its specification and on the command line. */
import * as z from 'zod/mini';
import { NyxError } from './errors.ts';
import { nearest } from './nearest.ts';

const path = z.string().check(z.minLength(1));

export const Tpm = z.strictObject({
  /** The interface: FIFO (TIS) or command response buffer. */
  model: z._default(z.enum(['tis', 'crb']), 'crb'),
  /** Directory (or file) that keeps what a TPM keeps without power; without it, that ends with the machine. */
  state: z.optional(path),
  /** File of 32 octets with which the state is encrypted. */
  key: z.optional(path),
  /** `swtpm:SOCKET`: the TPM is swtpm's, at its control socket. */
  backend: z.optional(z.string().check(z.regex(/^swtpm:.+/s, 'expected swtpm:SOCKET'))),
  /** Direct boot measures kernel, initrd and command line, as firmware and a boot loader would. */
  measure: z._default(z.boolean(), true),
});

/** `tpm: true` is a TPM with nothing said about it. */
export const TpmOrNot = z.union([
  z.pipe(
    z.boolean(),
    z.transform((on) => (on ? Tpm.parse({}) : undefined)),
  ),
  Tpm,
]);

/** Control socket of swtpm, if that is the backend. */
export const swtpmSocket = (tpm: { backend?: string | undefined }): string | undefined =>
  tpm.backend?.slice('swtpm:'.length);

const keys = Object.keys(Tpm.shape);

/** 'model=tis,state=DIR' as the object that a machine file has. @throws NyxError USAGE */
export function parseTpmOption(text: string): Record<string, string | boolean> {
  const out: Record<string, string | boolean> = {};
  for (const part of text.split(',').filter(Boolean)) {
    const at = part.indexOf('=');
    const key = at < 0 ? part : part.slice(0, at);
    if (at < 0 || !keys.includes(key))
      throw new NyxError('USAGE', {
        expected: `--tpm ${keys.map((k) => `${k}=...`).join(',')}`,
        got: `'${part}'`,
        hint: `Did you mean '${nearest(key, keys)}=...'?`,
      });
    const value = part.slice(at + 1);
    out[key] = key === 'measure' ? value !== 'false' && value !== 'off' && value !== 'no' : value;
  }
  return out;
}
