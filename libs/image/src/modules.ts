/**
 * Kernel modules: which files of a kernel package are needed for a list of names, and in which order they load. A
 * package has no modules.dep before it is installed, so the names a module depends on are read from the module itself
 * (ELF section .modinfo, `depends=a,b`).
 */
import { ImageError } from './errors.ts';

/** Module names use '_' where file names may use '-'. */
export const moduleName = (path: string): string =>
  path
    .slice(path.lastIndexOf('/') + 1)
    .replace(/\.ko(\.\w+)?$/, '')
    .replaceAll('-', '_');

/** `key=value` pairs of the .modinfo section; undefined when `file` is not a 64-bit ELF object with one. */
export function moduleInfo(file: Uint8Array): Map<string, string> | undefined {
  const v = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 64 || v.getUint32(0) !== 0x7f454c46 || file[4] !== 2 || file[5] !== 1) return undefined;
  const sections = Number(v.getBigUint64(0x28, true));
  const size = v.getUint16(0x3a, true);
  const count = v.getUint16(0x3c, true);
  const names = v.getUint16(0x3e, true);
  if (size < 64 || names >= count || sections + count * size > file.length) return undefined;
  const range = (i: number): [number, number] => [
    Number(v.getBigUint64(sections + i * size + 0x18, true)),
    Number(v.getBigUint64(sections + i * size + 0x20, true)),
  ];
  const [nameAt, nameBytes] = range(names);
  if (nameAt + nameBytes > file.length) return undefined;
  const text = Buffer.from(file.buffer, file.byteOffset, file.length);
  for (let i = 0; i < count; i++) {
    const name = v.getUint32(sections + i * size, true);
    if (
      name >= nameBytes ||
      !text
        .subarray(nameAt + name, nameAt + nameBytes)
        .toString('latin1', 0, 9)
        .startsWith('.modinfo\0')
    )
      continue;
    const [at, bytes] = range(i);
    if (at + bytes > file.length) return undefined;
    const pairs = text.toString('latin1', at, at + bytes).split('\0');
    return new Map(
      pairs
        .filter((p) => p.includes('='))
        .map((p) => [p.slice(0, p.indexOf('=')), p.slice(p.indexOf('=') + 1)] as const),
    );
  }
  return undefined;
}

export interface LoadedModule {
  name: string;
  data: Uint8Array;
  depends: string[];
}

/**
 * The modules `wanted` and all they depend on, dependencies first.
 * @param read the uncompressed file of a module; undefined when the kernel has it built in
 * @throws ImageError IMAGE_BAD_PACKAGE for a file that is not a module
 */
export async function loadOrder(
  wanted: readonly string[],
  read: (name: string) => Promise<Uint8Array | undefined>,
): Promise<LoadedModule[]> {
  const done = new Map<string, LoadedModule>();
  const visit = async (name: string): Promise<void> => {
    if (done.has(name)) return;
    const data = await read(name);
    if (!data) return;
    const info = moduleInfo(data);
    if (!info)
      throw new ImageError(
        'IMAGE_BAD_PACKAGE',
        `module ${name} to be an ELF object with .modinfo`,
        `${data.length} bytes of something else`,
        'Remove the cached package (`nyx image rm`) and build again.',
      );
    const depends = (info.get('depends') ?? '').split(',').filter(Boolean).map(moduleName);
    // Before the recursion, so that a cycle ends; a Map keeps the order of insertion, hence the second `set` below.
    const module = { name, data, depends };
    done.set(name, module);
    for (const d of depends) await visit(d);
    done.delete(name);
    done.set(name, module);
  };
  for (const name of wanted) await visit(name);
  return [...done.values()];
}
