/** Tickets (part 1, 11.4.6.3): HMACs by which the TPM recognizes that it checked something. */
import { be16, equal, hmac, none } from '../crypto/hash.ts';
import { ALG, RH } from '../spec/constants.ts';
import type { Ticket } from '../spec/types.ts';
import type { Tpm } from './tpm.ts';

export const nullTicket = (tag: number): Ticket => ({ tag, hierarchy: RH.NULL, digest: none });

export function makeTicket(tpm: Tpm, tag: number, hierarchy: number, ...parts: Uint8Array[]): Ticket {
  return { tag, hierarchy, digest: hmac(ALG.SHA512, tpm.proof(hierarchy), be16(tag), ...parts) };
}
export function ticketHolds(tpm: Tpm, ticket: Ticket, ...parts: Uint8Array[]): boolean {
  return equal(ticket.digest, makeTicket(tpm, ticket.tag, ticket.hierarchy, ...parts).digest);
}
