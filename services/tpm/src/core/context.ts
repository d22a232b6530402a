/** Saved contexts (part 1, 30): encrypted and with an HMAC, so that only this TPM, in this power cycle, loads them. */
import { be32, be64, equal, hmac, kdfa } from '../crypto/hash.ts';
import { cfb } from '../crypto/symmetric.ts';
import { decode, encode, Reader } from '../spec/codec.ts';
import { ALG, HT, LIMIT, RC, RH } from '../spec/constants.ts';
import { badParam, refuse } from '../spec/refusal.ts';
import { digest, handleType } from '../spec/types.ts';
import { findObject } from './entity.ts';
import { Sequence } from './sequence.ts';
import { gapFull } from './session.ts';
import { allocate, needSlot } from './slots.ts';
import { loadedObject, OF, type Session, session } from './state.ts';
import type { Tpm } from './tpm.ts';

export interface Context {
  sequence: bigint;
  savedHandle: number;
  hierarchy: number;
  contextBlob: Buffer;
}

const symmetric = { algorithm: ALG.AES, keyBits: 256, mode: ALG.CFB };
/** What the handle of a saved object says of it (part 1, 30.3.2). */
const SAVED = { OBJECT: 0x80000000, SEQUENCE: 0x80000001, ST_CLEAR: 0x80000002 } as const;

function keyAndIv(tpm: Tpm, c: Context): { key: Buffer; iv: Buffer } {
  const both = kdfa(
    ALG.SHA512,
    tpm.proof(c.hierarchy),
    'CONTEXT',
    be64(c.sequence),
    be32(c.savedHandle),
    384,
  );
  return { key: both.subarray(0, 32), iv: both.subarray(32) };
}
/** Bound to the number of TPM Resets, and for stClear objects of Restarts: older contexts do not load. */
function integrity(tpm: Tpm, c: Context, encrypted: Buffer): Buffer {
  const parts = [be64(tpm.persistent.totalResetCount)];
  if (c.savedHandle === SAVED.ST_CLEAR) parts.push(be32(tpm.reset.clearCount));
  return hmac(ALG.SHA512, tpm.proof(c.hierarchy), ...parts, be64(c.sequence), be32(c.savedHandle), encrypted);
}

function seal(tpm: Tpm, head: Omit<Context, 'contextBlob'>, data: Buffer): Context {
  const c = { ...head, contextBlob: data };
  const { key, iv } = keyAndIv(tpm, c);
  const encrypted = cfb(false, symmetric, key, Buffer.concat([be64(c.sequence), data]), iv);
  c.contextBlob = Buffer.concat([encode(digest, integrity(tpm, c, encrypted)), encrypted]);
  return c;
}

export function saveContext(tpm: Tpm, handle: number): Context {
  if (handleType(handle) === HT.TRANSIENT) {
    const o = findObject(tpm, handle)!;
    const sequence = ++tpm.reset.objectContextId;
    tpm.clearOrderly();
    if (o instanceof Sequence) {
      return seal(tpm, { sequence, savedHandle: SAVED.SEQUENCE, hierarchy: RH.NULL }, o.save());
    }
    const savedHandle = o.flags & OF.stClear ? SAVED.ST_CLEAR : SAVED.OBJECT;
    return seal(tpm, { sequence, savedHandle, hierarchy: o.hierarchy }, encode(loadedObject, o));
  }
  const slot = handle & 0xffffff;
  const s = tpm.sessions.get(slot)!;
  if (gapFull(tpm)) refuse(RC.CONTEXT_GAP);
  const sequence = tpm.reset.contextCounter++;
  const context = seal(tpm, { sequence, savedHandle: handle, hierarchy: RH.NULL }, encode(session, s));
  tpm.reset.saved.push({ slot, sequence });
  tpm.sessions.delete(slot);
  tpm.clearOrderly();
  return context;
}

/** The handle that the context now has; parameter 1 is to blame. */
export function loadContext(tpm: Tpm, c: Context): number {
  const r = new Reader(c.contextBlob);
  const mac = digest.read(r, {});
  if (mac.length !== LIMIT.digest || r.left < 8) badParam(RC.SIZE, 1);
  const encrypted = r.bytes(r.left);
  if (!equal(mac, integrity(tpm, c, encrypted))) badParam(RC.INTEGRITY, 1);
  const { key, iv } = keyAndIv(tpm, c);
  const data = cfb(true, symmetric, key, encrypted, iv).subarray(8);
  if (handleType(c.savedHandle) === HT.TRANSIENT) {
    if (!tpm.hierarchyEnabled(c.hierarchy)) badParam(RC.HIERARCHY, 1);
    needSlot(tpm);
    return allocate(
      tpm,
      c.savedHandle === SAVED.SEQUENCE ? Sequence.restore(data) : decode(loadedObject, data),
    );
  }
  const slot = c.savedHandle & 0xffffff;
  const i = tpm.reset.saved.findIndex((s) => s.slot === slot && s.sequence === c.sequence);
  if (i < 0) badParam(RC.HANDLE, 1);
  if (tpm.sessions.size >= LIMIT.sessions) refuse(RC.SESSION_MEMORY);
  const s: Session = decode(session, data);
  // With the last slot only the oldest context may be loaded when the gap is full: otherwise it never closes.
  const oldest = tpm.reset.saved.every((x) => x.sequence >= c.sequence);
  if (gapFull(tpm) && tpm.sessions.size === LIMIT.sessions - 1 && !oldest) refuse(RC.CONTEXT_GAP);
  tpm.reset.saved.splice(i, 1);
  tpm.sessions.set(slot, s);
  tpm.clearOrderly();
  return c.savedHandle;
}
