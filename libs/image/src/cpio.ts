/**
 * Writer of the "newc" cpio format (Linux: Documentation/driver-api/early-userspace/buffer-format.rst), which the kernel
 * unpacks as its first root file system. Same entries, same bytes: times are 0, inodes count up.
 */
export type CpioEntry =
  | { path: string; type: 'dir'; mode?: number }
  | { path: string; type: 'file'; data: Uint8Array; mode?: number }
  | { path: string; type: 'link'; target: string }
  | { path: string; type: 'char'; major: number; minor: number; mode?: number };

const TYPE = { dir: 0o040000, file: 0o100000, link: 0o120000, char: 0o020000 } as const;
const MODE = { dir: 0o755, file: 0o644, link: 0o777, char: 0o600 } as const;
const hex = (value: number): string => value.toString(16).padStart(8, '0');
const padding = (length: number): Buffer => Buffer.alloc(-length & 3);

/**
 * @param entries parents before children
 * @returns the archive, uncompressed
 */
export function cpio(entries: readonly CpioEntry[]): Buffer {
  const out: Buffer[] = [];
  let inode = 0;
  const put = (path: string, mode: number, links: number, data: Uint8Array, major = 0, minor = 0): void => {
    const name = Buffer.from(`${path}\0`);
    const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, major, minor, name.length, 0];
    out.push(
      Buffer.from(`070701${fields.map(hex).join('')}`),
      name,
      padding(110 + name.length),
      Buffer.from(data.buffer, data.byteOffset, data.length),
      padding(data.length),
    );
  };
  for (const e of entries) {
    inode++;
    const mode = TYPE[e.type] | ('mode' in e && e.mode !== undefined ? e.mode : MODE[e.type]);
    const data = e.type === 'file' ? e.data : e.type === 'link' ? Buffer.from(e.target) : Buffer.alloc(0);
    if (e.type === 'char') put(e.path, mode, 1, data, e.major, e.minor);
    else put(e.path, mode, e.type === 'dir' ? 2 : 1, data);
  }
  inode = 0;
  put('TRAILER!!!', 0, 1, Buffer.alloc(0));
  const archive = Buffer.concat(out);
  return Buffer.concat([archive, Buffer.alloc(-archive.length & 511)]);
}
