/** State of a device whose work a vhost-user back-end does. */
import { virtioFields } from '@nyx/device';
import { array, pad, struct } from '@nyx/layout';

export const VhostLimit = {
  queues: 8,
  /** Requests under way, all queues together. */
  slots: 128,
  /** Entries of the guest's rings. */
  queueSize: 256,
  /** Entries of the rings that the back-end sees: several of the longest chains without indirect tables. */
  ringSize: 1024,
  configBytes: 256,
} as const;

export const VhostState = struct(
  'VhostUserState',
  {
    ...virtioFields(VhostLimit.queues, VhostLimit.queues + 1, VhostLimit.slots),
    config: array('u8', VhostLimit.configBytes, 'device configuration, with what the driver wrote'),
    pad0: pad(4),
  },
  { doc: 'vhost-user' },
);
