/** NV indices (part 3, 31). */

import { attestSigned, signer } from '../core/attest.ts';
import type { Handlers } from '../core/dispatch.ts';
import { nvName, stripZeros } from '../core/entity.ts';
import { isPin, nvKind } from '../core/nv.ts';
import { checkRead, checkWrite } from '../core/nv-access.ts';
import type { NvIndex } from '../core/state.ts';
import type { Tpm } from '../core/tpm.ts';
import { be64, hash } from '../crypto/hash.ts';
import { digestSize } from '../spec/algorithms.ts';
import { LIMIT, NT, NVA, RC, RH, ST } from '../spec/constants.ts';
import { badHandle, badParam, Refusal, refuse } from '../spec/refusal.ts';
import type { NvPublic } from '../spec/types.ts';
import { indexOverhead, nvRoom } from './nv-space.ts';

const kinds: ReadonlySet<number> = new Set(Object.values(NT));

/** The rules of TPMA_NV for a new index (part 2, 13.4; part 3, 31.3). The public area is parameter 2. */
function checkDefinition(tpm: Tpm, authHandle: number, auth: Buffer, pub: NvPublic): void {
  const a = pub.attributes;
  const kind = nvKind(a);
  const size = digestSize(pub.nameAlg);
  if (a & NVA.POLICY_DELETE && authHandle !== RH.PLATFORM) badParam(RC.ATTRIBUTES, 2);
  if (pub.authPolicy.length !== 0 && pub.authPolicy.length !== size) badParam(RC.SIZE, 2);
  if (stripZeros(auth).length > size) badParam(RC.SIZE, 1);
  if (authHandle === RH.PLATFORM && !tpm.clear.phEnableNV) badHandle(RC.HIERARCHY, 1);
  if (!kinds.has(kind)) badParam(RC.ATTRIBUTES, 2);
  if (kind !== NT.ORDINARY && pub.dataSize !== (kind === NT.EXTEND ? size : 8)) badParam(RC.SIZE, 2);
  if (kind === NT.COUNTER && a & NVA.CLEAR_STCLEAR) badParam(RC.ATTRIBUTES, 2);
  if (kind === NT.PIN_FAIL && !(a & NVA.NO_DA)) badParam(RC.ATTRIBUTES, 2);
  if (isPin(a) && a & (NVA.AUTHWRITE | NVA.GLOBALLOCK | NVA.WRITEDEFINE)) badParam(RC.ATTRIBUTES, 2);
  if (a & (NVA.WRITTEN | NVA.WRITELOCKED | NVA.READLOCKED)) badParam(RC.ATTRIBUTES, 2);
  if (!(a & (NVA.OWNERREAD | NVA.PPREAD | NVA.AUTHREAD | NVA.POLICYREAD))) badParam(RC.ATTRIBUTES, 2);
  if (!(a & (NVA.OWNERWRITE | NVA.PPWRITE | NVA.AUTHWRITE | NVA.POLICYWRITE))) badParam(RC.ATTRIBUTES, 2);
  if (a & NVA.CLEAR_STCLEAR && a & NVA.WRITEDEFINE) badParam(RC.ATTRIBUTES, 2);
  if (((a & NVA.PLATFORMCREATE) !== 0) !== (authHandle === RH.PLATFORM)) badHandle(RC.ATTRIBUTES, 1);
  if (pub.dataSize > LIMIT.nvBuffer && a & NVA.WRITEALL) badParam(RC.SIZE, 2);
  if (tpm.nv.has(pub.nvIndex)) refuse(RC.NV_DEFINED);
  if (nvRoom(tpm) < indexOverhead + pub.dataSize) refuse(RC.NV_SPACE);
}

/** Puts data into an index; the first write sets WRITTEN. */
function write(tpm: Tpm, index: NvIndex, offset: number, data: Uint8Array): void {
  const { pub } = index;
  if (pub.attributes & NVA.WRITTEN) {
    // What is there already need not be written again.
    if (Buffer.compare(index.data.subarray(offset, offset + data.length), data) === 0) return;
  } else {
    index.data = Buffer.alloc(pub.dataSize, nvKind(pub.attributes) === NT.ORDINARY ? 0xff : 0);
    pub.attributes = (pub.attributes | NVA.WRITTEN) >>> 0;
  }
  index.data.set(data, offset);
  tpm.touchNv(pub.nvIndex);
  tpm.clearOrderly();
}
function setAttributes(tpm: Tpm, index: NvIndex, bits: number): void {
  index.pub.attributes = (index.pub.attributes | bits) >>> 0;
  tpm.touchNv(index.pub.nvIndex);
  tpm.clearOrderly();
}
function remove(tpm: Tpm, index: NvIndex): void {
  const { pub, data } = index;
  // No counter ever starts below one that was (part 1, 37.2.4).
  if (nvKind(pub.attributes) === NT.COUNTER && pub.attributes & NVA.WRITTEN) {
    const count = data.readBigUInt64BE(0);
    if (count > tpm.persistent.maxCounter) {
      tpm.persistent.maxCounter = count;
      tpm.touchPersistent();
    }
  }
  tpm.nv.delete(pub.nvIndex);
  tpm.touchNv(pub.nvIndex);
}

/** The code with which `check` refuses; 0 when it does not. */
function refusalOf(check: () => void): number {
  try {
    check();
    return 0;
  } catch (e) {
    if (e instanceof Refusal) return e.rc;
    throw e;
  }
}

/** Size and offset are parameters `n` and `n + 1`. */
function range(index: NvIndex, size: number, offset: number, n: number): Buffer {
  const { dataSize } = index.pub;
  if (size > LIMIT.nvBuffer) badParam(RC.VALUE, n);
  if (offset > dataSize) badParam(RC.VALUE, n + 1);
  if (size > dataSize - offset) refuse(RC.NV_RANGE);
  return index.data.subarray(offset, offset + size);
}

/** The highest count that is or was. */
function highestCount(tpm: Tpm): bigint {
  let max = tpm.persistent.maxCounter;
  for (const { pub, data } of tpm.nv.values()) {
    if (nvKind(pub.attributes) !== NT.COUNTER || !(pub.attributes & NVA.WRITTEN)) continue;
    const count = data.readBigUInt64BE(0);
    if (count > max) max = count;
  }
  return max;
}

export const nvCommands: Handlers = {
  NV_DefineSpace(tpm, { authHandle, auth, publicInfo }) {
    checkDefinition(tpm, authHandle, auth, publicInfo);
    tpm.nv.set(publicInfo.nvIndex, {
      pub: publicInfo,
      auth: stripZeros(auth),
      data: Buffer.alloc(publicInfo.dataSize),
    });
    tpm.touchNv(publicInfo.nvIndex);
  },
  NV_UndefineSpace(tpm, { authHandle, nvIndex }) {
    const index = tpm.nv.get(nvIndex)!;
    const a = index.pub.attributes;
    if (a & NVA.POLICY_DELETE) badHandle(RC.ATTRIBUTES, 2);
    if (authHandle === RH.OWNER && a & NVA.PLATFORMCREATE) refuse(RC.NV_AUTHORIZATION);
    remove(tpm, index);
  },
  NV_UndefineSpaceSpecial(tpm, { nvIndex }, call) {
    const index = tpm.nv.get(nvIndex)!;
    if (!(index.pub.attributes & NVA.POLICY_DELETE)) badHandle(RC.ATTRIBUTES, 1);
    remove(tpm, index);
    call.forget(nvIndex);
  },
  NV_ReadPublic(tpm, { nvIndex }) {
    const index = tpm.nv.get(nvIndex)!;
    return { nvPublic: index.pub, nvName: nvName(index) };
  },
  NV_Write(tpm, { authHandle, nvIndex, data, offset }) {
    const index = tpm.nv.get(nvIndex)!;
    checkWrite(authHandle, index);
    const { attributes, dataSize } = index.pub;
    if (nvKind(attributes) !== NT.ORDINARY && !isPin(attributes)) refuse(RC.ATTRIBUTES);
    if (offset > dataSize) badParam(RC.VALUE, 2);
    if (data.length > dataSize - offset) refuse(RC.NV_RANGE);
    if (attributes & NVA.WRITEALL && data.length < dataSize) refuse(RC.NV_RANGE);
    write(tpm, index, offset, data);
  },
  NV_Increment(tpm, { authHandle, nvIndex }) {
    const index = tpm.nv.get(nvIndex)!;
    checkWrite(authHandle, index);
    if (nvKind(index.pub.attributes) !== NT.COUNTER) badHandle(RC.ATTRIBUTES, 2);
    const old = index.pub.attributes & NVA.WRITTEN ? index.data.readBigUInt64BE(0) : highestCount(tpm);
    write(tpm, index, 0, be64(BigInt.asUintN(64, old + 1n)));
  },
  NV_SetBits(tpm, { authHandle, nvIndex, bits }) {
    const index = tpm.nv.get(nvIndex)!;
    checkWrite(authHandle, index);
    if (nvKind(index.pub.attributes) !== NT.BITS) badHandle(RC.ATTRIBUTES, 2);
    const old = index.pub.attributes & NVA.WRITTEN ? index.data.readBigUInt64BE(0) : 0n;
    write(tpm, index, 0, be64(old | bits));
  },
  NV_Extend(tpm, { authHandle, nvIndex, data }) {
    const index = tpm.nv.get(nvIndex)!;
    checkWrite(authHandle, index);
    const { attributes, nameAlg, dataSize } = index.pub;
    if (nvKind(attributes) !== NT.EXTEND) badHandle(RC.ATTRIBUTES, 2);
    const old = attributes & NVA.WRITTEN ? index.data : Buffer.alloc(dataSize);
    write(tpm, index, 0, hash(nameAlg, old, data));
  },
  NV_WriteLock(tpm, { authHandle, nvIndex }) {
    const index = tpm.nv.get(nvIndex)!;
    const rc = refusalOf(() => checkWrite(authHandle, index));
    if (rc === RC.NV_AUTHORIZATION) refuse(rc);
    // Locked already: nothing to do.
    if (rc) return;
    if (!(index.pub.attributes & (NVA.WRITEDEFINE | NVA.WRITE_STCLEAR))) badHandle(RC.ATTRIBUTES, 2);
    setAttributes(tpm, index, NVA.WRITELOCKED);
  },
  NV_GlobalWriteLock(tpm) {
    for (const index of tpm.nv.values()) {
      if (index.pub.attributes & NVA.GLOBALLOCK) setAttributes(tpm, index, NVA.WRITELOCKED);
    }
  },
  NV_Read(tpm, { authHandle, nvIndex, size, offset }) {
    const index = tpm.nv.get(nvIndex)!;
    checkRead(authHandle, index);
    return { data: range(index, size, offset, 1) };
  },
  NV_ReadLock(tpm, { authHandle, nvIndex }) {
    const index = tpm.nv.get(nvIndex)!;
    const rc = refusalOf(() => checkRead(authHandle, index));
    if (rc === RC.NV_AUTHORIZATION) refuse(rc);
    if (rc === RC.NV_LOCKED) return;
    if (!(index.pub.attributes & NVA.READ_STCLEAR)) badHandle(RC.ATTRIBUTES, 2);
    setAttributes(tpm, index, NVA.READLOCKED);
  },
  NV_ChangeAuth(tpm, { nvIndex, newAuth }) {
    const index = tpm.nv.get(nvIndex)!;
    const auth = stripZeros(newAuth);
    if (auth.length > digestSize(index.pub.nameAlg)) badParam(RC.SIZE, 1);
    index.auth = auth;
    tpm.touchNv(nvIndex);
  },
  NV_Certify(tpm, { signHandle, authHandle, nvIndex, qualifyingData, inScheme, size, offset }) {
    const index = tpm.nv.get(nvIndex)!;
    const s = signer(tpm, signHandle, 1, inScheme, 2);
    checkRead(authHandle, index);
    if (size + offset > index.pub.dataSize) refuse(RC.NV_RANGE);
    if (size > LIMIT.nvBuffer) badParam(RC.VALUE, 3);
    const indexName = nvName(index);
    if (size === 0 && offset === 0) {
      const alg = s.scheme.hashAlg;
      if (digestSize(alg) === 0) badParam(RC.SCHEME, 2);
      return attestSigned(tpm, s, ST.ATTEST_NV_DIGEST, qualifyingData, {
        indexName,
        nvDigest: hash(alg, index.data),
      });
    }
    return attestSigned(tpm, s, ST.ATTEST_NV, qualifyingData, {
      indexName,
      offset,
      nvContents: index.data.subarray(offset, offset + size),
    });
  },
};
