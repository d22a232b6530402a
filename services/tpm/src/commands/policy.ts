/** Enhanced authorization (part 3, 23): every command adds a term to the digest of a policy session. */

import { clockInfoOf } from '../core/attest.ts';
import { holds } from '../core/condition.ts';
import type { Handlers } from '../core/dispatch.ts';
import { entityName, objectOf } from '../core/entity.ts';
import { nvKind } from '../core/nv.ts';
import { checkRead } from '../core/nv-access.ts';
import { clearPolicy } from '../core/session.ts';
import { verify } from '../core/signing.ts';
import { BOUND, type Session } from '../core/state.ts';
import { makeTicket, nullTicket } from '../core/ticket.ts';
import type { Tpm } from '../core/tpm.ts';
import { be16, be32, be64, equal, hash, none } from '../crypto/hash.ts';
import { digestSize, hashInfo } from '../spec/algorithms.ts';
import { encode, Reader } from '../spec/codec.ts';
import { byCode, type CommandName, codeOf } from '../spec/commands.ts';
import { HT, NT, NVA, RC, RH, SE, ST } from '../spec/constants.ts';
import { asHandle, asParam, badHandle, badParam, refuse } from '../spec/refusal.ts';
import { ha, handleType, pcrSelections, type Ticket, timeInfo } from '../spec/types.ts';
import { handlers } from './index.ts';

const sessionOf = (tpm: Tpm, handle: number): Session => tpm.sessions.get(handle & 0xffffff)!;
const isTrial = (s: Session) => s.type === SE.TRIAL;

function extend(s: Session, command: CommandName, ...parts: Uint8Array[]): void {
  s.policyDigest = hash(s.authHash, s.policyDigest, be32(codeOf(command)), ...parts);
}
/** The two-step term of the commands with a policyRef (part 3, 23.2.3). */
function extendWithRef(s: Session, command: CommandName, name: Buffer, ref: Buffer): void {
  extend(s, command, name);
  s.policyDigest = hash(s.authHash, s.policyDigest, ref);
}
function bind(s: Session, kind: number, digest: Buffer): void {
  s.boundKind = kind;
  s.boundHash = digest;
}

/** Marks a timeout that ends with the power cycle too. */
const expiresOnResetBit = 1n << 63n;

/** When an authorization ends, in TPM time; 0: never (part 3, 23.2.4). */
function authTimeout(tpm: Tpm, s: Session, expiration: number, nonceTPM: Buffer): bigint {
  if (expiration === 0) return 0n;
  const ms = BigInt(Math.abs(expiration)) * 1000n;
  return nonceTPM.length === 0 ? ms + (tpm.clock.time64() % 1000n) : s.startTime + ms;
}

interface Blame {
  nonce: number;
  cpHash: number;
  expiration: number;
}
function checkTerms(tpm: Tpm, s: Session, timeout: bigint, cpHash: Buffer, nonce: Buffer, n: Blame): void {
  if (nonce.length !== 0 && !equal(nonce, s.nonceTPM)) badParam(RC.NONCE, n.nonce);
  if (timeout !== 0n && (timeout < tpm.clock.time64() || s.epoch !== tpm.clock.epoch)) {
    badParam(RC.EXPIRED, n.expiration);
  }
  if (cpHash.length !== 0) {
    if (cpHash.length !== s.policyDigest.length) badParam(RC.SIZE, n.cpHash);
    if (s.boundKind !== BOUND.NONE && !equal(cpHash, s.boundHash)) refuse(RC.CPHASH);
  }
}
function applyTerms(s: Session, timeout: bigint, cpHash: Buffer): void {
  if (cpHash.length !== 0) bind(s, BOUND.CPHASH, cpHash);
  if (timeout !== 0n && (s.timeout === 0n || s.timeout > timeout)) s.timeout = timeout;
}

/** The ticket by which PolicyTicket takes an authorization for given again. */
function authTicket(
  tpm: Tpm,
  tag: number,
  hierarchy: number,
  timeout: bigint,
  onReset: boolean,
  cpHash: Buffer,
  ref: Buffer,
  name: Buffer,
): Ticket {
  const cycle = onReset ? tpm.persistent.totalResetCount : tpm.clock.epoch;
  // Each part with its length: their sum alone would let octets move from one to the next.
  const parts = [cpHash, ref, name].flatMap((p) => [be16(p.length), p]);
  return makeTicket(tpm, tag, hierarchy, be64(timeout), Buffer.of(onReset ? 1 : 0), be64(cycle), ...parts);
}

function hierarchyOf(tpm: Tpm, handle: number): number {
  switch (handleType(handle)) {
    case HT.PERMANENT:
      return handle === RH.PLATFORM || handle === RH.ENDORSEMENT || handle === RH.NULL ? handle : RH.OWNER;
    case HT.NV_INDEX:
      return (tpm.nv.get(handle)?.pub.attributes ?? 0) & NVA.PLATFORMCREATE ? RH.PLATFORM : RH.OWNER;
    case HT.TRANSIENT:
    case HT.PERSISTENT:
      return objectOf(tpm, handle).hierarchy;
    default:
      return RH.OWNER;
  }
}

interface Terms {
  nonceTPM: Buffer;
  cpHashA: Buffer;
  policyRef: Buffer;
  expiration: number;
}
/** What PolicySigned and PolicySecret have in common, once the authorization is proven. */
function grant(
  tpm: Tpm,
  s: Session,
  command: 'PolicySigned' | 'PolicySecret',
  entity: number,
  { nonceTPM, cpHashA, policyRef, expiration }: Terms,
  timeout: bigint,
): { timeout: Buffer; policyTicket: Ticket } {
  const tag = command === 'PolicySigned' ? ST.AUTH_SIGNED : ST.AUTH_SECRET;
  const name = entityName(tpm, entity);
  extendWithRef(s, command, name, policyRef);
  applyTerms(s, timeout, cpHashA);
  const index = handleType(entity) === HT.NV_INDEX ? tpm.nv.get(entity) : undefined;
  const pinPass = index !== undefined && nvKind(index.pub.attributes) === NT.PIN_PASS;
  if (expiration >= 0 || isTrial(s) || pinPass) return { timeout: none, policyTicket: nullTicket(tag) };
  const onReset = nonceTPM.length === 0;
  return {
    timeout: be64(onReset ? timeout | expiresOnResetBit : timeout),
    policyTicket: authTicket(tpm, tag, hierarchyOf(tpm, entity), timeout, onReset, cpHashA, policyRef, name),
  };
}

/** PolicyNV and PolicyCounterTimer: the hash of what was compared, and how. */
const argHash = (s: Session, operand: Buffer, offset: number, operation: number) =>
  hash(s.authHash, operand, be16(offset), be16(operation));

export const policyCommands: Handlers = {
  PolicySigned(tpm, input) {
    const s = sessionOf(tpm, input.policySession);
    const key = asHandle(1, () => objectOf(tpm, input.authObject));
    let timeout = 0n;
    if (!isTrial(s)) {
      const { nonceTPM, cpHashA, policyRef, expiration, auth } = input;
      timeout = authTimeout(tpm, s, expiration, nonceTPM);
      checkTerms(tpm, s, timeout, cpHashA, nonceTPM, { nonce: 1, cpHash: 2, expiration: 4 });
      const alg = auth.signature?.hash;
      if (alg === undefined) badParam(RC.SCHEME, 5);
      const aHash = hash(alg, nonceTPM, be32(expiration), cpHashA, policyRef);
      asParam(5, () => verify(key, aHash, auth));
    }
    return grant(tpm, s, 'PolicySigned', input.authObject, input, timeout);
  },
  PolicySecret(tpm, input) {
    const s = sessionOf(tpm, input.policySession);
    let timeout = 0n;
    if (!isTrial(s)) {
      const { nonceTPM, cpHashA, expiration } = input;
      timeout = authTimeout(tpm, s, expiration, nonceTPM);
      checkTerms(tpm, s, timeout, cpHashA, nonceTPM, { nonce: 1, cpHash: 2, expiration: 4 });
    }
    return grant(tpm, s, 'PolicySecret', input.authHandle, input, timeout);
  },
  PolicyTicket(tpm, { policySession, timeout, cpHashA, policyRef, authName, ticket }) {
    const s = sessionOf(tpm, policySession);
    if (isTrial(s)) badHandle(RC.ATTRIBUTES, 1);
    if (timeout.length !== 8) badParam(RC.SIZE, 1);
    const value = timeout.readBigUInt64BE(0);
    const onReset = (value & expiresOnResetBit) !== 0n;
    const until = value & ~expiresOnResetBit;
    checkTerms(tpm, s, until, cpHashA, none, { nonce: 1, cpHash: 2, expiration: 1 });
    const want = authTicket(tpm, ticket.tag, ticket.hierarchy, until, onReset, cpHashA, policyRef, authName);
    if (!equal(want.digest, ticket.digest)) badParam(RC.TICKET, 5);
    const command = ticket.tag === ST.AUTH_SIGNED ? 'PolicySigned' : 'PolicySecret';
    extendWithRef(s, command, authName, policyRef);
    applyTerms(s, until, cpHashA);
  },
  PolicyOR(tpm, { policySession, pHashList }) {
    const s = sessionOf(tpm, policySession);
    if (!isTrial(s) && !pHashList.some((d) => equal(d, s.policyDigest))) badParam(RC.VALUE, 1);
    s.policyDigest = Buffer.alloc(digestSize(s.authHash));
    extend(s, 'PolicyOR', ...pHashList);
  },
  PolicyPCR(tpm, { policySession, pcrDigest, pcrs }) {
    const s = sessionOf(tpm, policySession);
    const selection = tpm.pcrs.filter(pcrs);
    let digest = tpm.pcrs.digest(s.authHash, selection);
    if (isTrial(s)) {
      if (pcrDigest.length) digest = pcrDigest;
    } else {
      if (s.pcrCounter !== 0 && s.pcrCounter !== tpm.reset.pcrCounter) refuse(RC.PCR_CHANGED);
      if (pcrDigest.length && !equal(pcrDigest, digest)) badParam(RC.VALUE, 1);
    }
    extend(s, 'PolicyPCR', encode(pcrSelections, selection), digest);
    if (!isTrial(s)) s.pcrCounter = tpm.reset.pcrCounter;
  },
  PolicyLocality(tpm, { policySession, locality }) {
    const s = sessionOf(tpm, policySession);
    if (locality === 0) badParam(RC.RANGE, 1);
    const before = s.locality;
    if (before !== 0 && before < 32 !== locality < 32) badParam(RC.RANGE, 1);
    let now = locality;
    if (locality < 32) {
      now = (before || 0x1f) & locality;
      if (now === 0) badParam(RC.RANGE, 1);
    } else if (before !== 0 && before !== locality) badParam(RC.RANGE, 1);
    extend(s, 'PolicyLocality', Buffer.of(locality));
    s.locality = now;
  },
  PolicyNV(tpm, { authHandle, nvIndex, policySession, operandB, offset, operation }) {
    const s = sessionOf(tpm, policySession);
    if (!isTrial(s)) {
      const index = tpm.nv.get(nvIndex)!;
      checkRead(authHandle, index);
      if (offset > index.pub.dataSize) badParam(RC.VALUE, 2);
      if (index.pub.dataSize - offset < operandB.length) badParam(RC.SIZE, 1);
      if (!holds(operation, index.data.subarray(offset, offset + operandB.length), operandB)) {
        refuse(RC.POLICY);
      }
    }
    extend(s, 'PolicyNV', argHash(s, operandB, offset, operation), entityName(tpm, nvIndex));
  },
  PolicyCounterTimer(tpm, { policySession, operandB, offset, operation }) {
    const s = sessionOf(tpm, policySession);
    const info = encode(timeInfo, { time: tpm.clock.time64(), clockInfo: clockInfoOf(tpm) });
    if (offset > info.length) badParam(RC.VALUE, 2);
    if (offset + operandB.length > info.length) refuse(RC.RANGE);
    if (!isTrial(s) && !holds(operation, info.subarray(offset, offset + operandB.length), operandB)) {
      refuse(RC.POLICY);
    }
    extend(s, 'PolicyCounterTimer', argHash(s, operandB, offset, operation));
  },
  PolicyCommandCode(tpm, { policySession, code }) {
    const s = sessionOf(tpm, policySession);
    if (s.commandCode !== 0 && s.commandCode !== code) badParam(RC.VALUE, 1);
    const name = byCode.get(code)?.[0];
    if (!name || !handlers[name]) badParam(RC.POLICY_CC, 1);
    extend(s, 'PolicyCommandCode', be32(code));
    s.commandCode = code;
  },
  PolicyPhysicalPresence(tpm, { policySession }) {
    const s = sessionOf(tpm, policySession);
    extend(s, 'PolicyPhysicalPresence');
    s.ppRequired = 1;
  },
  PolicyCpHash(tpm, { policySession, cpHashA }) {
    const s = sessionOf(tpm, policySession);
    if (cpHashA.length !== digestSize(s.authHash)) badParam(RC.SIZE, 1);
    if (s.boundKind !== BOUND.NONE && (s.boundKind !== BOUND.CPHASH || !equal(cpHashA, s.boundHash))) {
      refuse(RC.CPHASH);
    }
    extend(s, 'PolicyCpHash', cpHashA);
    bind(s, BOUND.CPHASH, cpHashA);
  },
  PolicyNameHash(tpm, { policySession, nameHash }) {
    const s = sessionOf(tpm, policySession);
    if (nameHash.length !== digestSize(s.authHash)) badParam(RC.SIZE, 1);
    if (s.boundKind !== BOUND.NONE) refuse(RC.CPHASH);
    extend(s, 'PolicyNameHash', nameHash);
    bind(s, BOUND.NAMES, nameHash);
  },
  PolicyTemplate(tpm, { policySession, templateHash }) {
    const s = sessionOf(tpm, policySession);
    if (s.boundKind === BOUND.TEMPLATE) {
      if (!equal(templateHash, s.boundHash)) badParam(RC.VALUE, 1);
    } else if (s.boundKind !== BOUND.NONE) refuse(RC.CPHASH);
    if (templateHash.length !== digestSize(s.authHash)) badParam(RC.SIZE, 1);
    extend(s, 'PolicyTemplate', templateHash);
    bind(s, BOUND.TEMPLATE, templateHash);
  },
  PolicyDuplicationSelect(tpm, { policySession, objectName, newParentName, includeObject }) {
    const s = sessionOf(tpm, policySession);
    if (s.boundKind !== BOUND.NONE) refuse(RC.CPHASH);
    if (s.commandCode !== 0) refuse(RC.COMMAND_CODE);
    const object = includeObject ? objectName : none;
    extend(s, 'PolicyDuplicationSelect', object, newParentName, Buffer.of(includeObject));
    bind(s, BOUND.NAMES, hash(s.authHash, objectName, newParentName));
    s.commandCode = codeOf('Duplicate');
  },
  PolicyAuthorize(tpm, { policySession, approvedPolicy, policyRef, keySign, checkTicket }) {
    const s = sessionOf(tpm, policySession);
    if (keySign.length < 2) badParam(RC.SIZE, 3);
    const alg = keySign.readUInt16BE(0);
    if (!hashInfo(alg)) badParam(RC.HASH, 3);
    if (keySign.length - 2 !== digestSize(alg)) badParam(RC.SIZE, 3);
    if (!isTrial(s)) {
      if (!equal(s.policyDigest, approvedPolicy)) badParam(RC.VALUE, 1);
      const aHash = hash(alg, approvedPolicy, policyRef);
      const want = makeTicket(tpm, ST.VERIFIED, checkTicket.hierarchy, aHash, keySign);
      if (!equal(want.digest, checkTicket.digest)) badParam(RC.VALUE, 4);
    }
    s.policyDigest = Buffer.alloc(digestSize(s.authHash));
    extendWithRef(s, 'PolicyAuthorize', keySign, policyRef);
  },
  PolicyAuthorizeNV(tpm, { authHandle, nvIndex, policySession }) {
    const s = sessionOf(tpm, policySession);
    if (!isTrial(s)) {
      const index = tpm.nv.get(nvIndex)!;
      checkRead(authHandle, index);
      const approved = ha.read(new Reader(index.data), {});
      if (approved.hashAlg !== s.authHash) refuse(RC.HASH);
      if (!equal(approved.digest, s.policyDigest)) refuse(RC.VALUE);
    }
    s.policyDigest = Buffer.alloc(digestSize(s.authHash));
    extend(s, 'PolicyAuthorizeNV', entityName(tpm, nvIndex));
  },
  PolicyNvWritten(tpm, { policySession, writtenSet }) {
    const s = sessionOf(tpm, policySession);
    if (s.nvWrittenCheck && s.nvWritten !== writtenSet) badParam(RC.VALUE, 1);
    s.nvWrittenCheck = 1;
    s.nvWritten = writtenSet;
    extend(s, 'PolicyNvWritten', Buffer.of(writtenSet));
  },
  PolicyAuthValue(tpm, { policySession }) {
    const s = sessionOf(tpm, policySession);
    extend(s, 'PolicyAuthValue');
    s.authValueNeeded = 1;
    s.passwordNeeded = 0;
  },
  PolicyPassword(tpm, { policySession }) {
    const s = sessionOf(tpm, policySession);
    // The same term: only how the authValue is proven differs.
    extend(s, 'PolicyAuthValue');
    s.passwordNeeded = 1;
    s.authValueNeeded = 0;
  },
  PolicyGetDigest: (tpm, { policySession }) => ({ policyDigest: sessionOf(tpm, policySession).policyDigest }),
  PolicyRestart(tpm, { sessionHandle }) {
    clearPolicy(sessionOf(tpm, sessionHandle));
  },
};
