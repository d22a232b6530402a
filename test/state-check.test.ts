/** The check that devices hold no memory beside their state block: what it finds, and what it lets pass. */
import { describe, expect, test } from 'vitest';
// @ts-expect-error: a tool without types
import { undeclaredState } from '../tools/lib/state.mjs';

const found = (text: string): string[] => undeclaredState('chip.ts', text) as string[];

describe('undeclared state', () => {
  test.each([
    ['a field that can change', 'class Chip { count = 0; }', 'field Chip.count can change'],
    ['a private one', 'export class Chip { #last?: number; }', 'field Chip.#last can change'],
    ['a container', 'class Chip { readonly #q: number[] = []; }', 'field Chip.#q can be filled'],
    ['one by its type', 'class Chip { readonly q: Map<number, string>; }', 'field Chip.q can be filled'],
    ['an array of numbers', 'class Chip { readonly q = new Uint8Array(16); }', 'field Chip.q can be filled'],
    [
      'a parameter that can change',
      'class Chip { constructor(public s: number) {} }',
      'field Chip.s can change',
    ],
    ['a variable of the module', 'let seen = 0;', 'variable seen can change'],
    ['a container of the module', 'export const seen = new Set();', 'variable seen can be filled'],
    [
      'a variable of create',
      'defineDevice({ create(ctx) { let n = 0; return {}; } });',
      'variable of create n can change',
    ],
    ['a class in a function', 'function f() { return class Chip { n = 1; } }', 'field Chip.n can change'],
  ])('%s is found', (_, text, what) => {
    expect(found(text)).toEqual([`chip.ts:1: ${what}, and is lost with the process`]);
  });

  test.each([
    ['a readonly reference', 'class Chip { readonly s: View; constructor(readonly disk: Disk) {} }'],
    ['a readonly array', 'class Chip { readonly q: readonly number[] = [1]; }'],
    ['a table', "const table = [1, 2] as const; const text = 'x';"],
    [
      'what says that it is transient',
      'class Chip {\n  /** A copy. transient: made at attach. */\n  #n = 0;\n}',
    ],
    ['a class that says so', '/** transient: of a call. */\nexport class Chip {\n  n = 0;\n}'],
    ['a comment of slashes', 'class Chip {\n  // transient: of a call.\n  n = 0;\n}'],
    ['locals of a method', 'class Chip { read() { let n = 0; return n; } }'],
  ])('%s passes', (_, text) => {
    expect(found(text)).toEqual([]);
  });

  test('the word without a reason, or the comment of another field, does not count', () => {
    expect(found('class Chip {\n  /** transient: */\n  n = 0;\n}')).toHaveLength(1);
    expect(found('class Chip {\n  /** transient: why. */\n  a = 0;\n  b = 0;\n}')).toEqual([
      'chip.ts:4: field Chip.b can change, and is lost with the process',
    ]);
  });
});
