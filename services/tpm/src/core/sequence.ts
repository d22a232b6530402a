/** Hash, MAC and event sequences (part 1, 32): hashing that is under way in an object slot. */
import { type CmacState, finishCmac, startCmac, updateCmac } from '../crypto/cmac.ts';
import { hash } from '../crypto/hash.ts';
import { finishHash, type HashState, startHash, updateHash } from '../crypto/sha.ts';
import { hashes, hashInfo } from '../spec/algorithms.ts';
import { decode, encode } from '../spec/codec.ts';
import { ALG, GENERATED_VALUE, RC } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import type { SymDef } from '../spec/types.ts';
import { SEQ, sequence } from './state.ts';

export class Sequence {
  kind: number;
  auth: Buffer;
  states: HashState[];
  private started = false;
  private safe = false;
  private hmacKey: Buffer = Buffer.alloc(0);
  private mac: CmacState | undefined;

  private constructor(kind: number, auth: Buffer, algs: number[]) {
    this.kind = kind;
    this.auth = auth;
    this.states = algs.map(startHash);
  }
  static hash(auth: Buffer, alg: number): Sequence {
    return new Sequence(SEQ.HASH, auth, [alg]);
  }
  /** One digest for each hash algorithm. */
  static event(auth: Buffer): Sequence {
    return new Sequence(
      SEQ.EVENT,
      auth,
      hashes.map((h) => h.alg),
    );
  }
  static hmac(auth: Buffer, alg: number, key: Buffer): Sequence {
    const s = new Sequence(SEQ.HMAC, auth, [alg]);
    const { block } = hashInfo(alg)!;
    s.hmacKey = Buffer.alloc(block);
    (key.length > block ? hash(alg, key) : key).copy(s.hmacKey);
    updateHash(
      s.states[0]!,
      s.hmacKey.map((b) => b ^ 0x36),
    );
    return s;
  }

  static cmac(auth: Buffer, sym: SymDef, key: Buffer): Sequence {
    const s = new Sequence(SEQ.CMAC, auth, []);
    s.mac = startCmac(sym.algorithm, sym.keyBits, key);
    return s;
  }

  get isEvent(): boolean {
    return this.kind === SEQ.EVENT;
  }
  get isHash(): boolean {
    return this.kind === SEQ.HASH;
  }
  get alg(): number {
    return this.states[0]!.alg;
  }
  /** Whether the data cannot be mistaken for what the TPM itself made (part 3, 17.5). */
  get ticketSafe(): boolean {
    return this.safe;
  }

  update(data: Buffer): void {
    if (!this.started && data.length > 0) {
      this.started = true;
      this.safe = data.length >= 4 && data.readUInt32BE(0) !== GENERATED_VALUE;
    }
    for (const s of this.states) updateHash(s, data);
    if (this.mac) updateCmac(this.mac, data);
  }

  /** The digests; the sequence is of no use afterwards. */
  finish(): { alg: number; digest: Buffer }[] {
    if (this.mac) return [{ alg: ALG.CMAC, digest: finishCmac(this.mac) }];
    return this.states.map((s) => {
      const digest = finishHash(s);
      if (this.kind !== SEQ.HMAC) return { alg: s.alg, digest };
      return {
        alg: s.alg,
        digest: hash(
          s.alg,
          this.hmacKey.map((b) => b ^ 0x5c),
          digest,
        ),
      };
    });
  }

  save(): Buffer {
    return encode(sequence, {
      kind: this.kind,
      auth: this.auth,
      started: this.started ? 1 : 0,
      ticketSafe: this.safe ? 1 : 0,
      hmacKey: this.hmacKey,
      cmac: this.mac ? [this.mac] : [],
      states: this.states.map((s) => ({ ...s, h: s.h.map((w) => w >>> 0), length: BigInt(s.length) })),
    });
  }
  static restore(blob: Buffer): Sequence {
    const v = decode(sequence, blob);
    for (const { alg, h, tail } of v.states) {
      if (h.length !== startHash(alg).h.length || tail.length >= hashInfo(alg)!.block) refuse(RC.VALUE);
    }
    if ((v.kind === SEQ.CMAC ? v.cmac : v.states).length === 0) refuse(RC.VALUE);
    const s = new Sequence(v.kind, v.auth, []);
    s.started = v.started === 1;
    s.safe = v.ticketSafe === 1;
    s.hmacKey = v.hmacKey;
    s.mac = v.cmac[0];
    s.states = v.states.map((x) => ({ ...x, h: x.h.map((w) => w | 0), length: Number(x.length) }));
    return s;
  }
}
