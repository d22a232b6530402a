/**
 * What a nyxd and the processes of its machine agree on without saying so: the bytes of shared memory and of what is kept for
 * the next nyxd. One of another build takes a machine over when its layouts are the same, whatever else has changed; state
 * blocks have hashes of their own.
 */
import { ConsoleHeader, consoleWire, faultPageBytes } from '@nyx/device';
import { fnv1a } from '@nyx/layout';
import { logRingBytes } from '@nyx/log/ring';
import { machineHeader, tpmBoot, tpmWire } from '@nyx/protocol';
import { defaultBlockBytes, wireHeader } from '@nyx/ring';

/** Of the parts that the keeper has (adoption.ts, kept-*.ts): counted up when one changes its meaning. */
const estateVersion = 1;

/** @param parts everything that has to be the same, as text */
export const hashOf = (parts: readonly unknown[]): string =>
  fnv1a(JSON.stringify(parts)).toString(16).padStart(8, '0');

export const layouts = hashOf([
  estateVersion,
  wireHeader(),
  machineHeader(),
  ConsoleHeader.hash,
  consoleWire,
  faultPageBytes,
  logRingBytes,
  tpmWire,
  tpmBoot,
  defaultBlockBytes,
]);
