/**
 * The command response buffer interface of a TPM 2.0: PC Client Platform TPM Profile (PTP) 1.05, section 6.5.3. The same
 * registers for every locality, 4 KiB apart; one buffer behind all of them.
 */
import { pad, type RegisterSpec, registers, struct, u8, u16, u32 } from '@nyx/layout';
import { didVid, interfaceId, localities, localityBytes, regionBytes, revisionId } from '../identity.ts';
import { nobody } from '../localities.ts';
import { bufferBytes, requestFields } from '../requests.ts';

/** `establishment` as in TPM_ACCESS: 1 while no dynamic launch has happened. */
export const LocState = { establishment: 1, assigned: 2, activeShift: 2, valid: 0x80 } as const;
export const LocControl = { request: 1, relinquish: 2, seize: 4, resetEstablishment: 8 } as const;
export const LocStatus = { granted: 1, beenSeized: 2 } as const;
export const Request = { commandReady: 1, goIdle: 2 } as const;
export const Status = { error: 1, idle: 2 } as const;

/** Where the buffer is in the page of a locality. */
export const dataAt = 0x80;
export const dataBytes = localityBytes - dataAt;
/** Guest address of the registers of locality 0. */
export const crbBase = 0xfed4_0000;

const identity =
  interfaceId.crb |
  interfaceId.crbVersion |
  interfaceId.fiveLocalities |
  interfaceId.transfer64 |
  interfaceId.hasCrb |
  interfaceId.crbSelected |
  interfaceId.locked |
  (revisionId << 24);
/** The identifiers the other way round than in TPM_DID_VID: vendor, then device. */
const identityHigh = didVid;

const locality = (l: number): Record<string, RegisterSpec> => ({
  locState: { at: 0x00, width: 4, doc: 'TPM_LOC_STATE', mask: 0, read: 'shadow', reset: 0 },
  locControl: { at: 0x08, width: 4, doc: 'TPM_LOC_CTRL; reads as 0', write: 'posted', reset: 0 },
  locStatus: { at: 0x0c, width: 4, doc: 'TPM_LOC_STS', mask: 0, read: 'shadow', reset: 0 },
  interfaceLow: { at: 0x30, width: 4, doc: 'TPM_CRB_INTF_ID', mask: 0, reset: identity },
  interfaceHigh: { at: 0x34, width: 4, doc: 'TPM_CRB_INTF_ID: vendor, device', mask: 0, reset: identityHigh },
  extensionLow: { at: 0x38, width: 4, doc: 'TPM_CRB_CTRL_EXT', mask: 0, reset: 0 },
  extensionHigh: { at: 0x3c, width: 4, doc: 'TPM_CRB_CTRL_EXT', mask: 0, reset: 0 },
  /** A transition is done when the write is: it reads as 0. */
  request: { at: 0x40, width: 4, doc: 'TPM_CRB_CTRL_REQ', write: 'posted', reset: 0 },
  status: { at: 0x44, width: 4, doc: 'TPM_CRB_CTRL_STS', mask: 0, read: 'shadow', reset: Status.idle },
  cancel: { at: 0x48, width: 4, doc: 'TPM_CRB_CTRL_CANCEL', read: 'shadow', write: 'posted', reset: 0 },
  start: { at: 0x4c, width: 4, doc: 'TPM_CRB_CTRL_START', read: 'shadow', write: 'posted', reset: 0 },
  interruptEnable: { at: 0x50, width: 4, doc: 'TPM_CRB_INT_ENABLE: there are none', mask: 0, reset: 0 },
  interruptStatus: { at: 0x54, width: 4, doc: 'TPM_CRB_INT_STS', mask: 0, reset: 0 },
  commandSize: { at: 0x58, width: 4, doc: 'TPM_CRB_CTRL_CMD_SIZE', mask: 0, reset: dataBytes },
  commandLow: {
    at: 0x5c,
    width: 4,
    doc: 'TPM_CRB_CTRL_CMD_LADDR',
    mask: 0,
    reset: crbBase + l * localityBytes + dataAt,
  },
  commandHigh: { at: 0x60, width: 4, doc: 'TPM_CRB_CTRL_CMD_HADDR', mask: 0, reset: 0 },
  responseSize: { at: 0x64, width: 4, doc: 'TPM_CRB_CTRL_RSP_SIZE', mask: 0, reset: dataBytes },
  responseLow: {
    at: 0x68,
    width: 4,
    doc: 'TPM_CRB_CTRL_RSP_ADDR',
    mask: 0,
    reset: crbBase + l * localityBytes + dataAt,
  },
  responseHigh: { at: 0x6c, width: 4, doc: 'TPM_CRB_CTRL_RSP_ADDR', mask: 0, reset: 0 },
});

/** Registers of locality l have its number behind their names. */
export const crbRegisters = registers(
  'tpm-crb',
  regionBytes,
  Object.fromEntries(
    Array.from({ length: localities }, (_, l) =>
      Object.entries(locality(l)).map(
        ([n, r]) => [`${n}_${l}`, { ...r, at: r.at + l * localityBytes }] as const,
      ),
    ).flat(),
  ) as Record<string, RegisterSpec>,
);

/** idle --commandReady--> ready --data--> reception --start--> execution --> completion; goIdle leads back. Data may come in idle. */
export const Phase = { idle: 0, ready: 1, reception: 2, execution: 3, completion: 4 } as const;

type Locality = 0 | 1 | 2 | 3 | 4;
/** One field for each locality. */
const each = <N extends string>(name: N, doc: string, reset = 0) =>
  Object.fromEntries(
    Array.from({ length: localities }, (_, l) => [`${name}_${l}`, u32(l ? '' : doc, { reset })]),
  ) as { [K in `${N}_${Locality}`]: ReturnType<typeof u32> };

export const CrbState = struct(
  'TpmCrbState',
  {
    ...requestFields,
    ...each('locState', 'TPM_LOC_STATE as it reads'),
    ...each('locStatus', 'TPM_LOC_STS as it reads'),
    ...each('status', 'TPM_CRB_CTRL_STS as it reads', Status.idle),
    ...each('cancel', 'TPM_CRB_CTRL_CANCEL'),
    ...each('start', 'TPM_CRB_CTRL_START as it reads'),
    active: u8('locality in use, or 0xff', { reset: nobody }),
    next: u8('locality that takes over when a command is aborted, or 0xff', { reset: nobody }),
    requests: u8('localities that asked for use, as bits', { max: 0x1f }),
    seizing: u8('localities that seize while a command is being aborted', { max: 0x1f }),
    seized: u8('localities that were seized from', { max: 0x1f }),
    established: u8('a dynamic launch happened', { max: 1 }),
    phase: u8('', { max: Phase.completion }),
    error: u8('the engine gave no response', { max: 1 }),
    length: u16('of the response', { max: bufferBytes }),
    reserved: pad(2),
  },
  { doc: 'State of the command response buffer interface of a TPM.' },
);
