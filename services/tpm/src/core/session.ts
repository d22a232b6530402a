/** The table of sessions (part 1, 17.7 and 30): loaded ones, saved ones, the gap between them. */
import { digestSize } from '../spec/algorithms.ts';
import { HT, LIMIT, RC, RH, SE } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import type { SymDef } from '../spec/types.ts';
import { BOUND, type Session } from './state.ts';
import type { Tpm } from './tpm.ts';

const zeros = (alg: number) => Buffer.alloc(digestSize(alg));

/** The state of a policy before its first term. */
export function clearPolicy(s: Session): void {
  s.policyDigest = zeros(s.authHash);
  s.timeout = 0n;
  s.commandCode = 0;
  s.locality = 0;
  s.ppRequired = 0;
  s.authValueNeeded = 0;
  s.passwordNeeded = 0;
  s.boundKind = BOUND.NONE;
  s.boundHash = Buffer.alloc(0);
  s.nvWrittenCheck = 0;
  s.nvWritten = 0;
  s.pcrCounter = 0;
}
/** A policy session that goes on after it was used starts over, with a new nonce. */
export function resetPolicy(tpm: Tpm, s: Session): void {
  clearPolicy(s);
  s.startTime = tpm.clock.time64();
  s.epoch = tpm.clock.epoch;
}
export function initAudit(s: Session): void {
  s.isAudit = 1;
  s.auditDigest = zeros(s.authHash);
}

const active = (tpm: Tpm) => tpm.sessions.size + tpm.reset.saved.length;

/** Whether one more sequence number would be too far from the oldest saved session. */
export function gapFull(tpm: Tpm): boolean {
  const oldest = tpm.reset.saved.reduce<bigint | undefined>(
    (min, s) => (min === undefined || s.sequence < min ? s.sequence : min),
    undefined,
  );
  return oldest !== undefined && tpm.reset.contextCounter - oldest >= BigInt(LIMIT.contextGap);
}

/** The lowest free number; refuses where there is no room. */
export function createSession(
  tpm: Tpm,
  type: number,
  authHash: number,
  symmetric: SymDef,
  nonceSize: number,
): Session {
  if (tpm.sessions.size >= LIMIT.sessions) refuse(RC.SESSION_MEMORY);
  if (gapFull(tpm) && tpm.sessions.size === LIMIT.sessions - 1) refuse(RC.CONTEXT_GAP);
  if (active(tpm) >= LIMIT.activeSessions) refuse(RC.SESSION_HANDLES);
  const used = new Set([...tpm.sessions.keys(), ...tpm.reset.saved.map((s) => s.slot)]);
  let slot = 0;
  while (used.has(slot)) slot++;
  const s: Session = {
    handle: ((type === SE.HMAC ? HT.HMAC_SESSION : HT.POLICY_SESSION) << 24) + slot,
    type,
    authHash,
    symmetric,
    sessionKey: Buffer.alloc(0),
    nonceTPM: tpm.random.bytes(nonceSize),
    isBound: 0,
    isDaBound: 0,
    isLockoutBound: 0,
    boundEntity: Buffer.alloc(0),
    isAudit: 0,
    auditDigest: Buffer.alloc(0),
    policyDigest: Buffer.alloc(0),
    startTime: tpm.clock.time64(),
    epoch: tpm.clock.epoch,
    timeout: 0n,
    commandCode: 0,
    locality: 0,
    ppRequired: 0,
    authValueNeeded: 0,
    passwordNeeded: 0,
    boundKind: BOUND.NONE,
    boundHash: Buffer.alloc(0),
    nvWrittenCheck: 0,
    nvWritten: 0,
    pcrCounter: 0,
  };
  if (type !== SE.HMAC) s.policyDigest = zeros(authHash);
  tpm.sessions.set(slot, s);
  return s;
}

export function flushSession(tpm: Tpm, handle: number): void {
  const slot = handle & 0xffffff;
  tpm.sessions.delete(slot);
  tpm.reset.saved = tpm.reset.saved.filter((s) => s.slot !== slot);
  if (tpm.exclusiveAudit === handle) tpm.exclusiveAudit = RH.UNASSIGNED;
}
export function sessionExists(tpm: Tpm, handle: number): boolean {
  const slot = handle & 0xffffff;
  const loaded = tpm.sessions.get(slot);
  return loaded ? loaded.handle === handle : tpm.reset.saved.some((s) => s.slot === slot);
}
