/** Whether a policy session authorizes an entity for a command (part 1, 19.7.3). */
import { equal, hash } from '../crypto/hash.ts';
import { Reader } from '../spec/codec.ts';
import type { Role } from '../spec/commands.ts';
import { HT, NVA, RC } from '../spec/constants.ts';
import { Refusal, refuse } from '../spec/refusal.ts';
import { handleType } from '../spec/types.ts';
import type { Call, SessionUse } from './call.ts';
import { authPolicy } from './entity.ts';
import { BOUND } from './state.ts';

/** Localities 0 to 4 are bits; 32 and above are numbers. */
function localityAllowed(allowed: number, locality: number): boolean {
  if (allowed === 0) return true;
  return locality < 5 ? allowed < 32 && ((allowed >> locality) & 1) === 1 : allowed === locality;
}

export function checkPolicy(call: Call, use: SessionUse, role: Role): void {
  const { tpm, command } = call;
  const s = use.session!;
  const entity = use.authorizes!;
  if (call.name === 'PolicySecret' && !s.passwordNeeded && !s.authValueNeeded) refuse(RC.MODE);
  if (s.pcrCounter !== 0 && s.pcrCounter !== tpm.reset.pcrCounter) refuse(RC.PCR_CHANGED);
  const { alg, policy } = authPolicy(tpm, entity);
  if (!equal(s.policyDigest, policy) || alg !== s.authHash) refuse(RC.POLICY_FAIL);
  if (s.timeout !== 0n && (s.timeout < tpm.clock.time64() || s.epoch !== tpm.clock.epoch)) refuse(RC.EXPIRED);
  if (s.commandCode !== 0) {
    if (s.commandCode !== command.code) refuse(RC.POLICY_CC);
  } else if (role === 'admin' || role === 'dup') refuse(RC.POLICY_FAIL);
  if (!localityAllowed(s.locality, tpm.locality)) refuse(RC.LOCALITY);
  if (s.ppRequired && !tpm.physicalPresence) refuse(RC.PP);
  if (s.boundKind !== BOUND.NONE && !boundMatches(call, use)) refuse(RC.POLICY_FAIL);
  if (s.nvWrittenCheck) {
    const index = handleType(entity) === HT.NV_INDEX ? tpm.nv.get(entity) : undefined;
    if (!index || ((index.pub.attributes & NVA.WRITTEN) !== 0) !== (s.nvWritten === 1))
      refuse(RC.POLICY_FAIL);
  }
}

function boundMatches(call: Call, use: SessionUse): boolean {
  const s = use.session!;
  switch (s.boundKind) {
    case BOUND.CPHASH:
      return equal(s.boundHash, call.cpHash(s.authHash));
    case BOUND.NAMES:
      return equal(s.boundHash, hash(s.authHash, ...call.names()));
    default: {
      const template = templateOf(call);
      return template !== undefined && equal(s.boundHash, hash(s.authHash, template));
    }
  }
}

/** The second parameter of the commands that create objects, without its size. */
function templateOf(call: Call): Buffer | undefined {
  if (!['Create', 'CreatePrimary', 'CreateLoaded'].includes(call.name)) return undefined;
  const r = new Reader(call.params);
  try {
    r.bytes(r.u16());
    return r.bytes(r.u16());
  } catch (e) {
    if (e instanceof Refusal) return undefined;
    throw e;
  }
}
