/**
 * What stands between a disk controller and a driver: from the top, what becomes of errors, limits, faults on purpose.
 * Only what is asked for is there.
 */
import type { DeviceContext } from '@nyx/device';
import type { ReportedFault } from '@nyx/protocol';
import type { Throttle } from '@nyx/protocol/disk-options';
import { BlockOp, BlockResult, type OpenBlock } from './block.ts';
import { type FaultSource, faulty } from './faulty.ts';
import { inOrder } from './in-order.ts';
import { type ErrorPolicies, PolicyDisk } from './policy.ts';
import { ThrottledDisk } from './throttle.ts';

/** Of the configuration of any disk controller. */
export interface LayerConfig extends ErrorPolicies {
  throttle?: Throttle;
  /** One request at a time, so that completions have one order only (deterministic mode). */
  inOrder?: boolean;
}

const opNames = Object.keys(BlockOp);

const faultOf = (result: number): ReportedFault =>
  result === BlockResult.noSpace
    ? 'resourceExhausted'
    : result === BlockResult.gone
      ? 'backendGone'
      : 'backendError';

/** The disk that `open` opens, with its layers. @param tell the supervisor; without it nothing is ever held */
export function layered(
  source: FaultSource & Pick<DeviceContext, 'raise' | 'tell'>,
  { werror, rerror, throttle, inOrder: ordered }: LayerConfig,
  open: OpenBlock,
): OpenBlock {
  const broken = faulty(source, ordered ? inOrder(open) : open);
  const limited: OpenBlock =
    throttle === undefined
      ? broken
      : (memory, completed) => new ThrottledDisk(throttle, broken, memory, completed);
  const { tell } = source;
  if (tell === undefined && source.raise === undefined) return limited;
  // Nobody who could hear that a request is held, and have it tried again: not by default then.
  const usual: ErrorPolicies = tell === undefined ? { werror: 'report', rerror: 'report' } : {};
  const policies: ErrorPolicies = { ...usual, ...(werror ? { werror } : {}), ...(rerror ? { rerror } : {}) };
  return (memory, completed) =>
    new PolicyDisk(
      policies,
      (r) =>
        tell?.call(source, 'stopped', {
          op: opNames[r.op] ?? '',
          position: r.position,
          bytes: r.bytes,
          reason: r.result === BlockResult.noSpace ? 'noSpace' : 'io',
        }),
      limited,
      memory,
      completed,
      (r) =>
        source.raise?.(faultOf(r.result), {
          what: `${opNames[r.op] ?? 'request'} of ${r.bytes} bytes`,
          position: r.position,
        }),
    );
}
