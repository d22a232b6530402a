/** The session area of a command: parsing, authorization, and that of the response (part 1, 18 and 19). */
import { be32, equal, hash, hmac, none } from '../crypto/hash.ts';
import { digestSize } from '../spec/algorithms.ts';
import { Reader, type Writer } from '../spec/codec.ts';
import type { Command, CommandName, Role } from '../spec/commands.ts';
import { ALG, HT, LIMIT, NT, NVA, OA, RC, RC_S, RH, SA } from '../spec/constants.ts';
import { modify, Refusal, refuse } from '../spec/refusal.ts';
import { auth, handleType, isSession, nonce } from '../spec/types.ts';
import type { Call, SessionUse } from './call.ts';
import {
  authPolicy,
  authValue,
  boundEntity,
  daExempt,
  findObject,
  findSession,
  isPublicOnly,
  objectOf,
  pcrHasAuth,
  stripZeros,
} from './entity.ts';
import { nvKind, readCount, writeCount } from './nv.ts';
import { checkPolicy } from './policy-check.ts';
import { Sequence } from './sequence.ts';
import { flushSession, initAudit, resetPolicy } from './session.ts';
import { ORDERLY, type Session } from './state.ts';
import type { Tpm } from './tpm.ts';

/** Commands that write the NV index they are authorized for. */
const nvWriters: ReadonlySet<CommandName> = new Set([
  'NV_Write',
  'NV_Increment',
  'NV_SetBits',
  'NV_Extend',
  'NV_WriteLock',
]);

const sessionReserved = 0x18;

/** Parses `size` octets at the reader into `call.sessions`. */
export function parseSessions(call: Call, r: Reader, size: number): void {
  const { flags } = call.command;
  if (flags.noSessions) refuse(RC.AUTH_CONTEXT);
  const area = new Reader(r.buf, r.pos, r.pos + size);
  r.pos += size;
  while (area.left > 0) {
    const i = call.sessions.length;
    if (i === LIMIT.sessionsPerCommand) refuse(modify(RC.SIZE, RC_S, i + 1));
    try {
      const handle = area.u32();
      if (handle !== RH.PW && !isSession(handle)) refuse(RC.VALUE);
      const nonceCaller = nonce.read(area, {});
      const attributes = area.u8();
      if (attributes & sessionReserved) refuse(RC.RESERVED_BITS);
      const use: SessionUse = {
        handle,
        session: undefined,
        nonceCaller,
        attributes,
        hmac: auth.read(area, {}),
        authorizes: undefined,
        includeAuth: false,
      };
      checkUse(call, use, i);
      call.sessions.push(use);
    } catch (e) {
      if (e instanceof Refusal) refuse(modify(e.rc, RC_S, i + 1));
      throw e;
    }
  }
}

function checkUse(call: Call, use: SessionUse, i: number): void {
  const { attributes: a } = use;
  const { tpm, command } = call;
  if (use.handle === RH.PW) {
    if (a & ~SA.continueSession) refuse(RC.ATTRIBUTES);
    if (use.nonceCaller.length !== 0) refuse(RC.NONCE);
    return;
  }
  const s = findSession(tpm, use.handle);
  if (!s) refuse(RC.REFERENCE_S0 + i);
  if (s.handle !== use.handle || call.sessions.some((other) => other.handle === use.handle))
    refuse(RC.HANDLE);
  use.session = s;
  if (a & SA.decrypt) {
    if (!command.flags.decrypt || call.decryptor) refuse(RC.ATTRIBUTES);
    if (s.symmetric.algorithm === ALG.NULL) refuse(RC.SYMMETRIC);
    call.decryptor = use;
  }
  if (a & SA.encrypt) {
    if (!command.flags.encrypt || call.encryptor) refuse(RC.ATTRIBUTES);
    if (s.symmetric.algorithm === ALG.NULL) refuse(RC.SYMMETRIC);
    call.encryptor = use;
  }
  if (a & SA.audit) {
    if (call.auditor || call.isPolicy(use)) refuse(RC.ATTRIBUTES);
    const first = (a & SA.auditReset) !== 0 || !s.isAudit;
    if (!first && a & SA.auditExclusive && tpm.exclusiveAudit !== use.handle) refuse(RC.EXCLUSIVE);
    call.auditor = use;
  }
}

const roles = new Map<Command, readonly Role[]>();
function rolesOf({ command }: Call): readonly Role[] {
  let list = roles.get(command);
  if (!list) {
    list = Object.values(command.handles).map((h) => h.role);
    roles.set(command, list);
  }
  return list;
}

/** Refuses unless every handle that needs it is authorized by the sessions of the call. */
export function authorize(call: Call): void {
  const { tpm } = call;
  const roles = rolesOf(call);
  for (let i = 0; i < roles.length; i++) {
    if (roles[i] === 'none') continue;
    const use = call.sessions[i];
    if (!use) refuse(RC.AUTH_MISSING);
    use.authorizes = call.handles[i];
  }
  for (let i = 0; i < call.sessions.length; i++) {
    const use = call.sessions[i]!;
    const s = use.session;
    if (!s) {
      if (use.authorizes === undefined) refuse(modify(RC.HANDLE, RC_S, i + 1));
    } else {
      if (s.type === 3) refuse(modify(RC.ATTRIBUTES, RC_S, i + 1));
      if (s.isDaBound) tpm.da.check(s.isLockoutBound === 1);
    }
    try {
      if (use.authorizes !== undefined) checkAuthorization(call, use, roles[i]!);
      else {
        // Without an entity only an HMAC session proves anything, and it must.
        if (call.isPolicy(use) && !(use.attributes & (SA.decrypt | SA.encrypt))) refuse(RC.ATTRIBUTES);
        if (!(use.attributes & (SA.decrypt | SA.encrypt | SA.audit))) refuse(RC.ATTRIBUTES);
        use.includeAuth = false;
        if (!equal(use.hmac, commandHmac(call, use, i))) refuse(failedAuth(tpm, use));
      }
    } catch (e) {
      if (e instanceof Refusal) refuse(modify(e.rc, RC_S, i + 1));
      throw e;
    }
  }
}

function checkAuthorization(call: Call, use: SessionUse, role: Role): void {
  const { tpm } = call;
  const s = use.session;
  const entity = use.authorizes!;
  const policy = s !== undefined && call.isPolicy(use);
  if (entity === RH.PLATFORM && needsPresence(call) && !tpm.physicalPresence) refuse(RC.PP);
  if (!s) use.includeAuth = true;
  else if (policy) use.includeAuth = s.authValueNeeded === 1 || s.passwordNeeded === 1;
  else use.includeAuth = !(s.isBound && equal(boundEntity(tpm, entity), s.boundEntity));
  if (use.includeAuth && !daExempt(tpm, entity)) tpm.da.check(entity === RH.LOCKOUT);

  if (!policy) {
    if (policyRequired(tpm, entity, role)) refuse(RC.AUTH_TYPE);
    if (!authValueAvailable(call, entity, role)) refuse(RC.AUTH_UNAVAILABLE);
  } else {
    if (!policyAvailable(call, entity, role)) refuse(RC.AUTH_UNAVAILABLE);
    checkPolicy(call, use, role);
  }
  const byPassword = !s || s.passwordNeeded === 1;
  const good = byPassword
    ? equal(stripZeros(use.hmac), authValue(tpm, entity))
    : equal(use.hmac, commandHmac(call, use, call.sessions.indexOf(use)));
  if (use.includeAuth) countPin(tpm, entity, good);
  if (!good) refuse(failedAuth(tpm, use));
}

function needsPresence(call: Call): boolean {
  const { pp } = call.command.flags;
  return pp === 'must' || (pp === 'may' && call.tpm.persistent.ppList.includes(call.command.code));
}

function policyRequired(tpm: Tpm, entity: number, role: Role): boolean {
  if (role === 'dup') return true;
  const type = handleType(entity);
  if (role === 'admin') {
    if (type !== HT.TRANSIENT && type !== HT.PERSISTENT) return true;
    const o = findObject(tpm, entity);
    return !(o instanceof Sequence) && ((o?.pub.objectAttributes ?? 0) & OA.adminWithPolicy) !== 0;
  }
  return type === HT.PCR && pcrHasAuth(entity) && tpm.persistent.pcrPolicy.policyAlg !== ALG.NULL;
}

function authValueAvailable(call: Call, entity: number, role: Role): boolean {
  const { tpm } = call;
  switch (handleType(entity)) {
    case HT.TRANSIENT:
    case HT.PERSISTENT: {
      const o = findObject(tpm, entity);
      if (o instanceof Sequence) return true;
      if (!o || isPublicOnly(o)) return false;
      const a = o.pub.objectAttributes;
      return (a & OA.userWithAuth) !== 0 || (role === 'admin' && !(a & OA.adminWithPolicy));
    }
    case HT.NV_INDEX: {
      const index = tpm.nv.get(entity)!;
      const a = index.pub.attributes;
      if (nvWriters.has(call.name)) return (a & NVA.AUTHWRITE) !== 0;
      const kind = nvKind(a);
      if (kind === NT.PIN_FAIL || kind === NT.PIN_PASS) {
        if (!(a & NVA.WRITTEN)) return false;
        const { count, limit } = readCount(index);
        return count < limit;
      }
      return (a & NVA.AUTHREAD) !== 0;
    }
    default:
      return true;
  }
}

function policyAvailable(call: Call, entity: number, role: Role): boolean {
  const { tpm } = call;
  switch (handleType(entity)) {
    case HT.PERMANENT:
      return authPolicy(tpm, entity).policy.length > 0;
    case HT.TRANSIENT:
    case HT.PERSISTENT: {
      const o = findObject(tpm, entity);
      return o !== undefined && !(o instanceof Sequence) && !isPublicOnly(objectOf(tpm, entity));
    }
    case HT.NV_INDEX: {
      const { pub } = tpm.nv.get(entity)!;
      if (pub.authPolicy.length === 0) return false;
      if (role === 'admin') return true;
      return (pub.attributes & (nvWriters.has(call.name) ? NVA.POLICYWRITE : NVA.POLICYREAD)) !== 0;
    }
    default:
      return pcrHasAuth(entity);
  }
}

/** PIN indices count uses or failures of their authValue (part 1, 37.2.8). */
function countPin(tpm: Tpm, entity: number, good: boolean): void {
  const index = handleType(entity) === HT.NV_INDEX ? tpm.nv.get(entity) : undefined;
  if (!index || !(index.pub.attributes & NVA.WRITTEN)) return;
  const kind = nvKind(index.pub.attributes);
  const { count, limit } =
    kind === NT.PIN_FAIL || kind === NT.PIN_PASS ? readCount(index) : { count: 0, limit: 0 };
  if (kind === NT.PIN_FAIL) writeCount(tpm, index, good ? 0 : count + 1, limit);
  else if (kind === NT.PIN_PASS && good) writeCount(tpm, index, count + 1, limit);
}

/** Counts a failure where it counts; the code to refuse with. */
function failedAuth(tpm: Tpm, use: SessionUse): number {
  let handle = use.authorizes ?? RH.NULL;
  const s = use.session;
  if (!s) {
    if (daExempt(tpm, handle)) return RC.BAD_AUTH;
  } else {
    if (s.isLockoutBound) handle = RH.LOCKOUT;
    if (!s.isDaBound && (daExempt(tpm, handle) || !use.includeAuth)) return RC.BAD_AUTH;
  }
  tpm.da.failed(handle);
  if (tpm.persistent.orderly !== ORDERLY.NONE) tpm.clearOrderly();
  return RC.AUTH_FAIL;
}

function hmacKey(tpm: Tpm, use: SessionUse): Buffer {
  const { sessionKey } = use.session!;
  if (!use.includeAuth || use.authorizes === undefined) return sessionKey;
  return Buffer.concat([sessionKey, authValue(tpm, use.authorizes)]);
}

function commandHmac(call: Call, use: SessionUse, i: number): Buffer {
  const s = use.session!;
  const key = hmacKey(call.tpm, use);
  if (key.length === 0 && use.hmac.length === 0) return none;
  // The first session vouches for the nonces of those that only encrypt.
  const extra: Buffer[] = [];
  if (i === 0 && use.authorizes !== undefined) {
    const { decryptor, encryptor } = call;
    if (decryptor && decryptor !== use) extra.push(decryptor.session!.nonceTPM);
    if (encryptor && encryptor !== use && encryptor !== decryptor) extra.push(encryptor.session!.nonceTPM);
  }
  return hmac(
    s.authHash,
    key,
    call.cpHash(s.authHash),
    use.nonceCaller,
    s.nonceTPM,
    ...extra,
    Buffer.of(use.attributes),
  );
}

/** Refuses a command without sessions that needs authorization. */
export function authorizeNothing(call: Call): void {
  if (rolesOf(call).some((r) => r !== 'none')) refuse(RC.AUTH_MISSING);
}

function rollNonces(call: Call): void {
  for (const { session: s } of call.sessions) {
    if (s) s.nonceTPM = call.tpm.random.bytes(s.nonceTPM.length);
  }
}

/** The hash of a response: code of success, command code, parameters. */
export function rpHash(alg: number, code: number, params: Buffer): Buffer {
  return hash(alg, be32(RC.SUCCESS), be32(code), params);
}

function updateAudit(call: Call, params: Buffer): void {
  const { tpm, auditor, command } = call;
  const s = auditor?.session;
  if (!s) {
    if (!command.flags.noSessions) tpm.exclusiveAudit = RH.UNASSIGNED;
    return;
  }
  if (!s.isAudit || auditor.attributes & SA.auditReset) {
    initAudit(s);
    tpm.exclusiveAudit = s.handle;
  } else if (tpm.exclusiveAudit !== s.handle) tpm.exclusiveAudit = RH.UNASSIGNED;
  if (tpm.exclusiveAudit === s.handle) auditor.attributes |= SA.auditExclusive;
  else auditor.attributes &= ~SA.auditExclusive;
  s.auditDigest = hash(
    s.authHash,
    s.auditDigest,
    call.cpHash(s.authHash),
    rpHash(s.authHash, command.code, params),
  );
}

function isAudited({ tpm, command }: Call): boolean {
  const { auditAlg, auditList } = tpm.persistent;
  return auditAlg !== ALG.NULL && auditList.includes(command.code);
}
/** Command audit (part 1, 34): every command of the list extends one digest. */
function updateCommandAudit(call: Call, params: Buffer): void {
  const { tpm, command } = call;
  const { auditAlg } = tpm.persistent;
  let digest = tpm.reset.commandAuditDigest;
  if (digest.length === 0) {
    tpm.persistent.auditCounter++;
    tpm.touchPersistent();
    digest = Buffer.alloc(digestSize(auditAlg));
  }
  tpm.reset.commandAuditDigest = hash(
    auditAlg,
    digest,
    call.cpHash(auditAlg),
    rpHash(auditAlg, command.code, params),
  );
}

function responseHmac(call: Call, use: SessionUse, s: Session, params: Buffer): Buffer {
  if (call.isPolicy(use) && s.passwordNeeded) return none;
  const key = hmacKey(call.tpm, use);
  if (key.length === 0 && use.hmac.length === 0) return none;
  return hmac(
    s.authHash,
    key,
    rpHash(s.authHash, call.command.code, params),
    s.nonceTPM,
    use.nonceCaller,
    Buffer.of(use.attributes),
  );
}

const hasSession = (use: SessionUse): boolean => use.session !== undefined;

/** Encrypts the parameters, which begin at `start`, if asked, updates audits, and appends the session area if there is one. */
export function finishSessions(call: Call, w: Writer, start: number, area: boolean): void {
  const { tpm } = call;
  rollNonces(call);
  const audited = isAudited(call);
  // With passwords alone nobody looks at the parameters.
  const params = audited || call.sessions.some(hasSession) ? w.buf.subarray(start, w.pos) : none;
  call.encryptResponse(params);
  updateAudit(call, params);
  if (audited) updateCommandAudit(call, params);
  if (!area) return;
  for (const use of call.sessions) {
    const s = use.session;
    if (!s) {
      nonce.write(w, none, {});
      w.u8(use.attributes | SA.continueSession);
      auth.write(w, none, {});
      continue;
    }
    const mac = responseHmac(call, use, s, params);
    nonce.write(w, s.nonceTPM, {});
    w.u8(use.attributes);
    auth.write(w, mac, {});
    if (call.continues(use)) {
      if (call.isPolicy(use)) resetPolicy(tpm, s);
    } else flushSession(tpm, s.handle);
  }
}
