/**
 * What the TPM remembers, as structures with a marshalled form. Which event ends which part (part 1, 12.2 and 37):
 * `persistent` survives everything; `resetData` ends with TPM Reset; `clearData` ends with TPM Reset and Restart.
 * The latter two are saved by Shutdown(STATE).
 */
import type { TypeOf } from '../spec/codec.ts';
import { i32, list, octets, oneOf, sized, struct, u8, u16, u32, u64 } from '../spec/codec.ts';
import { ALG, LIMIT, RC } from '../spec/constants.ts';
import * as t from '../spec/types.ts';

const flag = oneOf(u8, [0, 1], RC.VALUE);
const secret = sized(LIMIT.digest);

/** Authorization of a hierarchy: authValue, and policy with the algorithm of it. */
export const hierarchyAuth = struct({ auth: t.auth, policy: t.digest, policyAlg: u16 });
export type HierarchyAuth = TypeOf<typeof hierarchyAuth>;
export const noAuth = (): HierarchyAuth => ({
  auth: Buffer.alloc(0),
  policy: Buffer.alloc(0),
  policyAlg: ALG.NULL,
});

/** How the last session of power ended; NONE while it runs. */
export const ORDERLY = { CLEAR: 0, STATE: 1, NONE: 0xffff } as const;

export const persistent = struct({
  owner: hierarchyAuth,
  endorsement: hierarchyAuth,
  lockout: hierarchyAuth,
  eps: secret,
  sps: secret,
  pps: secret,
  ehProof: secret,
  shProof: secret,
  phProof: secret,
  /** TPM Resets since TPM2_Clear, and ever. */
  resetCount: u32,
  totalResetCount: u64,
  pcrAllocation: t.pcrSelections,
  pcrPolicy: hierarchyAuth,
  ppList: list(u32, 256),
  failedTries: u32,
  maxTries: u32,
  recoveryTime: u32,
  lockoutRecovery: u32,
  lockoutEnabled: flag,
  disableClear: flag,
  auditAlg: u16,
  auditList: list(u32, 256),
  auditCounter: u64,
  algorithmSet: u32,
  orderly: u16,
  /** The highest count that any counter index ever had. */
  maxCounter: u64,
});
export type Persistent = TypeOf<typeof persistent>;

export const clockRecord = struct({ clock: u64, safe: flag });

export const clearData = struct({
  shEnable: flag,
  ehEnable: flag,
  phEnableNV: flag,
  platform: hierarchyAuth,
  /** PCRs that Startup(STATE) brings back, bank by bank. */
  pcrs: list(struct({ alg: u16, values: list(t.digest, LIMIT.pcrs) }), 8),
  pcrAuth: list(t.auth, LIMIT.pcrs),
});
export type ClearData = TypeOf<typeof clearData>;

export const resetData = struct({
  nullSeed: secret,
  nullProof: secret,
  /** TPM Restarts and Resumes since the last Reset; Restarts (clear count). */
  restartCount: u32,
  clearCount: u32,
  objectContextId: u64,
  contextCounter: u64,
  /** Sessions that are saved: slot and sequence number. */
  saved: list(struct({ slot: u32, sequence: u64 }), LIMIT.activeSessions),
  commandAuditDigest: t.digest,
  pcrCounter: u32,
  commitNonce: secret,
  commitCounter: u64,
  commitUsed: octets(8),
});
export type ResetData = TypeOf<typeof resetData>;

/** Flags of a loaded object that are not in its public area. */
export const OF = {
  publicOnly: 1,
  /** In the NULL hierarchy: gone with TPM Reset. */
  temporary: 2,
  external: 4,
  isParent: 8,
  derivation: 16,
  primary: 32,
  /** stClear in the object or an ancestor. */
  stClear: 64,
} as const;

export const loadedObject = struct({
  flags: u32,
  hierarchy: u32,
  pub: t.publicOrNameless2b,
  sensitive: t.sensitive2b,
  name: t.name2b,
  qualifiedName: t.name2b,
});
export type LoadedObject = TypeOf<typeof loadedObject>;

export const SEQ = { HASH: 1, HMAC: 2, EVENT: 3, CMAC: 4 } as const;
export const sequence = struct({
  kind: u8,
  auth: t.auth,
  /** Whether anything came yet; whether the first octets allow a ticket. */
  started: flag,
  ticketSafe: flag,
  hmacKey: sized(128),
  /** Of a MAC by a block cipher. */
  cmac: list(struct({ algorithm: u16, keyBits: u16, key: sized(32), chain: sized(16), tail: sized(16) }), 1),
  states: list(struct({ alg: t.hashAlg, h: list(u32, 16), length: u64, tail: sized(128) }), 8),
});

export const session = struct({
  handle: u32,
  type: u8,
  authHash: u16,
  symmetric: t.symDef,
  sessionKey: t.digest,
  nonceTPM: t.nonce,
  isBound: flag,
  isDaBound: flag,
  isLockoutBound: flag,
  boundEntity: sized(2 * (LIMIT.digest + 2)),
  isAudit: flag,
  auditDigest: t.digest,
  // Policy
  policyDigest: t.digest,
  startTime: u64,
  epoch: u64,
  /** In ms of TPM time; 0: none. */
  timeout: u64,
  commandCode: u32,
  locality: u8,
  ppRequired: flag,
  authValueNeeded: flag,
  passwordNeeded: flag,
  /** What `boundHash` is: 0 nothing, 1 cpHash, 2 nameHash, 3 templateHash. */
  boundKind: u8,
  boundHash: t.digest,
  nvWrittenCheck: flag,
  nvWritten: flag,
  pcrCounter: u32,
});
export type Session = TypeOf<typeof session>;
export const BOUND = { NONE: 0, CPHASH: 1, NAMES: 2, TEMPLATE: 3 } as const;

/**
 * What lives while there is power, marshalled so that another process can go on with it: not in it are the pool of random
 * octets (the system's entropy makes a new one) and keys of node:crypto (made again from their objects).
 */
export const runState = struct({
  version: oneOf(u16, [1], RC.VALUE),
  started: flag,
  failed: flag,
  phEnable: flag,
  physicalPresence: flag,
  pcrReconfigured: flag,
  drtmPreStartup: flag,
  established: flag,
  wasOrderly: flag,
  locality: u8,
  startupLocality: u8,
  exclusiveAudit: u32,
  clear: clearData,
  reset: resetData,
  /** The allocation in effect, which PCR_Allocate changes at the next start only; the values in its order. */
  allocation: t.pcrSelections,
  pcrs: list(t.digest, 8 * LIMIT.pcrs),
  objects: list(struct({ slot: u8, isSequence: flag, blob: sized(0xffff) }), LIMIT.objects),
  sessions: list(session, LIMIT.sessions),
  /** A measurement by hardware under way: a sequence, or empty. */
  drtm: sized(0xffff),
  /** See ClockState; what has a fraction is in microseconds. */
  time: u64,
  clock: u64,
  clockPart: u64,
  seen: u64,
  epoch: u64,
  rate: i32,
  safe: flag,
  /** Time from which recovery counts, in microseconds: of the tries, of lockoutAuth. */
  triesFrom: u64,
  lockoutFrom: u64,
});
export type RunState = TypeOf<typeof runState>;

/** An NV index as it is stored. */
export const nvRecord = struct({ pub: t.nvPublic, auth: t.auth, data: sized(LIMIT.nvIndex) });
export type NvIndex = TypeOf<typeof nvRecord>;
