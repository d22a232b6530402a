/**
 * Length: one table, a command of each of 110 kinds.
 *
 * A valid command of every kind, for a TPM in a state that has what they need. For whichever TPM: they are made by talking to
 * it, so the same one of two TPMs differs in keys and nonces, but not in length.
 */
import * as der from '../crypto/der.ts';
import { encode } from '../spec/codec.ts';
import type { CommandName, In, Out } from '../spec/commands.ts';
import { ALG, CAP, NT, NVA, OA, RH, SE, ST, SU } from '../spec/constants.ts';
import { nullScheme, nullSym, type PublicArea, publicArea } from '../spec/types.ts';
import { commandBytes, parseResponse, rcOf, templates } from './client.ts';

/** Something that executes commands. */
export abstract class Peer {
  abstract raw(bytes: Buffer): Promise<Buffer>;
  async ok<N extends CommandName>(name: N, input: In<N>): Promise<Out<N>> {
    const response = await this.raw(commandBytes(name, input));
    if (rcOf(response) !== 0) throw new Error(`${name}: response code 0x${rcOf(response).toString(16)}`);
    return parseResponse(name, response);
  }
}

const none = Buffer.alloc(0);
const noAuth = { userAuth: none, data: none };
const made = { outsideInfo: none, creationPCR: [] };
const sha256 = (octet: number) => Buffer.alloc(32, octet);
const pcrs = [{ hash: ALG.SHA256, pcrSelect: Buffer.from([1, 0, 1]) }];
const ecdsa = { ...nullScheme, scheme: ALG.ECDSA, hashAlg: ALG.SHA256 };
const rsassa = { ...nullScheme, scheme: ALG.RSASSA, hashAlg: ALG.SHA256 };
const oaep = { ...nullScheme, scheme: ALG.OAEP, hashAlg: ALG.SHA256 };
const aes = { algorithm: ALG.AES, keyBits: 128, mode: ALG.CFB };
const session = {
  authHash: ALG.SHA256,
  tpmKey: RH.NULL,
  bind: RH.NULL,
  nonceCaller: sha256(7),
  encryptedSalt: none,
};

/** Handles of the state. */
export const H = {
  storage: 0x80000000,
  signer: 0x80000001,
  /** In one of the two states; free in the other. */
  sequence: 0x80000002,
  free: 0x80000002,
  hmac: 0x81000001,
  cipher: 0x81000002,
  rsa: 0x81000003,
  sealed: 0x81000004,
  ecdh: 0x81000005,
  cmac: 0x81000006,
  nv: 0x01500001,
  counter: 0x01500002,
  bits: 0x01500003,
  extend: 0x01500004,
  fresh: 0x01500009,
  session: 0x02000000,
  policy: 0x03000001,
} as const;

const fixed = OA.fixedTPM | OA.fixedParent | OA.sensitiveDataOrigin | OA.userWithAuth | OA.noDA;
const keyed: PublicArea = {
  ...templates.signer,
  type: ALG.KEYEDHASH,
  objectAttributes: fixed | OA.sign,
  parameters: {
    ...templates.signer.parameters,
    scheme: { ...nullScheme, scheme: ALG.HMAC, hashAlg: ALG.SHA256 },
  },
};
const cipher: PublicArea = {
  ...templates.signer,
  type: ALG.SYMCIPHER,
  objectAttributes: fixed | OA.sign | OA.decrypt,
  parameters: { ...templates.signer.parameters, symmetric: aes },
};
const cmac: PublicArea = {
  ...cipher,
  objectAttributes: fixed | OA.sign,
  parameters: { ...templates.signer.parameters, symmetric: { ...aes, mode: ALG.CMAC } },
};
const ecdh: PublicArea = { ...templates.signer, objectAttributes: fixed | OA.decrypt };
const sealing: PublicArea = {
  ...keyed,
  objectAttributes: OA.fixedTPM | OA.fixedParent | OA.userWithAuth | OA.noDA,
  parameters: templates.signer.parameters,
};
const movable: PublicArea = {
  ...templates.signer,
  objectAttributes: OA.sensitiveDataOrigin | OA.userWithAuth | OA.sign | OA.noDA,
};
const nvAttributes =
  NVA.OWNERREAD |
  NVA.OWNERWRITE |
  NVA.AUTHREAD |
  NVA.AUTHWRITE |
  NVA.NO_DA |
  NVA.WRITE_STCLEAR |
  NVA.READ_STCLEAR;
const nvPublic = (nvIndex: number, kind: number, dataSize: number) => ({
  nvIndex,
  nameAlg: ALG.SHA256,
  attributes: nvAttributes | (kind << 4),
  authPolicy: none,
  dataSize,
});

/** What of the state differs from TPM to TPM. */
export interface Made {
  created: Out<'Create'>;
  primary: Out<'CreatePrimary'>;
  context: Out<'ContextSave'>['context'];
  credential: Out<'MakeCredential'>;
  signature: Out<'Sign'>['signature'];
  cipherText: Buffer;
  point: Out<'ECDH_KeyGen'>['pubPoint'];
  ticket: Out<'Hash'>['validation'];
  verified: Out<'VerifySignature'>['validation'];
  nonce: Buffer;
}

/** Makes the state; slot 2 stays free. */
export async function prepare(p: Peer): Promise<Made> {
  const primary = (inPublic: PublicArea, auth = noAuth) =>
    p.ok('CreatePrimary', { primaryHandle: RH.OWNER, inSensitive: auth, inPublic, ...made });
  const keep = async (objectHandle: number, persistentHandle: number) => {
    await p.ok('EvictControl', { auth: RH.OWNER, objectHandle, persistentHandle });
    await p.ok('FlushContext', { flushHandle: objectHandle });
  };
  await primary(templates.storage);
  const signer = await primary(templates.signer);
  await keep((await primary(keyed)).handle, H.hmac);
  await keep((await primary(cipher)).handle, H.cipher);
  await keep((await primary(templates.rsa)).handle, H.rsa);
  await keep((await primary(ecdh)).handle, H.ecdh);
  await keep((await primary(cmac)).handle, H.cmac);
  const inSensitive = { userAuth: none, data: Buffer.from('sealed') };
  const sealed = await p.ok('Create', { parentHandle: H.storage, inSensitive, inPublic: sealing, ...made });
  const load = { parentHandle: H.storage, inPrivate: sealed.outPrivate, inPublic: sealed.outPublic };
  await keep((await p.ok('Load', load)).handle, H.sealed);
  const created = await p.ok('Create', {
    parentHandle: H.storage,
    inSensitive: noAuth,
    inPublic: movable,
    ...made,
  });
  const define = (nvIndex: number, kind: number, size: number) =>
    p.ok('NV_DefineSpace', { authHandle: RH.OWNER, auth: none, publicInfo: nvPublic(nvIndex, kind, size) });
  await define(H.nv, NT.ORDINARY, 16);
  await p.ok('NV_Write', { authHandle: RH.OWNER, nvIndex: H.nv, data: Buffer.alloc(16, 3), offset: 0 });
  await define(H.counter, NT.COUNTER, 8);
  await p.ok('NV_Increment', { authHandle: RH.OWNER, nvIndex: H.counter });
  await define(H.bits, NT.BITS, 8);
  await define(H.extend, NT.EXTEND, 32);
  await p.ok('StartAuthSession', { ...session, sessionType: SE.HMAC, symmetric: nullSym });
  const policy = await p.ok('StartAuthSession', { ...session, sessionType: SE.POLICY, symmetric: nullSym });
  const { handle } = await primary(templates.signer);
  const { context } = await p.ok('ContextSave', { saveHandle: handle });
  await p.ok('FlushContext', { flushHandle: handle });
  const hashed = await p.ok('Hash', { data: Buffer.from('data'), hashAlg: ALG.SHA256, hierarchy: RH.OWNER });
  const validation = { tag: ST.HASHCHECK, hierarchy: RH.NULL, digest: none };
  const sign = { keyHandle: H.signer, digest: sha256(1), inScheme: ecdsa, validation };
  const { signature } = await p.ok('Sign', sign);
  const message = Buffer.from('message');
  return {
    created,
    primary: signer,
    context,
    credential: await p.ok('MakeCredential', {
      handle: H.storage,
      credential: sha256(2),
      objectName: signer.name,
    }),
    signature,
    cipherText: (await p.ok('RSA_Encrypt', { keyHandle: H.rsa, message, inScheme: oaep, label: none }))
      .outData,
    point: (await p.ok('ECDH_KeyGen', { keyHandle: H.ecdh })).pubPoint,
    ticket: hashed.validation,
    verified: (await p.ok('VerifySignature', { keyHandle: H.signer, digest: sha256(1), signature }))
      .validation,
    nonce: policy.nonceTPM,
  };
}

const cn = (s: string) => der.sequence(der.set(der.sequence(der.oid('2.5.4.3'), der.utf8(s))));
const years = der.sequence(der.time(new Date('2020-01-01')), der.time(new Date('2030-01-01')));
const usage = der.sequence(der.oid('2.5.29.15'), der.octetString(der.bitString(Buffer.of(0x80))));
const certificate = der.sequence(cn('a'), years, cn('b'), der.context(3, der.sequence(usage)));

/** The commands. `sequence`: for the state whose slot 2 holds a hash sequence. */
export function corpus(m: Made): { plain: [CommandName, Buffer][]; sequence: [CommandName, Buffer][] } {
  const list: [CommandName, Buffer][] = [];
  const add = <N extends CommandName>(name: N, input: In<N>) =>
    void list.push([name, commandBytes(name, input)]);
  const policySession = H.policy;
  const signing = { qualifyingData: sha256(4), inScheme: ecdsa };
  const signHandle = H.signer;
  const ivIn = Buffer.alloc(16, 1);
  const duplicate = m.created.outPrivate;
  const nvOwner = { authHandle: RH.OWNER, nvIndex: H.nv };

  add('Startup', { startupType: SU.CLEAR });
  add('Shutdown', { shutdownType: SU.STATE });
  add('SelfTest', { fullTest: 1 });
  add('IncrementalSelfTest', { toTest: [ALG.AES, ALG.SHA256] });
  add('GetTestResult', {});
  for (const [capability, property] of [
    [CAP.ALGS, 1],
    [CAP.HANDLES, 0x81000000],
    [CAP.COMMANDS, 0x11f],
    [CAP.PCRS, 0],
    [CAP.TPM_PROPERTIES, 0x100],
    [CAP.PCR_PROPERTIES, 0],
    [CAP.ECC_CURVES, 1],
  ] as const)
    add('GetCapability', { capability, property, propertyCount: 4 });
  add('GetRandom', { bytesRequested: 16 });
  add('StirRandom', { inData: sha256(9) });
  add('ReadClock', {});
  add('Hash', { data: Buffer.from('data'), hashAlg: ALG.SHA256, hierarchy: RH.OWNER });
  add('MAC', { handle: H.hmac, buffer: Buffer.from('data'), inScheme: ALG.SHA256 });
  add('MAC', { handle: H.cmac, buffer: Buffer.from('data'), inScheme: ALG.CMAC });
  add('MAC_Start', { handle: H.hmac, auth: none, inScheme: ALG.SHA256 });
  add('HashSequenceStart', { auth: none, hashAlg: ALG.SHA256 });
  add('PCR_Read', { pcrSelectionIn: pcrs });
  add('PCR_Extend', { pcrHandle: 16, digests: [{ hashAlg: ALG.SHA256, digest: sha256(1) }] });
  add('PCR_Event', { pcrHandle: 16, eventData: Buffer.from('event') });
  add('PCR_Reset', { pcrHandle: 16 });
  add('PCR_Allocate', {
    authHandle: RH.PLATFORM,
    pcrAllocation: [{ hash: ALG.SHA1, pcrSelect: Buffer.from([0, 0, 0]) }],
  });
  add('PCR_SetAuthValue', { pcrHandle: 20, auth: sha256(1) });
  add('PCR_SetAuthPolicy', {
    authHandle: RH.PLATFORM,
    authPolicy: sha256(1),
    hashAlg: ALG.SHA256,
    pcrNum: 20,
  });

  add('CreatePrimary', { primaryHandle: RH.OWNER, inSensitive: noAuth, inPublic: templates.signer, ...made });
  add('CreatePrimary', {
    primaryHandle: RH.NULL,
    inSensitive: noAuth,
    inPublic: keyed,
    ...made,
    creationPCR: pcrs,
  });
  const inSensitive = { userAuth: Buffer.from('auth'), data: Buffer.from('sealed') };
  add('Create', {
    parentHandle: H.storage,
    inSensitive,
    inPublic: sealing,
    outsideInfo: sha256(1),
    creationPCR: pcrs,
  });
  add('Create', { parentHandle: H.storage, inSensitive: noAuth, inPublic: cipher, ...made });
  add('CreateLoaded', {
    parentHandle: H.storage,
    inSensitive: noAuth,
    inPublic: encode(publicArea, templates.signer),
  });
  add('Load', { parentHandle: H.storage, inPrivate: duplicate, inPublic: m.created.outPublic });
  add('LoadExternal', { inPrivate: undefined, inPublic: m.primary.outPublic, hierarchy: RH.OWNER });
  add('LoadExternal', {
    inPrivate: { sensitiveType: ALG.KEYEDHASH, authValue: none, seedValue: none, sensitive: sha256(1) },
    inPublic: { ...sealing, nameAlg: ALG.NULL, objectAttributes: OA.userWithAuth | OA.noDA },
    hierarchy: RH.NULL,
  });
  add('ReadPublic', { objectHandle: H.storage });
  add('ReadPublic', { objectHandle: H.rsa });
  add('ObjectChangeAuth', { objectHandle: H.sealed, parentHandle: H.storage, newAuth: Buffer.from('new') });
  add('Unseal', { itemHandle: H.sealed });
  add('MakeCredential', { handle: H.storage, credential: sha256(2), objectName: m.primary.name });
  add('ActivateCredential', { activateHandle: H.signer, keyHandle: H.storage, ...m.credential });
  add('EvictControl', { auth: RH.OWNER, objectHandle: H.signer, persistentHandle: 0x81000009 });
  add('EvictControl', { auth: RH.OWNER, objectHandle: H.rsa, persistentHandle: H.rsa });
  add('ContextSave', { saveHandle: H.signer });
  add('ContextSave', { saveHandle: H.session });
  add('ContextLoad', { context: m.context });
  add('FlushContext', { flushHandle: H.signer });
  add('FlushContext', { flushHandle: H.policy });
  add('Import', {
    parentHandle: H.storage,
    encryptionKey: none,
    objectPublic: m.created.outPublic,
    duplicate,
    inSymSeed: none,
    symmetricAlg: nullSym,
  });
  add('Rewrap', {
    oldParent: RH.NULL,
    newParent: H.storage,
    inDuplicate: duplicate,
    name: m.primary.name,
    inSymSeed: none,
  });
  add('Duplicate', {
    objectHandle: H.signer,
    newParentHandle: RH.NULL,
    encryptionKeyIn: none,
    symmetricAlg: aes,
  });

  const validation = m.ticket;
  add('Sign', {
    keyHandle: H.signer,
    digest: sha256(1),
    inScheme: ecdsa,
    validation: { ...validation, digest: none },
  });
  add('Sign', {
    keyHandle: H.rsa,
    digest: sha256(1),
    inScheme: rsassa,
    validation: { ...validation, digest: none },
  });
  add('VerifySignature', { keyHandle: H.signer, digest: sha256(1), signature: m.signature });
  add('RSA_Encrypt', {
    keyHandle: H.rsa,
    message: Buffer.from('message'),
    inScheme: oaep,
    label: Buffer.from('l\0'),
  });
  add('RSA_Decrypt', { keyHandle: H.rsa, cipherText: m.cipherText, inScheme: oaep, label: none });
  add('ECDH_KeyGen', { keyHandle: H.ecdh });
  add('ECDH_ZGen', { keyHandle: H.ecdh, inPoint: m.point });
  add('ECC_Parameters', { curveID: 3 });
  add('EC_Ephemeral', { curveID: 3 });
  add('ZGen_2Phase', {
    keyA: H.ecdh,
    inQsB: m.point,
    inQeB: m.point,
    inScheme: ALG.ECDH as never,
    counter: 0,
  });
  add('EncryptDecrypt', {
    keyHandle: H.cipher,
    decrypt: 0,
    mode: ALG.CFB,
    ivIn,
    inData: Buffer.alloc(20, 2),
  });
  add('EncryptDecrypt2', {
    keyHandle: H.cipher,
    inData: Buffer.alloc(20, 2),
    decrypt: 1,
    mode: ALG.NULL,
    ivIn,
  });
  add('TestParms', { parameters: { type: ALG.RSA, parameters: templates.rsa.parameters } });
  add('TestParms', { parameters: { type: ALG.ECC, parameters: templates.storage.parameters } });
  add('TestParms', { parameters: { type: ALG.KEYEDHASH, parameters: keyed.parameters } });
  add('TestParms', { parameters: { type: ALG.SYMCIPHER, parameters: cipher.parameters } });
  add('Commit', { signHandle: H.signer, P1: m.point, s2: none, y2: none });

  add('Certify', { objectHandle: H.rsa, signHandle, ...signing });
  add('CertifyX509', {
    objectHandle: H.signer,
    signHandle,
    reserved: none,
    inScheme: ecdsa,
    partialCertificate: certificate,
  });
  const { creationHash, creationTicket } = m.primary;
  add('CertifyCreation', { signHandle, objectHandle: H.signer, ...signing, creationHash, creationTicket });
  add('Quote', { signHandle, ...signing, PCRselect: pcrs });
  add('GetTime', { privacyAdminHandle: RH.ENDORSEMENT, signHandle, ...signing });
  add('GetSessionAuditDigest', {
    privacyAdminHandle: RH.ENDORSEMENT,
    signHandle,
    sessionHandle: H.session,
    ...signing,
  });
  add('GetCommandAuditDigest', { privacyHandle: RH.ENDORSEMENT, signHandle, ...signing });
  add('NV_Certify', { ...nvOwner, signHandle, ...signing, size: 8, offset: 4 });

  add('StartAuthSession', { ...session, sessionType: SE.HMAC, symmetric: aes });
  add('StartAuthSession', {
    ...session,
    tpmKey: RH.NULL,
    bind: H.signer,
    sessionType: SE.TRIAL,
    symmetric: nullSym,
  });
  add('PolicyRestart', { sessionHandle: policySession });
  add('PolicyGetDigest', { policySession });
  add('PolicySigned', {
    authObject: H.signer,
    policySession,
    nonceTPM: m.nonce,
    cpHashA: none,
    policyRef: none,
    expiration: 0,
    auth: m.signature,
  });
  add('PolicySecret', {
    authHandle: RH.OWNER,
    policySession,
    nonceTPM: m.nonce,
    cpHashA: none,
    policyRef: sha256(3),
    expiration: -3600,
  });
  const ticket = { tag: ST.AUTH_SECRET, hierarchy: RH.OWNER, digest: sha256(1) };
  add('PolicyTicket', {
    policySession,
    timeout: Buffer.alloc(8),
    cpHashA: none,
    policyRef: none,
    authName: m.primary.name,
    ticket,
  });
  add('PolicyOR', { policySession, pHashList: [sha256(0), sha256(1)] });
  add('PolicyPCR', { policySession, pcrDigest: none, pcrs });
  add('PolicyLocality', { policySession, locality: 1 });
  add('PolicyNV', { ...nvOwner, policySession, operandB: Buffer.alloc(4, 3), offset: 4, operation: 0 });
  add('PolicyCounterTimer', { policySession, operandB: Buffer.alloc(8), offset: 0, operation: 2 });
  add('PolicyCommandCode', { policySession, code: 0x15d });
  add('PolicyPhysicalPresence', { policySession });
  add('PolicyCpHash', { policySession, cpHashA: sha256(1) });
  add('PolicyNameHash', { policySession, nameHash: sha256(1) });
  add('PolicyDuplicationSelect', {
    policySession,
    objectName: m.primary.name,
    newParentName: m.primary.name,
    includeObject: 1,
  });
  add('PolicyAuthorize', {
    policySession,
    approvedPolicy: none,
    policyRef: none,
    keySign: m.primary.name,
    checkTicket: m.verified,
  });
  add('PolicyAuthorizeNV', { ...nvOwner, policySession });
  add('PolicyAuthValue', { policySession });
  add('PolicyPassword', { policySession });
  add('PolicyNvWritten', { policySession, writtenSet: 1 });
  add('PolicyTemplate', { policySession, templateHash: sha256(1) });

  const authHandle = RH.OWNER;
  add('NV_DefineSpace', {
    authHandle,
    auth: Buffer.from('auth'),
    publicInfo: nvPublic(H.fresh, NT.ORDINARY, 32),
  });
  add('NV_UndefineSpace', nvOwner);
  add('NV_UndefineSpaceSpecial', { nvIndex: H.nv, platform: RH.PLATFORM });
  add('NV_ReadPublic', { nvIndex: H.nv });
  add('NV_Write', { ...nvOwner, data: Buffer.alloc(8, 1), offset: 8 });
  add('NV_Write', { authHandle: H.nv, nvIndex: H.nv, data: Buffer.alloc(8, 1), offset: 0 });
  add('NV_Increment', { authHandle, nvIndex: H.counter });
  add('NV_SetBits', { authHandle, nvIndex: H.bits, bits: 5n });
  add('NV_Extend', { authHandle, nvIndex: H.extend, data: Buffer.from('data') });
  add('NV_Read', { ...nvOwner, size: 8, offset: 8 });
  add('NV_ReadLock', nvOwner);
  add('NV_WriteLock', nvOwner);
  add('NV_GlobalWriteLock', { authHandle });
  add('NV_ChangeAuth', { nvIndex: H.nv, newAuth: Buffer.from('new') });

  add('HierarchyControl', { authHandle: RH.PLATFORM, enable: RH.ENDORSEMENT, state: 0 });
  add('HierarchyChangeAuth', { authHandle, newAuth: Buffer.from('new') });
  add('SetPrimaryPolicy', { authHandle, authPolicy: sha256(1), hashAlg: ALG.SHA256 });
  add('Clear', { authHandle: RH.LOCKOUT });
  add('ClearControl', { auth: RH.LOCKOUT, disable: 1 });
  add('ChangeEPS', { authHandle: RH.PLATFORM });
  add('ChangePPS', { authHandle: RH.PLATFORM });
  add('DictionaryAttackLockReset', { lockHandle: RH.LOCKOUT });
  const parameters = { newMaxTries: 5, newRecoveryTime: 10, lockoutRecovery: 20 };
  add('DictionaryAttackParameters', { lockHandle: RH.LOCKOUT, ...parameters });
  add('ClockSet', { auth: RH.OWNER, newTime: 0x10000000n });
  add('ClockRateAdjust', { auth: RH.OWNER, rateAdjust: 1 });
  add('PP_Commands', { auth: RH.PLATFORM, setList: [0x126], clearList: [0x127] });
  add('SetCommandCodeAuditStatus', { auth: RH.OWNER, auditAlg: ALG.NULL, setList: [0x17b], clearList: [] });
  add('SetAlgorithmSet', { authHandle: RH.PLATFORM, algorithmSet: 0 });

  const plain = list.splice(0);
  add('SequenceUpdate', { sequenceHandle: H.sequence, buffer: Buffer.from('data') });
  add('SequenceComplete', { sequenceHandle: H.sequence, buffer: Buffer.from('data'), hierarchy: RH.OWNER });
  add('EventSequenceComplete', { pcrHandle: 16, sequenceHandle: H.sequence, buffer: Buffer.from('data') });
  add('ContextSave', { saveHandle: H.sequence });
  return { plain, sequence: list };
}
