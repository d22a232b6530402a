/** TPM2_GetCapability and TPM2_TestParms (part 3, 30). */

import { firmwareVersion } from '../core/attest.ts';
import type { Handlers } from '../core/dispatch.ts';
import { pcrHasAuth } from '../core/entity.ts';
import { nvKind } from '../core/nv.ts';
import { pcrAttributes } from '../core/pcr.ts';
import type { Tpm } from '../core/tpm.ts';
import { algorithms, curveIds, digestSize } from '../spec/algorithms.ts';
import { byCode, ccAttributes } from '../spec/commands.ts';
import { ALG, CAP, HT, LIMIT, NT, RC, RH } from '../spec/constants.ts';
import { badParam } from '../spec/refusal.ts';
import { handleType } from '../spec/types.ts';
import { handlers } from './index.ts';
import { nvRoom } from './nv-space.ts';

const text = (s: string) => Buffer.from(s.padEnd(4, '\0').slice(0, 4), 'latin1').readUInt32BE(0);
const implemented = () => [...byCode].filter(([, [name]]) => handlers[name]).sort(([a], [b]) => a - b);

/** Octets of context blobs: the largest object (RSA 4096 with its sensitive area), the largest session. */
const objectContext = 2048;
const sessionContext = 768;

function fixedProperties(): [number, number][] {
  const total = implemented().length;
  return [
    [0, text('2.0')],
    [1, 0],
    [2, 159],
    // Day 312 of 2019: the specification's revision 1.59.
    [3, 312],
    [4, 2019],
    [5, text('NYX')],
    [6, text('Nyx ')],
    [7, text('TPM')],
    [8, 0],
    [9, 0],
    [10, 1],
    [11, firmwareVersion[0]],
    [12, firmwareVersion[1]],
    [13, LIMIT.buffer],
    [14, LIMIT.objects],
    [15, LIMIT.persistentMin],
    [16, LIMIT.sessions],
    [17, LIMIT.activeSessions],
    [18, LIMIT.pcrs],
    [19, LIMIT.pcrSelectBytes],
    [20, LIMIT.contextGap],
    [22, 0],
    [23, LIMIT.nvIndex],
    // Shared RAM and NV; an object needs no RAM to be used from NV.
    [24, 0b110],
    [25, LIMIT.clockUpdateMs],
    [26, ALG.SHA512],
    [27, ALG.AES],
    [28, 256],
    [29, 0xff],
    [30, LIMIT.command],
    [31, LIMIT.response],
    [32, LIMIT.digest],
    [33, objectContext],
    [34, sessionContext],
    // PC client platform: family 1, level 0, revision 1.05.
    [35, 1],
    [36, 0],
    [37, 105],
    [38, 0],
    [39, 0],
    [40, 64],
    [41, total],
    [42, total],
    [43, 0],
    [44, LIMIT.nvBuffer],
    [45, 0],
    [46, LIMIT.capBuffer],
  ];
}

function variableProperties(tpm: Tpm): [number, number][] {
  const p = tpm.persistent;
  const bit = (b: unknown, n: number) => (b ? 2 ** n : 0);
  const counters = [...tpm.nv.values()].filter((i) => nvKind(i.pub.attributes) === NT.COUNTER).length;
  const activeSessions = tpm.sessions.size + tpm.reset.saved.length;
  const permanent =
    bit(p.owner.auth.length, 0) +
    bit(p.endorsement.auth.length, 1) +
    bit(p.lockout.auth.length, 2) +
    bit(p.disableClear, 8) +
    bit(p.failedTries >= p.maxTries, 9) +
    // The TPM made its own endorsement seed.
    bit(true, 10);
  const startup =
    bit(tpm.phEnable, 0) +
    bit(tpm.clear.shEnable, 1) +
    bit(tpm.clear.ehEnable, 2) +
    bit(tpm.clear.phEnableNV, 3) +
    bit(tpm.wasOrderly, 31);
  return [
    [0, permanent],
    [1, startup],
    [2, tpm.nv.size],
    [3, tpm.sessions.size],
    [4, LIMIT.sessions - tpm.sessions.size],
    [5, activeSessions],
    [6, LIMIT.activeSessions - activeSessions],
    [7, tpm.objects.filter((o) => !o).length],
    [8, tpm.evicted.size],
    [9, Math.floor(nvRoom(tpm) / objectContext)],
    [10, counters],
    [11, Math.floor(nvRoom(tpm) / 128)],
    [12, p.algorithmSet],
    [13, curveIds.length],
    [14, p.failedTries],
    [15, p.maxTries],
    [16, p.recoveryTime],
    [17, p.lockoutRecovery],
    [18, 0],
    [19, Number(p.auditCounter >> 32n)],
    [20, Number(p.auditCounter & 0xffffffffn)],
  ];
}

function pcrProperties(tpm: Tpm): { tag: number; pcrSelect: Buffer }[] {
  const select = (f: (pcr: number) => boolean) => {
    const b = Buffer.alloc(LIMIT.pcrSelectBytes);
    for (let i = 0; i < LIMIT.pcrs; i++) if (f(i)) b[i >> 3]! |= 1 << (i & 7);
    return b;
  };
  const rows: [number, (pcr: number) => boolean][] = [[0, (i) => pcrAttributes(i).save]];
  for (let l = 0; l < 5; l++) {
    rows.push([1 + 2 * l, (i) => ((pcrAttributes(i).extend >> l) & 1) === 1]);
    rows.push([2 + 2 * l, (i) => ((pcrAttributes(i).reset >> l) & 1) === 1]);
  }
  rows.push([0x11, (i) => pcrAttributes(i).noIncrement]);
  rows.push([0x12, (i) => (pcrAttributes(i).reset & 0x10) !== 0]);
  rows.push([0x13, (i) => pcrHasAuth(i) && tpm.persistent.pcrPolicy.policyAlg !== ALG.NULL]);
  rows.push([0x14, pcrHasAuth]);
  return rows.map(([tag, f]) => ({ tag, pcrSelect: select(f) }));
}

const permanentHandles = [RH.OWNER, RH.NULL, RH.PW, RH.LOCKOUT, RH.ENDORSEMENT, RH.PLATFORM, RH.PLATFORM_NV];

function handlesOf(tpm: Tpm, type: number): number[] {
  switch (type) {
    case HT.PCR:
      return Array.from({ length: LIMIT.pcrs }, (_, i) => i);
    case HT.NV_INDEX:
      return [...tpm.nv.keys()];
    // Here the types mean: loaded sessions, saved sessions.
    case HT.HMAC_SESSION:
      return [...tpm.sessions.values()].map((s) => s.handle);
    case HT.POLICY_SESSION:
      return tpm.reset.saved.map((s) => HT.HMAC_SESSION * 0x1000000 + s.slot);
    case HT.PERMANENT:
      return permanentHandles;
    case HT.TRANSIENT:
      return tpm.objects.flatMap((o, i) => (o ? [HT.TRANSIENT * 0x1000000 + i] : []));
    case HT.PERSISTENT:
      return [...tpm.evicted.keys()];
    default:
      badParam(RC.HANDLE, 2);
  }
}

/** Octets of an element on the wire. */
const elementSize: Record<number, number> = {
  [CAP.ALGS]: 6,
  [CAP.HANDLES]: 4,
  [CAP.COMMANDS]: 4,
  [CAP.PP_COMMANDS]: 4,
  [CAP.AUDIT_COMMANDS]: 4,
  [CAP.TPM_PROPERTIES]: 8,
  [CAP.PCR_PROPERTIES]: 8,
  [CAP.ECC_CURVES]: 2,
  [CAP.AUTH_POLICIES]: 4 + 2 + LIMIT.digest,
  [CAP.ACT]: 12,
};

/** All elements with their sort key, ascending. */
function elements(tpm: Tpm, capability: number, property: number): [number, unknown][] {
  const plain = (list: readonly number[]): [number, unknown][] =>
    [...list].sort((a, b) => a - b).map((v) => [v, v]);
  switch (capability) {
    case CAP.ALGS:
      return algorithms.map(([alg, properties]) => [alg, { alg, properties }]);
    case CAP.HANDLES: {
      const type = handleType(property);
      const list = plain(handlesOf(tpm, type));
      // Both lists of sessions are asked for by the number in the handle.
      if (type !== HT.HMAC_SESSION && type !== HT.POLICY_SESSION) return list;
      return list.map(([h, v]) => [(h & 0xffffff) + type * 0x1000000, v]);
    }
    case CAP.COMMANDS:
      return implemented().map(([code, [, c]]) => [code, ccAttributes(c)]);
    case CAP.PP_COMMANDS:
      return plain([
        ...tpm.persistent.ppList,
        ...implemented().flatMap(([code, [, c]]) => (c.flags.pp === 'must' ? [code] : [])),
      ]);
    case CAP.AUDIT_COMMANDS:
      return plain(tpm.persistent.auditList);
    case CAP.TPM_PROPERTIES:
      return [
        ...fixedProperties().map(([n, value]) => [0x100 + n, value] as const),
        ...variableProperties(tpm).map(([n, value]) => [0x200 + n, value] as const),
      ].map(([n, value]) => [n, { property: n, value }]);
    case CAP.PCR_PROPERTIES:
      return pcrProperties(tpm).map((e) => [e.tag, e]);
    case CAP.ECC_CURVES:
      return plain(curveIds);
    case CAP.AUTH_POLICIES: {
      if (handleType(property) !== HT.PERMANENT) badParam(RC.VALUE, 2);
      return permanentHandles.flatMap((handle): [number, unknown][] => {
        const h = tpm.hierarchyAuth(handle);
        if (!h || digestSize(h.policyAlg) === 0) return [];
        return [[handle, { handle, hashAlg: h.policyAlg, digest: h.policy }]];
      });
    }
    case CAP.ACT:
      // There are none, but they have handles.
      if (property < RH.ACT_0 || property > RH.ACT_F) badParam(RC.VALUE, 2);
      return [];
    default:
      return [];
  }
}

export const capabilityCommands: Handlers = {
  GetCapability(tpm, { capability, property, propertyCount }) {
    // The vendor has no properties.
    if (capability === CAP.VENDOR_PROPERTY) badParam(RC.VALUE, 1);
    if (capability === CAP.PCRS) {
      if (property !== 0) badParam(RC.VALUE, 2);
      return { moreData: 0, capabilityData: { capability, data: { list: tpm.persistent.pcrAllocation } } };
    }
    const from = elements(tpm, capability, property).filter(([key]) => key >= property);
    const room = Math.floor((LIMIT.capBuffer - 8) / elementSize[capability]!);
    const count = Math.min(propertyCount, room);
    return {
      moreData: from.length > count ? 1 : 0,
      capabilityData: { capability, data: { list: from.slice(0, count).map(([, e]) => e) } },
    };
  },
  // What cannot be done was refused when the parameter was read.
  TestParms: () => {},
};
