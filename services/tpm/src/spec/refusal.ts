import { RC_P } from './constants.ts';

/**
 * A command that is refused: carries its response code. It is not an Error: no stack is wanted for what a
 * guest may cause at will, and nothing but the dispatcher catches it.
 */
export class Refusal {
  readonly rc: number;
  constructor(rc: number) {
    this.rc = rc;
  }
}

export function refuse(rc: number): never {
  throw new Refusal(rc);
}

const isFormat1 = (rc: number) => (rc & 0x80) !== 0 && (rc & 0xf40) === 0;

/** Adds a modifier (RC_P, RC_H or RC_S, and a number from 1) unless the code takes none or has one. */
export function modify(rc: number, kind: number, number: number): number {
  return isFormat1(rc) ? rc + kind + (number << 8) : rc;
}

/** Refuses because of parameter `n` (from 1). */
export function badParam(rc: number, n: number): never {
  throw new Refusal(modify(rc, RC_P, n));
}

/** Refuses because of handle `n` (from 1). */
export function badHandle(rc: number, n: number): never {
  throw new Refusal(modify(rc, 0, n));
}

/** Runs `f`; a refusal in it is blamed on parameter `n` (from 1). */
export function asParam<T>(n: number, f: () => T): T {
  try {
    return f();
  } catch (e) {
    if (e instanceof Refusal) badParam(e.rc, n);
    throw e;
  }
}

/** Runs `f`; a refusal in it is blamed on handle `n` (from 1). */
export function asHandle<T>(n: number, f: () => T): T {
  try {
    return f();
  } catch (e) {
    if (e instanceof Refusal) badHandle(e.rc, n);
    throw e;
  }
}
