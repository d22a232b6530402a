/**
 * The volatile state as one versioned blob: sessions, objects, PCRs, sequences, clocks, recovery from lockout. A process that
 * is killed between two commands leaves it to its successor; a machine that is saved takes it along. It begins with its CRC-32:
 * what is in it is believed.
 */
import { crc32 } from 'node:zlib';
import { be32 } from '../crypto/hash.ts';
import { decode, encode, tryDecode } from '../spec/codec.ts';
import { Sequence } from './sequence.ts';
import { type LoadedObject, loadedObject, type RunState, runState } from './state.ts';
import type { Tpm } from './tpm.ts';

const version = 1;
const none = Buffer.alloc(0);
const flag = (b: boolean) => (b ? 1 : 0);
const micro = (ms: number) => BigInt(Math.floor(ms * 1000));
const milli = (us: bigint) => Number(us) / 1000;

/** An object in a slot never changes: it is marshalled once. */
const marshalled = new WeakMap<LoadedObject, Buffer>();
function objectBlob(o: LoadedObject): Buffer {
  let blob = marshalled.get(o);
  if (!blob) {
    blob = encode(loadedObject, o);
    marshalled.set(o, blob);
  }
  return blob;
}

export function saveVolatile(tpm: Tpm): Buffer {
  const pcrs: Buffer[] = [];
  for (const { hash } of tpm.pcrs.allocation) {
    for (const v of tpm.pcrs.banks.get(hash) ?? []) if (v) pcrs.push(v);
  }
  const objects: RunState['objects'] = [];
  tpm.objects.forEach((o, slot) => {
    if (!o) return;
    const isSequence = flag(o instanceof Sequence);
    objects.push({ slot, isSequence, blob: o instanceof Sequence ? o.save() : objectBlob(o) });
  });
  const c = tpm.clock.save();
  const state = encode(runState, {
    version,
    started: flag(tpm.started),
    failed: flag(tpm.failed),
    phEnable: flag(tpm.phEnable),
    physicalPresence: flag(tpm.physicalPresence),
    pcrReconfigured: flag(tpm.pcrReconfigured),
    drtmPreStartup: flag(tpm.drtmPreStartup),
    established: flag(tpm.established),
    wasOrderly: flag(tpm.wasOrderly),
    locality: tpm.locality,
    startupLocality: tpm.startupLocality,
    exclusiveAudit: tpm.exclusiveAudit,
    clear: tpm.clear,
    reset: tpm.reset,
    allocation: tpm.pcrs.allocation,
    pcrs,
    objects,
    sessions: [...tpm.sessions.values()],
    drtm: tpm.drtm?.save() ?? none,
    time: micro(c.time),
    clock: c.clock,
    clockPart: micro(c.clockPart),
    seen: micro(c.seen),
    epoch: c.epoch,
    rate: c.rate,
    safe: c.safe,
    triesFrom: micro(tpm.da.triesFrom),
    lockoutFrom: micro(tpm.da.lockoutFrom),
  });
  return Buffer.concat([be32(crc32(state)), state]);
}

/**
 * Puts a TPM that has its persistent state where it was. False, and nothing is changed: the blob is not one of this version, or
 * is damaged. `sameHost`: see Clock.restore.
 */
export function restoreVolatile(tpm: Tpm, blob: Buffer, sameHost: boolean): boolean {
  if (blob.length < 4 || crc32(blob.subarray(4)) !== blob.readUInt32BE(0)) return false;
  const s = tryDecode(runState, blob.subarray(4));
  if (!s) return false;
  const objects: typeof tpm.objects = tpm.objects.map(() => undefined);
  let drtm: Sequence | undefined;
  try {
    for (const { slot, isSequence, blob: b } of s.objects) {
      if (slot >= objects.length) return false;
      objects[slot] = isSequence ? Sequence.restore(b) : decode(loadedObject, b);
    }
    drtm = s.drtm.length ? Sequence.restore(s.drtm) : undefined;
  } catch {
    return false;
  }
  if (!tpm.pcrs.load(s.allocation, s.pcrs)) return false;
  objects.forEach((o, i) => {
    tpm.objects[i] = o;
  });
  tpm.sessions.clear();
  for (const x of s.sessions) tpm.sessions.set(x.handle & 0xffffff, x);
  tpm.drtm = drtm;
  tpm.started = s.started === 1;
  tpm.failed = s.failed === 1;
  tpm.phEnable = s.phEnable === 1;
  tpm.physicalPresence = s.physicalPresence === 1;
  tpm.pcrReconfigured = s.pcrReconfigured === 1;
  tpm.drtmPreStartup = s.drtmPreStartup === 1;
  tpm.established = s.established === 1;
  tpm.wasOrderly = s.wasOrderly === 1;
  tpm.locality = s.locality;
  tpm.startupLocality = s.startupLocality;
  tpm.exclusiveAudit = s.exclusiveAudit;
  tpm.clear = s.clear;
  tpm.reset = s.reset;
  const clock = {
    time: milli(s.time),
    clock: s.clock,
    clockPart: milli(s.clockPart),
    seen: milli(s.seen),
    epoch: s.epoch,
    rate: s.rate,
    safe: s.safe,
  };
  tpm.clock.restore(clock, sameHost);
  tpm.da.triesFrom = milli(s.triesFrom);
  tpm.da.lockoutFrom = milli(s.lockoutFrom);
  return true;
}
