/**
 * vhost-user, all of it that is bytes: numbers, layouts, limits, and which message may carry what. The text is QEMU's
 * docs/interop/vhost-user.rst; names are its names. The transport is `connection.ts`, what the messages do is
 * `backend.ts` and `frontend.ts`.
 *
 * A message is a header of 12 bytes (request, flags, size of the payload), the payload, and descriptors beside it.
 * Everything is little-endian; a 64-bit value that a number cannot hold exactly is refused.
 */

/** Requests of the front-end. */
export const Request = {
  getFeatures: 1,
  setFeatures: 2,
  setOwner: 3,
  resetOwner: 4,
  setMemTable: 5,
  setLogBase: 6,
  setLogFd: 7,
  setVringNum: 8,
  setVringAddr: 9,
  setVringBase: 10,
  getVringBase: 11,
  setVringKick: 12,
  setVringCall: 13,
  setVringErr: 14,
  getProtocolFeatures: 15,
  setProtocolFeatures: 16,
  getQueueNum: 17,
  setVringEnable: 18,
  setBackendReqFd: 21,
  getConfig: 24,
  setConfig: 25,
  getInflightFd: 31,
  setInflightFd: 32,
  resetDevice: 34,
  getMaxMemSlots: 36,
  addMemReg: 37,
  remMemReg: 38,
  setStatus: 39,
  getStatus: 40,
} as const;
export type RequestName = keyof typeof Request;

/** Requests of the back-end, on the channel of SET_BACKEND_REQ_FD. */
export const BackendRequest = { configChange: 2 } as const;

/** Protocol features, numbers of bits. */
export const ProtocolFeature = {
  mq: 0,
  logShmfd: 1,
  replyAck: 3,
  backendReq: 5,
  config: 9,
  inflightShmfd: 12,
  resetDevice: 13,
  configureMemSlots: 15,
  status: 16,
} as const;

/** Feature bits of the rings that mean something to vhost-user itself. */
export const VhostFeature = { logAll: 26, protocolFeatures: 30 } as const;

/** Header flags: version 1 in bits 0..1. */
export const Flag = { version: 1, versionMask: 3, reply: 4, needReply: 8 } as const;

/** A kick, call or err message without a descriptor: the ring is polled. Bits 0..7 are its index. */
export const noFd = 0x100;

/** VHOST_VRING_F_LOG: writes to the used ring are logged. */
export const vringLog = 1;

export const Limit = {
  headerBytes: 12,
  /** Regions of SET_MEM_TABLE (VHOST_MEMORY_BASELINE_NREGIONS). */
  tableRegions: 8,
  /** Memory slots with CONFIGURE_MEM_SLOTS: as many as KVM has. */
  memSlots: 509,
  /** Bytes of device configuration in one message (VHOST_USER_MAX_CONFIG_SIZE). */
  configBytes: 256,
  /** Longest payload of any message: the memory table, 8 + 8 * 32. */
  payloadBytes: 8 + 4 + 256 + 32,
  /** Entries of a ring: VIRTIO 1.2 section 2.7 allows 32768; our rings have no more than 1024. */
  queueSize: 1024,
} as const;

/** What a message of the front-end looks like. Sizes in bytes; descriptors as a range. */
export interface Shape {
  readonly size: number | ((b: View) => number);
  readonly fds: readonly [least: number, most: number];
  /** There is an answer by itself, not by REPLY_ACK. */
  readonly reply?: boolean;
  /** Protocol feature without which it is refused. */
  readonly needs?: number;
}

/** Payload of a message, bounds-checked by its shape before anybody reads it. */
export type View = DataView;

const vring = { size: 8, fds: [0, 0] } as const;
const event = { size: 8, fds: [0, 1] } as const;
const nothing = { size: 0, fds: [0, 0] } as const;
const word = { size: 8, fds: [0, 0] } as const;

/** The shape of every request that is understood, by its number. */
export const shapes: Readonly<Record<RequestName, Shape>> = {
  getFeatures: { ...nothing, reply: true },
  setFeatures: word,
  setOwner: nothing,
  resetOwner: nothing,
  setMemTable: { size: (b) => 8 + 32 * b.getUint32(0, true), fds: [0, Limit.tableRegions] },
  setLogBase: { size: 16, fds: [0, 1], reply: true, needs: ProtocolFeature.logShmfd },
  setLogFd: { size: 0, fds: [1, 1] },
  setVringNum: vring,
  setVringAddr: { size: 40, fds: [0, 0] },
  setVringBase: vring,
  getVringBase: { ...vring, reply: true },
  setVringKick: event,
  setVringCall: event,
  setVringErr: event,
  getProtocolFeatures: { ...nothing, reply: true },
  setProtocolFeatures: word,
  getQueueNum: { ...nothing, reply: true, needs: ProtocolFeature.mq },
  setVringEnable: vring,
  setBackendReqFd: { size: 0, fds: [1, 1], needs: ProtocolFeature.backendReq },
  getConfig: {
    size: (b) => 12 + b.getUint32(4, true),
    fds: [0, 0],
    reply: true,
    needs: ProtocolFeature.config,
  },
  setConfig: { size: (b) => 12 + b.getUint32(4, true), fds: [0, 0], needs: ProtocolFeature.config },
  getInflightFd: { size: 20, fds: [0, 0], reply: true, needs: ProtocolFeature.inflightShmfd },
  setInflightFd: { size: 20, fds: [1, 1], needs: ProtocolFeature.inflightShmfd },
  resetDevice: { ...nothing, needs: ProtocolFeature.resetDevice },
  getMaxMemSlots: { ...nothing, reply: true, needs: ProtocolFeature.configureMemSlots },
  addMemReg: { size: 40, fds: [1, 1], needs: ProtocolFeature.configureMemSlots },
  remMemReg: { size: 40, fds: [0, 1], needs: ProtocolFeature.configureMemSlots },
  setStatus: { ...word, needs: ProtocolFeature.status },
  getStatus: { ...nothing, reply: true, needs: ProtocolFeature.status },
};

const names = new Map<number, RequestName>(
  (Object.entries(Request) as [RequestName, number][]).map(([name, n]) => [n, name]),
);
/** Name of a request; undefined for one that is not understood. */
export const requestName = (n: number): RequestName | undefined => names.get(n);

export interface Message {
  request: number;
  flags: number;
  payload: View;
  fds: number[];
}

/** Codes VHOST_*: the message says what was expected and what came. */
export const vhostError = (code: string, message: string): Error & { code: string } =>
  Object.assign(new Error(`vhost-user: ${message}`), { code });

/** A frame of the connection, taken apart. @throws VHOST_MESSAGE when the header is not one of version 1 */
export function decode(bytes: Uint8Array, fds: number[]): Message {
  if (bytes.length < Limit.headerBytes)
    throw vhostError('VHOST_MESSAGE', `a message of ${bytes.length} bytes`);
  const head = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const flags = head.getUint32(4, true);
  if ((flags & Flag.versionMask) !== Flag.version)
    throw vhostError('VHOST_MESSAGE', `version ${flags & Flag.versionMask} of the protocol, expected 1`);
  const size = head.getUint32(8, true);
  if (size !== bytes.length - Limit.headerBytes)
    throw vhostError('VHOST_MESSAGE', `a payload of ${size} bytes in a message of ${bytes.length}`);
  const payload = new DataView(bytes.buffer, bytes.byteOffset + Limit.headerBytes, size);
  return { request: head.getUint32(0, true), flags, payload, fds };
}

/**
 * Holds a request of the front-end against its shape.
 * @param protocol protocol features that were negotiated
 * @throws VHOST_UNSUPPORTED for an unknown one, or one whose feature was not negotiated; VHOST_MESSAGE when it is malformed
 */
export function check(m: Message, protocol: number): RequestName {
  const name = requestName(m.request);
  if (name === undefined) throw vhostError('VHOST_UNSUPPORTED', `request ${m.request}`);
  const shape = shapes[name];
  const { byteLength } = m.payload;
  // The fixed part first: a size that the payload itself tells is read from it.
  if (typeof shape.size === 'function' && byteLength < 8)
    throw vhostError('VHOST_MESSAGE', `${name} with ${byteLength} bytes`);
  const size = typeof shape.size === 'function' ? shape.size(m.payload) : shape.size;
  // Fields that later versions append are not ours; INFLIGHT and config messages are padded by some.
  if (byteLength < size || (byteLength > size + 4 && name !== 'setMemTable'))
    throw vhostError('VHOST_MESSAGE', `${name} with ${byteLength} bytes, expected ${size}`);
  const [least, most] = shape.fds;
  if (m.fds.length < least || m.fds.length > most)
    throw vhostError(
      'VHOST_MESSAGE',
      `${name} with ${m.fds.length} descriptors, expected ${least} to ${most}`,
    );
  if (shape.needs !== undefined && !(protocol & (1 << shape.needs)))
    throw vhostError('VHOST_UNSUPPORTED', `${name} without protocol feature ${shape.needs}`);
  return name;
}

export function encode(request: number, flags: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(Limit.headerBytes + payload.length);
  const head = new DataView(bytes.buffer);
  head.setUint32(0, request, true);
  head.setUint32(4, flags | Flag.version, true);
  head.setUint32(8, payload.length, true);
  bytes.set(payload, Limit.headerBytes);
  return bytes;
}

// ---- payloads ----

/** 64 bits as a number. @throws VHOST_VALUE beyond 2^53 */
export function u64(v: View, at: number): number {
  const n = v.getUint32(at + 4, true) * 2 ** 32 + v.getUint32(at, true);
  if (n > Number.MAX_SAFE_INTEGER) throw vhostError('VHOST_VALUE', `0x${n.toString(16)} is beyond 2^53`);
  return n;
}
export const halves = (v: View): { lo: number; hi: number } => ({
  lo: v.getUint32(0, true),
  hi: v.getUint32(4, true),
});

/** Numbers of 4 or 8 bytes each, one after the other. */
export function pack(...fields: readonly (readonly [value: number, bytes: 2 | 4 | 8])[]): Uint8Array {
  const out = new Uint8Array(fields.reduce((n, [, b]) => n + b, 0));
  const v = new DataView(out.buffer);
  let at = 0;
  for (const [value, bytes] of fields) {
    if (bytes === 2) v.setUint16(at, value, true);
    else v.setUint32(at, value >>> 0, true);
    if (bytes === 8) v.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
    at += bytes;
  }
  return out;
}
export const packHalves = (lo: number, hi: number): Uint8Array => pack([lo, 4], [hi, 4]);

/** struct vhost_vring_state. */
export interface VringState {
  index: number;
  num: number;
}
export const vringState = (v: View): VringState => ({
  index: v.getUint32(0, true),
  num: v.getUint32(4, true),
});

/** struct vhost_vring_addr: addresses in the front-end's own address space, `log` in the guest's. */
export interface VringAddr {
  index: number;
  flags: number;
  descriptor: number;
  used: number;
  available: number;
  log: number;
}
export const vringAddr = (v: View): VringAddr => ({
  index: v.getUint32(0, true),
  flags: v.getUint32(4, true),
  descriptor: u64(v, 8),
  used: u64(v, 16),
  available: u64(v, 24),
  // Unused without the flag, and then anything.
  log: v.getUint32(4, true) & vringLog ? u64(v, 32) : 0,
});
export const packVringAddr = (a: VringAddr): Uint8Array =>
  pack([a.index, 4], [a.flags, 4], [a.descriptor, 8], [a.used, 8], [a.available, 8], [a.log, 8]);

/** Ring of a kick, call or err message, and whether a descriptor comes with it. */
export const vringEvent = (v: View): { index: number; fd: boolean } => ({
  index: v.getUint32(0, true) & 0xff,
  fd: (v.getUint32(0, true) & noFd) === 0,
});

export interface Region {
  guest: number;
  bytes: number;
  /** Address in the front-end. */
  user: number;
  /** Where it begins in the file. */
  offset: number;
}
const region = (v: View, at: number): Region => ({
  guest: u64(v, at),
  bytes: u64(v, at + 8),
  user: u64(v, at + 16),
  offset: u64(v, at + 24),
});
const regionFields = (r: Region): [number, 8][] => [
  [r.guest, 8],
  [r.bytes, 8],
  [r.user, 8],
  [r.offset, 8],
];

/** @throws VHOST_MESSAGE when regions and descriptors are not as many */
export function memTable(v: View, fds: number): Region[] {
  const count = v.getUint32(0, true);
  if (count > Limit.tableRegions || count !== fds)
    throw vhostError(
      'VHOST_MESSAGE',
      `${count} regions with ${fds} descriptors, expected as many, at most 8`,
    );
  return Array.from({ length: count }, (_, i) => region(v, 8 + 32 * i));
}
export const packMemTable = (regions: readonly Region[]): Uint8Array =>
  pack([regions.length, 4], [0, 4], ...regions.flatMap(regionFields));
/** Of ADD_MEM_REG and REM_MEM_REG. */
export const memRegion = (v: View): Region => region(v, 8);
export const packMemRegion = (r: Region): Uint8Array => pack([0, 8], ...regionFields(r));

/** Of SET_LOG_BASE. */
export const logBase = (v: View): { bytes: number; offset: number } => ({
  bytes: u64(v, 0),
  offset: u64(v, 8),
});

export interface ConfigMessage {
  offset: number;
  flags: number;
  bytes: Uint8Array;
}
/** @throws VHOST_MESSAGE beyond 256 bytes */
export function configMessage(v: View): ConfigMessage {
  const [offset, size, flags] = [v.getUint32(0, true), v.getUint32(4, true), v.getUint32(8, true)];
  if (offset + size > Limit.configBytes)
    throw vhostError('VHOST_MESSAGE', `${size} bytes of configuration at ${offset}, there are at most 256`);
  return { offset, flags, bytes: new Uint8Array(v.buffer, v.byteOffset + 12, size) };
}
export function packConfig(c: ConfigMessage): Uint8Array {
  const out = new Uint8Array(12 + c.bytes.length);
  out.set(pack([c.offset, 4], [c.bytes.length, 4], [c.flags, 4]));
  out.set(c.bytes, 12);
  return out;
}

/** Of GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
export interface InflightMessage {
  bytes: number;
  offset: number;
  queues: number;
  queueSize: number;
}
/** GET tells only queues and their size; the rest may be anything. */
export const inflightMessage = (v: View, whole: boolean): InflightMessage => ({
  bytes: whole ? u64(v, 0) : 0,
  offset: whole ? u64(v, 8) : 0,
  queues: v.getUint16(16, true),
  queueSize: v.getUint16(18, true),
});
export const packInflight = (m: InflightMessage): Uint8Array =>
  pack([m.bytes, 8], [m.offset, 8], [m.queues, 2], [m.queueSize, 2]);
