/**
 * Every device passes the suite of libs/device/src/conformance.ts (amnesia among it: a new process after each access answers
 * as the old one), and one that says that it can be made before its state is there keeps that promise.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { AnyDeviceKind, DeviceContext } from '@nyx/device';
import { idle } from '@nyx/device/warm';
import type { Struct } from '@nyx/layout';
import { describe, expect, test } from 'vitest';
import { kinds as platform } from '../services/platform/src/kinds.ts';
import { kinds as storage } from '../services/storage/src/kinds.ts';

const root = fileURLToPath(new URL('..', import.meta.url));

const sources = function* (folder: string): Generator<string> {
  for (const e of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, e.name);
    if (e.isDirectory() && !/^(node_modules|dist|build)$/.test(e.name)) yield* sources(path);
    else if (e.name.endsWith('.ts')) yield path;
  }
};

const files = [...sources(join(root, 'services'))].map((path) => ({
  path,
  text: readFileSync(path, 'utf8'),
}));
const defining = files.filter((f) => !f.path.endsWith('.test.ts') && /\bdefineDevice\(/.test(f.text));

describe('every device passes conformance', () => {
  test('the devices are found', () => {
    expect(defining.length).toBeGreaterThanOrEqual(platform.length + storage.length);
  });

  test.each(defining.map((f) => [f.path.slice(root.length), f.path]))('%s', (_name, path) => {
    const beside = files.filter((f) => dirname(f.path) === dirname(path) && f.path.endsWith('.test.ts'));
    expect(beside.some((f) => /^\s*conformance\(/m.test(f.text))).toBe(true);
  });
});

/** A view of a structure whose values nobody may look at or change. */
const sealed = (view: object, s: Struct): object => {
  const deny = (): never => {
    throw new Error('state was used before it was there');
  };
  const fields = s.fields as Record<string, { kind: string; struct?: Struct; count?: number } | undefined>;
  return new Proxy(view, {
    get(target, name) {
      const field = fields[String(name)] ?? fields[String(name).replace(/(Lo|Hi)$/, '')];
      const value = () =>
        Reflect.get(target, name) as { at(i: number): object; length: number; byteOffset: number };
      if (field === undefined) return Reflect.get(target, name);
      if (field.kind === 'struct')
        return { length: field.count, at: (i: number) => sealed(value().at(i), field.struct!) };
      if (field.kind === 'array')
        return {
          length: field.count,
          get byteOffset() {
            return value().byteOffset;
          },
          get: deny,
          set: deny,
          fill: deny,
        };
      return deny();
    },
    set: deny,
  });
};

describe('a device that is made before its state is there does not look at it', () => {
  const early = [...platform, ...storage].filter((k: AnyDeviceKind) => k.early?.({}));
  test('there are such devices', () => expect(early.length).toBeGreaterThan(10));

  test.each(early.map((k) => [k.kind, k] as const))('%s', (_name, kind) => {
    const ctx = idle(kind, new Map()) as DeviceContext<Struct> & { state: object };
    const denied = { ...ctx, state: sealed(ctx.state, kind.state) } as DeviceContext<Struct>;
    expect(() => kind.create(denied, {})).not.toThrow();
  });
});
