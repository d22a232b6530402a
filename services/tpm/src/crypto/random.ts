/** Random octets: the generator of node:crypto, stirred by TPM2_StirRandom; and a generator from a seed. */
import { createCipheriv, randomFillSync } from 'node:crypto';
import { ALG } from '../spec/constants.ts';
import { hash, hmac, none } from './hash.ts';

export type Rand = (n: number) => Buffer;

const poolSize = 4096;

/** The TPM's generator. What was stirred in is added to, never instead of, the system's entropy. */
export class RandomSource {
  private readonly pool = Buffer.alloc(poolSize);
  private used = poolSize;
  private stirred: Buffer | undefined;

  readonly bytes: Rand = (n) => {
    if (this.used + n > poolSize) this.fill();
    const { pool, used } = this;
    const out = Buffer.allocUnsafe(n);
    for (let i = 0; i < n; i++) {
      out[i] = pool[used + i]!;
      // Nothing that was given out stays.
      pool[used + i] = 0;
    }
    this.used += n;
    return out;
  };

  private fill(): void {
    randomFillSync(this.pool);
    if (this.stirred) {
      const stream = createCipheriv('aes-256-ctr', this.stirred, this.pool.subarray(0, 16));
      stream.update(this.pool.subarray(16)).copy(this.pool, 16);
      this.stirred = hash(ALG.SHA256, this.stirred, this.pool.subarray(poolSize - 32));
      this.pool.fill(0, poolSize - 32);
      this.used = 16;
    } else this.used = 0;
  }

  stir(data: Uint8Array): void {
    this.stirred = hash(ALG.SHA256, this.stirred ?? none, data);
    this.used = poolSize;
  }
}

/** HMAC_DRBG with SHA-256 (SP 800-90A, 10.1.2): the same octets for the same seed, for derived keys. */
export function seededRandom(...seed: Uint8Array[]): Rand {
  let k: Buffer = Buffer.alloc(32, 0);
  let v: Buffer = Buffer.alloc(32, 1);
  const update = (...data: Uint8Array[]) => {
    k = hmac(ALG.SHA256, k, v, Buffer.of(0), ...data);
    v = hmac(ALG.SHA256, k, v);
    if (data.length === 0) return;
    k = hmac(ALG.SHA256, k, v, Buffer.of(1), ...data);
    v = hmac(ALG.SHA256, k, v);
  };
  update(...seed);
  return (n) => {
    const out = Buffer.alloc(n);
    for (let at = 0; at < n; at += 32) {
      v = hmac(ALG.SHA256, k, v);
      v.copy(out, at);
    }
    update();
    return out;
  };
}
