/** What a deterministic machine is known by when its guest has powered off. */
import { createHash } from 'node:crypto';
import type { Fingerprint } from '@nyx/protocol/control';
import type { StatusReader } from './status.ts';

/** Node takes at most 2 GiB at once. */
const pieceBytes = 2 ** 30;

/** Of a machine whose vCPU stands still. */
export const fingerprintOf = (ram: ArrayBuffer, status: StatusReader): Fingerprint => {
  const hash = createHash('sha256');
  for (let at = 0; at < ram.byteLength; at += pieceBytes)
    hash.update(new Uint8Array(ram, at, Math.min(pieceBytes, ram.byteLength - at)));
  return {
    instructions: status.page.vcpu.at(0).instructions,
    guestNs: status.clock.now(),
    memory: hash.digest('hex'),
  };
};
