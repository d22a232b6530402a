/** Random numbers, hashes without a key, clocks (part 3, 15.4, 16 and 29.1). */

import { clockInfoOf } from '../core/attest.ts';
import type { Handlers } from '../core/dispatch.ts';
import { findObject } from '../core/entity.ts';
import { Sequence } from '../core/sequence.ts';
import { allocate, flushObject } from '../core/slots.ts';
import { makeTicket, nullTicket } from '../core/ticket.ts';
import type { Tpm } from '../core/tpm.ts';
import { finishCmac, startCmac, updateCmac } from '../crypto/cmac.ts';
import { hash, hmac } from '../crypto/hash.ts';
import { ALG, GENERATED_VALUE, LIMIT, RC, RH, ST } from '../spec/constants.ts';
import { badHandle } from '../spec/refusal.ts';
import type { Ticket } from '../spec/types.ts';
import { macKey } from './keyed.ts';
import { checkExtend, extendPcr } from './pcr.ts';

/** Whether data may have been made by this TPM: then no ticket says that it was not. */
const couldBeOurs = (data: Buffer) => data.length < 4 || data.readUInt32BE(0) === GENERATED_VALUE;

function hashcheck(tpm: Tpm, hierarchy: number, alg: number, digest: Buffer): Ticket {
  return makeTicket(tpm, ST.HASHCHECK, hierarchy, Buffer.from([alg >> 8, alg & 255]), digest);
}

function sequenceOf(tpm: Tpm, handle: number, n: number): Sequence {
  const s = findObject(tpm, handle);
  if (!(s instanceof Sequence)) badHandle(RC.MODE, n);
  return s;
}

export const hashCommands: Handlers = {
  GetRandom: (tpm, { bytesRequested }) => ({
    randomBytes: tpm.random.bytes(Math.min(bytesRequested, LIMIT.digest)),
  }),
  StirRandom: (tpm, { inData }) => tpm.random.stir(inData),
  ReadClock: (tpm) => ({ currentTime: { time: tpm.clock.time64(), clockInfo: clockInfoOf(tpm) } }),

  Hash(tpm, { data, hashAlg, hierarchy }) {
    const outHash = hash(hashAlg, data);
    const validation =
      hierarchy === RH.NULL || couldBeOurs(data)
        ? nullTicket(ST.HASHCHECK)
        : hashcheck(tpm, hierarchy, hashAlg, outHash);
    return { outHash, validation };
  },

  MAC(tpm, { handle, buffer, inScheme }) {
    const { key, alg, cipher } = macKey(tpm, handle, inScheme);
    if (!cipher) return { outMAC: hmac(alg, key, buffer) };
    const s = startCmac(cipher.algorithm, cipher.keyBits, key);
    updateCmac(s, buffer);
    return { outMAC: finishCmac(s) };
  },
  MAC_Start(tpm, { handle, auth, inScheme }) {
    const { key, alg, cipher } = macKey(tpm, handle, inScheme);
    const s = cipher ? Sequence.cmac(auth, cipher, key) : Sequence.hmac(auth, alg, key);
    return { handle: allocate(tpm, s) };
  },
  HashSequenceStart: (tpm, { auth, hashAlg }) => ({
    handle: allocate(tpm, hashAlg === ALG.NULL ? Sequence.event(auth) : Sequence.hash(auth, hashAlg)),
  }),
  SequenceUpdate(tpm, { sequenceHandle, buffer }) {
    sequenceOf(tpm, sequenceHandle, 1).update(buffer);
  },
  SequenceComplete(tpm, { sequenceHandle, buffer, hierarchy }, call) {
    const s = sequenceOf(tpm, sequenceHandle, 1);
    if (s.isEvent) badHandle(RC.MODE, 1);
    s.update(buffer);
    const { ticketSafe } = s;
    const isHash = s.isHash;
    const [{ alg, digest }] = s.finish() as [{ alg: number; digest: Buffer }];
    call.later(() => flushObject(tpm, sequenceHandle));
    const validation =
      isHash && ticketSafe && hierarchy !== RH.NULL
        ? hashcheck(tpm, hierarchy, alg, digest)
        : nullTicket(ST.HASHCHECK);
    return { result: digest, validation };
  },
  EventSequenceComplete(tpm, { pcrHandle, sequenceHandle, buffer }, call) {
    const s = sequenceOf(tpm, sequenceHandle, 2);
    if (!s.isEvent) badHandle(RC.MODE, 2);
    if (pcrHandle !== RH.NULL) checkExtend(tpm, pcrHandle);
    s.update(buffer);
    const results = s.finish().map(({ alg, digest }) => ({ hashAlg: alg, digest }));
    if (pcrHandle !== RH.NULL) extendPcr(tpm, pcrHandle, results);
    call.later(() => flushObject(tpm, sequenceHandle));
    return { results };
  },
};
