/**
 * What a device and the supervisor have to say to each other beside exits: JSON on the role's socket. Without dependencies:
 * device processes load it. Neither side trusts the other to say what it should.
 */

/** Device process to supervisor, while it serves. */
export interface DeviceEvent {
  type: 'device';
  device: string;
  /** E.g. 'stopped'; what it means is between the kind of device and who looks after it. */
  event: string;
  /** Words and numbers, at most 16. */
  detail: Record<string, number | string>;
}

/** Supervisor to device process, after the role. Descriptors may come with it. */
export interface DeviceOrder {
  type: 'order';
  device: string;
  order: { name: string } & Record<string, number | string | boolean>;
}

const isPlain = (v: unknown): v is Record<string, unknown> =>
  typeof v === 'object' && v !== null && !Array.isArray(v);

export const isDeviceEvent = (m: unknown): m is DeviceEvent =>
  isPlain(m) &&
  m.type === 'device' &&
  typeof m.device === 'string' &&
  m.device.length <= 64 &&
  typeof m.event === 'string' &&
  m.event.length <= 64 &&
  isPlain(m.detail) &&
  Object.keys(m.detail).length <= 16 &&
  Object.values(m.detail).every(
    (v) => (typeof v === 'number' && Number.isFinite(v)) || (typeof v === 'string' && v.length <= 1024),
  );

export const isDeviceOrder = (m: unknown): m is DeviceOrder =>
  isPlain(m) &&
  m.type === 'order' &&
  typeof m.device === 'string' &&
  isPlain(m.order) &&
  typeof m.order.name === 'string';
