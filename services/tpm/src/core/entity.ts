/** What a handle refers to: whether it is there, its Name, its authorization (part 1, 16 and 19). */
import { be16, be32, hash, none } from '../crypto/hash.ts';
import { encode } from '../spec/codec.ts';
import { ALG, HT, NVA, OA, RC, RH } from '../spec/constants.ts';
import { badHandle, refuse } from '../spec/refusal.ts';
import { handleType, nvPublic, type PublicArea, publicArea } from '../spec/types.ts';
import { Sequence } from './sequence.ts';
import type { LoadedObject, NvIndex, Session } from './state.ts';
import { OF } from './state.ts';
import type { Tpm } from './tpm.ts';

/** PCRs 20 to 22 share one policy and have authValues (as the reference platform has it). */
export const pcrHasAuth = (pcr: number): boolean => pcr >= 20 && pcr <= 22;

export function objectName(pub: PublicArea): Buffer {
  if (pub.nameAlg === ALG.NULL) return none;
  return Buffer.concat([be16(pub.nameAlg), hash(pub.nameAlg, encode(publicArea, pub))]);
}
export function nvName(index: NvIndex): Buffer {
  return Buffer.concat([be16(index.pub.nameAlg), hash(index.pub.nameAlg, encode(nvPublic, index.pub))]);
}

export function stripZeros(b: Buffer): Buffer {
  let n = b.length;
  while (n > 0 && b[n - 1] === 0) n--;
  return n === b.length ? b : b.subarray(0, n);
}

/** What is in an object slot or persistent; undefined when nothing is. */
export function findObject(tpm: Tpm, handle: number): LoadedObject | Sequence | undefined {
  return handleType(handle) === HT.PERSISTENT ? tpm.evicted.get(handle) : tpm.objects[handle & 0xffffff];
}
/** The object of a handle that `checkLoaded` has let pass; a sequence is none (RC.TYPE: it has no public area). */
export function objectOf(tpm: Tpm, handle: number): LoadedObject {
  const o = findObject(tpm, handle);
  if (!o || o instanceof Sequence) refuse(RC.TYPE);
  return o;
}

export const isPlatformPersistent = (handle: number): boolean => handle >= 0x81800000;

/** Refuses unless everything that the handles name is there and enabled (part 3, 5.4). */
export function checkLoaded(tpm: Tpm, handles: readonly number[]): void {
  for (let i = 0; i < handles.length; i++) {
    const h = handles[i]!;
    switch (handleType(h)) {
      case HT.PERMANENT:
        if (h >= RH.AUTH_00 && h <= RH.AUTH_FF) badHandle(RC.VALUE, i + 1);
        if (!tpm.hierarchyEnabled(h)) badHandle(RC.HIERARCHY, i + 1);
        break;
      case HT.TRANSIENT:
        if (!findObject(tpm, h)) refuse(RC.REFERENCE_H0 + i);
        break;
      case HT.PERSISTENT: {
        const o = tpm.evicted.get(h);
        const owner = isPlatformPersistent(h) ? RH.PLATFORM : RH.OWNER;
        if (!o || !tpm.hierarchyEnabled(owner) || !tpm.hierarchyEnabled(o.hierarchy))
          badHandle(RC.HANDLE, i + 1);
        break;
      }
      case HT.HMAC_SESSION:
      case HT.POLICY_SESSION: {
        const s = findSession(tpm, h);
        if (!s) refuse(RC.REFERENCE_H0 + i);
        if (s.handle !== h) badHandle(RC.HANDLE, i + 1);
        break;
      }
      case HT.NV_INDEX:
        if (!nvAccessible(tpm, h)) badHandle(RC.HANDLE, i + 1);
        break;
    }
  }
}

/** A loaded session by its number, whichever type the handle claims. */
export const findSession = (tpm: Tpm, handle: number): Session | undefined =>
  tpm.sessions.get(handle & 0xffffff);

function nvAccessible(tpm: Tpm, handle: number): boolean {
  const index = tpm.nv.get(handle);
  if (!index) return false;
  return index.pub.attributes & NVA.PLATFORMCREATE ? tpm.clear.phEnableNV === 1 : tpm.clear.shEnable === 1;
}

export function entityName(tpm: Tpm, handle: number): Buffer {
  switch (handleType(handle)) {
    case HT.TRANSIENT:
    case HT.PERSISTENT: {
      const o = findObject(tpm, handle);
      return o && !(o instanceof Sequence) ? o.name : none;
    }
    case HT.NV_INDEX: {
      const index = tpm.nv.get(handle);
      return index ? nvName(index) : none;
    }
    default:
      return be32(handle);
  }
}

/** Without trailing zeros. */
export function authValue(tpm: Tpm, handle: number): Buffer {
  switch (handleType(handle)) {
    case HT.PERMANENT:
      return stripZeros(tpm.hierarchyAuth(handle)?.auth ?? none);
    case HT.TRANSIENT:
    case HT.PERSISTENT: {
      const o = findObject(tpm, handle);
      if (!o) return none;
      return stripZeros(o instanceof Sequence ? o.auth : (o.sensitive?.authValue ?? none));
    }
    case HT.NV_INDEX:
      return stripZeros(tpm.nv.get(handle)?.auth ?? none);
    case HT.PCR:
      return stripZeros(tpm.clear.pcrAuth[handle] ?? none);
    default:
      return none;
  }
}

export function authPolicy(tpm: Tpm, handle: number): { alg: number; policy: Buffer } {
  switch (handleType(handle)) {
    case HT.PERMANENT: {
      const h = tpm.hierarchyAuth(handle);
      return { alg: h?.policyAlg ?? ALG.NULL, policy: h?.policy ?? none };
    }
    case HT.TRANSIENT:
    case HT.PERSISTENT: {
      const o = objectOf(tpm, handle);
      return { alg: o.pub.nameAlg, policy: o.pub.authPolicy };
    }
    case HT.NV_INDEX: {
      const index = tpm.nv.get(handle)!;
      return { alg: index.pub.nameAlg, policy: index.pub.authPolicy };
    }
    case HT.PCR:
      if (pcrHasAuth(handle))
        return { alg: tpm.persistent.pcrPolicy.policyAlg, policy: tpm.persistent.pcrPolicy.policy };
      return { alg: ALG.NULL, policy: none };
    default:
      return { alg: ALG.NULL, policy: none };
  }
}

/** Whether a wrong authorization does not count in the dictionary attack logic (part 1, 19.8). */
export function daExempt(tpm: Tpm, handle: number): boolean {
  switch (handleType(handle)) {
    case HT.PERMANENT:
      return handle !== RH.LOCKOUT;
    case HT.TRANSIENT:
    case HT.PERSISTENT: {
      const o = findObject(tpm, handle);
      return !o || o instanceof Sequence || (o.pub.objectAttributes & OA.noDA) !== 0;
    }
    case HT.NV_INDEX:
      return ((tpm.nv.get(handle)?.pub.attributes ?? 0) & NVA.NO_DA) !== 0;
    default:
      return true;
  }
}

/** The hierarchy an entity belongs to, for tickets and attestations. */
export const isPublicOnly = (o: LoadedObject): boolean => (o.flags & OF.publicOnly) !== 0;

/** What a session is bound to: Name and authValue, so that a change of either unbinds it. */
export function boundEntity(tpm: Tpm, handle: number): Buffer {
  return Buffer.concat([entityName(tpm, handle), Buffer.of(0), authValue(tpm, handle)]);
}
