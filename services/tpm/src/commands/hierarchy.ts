/** Hierarchies, lockout, clock, miscellaneous management (part 3, 24 to 26, 29, and 21.2). */

import type { Handlers } from '../core/dispatch.ts';
import { stripZeros } from '../core/entity.ts';
import { Sequence } from '../core/sequence.ts';
import { noAuth } from '../core/state.ts';
import type { Tpm } from '../core/tpm.ts';
import { digestSize } from '../spec/algorithms.ts';
import { byCode, codeOf } from '../spec/commands.ts';
import { ALG, LIMIT, NVA, RC, RH } from '../spec/constants.ts';
import { badHandle, badParam, refuse } from '../spec/refusal.ts';
import { handlers } from './index.ts';

/** Throws out the objects of a hierarchy: loaded ones, and persistent ones too where they end with it. */
function flushHierarchy(tpm: Tpm, hierarchy: number, persistentToo: boolean): void {
  tpm.objects.forEach((o, i) => {
    if (o && !(o instanceof Sequence) && o.hierarchy === hierarchy) tpm.objects[i] = undefined;
  });
  if (!persistentToo) return;
  for (const [handle, o] of tpm.evicted) {
    if (o.hierarchy !== hierarchy) continue;
    tpm.evicted.delete(handle);
    tpm.touchEvicted(handle);
  }
}

const newSecret = (tpm: Tpm) => tpm.random.bytes(LIMIT.digest);

/** TPM2_Clear (part 3, 24.6): the owner's world ends, the platform's stays. */
function clear(tpm: Tpm): void {
  const p = tpm.persistent;
  for (const h of [RH.OWNER, RH.ENDORSEMENT]) flushHierarchy(tpm, h, true);
  for (const [handle, index] of tpm.nv) {
    if (index.pub.attributes & NVA.PLATFORMCREATE) continue;
    tpm.nv.delete(handle);
    tpm.touchNv(handle);
  }
  p.sps = newSecret(tpm);
  p.shProof = newSecret(tpm);
  p.ehProof = newSecret(tpm);
  tpm.clear.shEnable = 1;
  tpm.clear.ehEnable = 1;
  p.owner = noAuth();
  p.endorsement = noAuth();
  p.lockout = noAuth();
  p.disableClear = 0;
  p.failedTries = 0;
  p.maxTries = 3;
  p.recoveryTime = 1000;
  p.lockoutRecovery = 1000;
  p.lockoutEnabled = 1;
  p.resetCount = 0;
  tpm.reset.restartCount = 0;
  tpm.reset.clearCount = 0;
  tpm.reset.pcrCounter++;
  tpm.clock.set(0n);
  tpm.clock.safe = 1;
  p.auditAlg = ALG.SHA256;
  p.auditList = [];
  tpm.touchPersistent();
  tpm.touchClock();
}

function control(tpm: Tpm, auth: number, enable: number, state: number): void {
  const on = state === 1;
  // Only the platform may enable; who is disabled may be disabled by its owner.
  if (enable === RH.PLATFORM || enable === RH.PLATFORM_NV) {
    if (auth !== RH.PLATFORM) badHandle(RC.AUTH_TYPE, 1);
  } else if (auth !== RH.PLATFORM && (auth !== enable || on)) refuse(RC.AUTH_TYPE);
  switch (enable) {
    case RH.OWNER:
      tpm.clear.shEnable = state;
      break;
    case RH.ENDORSEMENT:
      tpm.clear.ehEnable = state;
      break;
    case RH.PLATFORM:
      if (on && !tpm.phEnable) refuse(RC.AUTH_TYPE);
      tpm.phEnable = on;
      break;
    default:
      tpm.clear.phEnableNV = state;
  }
  if (!on && enable !== RH.PLATFORM_NV) flushHierarchy(tpm, enable, false);
  tpm.clearOrderly();
}

const isCommand = (code: number) => {
  const name = byCode.get(code)?.[0];
  return name !== undefined && handlers[name] !== undefined;
};
const changed = (list: number[], set: number[], cleared: number[]) => [
  ...new Set([...list, ...set].filter((c) => !cleared.includes(c))),
];

export const hierarchyCommands: Handlers = {
  HierarchyControl: (tpm, { authHandle, enable, state }) => control(tpm, authHandle, enable, state),
  HierarchyChangeAuth(tpm, { authHandle, newAuth }) {
    const auth = stripZeros(newAuth);
    // As long as the digest that guards the contexts of the hierarchies.
    if (auth.length > digestSize(ALG.SHA512)) badParam(RC.SIZE, 1);
    tpm.hierarchyAuth(authHandle)!.auth = Buffer.from(auth);
    if (authHandle === RH.PLATFORM) tpm.clearOrderly();
    else tpm.touchPersistent();
  },
  SetPrimaryPolicy(tpm, { authHandle, authPolicy, hashAlg }) {
    if (authPolicy.length !== digestSize(hashAlg)) badParam(RC.SIZE, 1);
    const h = tpm.hierarchyAuth(authHandle)!;
    h.policy = authPolicy;
    h.policyAlg = hashAlg;
    if (authHandle === RH.PLATFORM) tpm.clearOrderly();
    else tpm.touchPersistent();
  },
  Clear(tpm) {
    if (tpm.persistent.disableClear) refuse(RC.DISABLED);
    clear(tpm);
  },
  ClearControl(tpm, { auth, disable }) {
    // Lockout may forbid; only the platform may allow again.
    if (auth === RH.LOCKOUT && !disable) refuse(RC.AUTH_FAIL);
    tpm.persistent.disableClear = disable;
    tpm.touchPersistent();
  },
  ChangeEPS(tpm) {
    const p = tpm.persistent;
    p.eps = newSecret(tpm);
    p.ehProof = newSecret(tpm);
    p.endorsement = noAuth();
    tpm.clear.ehEnable = 1;
    flushHierarchy(tpm, RH.ENDORSEMENT, true);
    tpm.touchPersistent();
    tpm.clearOrderly();
  },
  ChangePPS(tpm) {
    const p = tpm.persistent;
    p.pps = newSecret(tpm);
    p.phProof = newSecret(tpm);
    tpm.clear.platform.policy = Buffer.alloc(0);
    tpm.clear.platform.policyAlg = ALG.NULL;
    flushHierarchy(tpm, RH.PLATFORM, true);
    tpm.touchPersistent();
    tpm.clearOrderly();
  },

  DictionaryAttackLockReset(tpm) {
    tpm.persistent.failedTries = 0;
    tpm.touchPersistent();
  },
  DictionaryAttackParameters(tpm, { newMaxTries, newRecoveryTime, lockoutRecovery }) {
    const p = tpm.persistent;
    p.maxTries = newMaxTries;
    p.recoveryTime = newRecoveryTime;
    p.lockoutRecovery = lockoutRecovery;
    tpm.touchPersistent();
  },

  ClockSet(tpm, { newTime }) {
    if (newTime > 0xffff000000000000n || newTime < tpm.clock.now64()) badParam(RC.VALUE, 1);
    tpm.clock.set(newTime);
    tpm.touchClock();
  },
  ClockRateAdjust: (tpm, { rateAdjust }) => tpm.clock.adjust(rateAdjust),

  PP_Commands(tpm, { setList, clearList }) {
    const may = (code: number) => byCode.get(code)?.[1].flags.pp === 'may' && isCommand(code);
    tpm.persistent.ppList = changed(tpm.persistent.ppList, setList.filter(may), clearList);
    tpm.touchPersistent();
  },
  SetCommandCodeAuditStatus(tpm, { auditAlg, setList, clearList }) {
    const p = tpm.persistent;
    if (auditAlg !== ALG.NULL && auditAlg !== p.auditAlg) {
      // A new algorithm is set by itself.
      if (setList.length || clearList.length) badParam(RC.VALUE, 1);
      p.auditAlg = auditAlg;
      tpm.reset.commandAuditDigest = Buffer.alloc(0);
    } else {
      const never = [codeOf('SetCommandCodeAuditStatus'), codeOf('Shutdown')];
      const auditable = setList.filter((c) => isCommand(c) && !never.includes(c));
      p.auditList = changed(p.auditList, auditable, clearList);
    }
    tpm.touchPersistent();
  },
  SetAlgorithmSet(tpm, { algorithmSet }) {
    tpm.persistent.algorithmSet = algorithmSet;
    tpm.touchPersistent();
  },
};
