/**
 * Length: one table of 110 commands.
 *
 * The commands (part 3): code, handles with the role that must authorize each, parameters, results, attributes.
 * Dispatcher, marshalling, TPM_CAP_COMMANDS and the types of the handlers come from this table.
 */
import type { Fields, StructOf } from './codec.ts';
import { checked, i32, list, oneOf, u8, u16, u32, u64 } from './codec.ts';
import { CAP, HT, LIMIT, RC, RH, SE, SU } from './constants.ts';
import * as t from './types.ts';

/** Who must authorize a handle: nobody, USER, ADMIN or DUP role (part 1, 19.2). */
export type Role = 'none' | 'user' | 'admin' | 'dup';
export interface HandleSpec {
  accepts: (h: number) => boolean;
  role: Role;
}

const type = t.handleType;
const anyOf =
  (...handles: number[]) =>
  (h: number) =>
    handles.includes(h);
const either =
  (...tests: ((h: number) => boolean)[]) =>
  (h: number) =>
    tests.some((f) => f(h));
const number = (h: number) => h & 0xffffff;
const isTransient = (h: number) => type(h) === HT.TRANSIENT && number(h) < LIMIT.objects;
const isObject = (h: number) => isTransient(h) || type(h) === HT.PERSISTENT;
const isNv = (h: number) => type(h) === HT.NV_INDEX;
const isPcr = (h: number) => h < LIMIT.pcrs;
const isPolicy = (h: number) => type(h) === HT.POLICY_SESSION && number(h) < LIMIT.activeSessions;
const isHmac = (h: number) => type(h) === HT.HMAC_SESSION && number(h) < LIMIT.activeSessions;
const hierarchies = anyOf(RH.OWNER, RH.ENDORSEMENT, RH.PLATFORM, RH.NULL);
const isEntity = either(
  isObject,
  isNv,
  isPcr,
  anyOf(RH.OWNER, RH.ENDORSEMENT, RH.PLATFORM, RH.LOCKOUT),
  // Of the vendor: there are none, but they are handles.
  (h: number) => h >= RH.AUTH_00 && h <= RH.AUTH_FF,
);
const kinds = {
  object: isObject,
  objectOrNull: either(isObject, anyOf(RH.NULL)),
  persistent: (h: number) => type(h) === HT.PERSISTENT,
  hierarchy: hierarchies,
  enabler: anyOf(RH.OWNER, RH.ENDORSEMENT, RH.PLATFORM),
  parent: either(isObject, hierarchies),
  hierarchyAuth: anyOf(RH.LOCKOUT, RH.ENDORSEMENT, RH.OWNER, RH.PLATFORM),
  provision: anyOf(RH.OWNER, RH.PLATFORM),
  platform: anyOf(RH.PLATFORM),
  endorsement: anyOf(RH.ENDORSEMENT),
  clear: anyOf(RH.LOCKOUT, RH.PLATFORM),
  lockout: anyOf(RH.LOCKOUT),
  nvIndex: isNv,
  nvAuth: either(isNv, anyOf(RH.OWNER, RH.PLATFORM)),
  pcr: isPcr,
  pcrOrNull: either(isPcr, anyOf(RH.NULL)),
  entity: isEntity,
  entityOrNull: either(isEntity, anyOf(RH.NULL)),
  policySession: isPolicy,
  hmacSession: isHmac,
  context: either(isPolicy, isHmac, isTransient),
} as const;
type Kind = keyof typeof kinds;

const none = (kind: Kind): HandleSpec => ({ accepts: kinds[kind], role: 'none' });
const user = (kind: Kind): HandleSpec => ({ accepts: kinds[kind], role: 'user' });
const admin = (kind: Kind): HandleSpec => ({ accepts: kinds[kind], role: 'admin' });
const dup = (kind: Kind): HandleSpec => ({ accepts: kinds[kind], role: 'dup' });

/** TPMA_CC bits that are not derived from the table (part 2, 8.9), and what else the dispatcher must know. */
export interface Flags {
  /** Writes NV (TPMA_CC.nv). */
  nv?: boolean;
  /** May flush many contexts (TPMA_CC.extensive). */
  extensive?: boolean;
  /** Flushes the transient handle in its handle area (TPMA_CC.flushed). */
  flushed?: boolean;
  noSessions?: boolean;
  /** First parameter may be encrypted: command, response. */
  decrypt?: boolean;
  encrypt?: boolean;
  /** Physical presence may be demanded: by configuration, always. */
  pp?: 'may' | 'must';
}
export interface Command {
  code: number;
  handles: Record<string, HandleSpec>;
  params: Fields;
  /** Whether the response has a handle. */
  handleOut: boolean;
  out: Fields;
  flags: Flags;
}

function command<H extends Record<string, HandleSpec>, P extends Fields, O extends Fields>(
  code: number,
  handles: H,
  params: P,
  out: O,
  flags: Flags = {},
) {
  return { code, handles, params, out, flags, handleOut: false as const };
}
/** A command whose response has a handle. */
function creates<H extends Record<string, HandleSpec>, P extends Fields, O extends Fields>(
  code: number,
  handles: H,
  params: P,
  out: O,
  flags: Flags = {},
) {
  return { code, handles, params, out, flags, handleOut: true as const };
}

const de = { decrypt: true, encrypt: true };
/** TPML_CC: as many as fit into a response. */
const ccList = list(u32, (LIMIT.capBuffer - 8) / 4);
const attested = { attest: t.attest2b, signature: t.signature };
const signing = { qualifyingData: t.data2b, inScheme: t.sigScheme };
const eo = checked(u16, (v) => v <= 11, RC.VALUE);
const shutdownType = oneOf(u16, [SU.CLEAR, SU.STATE], RC.VALUE);
const hashAlgOrNull = t.hashAlgOrNull;
const policyTicketOut = { timeout: t.timeout, policyTicket: t.authTicket };
const nvPp = { nv: true, pp: 'may' } as const;

export const commands = {
  NV_UndefineSpaceSpecial: command(
    0x11f,
    { nvIndex: admin('nvIndex'), platform: user('platform') },
    {},
    {},
    nvPp,
  ),
  EvictControl: command(
    0x120,
    { auth: user('provision'), objectHandle: none('object') },
    { persistentHandle: checked(u32, kinds.persistent, RC.VALUE) },
    {},
    nvPp,
  ),
  HierarchyControl: command(
    0x121,
    { authHandle: user('enabler') },
    { enable: oneOf(u32, [RH.OWNER, RH.ENDORSEMENT, RH.PLATFORM, RH.PLATFORM_NV], RC.VALUE), state: t.yesNo },
    {},
    { ...nvPp, extensive: true },
  ),
  NV_UndefineSpace: command(0x122, { authHandle: user('provision'), nvIndex: none('nvIndex') }, {}, {}, nvPp),
  ChangeEPS: command(0x124, { authHandle: user('platform') }, {}, {}, { ...nvPp, extensive: true }),
  ChangePPS: command(0x125, { authHandle: user('platform') }, {}, {}, { ...nvPp, extensive: true }),
  Clear: command(0x126, { authHandle: user('clear') }, {}, {}, { ...nvPp, extensive: true }),
  ClearControl: command(0x127, { auth: user('clear') }, { disable: t.yesNo }, {}, nvPp),
  ClockSet: command(0x128, { auth: user('provision') }, { newTime: u64 }, {}, nvPp),
  HierarchyChangeAuth: command(
    0x129,
    { authHandle: user('hierarchyAuth') },
    { newAuth: t.auth },
    {},
    { ...nvPp, decrypt: true },
  ),
  NV_DefineSpace: command(
    0x12a,
    { authHandle: user('provision') },
    { auth: t.auth, publicInfo: t.nvPublic2b },
    {},
    { ...nvPp, decrypt: true },
  ),
  PCR_Allocate: command(
    0x12b,
    { authHandle: user('platform') },
    { pcrAllocation: t.pcrSelections },
    { allocationSuccess: t.yesNo, maxPCR: u32, sizeNeeded: u32, sizeAvailable: u32 },
    nvPp,
  ),
  PCR_SetAuthPolicy: command(
    0x12c,
    { authHandle: user('platform') },
    { authPolicy: t.digest, hashAlg: hashAlgOrNull, pcrNum: checked(u32, isPcr, RC.VALUE) },
    {},
    { ...nvPp, decrypt: true },
  ),
  PP_Commands: command(
    0x12d,
    { auth: user('platform') },
    { setList: ccList, clearList: ccList },
    {},
    { nv: true, pp: 'must' },
  ),
  SetPrimaryPolicy: command(
    0x12e,
    { authHandle: user('hierarchyAuth') },
    { authPolicy: t.digest, hashAlg: hashAlgOrNull },
    {},
    { ...nvPp, decrypt: true },
  ),
  ClockRateAdjust: command(
    0x130,
    { auth: user('provision') },
    { rateAdjust: checked(u8, (v) => v <= 3 || v >= 0xfd, RC.VALUE) },
    {},
    { pp: 'may' },
  ),
  CreatePrimary: creates(
    0x131,
    { primaryHandle: user('hierarchy') },
    {
      inSensitive: t.sensitiveCreate2b,
      inPublic: t.public2b,
      outsideInfo: t.data2b,
      creationPCR: t.pcrSelections,
    },
    {
      outPublic: t.public2b,
      creationData: t.creationData2b,
      creationHash: t.digest,
      creationTicket: t.creationTicket,
      name: t.name2b,
    },
    { ...de, pp: 'may' },
  ),
  NV_GlobalWriteLock: command(0x132, { authHandle: user('provision') }, {}, {}, nvPp),
  GetCommandAuditDigest: command(
    0x133,
    { privacyHandle: user('endorsement'), signHandle: user('objectOrNull') },
    signing,
    attested,
    { ...de, nv: true },
  ),
  NV_Increment: command(
    0x134,
    { authHandle: user('nvAuth'), nvIndex: none('nvIndex') },
    {},
    {},
    { nv: true },
  ),
  NV_SetBits: command(
    0x135,
    { authHandle: user('nvAuth'), nvIndex: none('nvIndex') },
    { bits: u64 },
    {},
    { nv: true },
  ),
  NV_Extend: command(
    0x136,
    { authHandle: user('nvAuth'), nvIndex: none('nvIndex') },
    { data: t.nvBuffer },
    {},
    { nv: true, decrypt: true },
  ),
  NV_Write: command(
    0x137,
    { authHandle: user('nvAuth'), nvIndex: none('nvIndex') },
    { data: t.nvBuffer, offset: u16 },
    {},
    { nv: true, decrypt: true },
  ),
  NV_WriteLock: command(
    0x138,
    { authHandle: user('nvAuth'), nvIndex: none('nvIndex') },
    {},
    {},
    { nv: true },
  ),
  DictionaryAttackLockReset: command(0x139, { lockHandle: user('lockout') }, {}, {}, { nv: true }),
  DictionaryAttackParameters: command(
    0x13a,
    { lockHandle: user('lockout') },
    { newMaxTries: u32, newRecoveryTime: u32, lockoutRecovery: u32 },
    {},
    { nv: true },
  ),
  NV_ChangeAuth: command(
    0x13b,
    { nvIndex: admin('nvIndex') },
    { newAuth: t.auth },
    {},
    { nv: true, decrypt: true },
  ),
  PCR_Event: command(
    0x13c,
    { pcrHandle: user('pcrOrNull') },
    { eventData: t.event },
    { digests: t.digestValues },
    { nv: true, decrypt: true },
  ),
  PCR_Reset: command(0x13d, { pcrHandle: user('pcr') }, {}, {}, { nv: true }),
  SequenceComplete: command(
    0x13e,
    { sequenceHandle: user('object') },
    { buffer: t.maxBuffer, hierarchy: t.hierarchy },
    { result: t.digest, validation: t.hashcheckTicket },
    { ...de, flushed: true },
  ),
  SetAlgorithmSet: command(0x13f, { authHandle: user('platform') }, { algorithmSet: u32 }, {}, { nv: true }),
  SetCommandCodeAuditStatus: command(
    0x140,
    { auth: user('provision') },
    { auditAlg: hashAlgOrNull, setList: ccList, clearList: ccList },
    {},
    nvPp,
  ),
  IncrementalSelfTest: command(
    0x142,
    {},
    { toTest: list(u16, 64) },
    { toDoList: list(u16, 64) },
    { nv: true },
  ),
  SelfTest: command(0x143, {}, { fullTest: t.yesNo }, {}, { nv: true }),
  Startup: command(0x144, {}, { startupType: shutdownType }, {}, { nv: true, noSessions: true }),
  Shutdown: command(0x145, {}, { shutdownType }, {}, { nv: true }),
  StirRandom: command(0x146, {}, { inData: t.sensitiveData }, {}, { nv: true, decrypt: true }),
  ActivateCredential: command(
    0x147,
    { activateHandle: admin('object'), keyHandle: user('object') },
    { credentialBlob: t.idObject, secret: t.encryptedSecret },
    { certInfo: t.digest },
    de,
  ),
  Certify: command(
    0x148,
    { objectHandle: admin('object'), signHandle: user('objectOrNull') },
    signing,
    attested,
    de,
  ),
  PolicyNV: command(
    0x149,
    { authHandle: user('nvAuth'), nvIndex: none('nvIndex'), policySession: none('policySession') },
    { operandB: t.operand, offset: u16, operation: eo },
    {},
    { decrypt: true },
  ),
  CertifyCreation: command(
    0x14a,
    { signHandle: user('objectOrNull'), objectHandle: none('object') },
    {
      qualifyingData: t.data2b,
      creationHash: t.digest,
      inScheme: t.sigScheme,
      creationTicket: t.creationTicket,
    },
    attested,
    de,
  ),
  Duplicate: command(
    0x14b,
    { objectHandle: dup('object'), newParentHandle: none('objectOrNull') },
    { encryptionKeyIn: t.data2b, symmetricAlg: t.symDefObject },
    { encryptionKeyOut: t.data2b, duplicate: t.privateBlob, outSymSeed: t.encryptedSecret },
    de,
  ),
  GetTime: command(
    0x14c,
    { privacyAdminHandle: user('endorsement'), signHandle: user('objectOrNull') },
    signing,
    attested,
    de,
  ),
  GetSessionAuditDigest: command(
    0x14d,
    {
      privacyAdminHandle: user('endorsement'),
      signHandle: user('objectOrNull'),
      sessionHandle: none('hmacSession'),
    },
    signing,
    attested,
    de,
  ),
  NV_Read: command(
    0x14e,
    { authHandle: user('nvAuth'), nvIndex: none('nvIndex') },
    { size: u16, offset: u16 },
    { data: t.nvBuffer },
    { encrypt: true },
  ),
  NV_ReadLock: command(0x14f, { authHandle: user('nvAuth'), nvIndex: none('nvIndex') }, {}, {}, { nv: true }),
  ObjectChangeAuth: command(
    0x150,
    { objectHandle: admin('object'), parentHandle: none('object') },
    { newAuth: t.auth },
    { outPrivate: t.privateBlob },
    de,
  ),
  PolicySecret: command(
    0x151,
    { authHandle: user('entity'), policySession: none('policySession') },
    { nonceTPM: t.nonce, cpHashA: t.digest, policyRef: t.nonce, expiration: i32 },
    policyTicketOut,
    de,
  ),
  Rewrap: command(
    0x152,
    { oldParent: user('objectOrNull'), newParent: none('objectOrNull') },
    { inDuplicate: t.privateBlob, name: t.name2b, inSymSeed: t.encryptedSecret },
    { outDuplicate: t.privateBlob, outSymSeed: t.encryptedSecret },
    de,
  ),
  Create: command(
    0x153,
    { parentHandle: user('object') },
    {
      inSensitive: t.sensitiveCreate2b,
      inPublic: t.public2b,
      outsideInfo: t.data2b,
      creationPCR: t.pcrSelections,
    },
    {
      outPrivate: t.privateBlob,
      outPublic: t.public2b,
      creationData: t.creationData2b,
      creationHash: t.digest,
      creationTicket: t.creationTicket,
    },
    de,
  ),
  ECDH_ZGen: command(
    0x154,
    { keyHandle: user('object') },
    { inPoint: t.eccPoint2b },
    { outPoint: t.eccPoint2b },
    de,
  ),
  MAC: command(
    0x155,
    { handle: user('object') },
    { buffer: t.maxBuffer, inScheme: t.macScheme },
    { outMAC: t.digest },
    de,
  ),
  Import: command(
    0x156,
    { parentHandle: user('object') },
    {
      encryptionKey: t.data2b,
      objectPublic: t.public2b,
      duplicate: t.privateBlob,
      inSymSeed: t.encryptedSecret,
      symmetricAlg: t.symDefObject,
    },
    { outPrivate: t.privateBlob },
    de,
  ),
  Load: creates(
    0x157,
    { parentHandle: user('object') },
    { inPrivate: t.privateBlob, inPublic: t.public2b },
    { name: t.name2b },
    de,
  ),
  Quote: command(
    0x158,
    { signHandle: user('objectOrNull') },
    { ...signing, PCRselect: t.pcrSelections },
    attested,
    de,
  ),
  RSA_Decrypt: command(
    0x159,
    { keyHandle: user('object') },
    { cipherText: t.rsaKey, inScheme: t.rsaDecryptScheme, label: t.data2b },
    { message: t.rsaKey },
    de,
  ),
  MAC_Start: creates(
    0x15b,
    { handle: user('object') },
    { auth: t.auth, inScheme: t.macScheme },
    {},
    { decrypt: true },
  ),
  SequenceUpdate: command(
    0x15c,
    { sequenceHandle: user('object') },
    { buffer: t.maxBuffer },
    {},
    { decrypt: true },
  ),
  Sign: command(
    0x15d,
    { keyHandle: user('object') },
    { digest: t.digest, inScheme: t.sigScheme, validation: t.hashcheckTicket },
    { signature: t.signature },
    { decrypt: true },
  ),
  Unseal: command(0x15e, { itemHandle: user('object') }, {}, { outData: t.sensitiveData }, { encrypt: true }),
  PolicySigned: command(
    0x160,
    { authObject: none('object'), policySession: none('policySession') },
    { nonceTPM: t.nonce, cpHashA: t.digest, policyRef: t.nonce, expiration: i32, auth: t.signature },
    policyTicketOut,
    de,
  ),
  ContextLoad: creates(0x161, {}, { context: t.context }, {}, { noSessions: true }),
  ContextSave: command(
    0x162,
    { saveHandle: none('context') },
    {},
    { context: t.context },
    { noSessions: true },
  ),
  ECDH_KeyGen: command(
    0x163,
    { keyHandle: none('object') },
    {},
    { zPoint: t.eccPoint2b, pubPoint: t.eccPoint2b },
    { encrypt: true },
  ),
  EncryptDecrypt: command(
    0x164,
    { keyHandle: user('object') },
    { decrypt: t.yesNo, mode: t.cipherMode, ivIn: t.iv, inData: t.maxBuffer },
    { outData: t.maxBuffer, ivOut: t.iv },
    { encrypt: true },
  ),
  FlushContext: command(
    0x165,
    {},
    { flushHandle: checked(u32, kinds.context, RC.VALUE) },
    {},
    { noSessions: true },
  ),
  LoadExternal: creates(
    0x167,
    {},
    { inPrivate: t.sensitive2b, inPublic: t.publicOrNameless2b, hierarchy: t.hierarchy },
    { name: t.name2b },
    de,
  ),
  MakeCredential: command(
    0x168,
    { handle: none('object') },
    { credential: t.digest, objectName: t.name2b },
    { credentialBlob: t.idObject, secret: t.encryptedSecret },
    de,
  ),
  NV_ReadPublic: command(
    0x169,
    { nvIndex: none('nvIndex') },
    {},
    { nvPublic: t.nvPublic2b, nvName: t.name2b },
    { encrypt: true },
  ),
  PolicyAuthorize: command(
    0x16a,
    { policySession: none('policySession') },
    { approvedPolicy: t.digest, policyRef: t.nonce, keySign: t.name2b, checkTicket: t.verifiedTicket },
    {},
    { decrypt: true },
  ),
  PolicyAuthValue: command(0x16b, { policySession: none('policySession') }, {}, {}),
  PolicyCommandCode: command(0x16c, { policySession: none('policySession') }, { code: u32 }, {}),
  PolicyCounterTimer: command(
    0x16d,
    { policySession: none('policySession') },
    { operandB: t.operand, offset: u16, operation: eo },
    {},
    { decrypt: true },
  ),
  PolicyCpHash: command(
    0x16e,
    { policySession: none('policySession') },
    { cpHashA: t.digest },
    {},
    { decrypt: true },
  ),
  PolicyLocality: command(0x16f, { policySession: none('policySession') }, { locality: u8 }, {}),
  PolicyNameHash: command(
    0x170,
    { policySession: none('policySession') },
    { nameHash: t.digest },
    {},
    { decrypt: true },
  ),
  PolicyOR: command(0x171, { policySession: none('policySession') }, { pHashList: list(t.digest, 8, 2) }, {}),
  PolicyTicket: command(
    0x172,
    { policySession: none('policySession') },
    { timeout: t.timeout, cpHashA: t.digest, policyRef: t.nonce, authName: t.name2b, ticket: t.authTicket },
    {},
    { decrypt: true },
  ),
  ReadPublic: command(
    0x173,
    { objectHandle: none('object') },
    {},
    { outPublic: t.publicOrNameless2b, name: t.name2b, qualifiedName: t.name2b },
    { encrypt: true },
  ),
  RSA_Encrypt: command(
    0x174,
    { keyHandle: none('object') },
    { message: t.rsaKey, inScheme: t.rsaDecryptScheme, label: t.data2b },
    { outData: t.rsaKey },
    de,
  ),
  StartAuthSession: creates(
    0x176,
    { tpmKey: none('objectOrNull'), bind: none('entityOrNull') },
    {
      nonceCaller: t.nonce,
      encryptedSalt: t.encryptedSecret,
      sessionType: oneOf(u8, [SE.HMAC, SE.POLICY, SE.TRIAL], RC.VALUE),
      symmetric: t.symDef,
      authHash: t.hashAlg,
    },
    { nonceTPM: t.nonce },
    de,
  ),
  VerifySignature: command(
    0x177,
    { keyHandle: none('object') },
    { digest: t.digest, signature: t.signature },
    { validation: t.verifiedTicket },
    { decrypt: true },
  ),
  ECC_Parameters: command(0x178, {}, { curveID: t.curve }, { parameters: t.eccDetail }),
  GetCapability: command(
    0x17a,
    {},
    {
      capability: checked(u32, (c) => c <= CAP.ACT || c === CAP.VENDOR_PROPERTY, RC.VALUE),
      property: u32,
      propertyCount: u32,
    },
    { moreData: t.yesNo, capabilityData: t.capabilityData },
  ),
  GetRandom: command(0x17b, {}, { bytesRequested: u16 }, { randomBytes: t.digest }, { encrypt: true }),
  GetTestResult: command(0x17c, {}, {}, { outData: t.maxBuffer, testResult: u32 }, { encrypt: true }),
  Hash: command(
    0x17d,
    {},
    { data: t.maxBuffer, hashAlg: t.hashAlg, hierarchy: t.hierarchy },
    { outHash: t.digest, validation: t.hashcheckTicket },
    de,
  ),
  PCR_Read: command(
    0x17e,
    {},
    { pcrSelectionIn: t.pcrSelections },
    { pcrUpdateCounter: u32, pcrSelectionOut: t.pcrSelections, pcrValues: list(t.digest, 8) },
  ),
  PolicyPCR: command(
    0x17f,
    { policySession: none('policySession') },
    { pcrDigest: t.digest, pcrs: t.pcrSelections },
    {},
    { decrypt: true },
  ),
  PolicyRestart: command(0x180, { sessionHandle: none('policySession') }, {}, {}),
  ReadClock: command(0x181, {}, {}, { currentTime: t.timeInfo }),
  PCR_Extend: command(0x182, { pcrHandle: user('pcrOrNull') }, { digests: t.digestValues }, {}, { nv: true }),
  PCR_SetAuthValue: command(0x183, { pcrHandle: user('pcr') }, { auth: t.digest }, {}, { decrypt: true }),
  NV_Certify: command(
    0x184,
    { signHandle: user('objectOrNull'), authHandle: user('nvAuth'), nvIndex: none('nvIndex') },
    { ...signing, size: u16, offset: u16 },
    attested,
    de,
  ),
  EventSequenceComplete: command(
    0x185,
    { pcrHandle: user('pcrOrNull'), sequenceHandle: user('object') },
    { buffer: t.maxBuffer },
    { results: t.digestValues },
    { nv: true, flushed: true, decrypt: true },
  ),
  HashSequenceStart: creates(0x186, {}, { auth: t.auth, hashAlg: hashAlgOrNull }, {}, { decrypt: true }),
  PolicyPhysicalPresence: command(0x187, { policySession: none('policySession') }, {}, {}),
  PolicyDuplicationSelect: command(
    0x188,
    { policySession: none('policySession') },
    { objectName: t.name2b, newParentName: t.name2b, includeObject: t.yesNo },
    {},
    { decrypt: true },
  ),
  PolicyGetDigest: command(
    0x189,
    { policySession: none('policySession') },
    {},
    { policyDigest: t.digest },
    { encrypt: true },
  ),
  TestParms: command(0x18a, {}, { parameters: t.publicParmsOnly }, {}),
  Commit: command(
    0x18b,
    { signHandle: user('object') },
    {
      P1: t.eccPoint2b,
      s2: t.sensitiveData,
      y2: t.eccParameter,
    },
    { K: t.eccPoint2b, L: t.eccPoint2b, E: t.eccPoint2b, counter: u16 },
    de,
  ),
  PolicyPassword: command(0x18c, { policySession: none('policySession') }, {}, {}),
  ZGen_2Phase: command(
    0x18d,
    { keyA: user('object') },
    { inQsB: t.eccPoint2b, inQeB: t.eccPoint2b, inScheme: t.keyExchange, counter: u16 },
    { outZ1: t.eccPoint2b, outZ2: t.eccPoint2b },
    de,
  ),
  EC_Ephemeral: command(
    0x18e,
    {},
    { curveID: t.curve },
    { Q: t.eccPoint2b, counter: u16 },
    { encrypt: true },
  ),
  PolicyNvWritten: command(0x18f, { policySession: none('policySession') }, { writtenSet: t.yesNo }, {}),
  PolicyTemplate: command(
    0x190,
    { policySession: none('policySession') },
    { templateHash: t.digest },
    {},
    { decrypt: true },
  ),
  CreateLoaded: creates(
    0x191,
    { parentHandle: user('parent') },
    { inSensitive: t.sensitiveCreate2b, inPublic: t.template2b },
    { outPrivate: t.privateBlob, outPublic: t.public2b, name: t.name2b },
    { ...de, pp: 'may' },
  ),
  PolicyAuthorizeNV: command(
    0x192,
    { authHandle: user('nvAuth'), nvIndex: none('nvIndex'), policySession: none('policySession') },
    {},
    {},
  ),
  EncryptDecrypt2: command(
    0x193,
    { keyHandle: user('object') },
    { inData: t.maxBuffer, decrypt: t.yesNo, mode: t.cipherMode, ivIn: t.iv },
    { outData: t.maxBuffer, ivOut: t.iv },
    de,
  ),
  CertifyX509: command(
    0x197,
    { objectHandle: admin('object'), signHandle: user('object') },
    { reserved: t.data2b, inScheme: t.sigScheme, partialCertificate: t.maxBuffer },
    { addedToCertificate: t.maxBuffer, tbsDigest: t.digest, signature: t.signature },
    de,
  ),
} as const;

export type CommandName = keyof typeof commands;
type Table = typeof commands;
/** What a handler gets: the handles and the parameters by name. */
export type In<N extends CommandName> = { [K in keyof Table[N]['handles']]: number } & StructOf<
  Table[N]['params']
>;
/** What a handler gives: the handle, if there is one, and the results by name. */
export type Out<N extends CommandName> = StructOf<Table[N]['out']> &
  (Table[N]['handleOut'] extends true ? { handle: number } : unknown);

/** Commands by code. */
export const byCode: ReadonlyMap<number, readonly [CommandName, Command]> = new Map(
  Object.entries(commands).map(([name, c]) => [c.code, [name as CommandName, c as Command]]),
);
export const codeOf = (name: CommandName): number => commands[name].code;

/** TPMA_CC of a command (part 2, 8.9). */
export function ccAttributes(c: Command): number {
  const { nv, extensive, flushed } = c.flags;
  return (
    (c.code |
      (nv ? 1 << 22 : 0) |
      (extensive ? 1 << 23 : 0) |
      (flushed ? 1 << 24 : 0) |
      (Object.keys(c.handles).length << 25) |
      (c.handleOut ? 1 << 28 : 0)) >>>
    0
  );
}
