/**
 * What a user may say of a disk beside its file and format: the same keys in a machine file and after `--disk FILE,`.
 * Names follow QEMU.
 */
import * as z from 'zod/mini';
import { diskFormats } from './disk-formats.ts';
import { size } from './size.ts';

export { type DiskFormat, diskFormats, isDiskFormat } from './disk-formats.ts';

/** What becomes of requests that the backend fails. */
export const writeErrorPolicies = ['report', 'ignore', 'stop', 'enospc'] as const;
export const readErrorPolicies = ['report', 'ignore', 'stop'] as const;
export type ErrorPolicy = (typeof writeErrorPolicies)[number];

const rate = z.optional(z.number().check(z.gte(1), z.lte(1e15)));
const burstSeconds = z.optional(z.int().check(z.gte(1), z.lte(86_400)));
const kinds = ['total', 'read', 'write'] as const;
const units = ['iops', 'bps'] as const;
type Unit = `${(typeof units)[number]}-${(typeof kinds)[number]}`;

/**
 * Requests and bytes a second on average; `-max`: for bursts, which last at most `-max-length` seconds (1 unless said
 * otherwise). A request of more than `iops-size` bytes counts as several.
 */
export const Throttle = z.strictObject({
  ...(Object.fromEntries(
    units.flatMap((u) =>
      kinds.flatMap((k) => [
        [`${u}-${k}`, rate],
        [`${u}-${k}-max`, rate],
        [`${u}-${k}-max-length`, burstSeconds],
      ]),
    ),
  ) as Record<Unit | `${Unit}-max`, typeof rate> & Record<`${Unit}-max-length`, typeof burstSeconds>),
  'iops-size': z.optional(z.int().check(z.gte(512), z.lte(2 ** 40))),
});
export type Throttle = z.output<typeof Throttle>;

export const diskOptions = {
  /** Raw unless said otherwise: never guessed from bytes that a guest may have written. */
  format: z.optional(z.enum(diskFormats)),
  /** Read-only, of a file that others may write meanwhile. */
  forceShare: z.optional(z.boolean()),
  /** Past the host's page cache (O_DIRECT); raw only. */
  direct: z.optional(z.boolean()),
  /** Backend errors of writes: enospc (usual) stops the machine when there is no room and reports the rest. */
  werror: z.optional(z.enum(writeErrorPolicies)),
  /** Of reads: report (usual), ignore or stop. */
  rerror: z.optional(z.enum(readErrorPolicies)),
  throttle: z.optional(Throttle),
  /** Seconds that requests wait for an NBD server that is gone, before they fail; without it they wait without end. */
  reconnectDelay: z.optional(z.int().check(z.gte(0), z.lte(86_400))),
  /** Bytes of a disk that is no file: `null-co://`, `memory://`. */
  size: z.optional(size),
};
