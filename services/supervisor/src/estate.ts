/**
 * What a dead nyxd has left with the keeper, for the one that takes over: parts by key, each JSON and descriptors. Every part is
 * checked by who takes it; what nobody has taken in the end is closed.
 */
import { close, fileSize } from '@nyx/native';
import { NyxError } from '@nyx/protocol/errors';

export interface Kept {
  value: unknown;
  fds: number[];
}

const missing = (expected: string, got: string): NyxError =>
  new NyxError('ADOPTION_FAILED', { expected, got });

export class Estate {
  readonly #entries: Map<string, Kept>;

  constructor(entries: ReadonlyMap<string, Kept>) {
    this.#entries = new Map(entries);
  }

  /** Keys that begin so. */
  keys(prefix: string): string[] {
    return [...this.#entries.keys()].filter((k) => k.startsWith(prefix));
  }

  /** A part that its taker will check. */
  peek(key: string): Kept | undefined {
    return this.#entries.get(key);
  }

  /** A part, which is the taker's from now on; undefined: there is none. @throws NyxError ADOPTION_FAILED: it is of another shape */
  find<T>(
    key: string,
    check: (value: unknown, fds: readonly number[]) => boolean,
  ): { value: T; fds: number[] } | undefined {
    const kept = this.#entries.get(key);
    if (!kept) return undefined;
    let good = false;
    try {
      good = check(kept.value, kept.fds);
    } catch {}
    if (!good)
      throw missing(
        `'${key}' as this version writes it`,
        `${kept.fds.length} descriptors and ${JSON.stringify(kept.value).slice(0, 200)}`,
      );
    this.#entries.delete(key);
    return { value: kept.value as T, fds: kept.fds };
  }

  /** The same of what must be there. @throws NyxError ADOPTION_FAILED */
  take<T>(
    key: string,
    check: (value: unknown, fds: readonly number[]) => boolean,
  ): { value: T; fds: number[] } {
    const found = this.find<T>(key, check);
    if (!found) throw missing(`'${key}'`, this.#entries.size === 0 ? 'nothing' : 'it was not kept');
    return found;
  }

  /** One descriptor of at least so many bytes. @throws NyxError ADOPTION_FAILED */
  fd(key: string, bytes = 0): number | undefined {
    const found = this.find<unknown>(
      key,
      (_, fds) => fds.length === 1 && (bytes === 0 || fileSize(fds[0]!) >= bytes),
    );
    return found?.fds[0];
  }

  /** Lets go of what nobody wanted; the keys. */
  close(): string[] {
    const keys = [...this.#entries.keys()];
    for (const { fds } of this.#entries.values()) for (const fd of fds) close(fd);
    this.#entries.clear();
    return keys;
  }
}

export const isObject = (v: unknown): v is Record<string, unknown> =>
  typeof v === 'object' && v !== null && !Array.isArray(v);
export const isCount = (v: unknown): v is number => typeof v === 'number' && Number.isInteger(v) && v >= 0;
