/** C++ header from structure tables: the vCPU process and the addon compile what TypeScript code uses. */
import type { ScalarType, Struct } from './struct.ts';

const CPP: Record<ScalarType, string> = { u8: 'uint8_t', u16: 'uint16_t', u32: 'uint32_t', u64: 'uint64_t' };

const constant = (name: string): string => `k${name[0]!.toUpperCase()}${name.slice(1)}`;
const snake = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);

function emitStruct(s: Struct): string {
  let padding = 0;
  const lines = s.placed.map((p) => {
    const f = p.field;
    const doc = 'doc' in f && f.doc ? `  // ${f.doc}` : '';
    if (f.kind === 'pad') return `  uint8_t pad${padding++}_[${f.bytes}];`;
    if (f.kind === 'scalar') return `  ${CPP[f.type]} ${snake(p.name)};${doc}`;
    if (f.kind === 'array') return `  ${CPP[f.type]} ${snake(p.name)}[${f.count}];${doc}`;
    return `  ${f.struct.name} ${snake(p.name)}[${f.count}];${doc}`;
  });
  const asserts = s.placed
    .filter((p) => p.field.kind !== 'pad')
    .map((p) => `static_assert(offsetof(${s.name}, ${snake(p.name)}) == ${p.offset});`);
  return [
    ...(s.doc ? s.doc.split('\n').map((l) => `// ${l}`) : []),
    `struct ${s.name} {`,
    ...lines,
    '};',
    `static_assert(sizeof(${s.name}) == ${s.bytes});`,
    ...asserts,
    `inline constexpr uint32_t ${s.name}Hash = 0x${s.hash.toString(16).padStart(8, '0')}u;`,
    '',
  ].join('\n');
}

export interface CppHeader {
  namespace: string;
  /** Where the table stands, named in the header's first line. */
  source: string;
  /** Named numbers, by enumeration. */
  enums?: Record<string, Record<string, number>>;
  constants?: Record<string, number>;
  structs: readonly Struct[];
}

/** The text of the header; committed beside its users, compared by `npm run check`. */
export function emitCpp(h: CppHeader): string {
  const constants = Object.entries(h.constants ?? {}).map(
    ([k, v]) => `inline constexpr uint32_t ${constant(k)} = 0x${v.toString(16)}u;`,
  );
  const enums = Object.entries(h.enums ?? {}).flatMap(([name, values]) => [
    `struct ${name} {`,
    '  enum : uint32_t {',
    ...Object.entries(values).map(([k, v]) => `    ${constant(k)} = ${v},`),
    '  };',
    '};',
    '',
  ]);
  return [
    `// Generated from ${h.source} by tools/gen.mjs. Do not edit.`,
    '#pragma once',
    '#include <cstddef>',
    '#include <cstdint>',
    '',
    `namespace ${h.namespace} {`,
    '',
    ...constants,
    '',
    ...enums,
    ...h.structs.map(emitStruct),
    `}  // namespace ${h.namespace}`,
    '',
  ].join('\n');
}
