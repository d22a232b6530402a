/**
 * The log of what was measured into a TPM's PCRs before the operating system ran: the crypto-agile format of the PC Client
 * Platform Firmware Profile 1.05 (chapter 10). Written by our loader, by firmware, and read by us.
 */
import { createHash } from 'node:crypto';

/** TPM_ALG_ID of each hash that a bank can have, with its size in octets. */
export const hashes = [
  { name: 'sha1', alg: 0x04, bytes: 20 },
  { name: 'sha256', alg: 0x0b, bytes: 32 },
  { name: 'sha384', alg: 0x0c, bytes: 48 },
  { name: 'sha512', alg: 0x0d, bytes: 64 },
] as const;
export type HashName = (typeof hashes)[number]['name'];

/** Event types (table 27). */
export const EventType = {
  EV_PREBOOT_CERT: 0,
  EV_POST_CODE: 1,
  EV_NO_ACTION: 3,
  EV_SEPARATOR: 4,
  EV_ACTION: 5,
  EV_EVENT_TAG: 6,
  EV_S_CRTM_CONTENTS: 7,
  EV_S_CRTM_VERSION: 8,
  EV_CPU_MICROCODE: 9,
  EV_PLATFORM_CONFIG_FLAGS: 0xa,
  EV_TABLE_OF_DEVICES: 0xb,
  EV_COMPACT_HASH: 0xc,
  EV_IPL: 0xd,
  EV_IPL_PARTITION_DATA: 0xe,
  EV_NONHOST_CODE: 0xf,
  EV_NONHOST_CONFIG: 0x10,
  EV_NONHOST_INFO: 0x11,
  EV_OMIT_BOOT_DEVICE_EVENTS: 0x12,
  EV_POST_CODE2: 0x13,
  EV_EFI_VARIABLE_DRIVER_CONFIG: 0x8000_0001,
  EV_EFI_VARIABLE_BOOT: 0x8000_0002,
  EV_EFI_BOOT_SERVICES_APPLICATION: 0x8000_0003,
  EV_EFI_BOOT_SERVICES_DRIVER: 0x8000_0004,
  EV_EFI_RUNTIME_SERVICES_DRIVER: 0x8000_0005,
  EV_EFI_GPT_EVENT: 0x8000_0006,
  EV_EFI_ACTION: 0x8000_0007,
  EV_EFI_PLATFORM_FIRMWARE_BLOB: 0x8000_0008,
  EV_EFI_HANDOFF_TABLES: 0x8000_0009,
  EV_EFI_PLATFORM_FIRMWARE_BLOB2: 0x8000_000a,
  EV_EFI_HANDOFF_TABLES2: 0x8000_000b,
  EV_EFI_VARIABLE_BOOT2: 0x8000_000c,
  EV_EFI_GPT_EVENT2: 0x8000_000d,
  EV_EFI_HCRTM_EVENT: 0x8000_0010,
  EV_EFI_VARIABLE_AUTHORITY: 0x8000_00e0,
} as const;
export type EventTypeName = keyof typeof EventType;
const typeNames = new Map<number, string>(Object.entries(EventType).map(([name, n]) => [n, name]));
export const eventTypeName = (type: number): string =>
  typeNames.get(type) ?? `0x${type.toString(16).padStart(8, '0')}`;

export interface LogEvent {
  pcr: number;
  type: number;
  digests: { alg: number; digest: Uint8Array }[];
  data: Uint8Array;
}

const signature03 = 'Spec ID Event03\0';
const startupLocality = 'StartupLocality\0';

/** Of each algorithm, in the order of `hashes`. */
export type Digests = readonly Uint8Array[];

/** The digests of `length` octets, read piece by piece. */
export function digestsOf(length: number, read: (at: number, into: Uint8Array) => void): Digests {
  const hash = hashes.map(({ name }) => createHash(name));
  const piece = new Uint8Array(Math.min(length, 1 << 20));
  for (let at = 0; at < length; at += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, length - at));
    read(at, part);
    for (const h of hash) h.update(part);
  }
  return hash.map((h) => h.digest());
}
export const digestsOfBytes = (bytes: Uint8Array): Digests =>
  digestsOf(bytes.length, (at, into) => into.set(bytes.subarray(at, at + into.length)));

/** An event in all banks. */
export const event = (pcr: number, type: number, digests: Digests, data: Uint8Array): LogEvent => ({
  pcr,
  type,
  data,
  digests: hashes.map(({ alg }, i) => ({ alg, digest: digests[i]! })),
});

/** The whole log: the event that says which hashes it uses, then the others. */
export function encodeLog(events: readonly LogEvent[]): Uint8Array {
  const id = Buffer.alloc(29 + hashes.length * 4);
  id.write(signature03, 'latin1');
  // Platform class 0 (client), specification 2.0, errata 105, UINTN of 64 bits.
  id.writeUInt8(0, 20);
  id.writeUInt8(2, 21);
  id.writeUInt8(105, 22);
  id.writeUInt8(2, 23);
  id.writeUInt32LE(hashes.length, 24);
  hashes.forEach((h, i) => {
    id.writeUInt16LE(h.alg, 28 + i * 4);
    id.writeUInt16LE(h.bytes, 30 + i * 4);
  });
  const head = Buffer.alloc(32);
  head.writeUInt32LE(EventType.EV_NO_ACTION, 4);
  head.writeUInt32LE(id.length, 28);
  const parts: Uint8Array[] = [head, id];
  for (const e of events) {
    const start = Buffer.alloc(12);
    start.writeUInt32LE(e.pcr, 0);
    start.writeUInt32LE(e.type, 4);
    start.writeUInt32LE(e.digests.length, 8);
    parts.push(start);
    for (const { alg, digest } of e.digests) parts.push(Uint8Array.of(alg & 255, alg >> 8), digest);
    const size = Buffer.alloc(4);
    size.writeUInt32LE(e.data.length);
    parts.push(size, e.data);
  }
  return Buffer.concat(parts);
}

export interface EventLog {
  /** By algorithm: octets of its digests. A log of the old format has SHA-1 only. */
  digestBytes: Map<number, number>;
  /** The event that names the format is not among them. */
  events: LogEvent[];
  /** Octets of the input that are not part of the log. */
  rest: number;
  /** Why reading ended before the end of the input, if it did not end with zeros. */
  broken?: string;
}

/** Sizes from which on a log is not believed. */
const most = { events: 4096, algorithms: 16, data: 1 << 20 } as const;

/** Reads a log as far as it is one. Never throws: who wrote it is not known. */
export function decodeLog(bytes: Uint8Array): EventLog {
  const b = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const log: EventLog = { digestBytes: new Map([[0x04, 20]]), events: [], rest: b.length };
  const stop = (at: number, broken?: string): EventLog => {
    log.rest = b.length - at;
    if (broken !== undefined) log.broken = `${broken} at ${at}`;
    return log;
  };
  let at = 0;
  let isAgile = false;
  while (at < b.length && log.events.length < most.events) {
    const start = at;
    if (b.length - at < 12)
      return stop(start, b.subarray(at).every((x) => x === 0) ? undefined : 'cut short');
    const pcr = b.readUInt32LE(at);
    const type = b.readUInt32LE(at + 4);
    at += 8;
    const digests: LogEvent['digests'] = [];
    if (isAgile) {
      const count = b.readUInt32LE(at);
      at += 4;
      // What follows the last event is zeros.
      if (pcr === 0 && type === 0 && count === 0) return stop(start);
      if (count > most.algorithms) return stop(start, `${count} digests in an event`);
      for (let i = 0; i < count; i++) {
        const alg = b.length - at < 2 ? 0 : b.readUInt16LE(at);
        const size = log.digestBytes.get(alg);
        if (size === undefined || b.length - at < 2 + size)
          return stop(start, `a digest of algorithm ${alg}`);
        digests.push({ alg, digest: b.subarray(at + 2, at + 2 + size) });
        at += 2 + size;
      }
    } else {
      if (b.length - at < 24) return stop(start, 'cut short');
      digests.push({ alg: 0x04, digest: b.subarray(at, at + 20) });
      at += 20;
      if (pcr === 0 && type === 0 && digests[0]!.digest.every((x) => x === 0)) return stop(start);
    }
    if (b.length - at < 4) return stop(start, 'cut short');
    const size = b.readUInt32LE(at);
    at += 4;
    if (size > most.data || b.length - at < size) return stop(start, `an event of ${size} octets`);
    const data = b.subarray(at, at + size);
    at += size;
    if (start === 0 && type === EventType.EV_NO_ACTION && data.toString('latin1', 0, 16) === signature03) {
      const count = data.length < 28 ? 0 : data.readUInt32LE(24);
      if (count === 0 || count > most.algorithms || data.length < 28 + count * 4)
        return stop(start, 'a damaged Spec ID event');
      log.digestBytes.clear();
      for (let i = 0; i < count; i++)
        log.digestBytes.set(data.readUInt16LE(28 + i * 4), data.readUInt16LE(30 + i * 4));
      isAgile = true;
      continue;
    }
    log.events.push({ pcr, type, digests, data });
  }
  return stop(at);
}

/** The PCRs as the events make them: by algorithm, then by number. Only those that an event extends. */
export function replay(log: Pick<EventLog, 'events'>): Map<number, Map<number, Buffer>> {
  const banks = new Map<number, Map<number, Buffer>>();
  let locality = 0;
  for (const e of log.events) {
    if (e.type === EventType.EV_NO_ACTION) {
      // It is the last octet of PCR 0 as Startup leaves it (10.4.5.3).
      if (Buffer.from(e.data).toString('latin1', 0, 16) === startupLocality) locality = e.data[16] ?? 0;
      continue;
    }
    for (const { alg, digest } of e.digests) {
      const h = hashes.find((x) => x.alg === alg);
      if (!h) continue;
      const bank = banks.get(alg) ?? new Map<number, Buffer>();
      banks.set(alg, bank);
      let old = bank.get(e.pcr);
      if (!old) {
        // The PCRs of a dynamic launch have all bits set until there is one (PC Client Platform TPM Profile, 4.6).
        old = Buffer.alloc(h.bytes, e.pcr >= 17 && e.pcr <= 22 ? 0xff : 0);
        if (e.pcr === 0) old[h.bytes - 1] = locality;
      }
      bank.set(e.pcr, createHash(h.name).update(old).update(digest).digest());
    }
  }
  return banks;
}
