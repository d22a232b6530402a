/**
 * The FIFO interface of a TPM 2.0: PC Client Platform TPM Profile (PTP) 1.05, section 6.5.2 (the successor of TIS 1.3).
 * The same registers for every locality, 4 KiB apart.
 */
import { array, pad, type RegisterSpec, registers, struct, u8, u16, u32 } from '@nyx/layout';
import { didVid, interfaceId, localities, localityBytes, regionBytes, revisionId } from '../identity.ts';
import { nobody } from '../localities.ts';
import { bufferBytes, hashBytes, requestFields } from '../requests.ts';

export const Access = {
  /** 1: no dynamic launch has happened. */
  establishment: 0x01,
  requestUse: 0x02,
  pendingRequest: 0x04,
  seize: 0x08,
  beenSeized: 0x10,
  active: 0x20,
  valid: 0x80,
} as const;

/** First byte of TPM_STS. */
export const Status = {
  responseRetry: 0x02,
  selfTestDone: 0x04,
  expect: 0x08,
  dataAvail: 0x10,
  go: 0x20,
  commandReady: 0x40,
  valid: 0x80,
} as const;
/** Last byte of TPM_STS. */
export const StatusHigh = { cancel: 0x01, resetEstablishment: 0x02, family2: 0x04 } as const;

/** TPM_INT_ENABLE and TPM_INT_STATUS. */
export const Interrupt = {
  dataAvail: 1,
  stsValid: 2,
  localityChange: 4,
  commandReady: 0x80,
  all: 0x87,
  /** typePolarity: 01, active low level; of no consequence, the line is ours. */
  polarity: 3 << 3,
  levelLow: 1 << 3,
  global: 0x8000_0000,
} as const;

/** TPM_INTF_CAPABILITY: all interrupts by level, bursts change, 64 bytes a transfer, version 1.3. */
const capability = Interrupt.all | (1 << 3) | (1 << 4) | (3 << 9) | (3 << 28);
const identity =
  interfaceId.fiveLocalities | interfaceId.transfer64 | interfaceId.hasFifo | interfaceId.locked;

/** A burst is never so long that its low byte alone would be 0. */
export const burstMax = 0xff;
/** Locality 4: TPM_HASH_END, TPM_HASH_DATA (where others have the FIFO), TPM_HASH_START. */
export const hashRegister = { end: 0x20, data: 0x24, start: 0x28 } as const;

/** Byte by byte, as most drivers write, it needs no answer. */
const fifo = (at: number, n: number): Record<string, RegisterSpec> =>
  Object.fromEntries(
    Array.from({ length: n }, (_, i) => [
      `${at === 0x24 ? 'fifo' : 'xfifo'}${i}`,
      { at: at + i, width: 1, doc: 'TPM_DATA_FIFO', ...(i === 0 ? { write: 'posted' as const } : {}) },
    ]),
  );

const locality: Record<string, RegisterSpec> = {
  access: { at: 0x00, width: 1, doc: 'TPM_ACCESS', read: 'shadow', reset: Access.establishment },
  intEnable: { at: 0x08, width: 4, doc: 'TPM_INT_ENABLE', reset: Interrupt.levelLow },
  intVector: { at: 0x0c, width: 1, doc: 'TPM_INT_VECTOR', reset: 0 },
  intStatus: { at: 0x10, width: 4, doc: 'TPM_INT_STATUS', reset: 0 },
  capability: { at: 0x14, width: 4, doc: 'TPM_INTF_CAPABILITY', mask: 0, reset: capability },
  sts: { at: 0x18, width: 1, doc: 'TPM_STS, status', read: 'shadow', write: 'posted', reset: 0xff },
  burstLow: { at: 0x19, width: 1, doc: 'TPM_STS.burstCount', mask: 0, reset: 0xff },
  burstHigh: { at: 0x1a, width: 1, doc: 'TPM_STS.burstCount', mask: 0, reset: 0xff },
  stsHigh: { at: 0x1b, width: 1, doc: 'TPM_STS, family and requests', write: 'posted', reset: 0xff },
  hashEnd: { at: hashRegister.end, width: 1, doc: 'TPM_HASH_END (locality 4)', reset: 0xff },
  ...fifo(0x24, 4),
  hashStart: {
    at: hashRegister.start,
    width: 1,
    doc: 'TPM_HASH_START (locality 4)',
    reset: 0xff,
  },
  interfaceId: { at: 0x30, width: 4, doc: 'TPM_INTERFACE_ID', mask: 0, reset: identity },
  ...fifo(0x80, 8),
  didVid: { at: 0xf00, width: 4, doc: 'TPM_DID_VID', mask: 0, reset: didVid },
  rid: { at: 0xf04, width: 1, doc: 'TPM_RID', mask: 0, reset: revisionId },
};

/** Registers of locality l have its number behind their names. */
export const tisRegisters = registers(
  'tpm-tis',
  regionBytes,
  Object.fromEntries(
    Array.from({ length: localities }, (_, l) =>
      Object.entries(locality).map(
        ([n, r]) => [`${n}_${l}`, { ...r, at: r.at + l * localityBytes }] as const,
      ),
    ).flat(),
  ) as Record<string, RegisterSpec>,
);

/** idle --commandReady--> ready --data--> reception --go--> execution --> completion --commandReady--> ready */
export const Phase = { idle: 0, ready: 1, reception: 2, execution: 3, completion: 4 } as const;
/** Interrupt lines: one for each vector. */
export const vectors = 16;

export const TisState = struct(
  'TpmTisState',
  {
    ...requestFields,
    access_0: u8('TPM_ACCESS as it reads', { reset: Access.establishment }),
    access_1: u8('', { reset: Access.establishment }),
    access_2: u8('', { reset: Access.establishment }),
    access_3: u8('', { reset: Access.establishment }),
    access_4: u8('', { reset: Access.establishment }),
    sts_0: u8('status byte of TPM_STS as it reads', { reset: 0xff }),
    sts_1: u8('', { reset: 0xff }),
    sts_2: u8('', { reset: 0xff }),
    sts_3: u8('', { reset: 0xff }),
    sts_4: u8('', { reset: 0xff }),
    active: u8('locality in use, or 0xff', { reset: nobody }),
    next: u8('locality that takes over when a command is aborted, or 0xff', { reset: nobody }),
    requests: u8('localities that asked for use, as bits', { max: 0x1f }),
    seizing: u8('localities that seize while a command is being aborted', { max: 0x1f }),
    seized: u8('localities that were seized from', { max: 0x1f }),
    established: u8('a dynamic launch happened', { max: 1 }),
    phase: u8('', { max: Phase.completion }),
    hashing: u8('between TPM_HASH_START and TPM_HASH_END; 2: too much data', { max: 2 }),
    at: u16('bytes of the buffer written, or read', { max: bufferBytes }),
    length: u16('of the response', { max: bufferBytes }),
    vector: u8('', { max: vectors - 1 }),
    reserved: pad(1),
    hashAt: u32('bytes of the measurement', { max: hashBytes }),
    enable: array('u32', localities, 'TPM_INT_ENABLE'),
    status: array('u32', localities, 'TPM_INT_STATUS'),
    irq: array('u32', vectors, 'interrupt words'),
  },
  { doc: 'State of the FIFO interface of a TPM.' },
);
