/** Objects (part 3, 12, 24.1, 28). */

import { checkCreation, checkPublic } from '../core/checks.ts';
import { loadContext, saveContext } from '../core/context.ts';
import type { Handlers } from '../core/dispatch.ts';
import { findObject, isPlatformPersistent, objectName, objectOf } from '../core/entity.ts';
import { checkLoad, createKeys, loaded, padAuth, qualifiedNameUnder } from '../core/object.ts';
import { protectorOf, unwrapOuter, unwrapPrivate, wrapOuter, wrapPrivate } from '../core/protect.ts';
import { recoverSecret, shareSecret } from '../core/secret.ts';
import { Sequence } from '../core/sequence.ts';
import { flushSession, sessionExists } from '../core/session.ts';
import { allocate, flushObject, needSlot } from '../core/slots.ts';
import { type LoadedObject, OF } from '../core/state.ts';
import { makeTicket } from '../core/ticket.ts';
import type { Tpm } from '../core/tpm.ts';
import { hash, kdfa, none } from '../crypto/hash.ts';
import { type Rand, seededRandom } from '../crypto/random.ts';
import { type Codec, decode, encode, Reader, sized, struct } from '../spec/codec.ts';
import { ALG, HT, OA, RC, RH, ST } from '../spec/constants.ts';
import { asHandle, asParam, badHandle, badParam, refuse } from '../spec/refusal.ts';
import {
  creationData,
  derivedTemplate,
  handleType,
  type PcrSelection,
  type PublicArea,
  publicArea,
} from '../spec/types.ts';
import { nvRoom } from './nv-space.ts';

const isHierarchy = (handle: number) => handleType(handle) === HT.PERMANENT;

/** TPMS_CREATION_DATA, its hash and its ticket (part 1, 26.3). */
function creation(
  tpm: Tpm,
  object: LoadedObject,
  parent: LoadedObject | number,
  creationPCR: PcrSelection[],
  outsideInfo: Buffer,
) {
  const alg = object.pub.nameAlg;
  const primary = typeof parent === 'number';
  const parentHandle = Buffer.alloc(4);
  if (primary) parentHandle.writeUInt32BE(parent);
  const data = {
    pcrSelect: tpm.pcrs.filter(creationPCR),
    pcrDigest: tpm.pcrs.digest(alg, creationPCR),
    locality: tpm.locality < 5 ? 1 << tpm.locality : tpm.locality,
    parentNameAlg: primary ? ALG.NULL : parent.pub.nameAlg,
    parentName: primary ? parentHandle : parent.name,
    parentQualifiedName: primary ? parentHandle : parent.qualifiedName,
    outsideInfo,
  };
  const creationHash = hash(alg, encode(creationData, data));
  return {
    creationData: data,
    creationHash,
    creationTicket: makeTicket(tpm, ST.CREATION, object.hierarchy, object.name, creationHash),
  };
}

/** The octets a primary key is made of: a function of seed, template and the caller's data. */
function primaryRand(tpm: Tpm, hierarchy: number, pub: PublicArea, data: Buffer): Rand {
  return seededRandom(tpm.seed(hierarchy), Buffer.from('Primary Object Creation'), objectName(pub), data);
}

interface Sensitive {
  userAuth: Buffer;
  data: Buffer;
}
/** Checks and makes an object: `sensitive` is parameter 1, `pub` parameter 2. */
function create(
  tpm: Tpm,
  parent: LoadedObject | number,
  pub: PublicArea,
  { userAuth, data }: Sensitive,
  derive?: Rand,
): LoadedObject {
  const parentObject = typeof parent === 'number' ? undefined : parent;
  asParam(2, () => (derive ? checkPublic(parentObject, pub) : checkCreation(parentObject, pub, data.length)));
  const auth = padAuth(userAuth, pub.nameAlg);
  if (!auth) badParam(RC.SIZE, 1);
  const seeded = derive ?? (typeof parent === 'number' ? primaryRand(tpm, parent, pub, data) : undefined);
  const made = asParam(pub.type === ALG.RSA || pub.type === ALG.ECC ? 2 : 1, () =>
    createKeys({
      pub,
      userAuth: auth,
      data: derive ? none : data,
      rand: tpm.random.bytes,
      pause: tpm.pause,
      ...(seeded && { seeded }),
    }),
  );
  return loaded(made.pub, made.sensitive, parent, false);
}

function parentOf(tpm: Tpm, handle: number): LoadedObject {
  const parent = asHandle(1, () => objectOf(tpm, handle));
  if (!(parent.flags & OF.isParent)) badHandle(RC.TYPE, 1);
  return parent;
}

/** Label and context of a derived object: in the template, or both in the sensitive data (part 1, 28.4). */
const deriveFields = struct({ label: sized(32), context: sized(32) });
function derivation(parent: LoadedObject, template: Buffer, data: Buffer): { pub: PublicArea; rand: Rand } {
  const { label, context, ...head } = asParam(2, () => decode(derivedTemplate, template));
  const given = data.length === 0 ? undefined : asParam(1, () => decode(deriveFields, data));
  // What the template names, the caller may not name otherwise.
  if (given && label.length && given.label.length) badParam(RC.VALUE, 1);
  if (given && context.length && given.context.length) badParam(RC.VALUE, 1);
  const l = label.length ? label : (given?.label ?? none);
  const c = context.length ? context : (given?.context ?? none);
  const alg = parent.pub.parameters.scheme.hashAlg;
  const stream = kdfa(alg, parent.sensitive!.sensitive, l, c, none, 8192);
  let at = 0;
  const rand: Rand = (n) => {
    if (at + n > stream.length) refuse(RC.NO_RESULT);
    at += n;
    return Buffer.from(stream.subarray(at - n, at));
  };
  return { pub: { ...head, unique: { x: none, y: none } } as PublicArea, rand };
}

const templateReader = (codec: Codec<PublicArea>, bytes: Buffer): PublicArea => {
  const r = new Reader(bytes);
  const pub = codec.read(r, {});
  if (r.left > 0) refuse(RC.SIZE);
  return pub;
};

function credentialKey(tpm: Tpm, handle: number, n: number): LoadedObject {
  const key = asHandle(n, () => objectOf(tpm, handle));
  const a = key.pub.objectAttributes;
  const asymmetric = key.pub.type === ALG.RSA || key.pub.type === ALG.ECC;
  if (!asymmetric || !(a & OA.decrypt) || !(a & OA.restricted)) badHandle(RC.TYPE, n);
  return key;
}

function evict(tpm: Tpm, auth: number, handle: number, persistentHandle: number): void {
  const o = asHandle(2, () => objectOf(tpm, handle));
  const persistent = handleType(handle) === HT.PERSISTENT;
  if (o.flags & (OF.temporary | OF.stClear | OF.publicOnly)) badHandle(RC.ATTRIBUTES, 2);
  if (persistent && handle !== persistentHandle) badHandle(RC.HANDLE, 2);
  const platform = o.hierarchy === RH.PLATFORM;
  if (auth === RH.PLATFORM) {
    if (!persistent && !platform) badHandle(RC.HIERARCHY, 2);
    if (!persistent && !isPlatformPersistent(persistentHandle)) badParam(RC.RANGE, 1);
  } else {
    if (platform) badHandle(RC.HIERARCHY, 2);
    if (!persistent && isPlatformPersistent(persistentHandle)) badParam(RC.RANGE, 1);
  }
  if (persistent) tpm.evicted.delete(handle);
  else {
    if (tpm.evicted.has(persistentHandle)) refuse(RC.NV_DEFINED);
    if (nvRoom(tpm) < 2048) refuse(RC.NV_SPACE);
    tpm.evicted.set(persistentHandle, { ...o });
  }
  tpm.touchEvicted(persistentHandle);
}

export const objectCommands: Handlers = {
  CreatePrimary(tpm, { primaryHandle, inSensitive, inPublic, outsideInfo, creationPCR }) {
    needSlot(tpm);
    const object = create(tpm, primaryHandle, inPublic, inSensitive);
    return {
      handle: allocate(tpm, object),
      outPublic: object.pub,
      ...creation(tpm, object, primaryHandle, creationPCR, outsideInfo),
      name: object.name,
    };
  },
  Create(tpm, { parentHandle, inSensitive, inPublic, outsideInfo, creationPCR }) {
    const parent = parentOf(tpm, parentHandle);
    const object = create(tpm, parent, inPublic, inSensitive);
    return {
      outPrivate: wrapPrivate(parent, object.name, object.sensitive!, tpm.random.bytes),
      outPublic: object.pub,
      ...creation(tpm, object, parent, creationPCR, outsideInfo),
    };
  },
  CreateLoaded(tpm, { parentHandle, inSensitive, inPublic }) {
    const parent = isHierarchy(parentHandle) ? parentHandle : asHandle(1, () => objectOf(tpm, parentHandle));
    const derives = typeof parent !== 'number' && (parent.flags & OF.derivation) !== 0;
    if (typeof parent !== 'number' && !derives && !(parent.flags & OF.isParent)) badHandle(RC.TYPE, 1);
    needSlot(tpm);
    let object: LoadedObject;
    if (derives) {
      const d = derivation(parent, inPublic, inSensitive.data);
      if (d.pub.type === ALG.RSA) badParam(RC.TYPE, 2);
      if (d.pub.objectAttributes & OA.sensitiveDataOrigin) refuse(RC.ATTRIBUTES);
      object = create(tpm, parent, d.pub, inSensitive, d.rand);
    } else {
      const pub = asParam(2, () => templateReader(publicArea, inPublic));
      object = create(tpm, parent, pub, inSensitive);
    }
    const wrapped =
      typeof parent === 'number' || derives
        ? none
        : wrapPrivate(parent, object.name, object.sensitive!, tpm.random.bytes);
    return { handle: allocate(tpm, object), outPrivate: wrapped, outPublic: object.pub, name: object.name };
  },
  Load(tpm, { parentHandle, inPrivate, inPublic }) {
    needSlot(tpm);
    if (inPrivate.length === 0) badParam(RC.SIZE, 1);
    const parent = parentOf(tpm, parentHandle);
    const name = objectName(inPublic);
    if (name.length === 0) badParam(RC.HASH, 2);
    const sensitive = asParam(1, () => unwrapPrivate(parent, name, inPrivate));
    checkLoad(parent, inPublic, sensitive, 2, 1);
    return { handle: allocate(tpm, loaded(inPublic, sensitive, parent, false)), name };
  },
  LoadExternal(tpm, { inPrivate, inPublic, hierarchy }) {
    needSlot(tpm);
    if (!tpm.hierarchyEnabled(hierarchy)) badParam(RC.HIERARCHY, 3);
    if (inPrivate) {
      if (hierarchy !== RH.NULL) badParam(RC.HIERARCHY, 3);
      if (inPublic.objectAttributes & (OA.fixedTPM | OA.fixedParent | OA.restricted))
        badParam(RC.ATTRIBUTES, 2);
    }
    checkLoad(undefined, inPublic, inPrivate, 2, 1);
    const object = loaded(inPublic, inPrivate, hierarchy, true);
    return { handle: allocate(tpm, object), name: object.name };
  },
  ReadPublic(tpm, { objectHandle }) {
    const o = findObject(tpm, objectHandle);
    if (o instanceof Sequence || !o) refuse(RC.SEQUENCE);
    return { outPublic: o.pub, name: o.name, qualifiedName: o.qualifiedName };
  },
  ObjectChangeAuth(tpm, { objectHandle, parentHandle, newAuth }) {
    const o = asHandle(1, () => objectOf(tpm, objectHandle));
    const auth = padAuth(newAuth, o.pub.nameAlg);
    if (!auth) badParam(RC.SIZE, 1);
    const parent = asHandle(2, () => objectOf(tpm, parentHandle));
    if (!qualifiedNameUnder(parent, o.pub.nameAlg, o.name).equals(o.qualifiedName)) badHandle(RC.TYPE, 2);
    const sensitive = { ...o.sensitive!, authValue: auth };
    return { outPrivate: wrapPrivate(parent, o.name, sensitive, tpm.random.bytes) };
  },
  Unseal(tpm, { itemHandle }) {
    const o = asHandle(1, () => objectOf(tpm, itemHandle));
    if (o.pub.type !== ALG.KEYEDHASH) badHandle(RC.TYPE, 1);
    if (o.pub.objectAttributes & (OA.decrypt | OA.sign | OA.restricted)) badHandle(RC.ATTRIBUTES, 1);
    return { outData: o.sensitive!.sensitive };
  },
  MakeCredential(tpm, { handle, credential, objectName: name }) {
    const key = credentialKey(tpm, handle, 1);
    const size = hash(key.pub.nameAlg).length;
    if (credential.length > size) badParam(RC.SIZE, 1);
    const { seed, secret } = shareSecret(tpm, key, 'IDENTITY');
    const blob = wrapOuter(protectorOf(key, seed), name, encode(sized(64), credential), undefined);
    return { credentialBlob: blob, secret };
  },
  ActivateCredential(tpm, { activateHandle, keyHandle, credentialBlob, secret }) {
    const key = credentialKey(tpm, keyHandle, 2);
    const object = asHandle(1, () => objectOf(tpm, activateHandle));
    const seed = asParam(2, () => recoverSecret(key, 'IDENTITY', secret));
    const certInfo = asParam(1, () =>
      decode(sized(64), unwrapOuter(protectorOf(key, seed), object.name, credentialBlob, false)),
    );
    return { certInfo };
  },
  EvictControl: (tpm, { auth, objectHandle, persistentHandle }) =>
    evict(tpm, auth, objectHandle, persistentHandle),
  ContextSave: (tpm, { saveHandle }) => ({ context: saveContext(tpm, saveHandle) }),
  ContextLoad: (tpm, { context }) => ({ handle: loadContext(tpm, context) }),
  FlushContext(tpm, { flushHandle }) {
    if (handleType(flushHandle) === HT.TRANSIENT) {
      if (!findObject(tpm, flushHandle)) badParam(RC.HANDLE, 1);
      flushObject(tpm, flushHandle);
    } else {
      if (!sessionExists(tpm, flushHandle)) badParam(RC.HANDLE, 1);
      flushSession(tpm, flushHandle);
    }
  },
};
