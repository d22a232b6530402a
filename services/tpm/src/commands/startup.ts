/** Start, end and self-test (part 3, 9 and 10). */

import type { Handlers } from '../core/dispatch.ts';
import { nvKind } from '../core/nv.ts';
import { pcrAttributes } from '../core/pcr.ts';
import { ORDERLY } from '../core/state.ts';
import type { Tpm } from '../core/tpm.ts';
import { none } from '../crypto/hash.ts';
import { algorithms } from '../spec/algorithms.ts';
import { LIMIT, NT, NVA, RC, RH, SU } from '../spec/constants.ts';
import { badParam, refuse } from '../spec/refusal.ts';

type Kind = 'reset' | 'restart' | 'resume';

/** How the H-CRTM and the locality of Startup stood, kept with the saved state. */
const crtmFlag = 0x8000;
const locality3Flag = 0x4000;

function startPcrs(tpm: Tpm, kind: Kind, locality: number): void {
  for (let pcr = 0; pcr < LIMIT.pcrs; pcr++) {
    if (pcr === 0 && kind !== 'resume' && tpm.drtmPreStartup) continue;
    const { save, reset } = pcrAttributes(pcr);
    for (const [alg, values] of tpm.pcrs.banks) {
      const value = values[pcr];
      if (!value) continue;
      const saved = tpm.clear.pcrs.find((b) => b.alg === alg)?.values[pcr];
      if (kind === 'resume' && save && saved?.length === value.length) {
        saved.copy(value);
        continue;
      }
      value.fill(reset & 0x10 ? 0xff : 0);
      if (pcr === 0) value[value.length - 1] = locality;
    }
  }
}

function startNv(tpm: Tpm, kind: Kind, orderly: boolean): void {
  if (kind === 'resume') return;
  for (const [handle, index] of tpm.nv) {
    const { pub } = index;
    let a = pub.attributes;
    a &= ~NVA.READLOCKED;
    if (!(a & NVA.WRITEDEFINE) || !(a & NVA.WRITTEN)) a &= ~NVA.WRITELOCKED;
    if (a & NVA.CLEAR_STCLEAR) a &= ~NVA.WRITTEN;
    // Data of an orderly index is lost with an unorderly end; a counter only ever grows.
    if (a & NVA.ORDERLY && !orderly && nvKind(a) !== NT.COUNTER) a &= ~NVA.WRITTEN;
    if (a >>> 0 === pub.attributes) continue;
    pub.attributes = a >>> 0;
    tpm.touchNv(handle);
  }
}

function startup(tpm: Tpm, type: number): void {
  let { locality } = tpm;
  if (locality !== 0 && locality !== 3) refuse(RC.LOCALITY);
  if (tpm.drtmPreStartup) locality = 0;
  const p = tpm.persistent;
  const saved = tpm.takeShutdownState();
  const previous = p.orderly === ORDERLY.NONE ? ORDERLY.NONE : p.orderly & 1;
  if (type === SU.STATE) {
    if (previous !== ORDERLY.STATE) badParam(RC.VALUE, 1);
    if (!saved) refuse(RC.NV_UNINITIALIZED);
    if (tpm.drtmPreStartup !== ((p.orderly & crtmFlag) !== 0)) badParam(RC.VALUE, 1);
    if ((locality === 3) !== ((p.orderly & locality3Flag) !== 0)) refuse(RC.LOCALITY);
  }
  let kind: Kind = 'reset';
  if (previous === ORDERLY.STATE && saved) kind = type === SU.STATE ? 'resume' : 'restart';

  tpm.started = true;
  tpm.startupLocality = locality;
  tpm.reset = kind === 'reset' ? tpm.freshReset() : saved!.reset;
  tpm.clear = kind === 'resume' ? saved!.clear : tpm.freshClear();
  // The platform hierarchy is enabled and its authorization empty after every Startup but a Resume.
  tpm.phEnable = true;
  tpm.clock.time = 0;
  tpm.wasOrderly = previous !== ORDERLY.NONE;
  if (!tpm.wasOrderly) tpm.clock.safe = 0;
  tpm.da.startup();
  startPcrs(tpm, kind, locality);
  if (kind === 'reset') {
    p.resetCount = (p.resetCount + 1) >>> 0;
    p.totalResetCount++;
  } else {
    tpm.reset.restartCount++;
    if (kind === 'restart') tpm.reset.clearCount++;
  }
  tpm.sessions.clear();
  tpm.exclusiveAudit = RH.UNASSIGNED;
  if (kind === 'reset') tpm.reset.saved = [];
  startNv(tpm, kind, previous !== ORDERLY.NONE);
  tpm.pcrReconfigured = false;
  p.orderly = ORDERLY.NONE;
  tpm.keepShutdownState(false);
  tpm.touchPersistent();
  tpm.touchClock();
}

function shutdown(tpm: Tpm, type: number): void {
  if (type === SU.STATE && tpm.pcrReconfigured) badParam(RC.TYPE, 1);
  const p = tpm.persistent;
  p.orderly = type;
  if (type === SU.STATE) {
    if (tpm.drtmPreStartup) p.orderly |= crtmFlag;
    else if (tpm.startupLocality === 3) p.orderly |= locality3Flag;
    tpm.clear.pcrs = [...tpm.pcrs.banks].map(([alg, values]) => ({
      alg,
      values: values.map((v, pcr) => (v && pcrAttributes(pcr).save ? Buffer.from(v) : none)),
    }));
    tpm.keepShutdownState(true);
    tpm.clear.pcrs = [];
  } else tpm.keepShutdownState(false);
  tpm.touchPersistent();
  tpm.touchClock();
}

export const startupCommands: Handlers = {
  Startup: (tpm, { startupType }) => startup(tpm, startupType),
  Shutdown: (tpm, { shutdownType }) => shutdown(tpm, shutdownType),
  SelfTest: () => {},
  // What is to be tested has been: node:crypto tests itself.
  IncrementalSelfTest(_tpm, { toTest }) {
    if (toTest.some((t) => !algorithms.some(([alg]) => alg === t))) badParam(RC.VALUE, 1);
    return { toDoList: [] };
  },
  GetTestResult: (tpm) => ({ outData: none, testResult: tpm.failed ? RC.FAILURE : RC.SUCCESS }),
};
