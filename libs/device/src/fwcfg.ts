/**
 * What fw_cfg offers, as one read-only blob: the supervisor builds it, the `fw-cfg` device serves it. QEMU's
 * specification `docs/specs/fw_cfg.rst` names the items; SeaBIOS, OVMF and Linux (qemu_fw_cfg) read them.
 */
import { Memory, pad, struct, u16, u32, view } from '@nyx/layout';

export const fwCfg = {
  /** 'NYXF' */
  magic: 0x4658594e,
  version: 1,
  maxItems: 4096,
  /** Bytes that all writable items may have together; they live in the device's state. */
  writableBytes: 1024,
  firstFile: 0x20,
} as const;

/** Selectors of items that are not files. */
export const FwCfgItem = {
  signature: 0x00,
  features: 0x01,
  uuid: 0x02,
  ramSize: 0x03,
  cpus: 0x05,
  bootMenu: 0x0e,
  maxCpus: 0x0f,
  directory: 0x19,
  irq0Override: 0x8002,
} as const;

export const FwCfgHeader = struct(
  'FwCfgHeader',
  { magic: u32('fwCfg.magic'), version: u32(), items: u32(), bytes: u32('of the whole blob') },
  { bytes: 16, doc: 'Start of a fw_cfg blob; items follow, sorted by selector, then data.' },
);
export const FwCfgEntry = struct(
  'FwCfgEntry',
  {
    selector: u16(),
    flags: u16('bit 0: writable by the guest'),
    offset: u32('of its data in the blob'),
    size: u32(),
    writableAt: u32('writable: offset in the writable bytes'),
  },
  { bytes: 16, doc: 'One item.' },
);
export const fwCfgWritable = 1;

const DirectoryEntry = struct(
  'FwCfgDirectoryEntry',
  { size: u32('big-endian'), select: u16('big-endian'), reserved: pad(2) },
  { bytes: 8 },
);
const nameBytes = 56;

export interface FwCfgFile {
  /** At most 55 characters, e.g. 'etc/e820', 'opt/org.example/x'. */
  name: string;
  data: Uint8Array;
  writable?: boolean;
}

export interface FwCfgContent {
  /** By selector; signature, features and directory are added. */
  items?: Readonly<Record<number, Uint8Array>>;
  files?: readonly FwCfgFile[];
}

/** Little-endian bytes of an unsigned number. */
export const fwCfgNumber = (value: number, bytes: 2 | 4 | 8): Uint8Array => {
  const out = new Uint8Array(bytes);
  for (let i = 0, v = value; i < bytes; i++, v = Math.floor(v / 256)) out[i] = v % 256;
  return out;
};

/** The numbers that firmware asks for first. */
export const fwCfgMachine = (m: {
  ramBytes: number;
  cpus: number;
  uuid?: Uint8Array;
}): Record<number, Uint8Array> => ({
  [FwCfgItem.uuid]: m.uuid ?? new Uint8Array(16),
  [FwCfgItem.ramSize]: fwCfgNumber(m.ramBytes, 8),
  [FwCfgItem.cpus]: fwCfgNumber(m.cpus, 2),
  [FwCfgItem.bootMenu]: fwCfgNumber(0, 2),
  [FwCfgItem.maxCpus]: fwCfgNumber(m.cpus, 2),
  [FwCfgItem.irq0Override]: fwCfgNumber(1, 4),
});

/** @throws RangeError on a mistake of the caller: names too long or twice, too many items or writable bytes. */
export function buildFwCfg(content: FwCfgContent): Uint8Array {
  const files = [...(content.files ?? [])].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  const directory = new Uint8Array(4 + files.length * (DirectoryEntry.bytes + nameBytes));
  const d = new DataView(directory.buffer);
  d.setUint32(0, files.length);
  const features = fwCfgNumber(3, 4); // traditional and DMA interface
  const items: { selector: number; data: Uint8Array; writable: boolean }[] = [
    { selector: FwCfgItem.signature, data: new TextEncoder().encode('QEMU'), writable: false },
    { selector: FwCfgItem.features, data: features, writable: false },
    { selector: FwCfgItem.directory, data: directory, writable: false },
    ...Object.entries(content.items ?? {}).map(([k, data]) => ({
      selector: Number(k),
      data,
      writable: false,
    })),
  ];
  files.forEach((f, i) => {
    const name = new TextEncoder().encode(f.name);
    if (name.length >= nameBytes || files[i - 1]?.name === f.name)
      throw new RangeError(`fw_cfg file '${f.name}' is named twice or longer than ${nameBytes - 1} bytes`);
    const at = 4 + i * (DirectoryEntry.bytes + nameBytes);
    d.setUint32(at, f.data.length);
    d.setUint16(at + 4, fwCfg.firstFile + i);
    directory.set(name, at + DirectoryEntry.bytes);
    items.push({ selector: fwCfg.firstFile + i, data: f.data, writable: f.writable ?? false });
  });
  items.sort((a, b) => a.selector - b.selector);
  if (items.length > fwCfg.maxItems)
    throw new RangeError(`${items.length} fw_cfg items, at most ${fwCfg.maxItems}`);

  let at = FwCfgHeader.bytes + items.length * FwCfgEntry.bytes;
  const bytes = items.reduce((n, i) => n + i.data.length, at);
  const buffer = new ArrayBuffer((bytes + 15) & ~15);
  const memory = new Memory(buffer);
  const header = view(FwCfgHeader, memory);
  header.magic = fwCfg.magic;
  header.version = fwCfg.version;
  header.items = items.length;
  header.bytes = buffer.byteLength;
  let writable = 0;
  items.forEach((item, i) => {
    const e = view(FwCfgEntry, memory, FwCfgHeader.bytes + i * FwCfgEntry.bytes);
    e.selector = item.selector;
    e.offset = at;
    e.size = item.data.length;
    if (item.writable) {
      e.flags = fwCfgWritable;
      e.writableAt = writable;
      writable += item.data.length;
    }
    memory.u8.set(item.data, at);
    at += item.data.length;
  });
  if (writable > fwCfg.writableBytes)
    throw new RangeError(`${writable} bytes of writable fw_cfg items, at most ${fwCfg.writableBytes}`);
  return memory.u8;
}

export interface FwCfgIndexEntry {
  offset: number;
  size: number;
  /** Offset in the writable bytes, or -1. */
  writableAt: number;
}

/** Items by selector. @throws Error `FW_CFG_INVALID` when the blob is not one. */
export function readFwCfgIndex(buffer: ArrayBuffer): Map<number, FwCfgIndexEntry> {
  const invalid = (what: string): Error =>
    Object.assign(new Error(`FW_CFG_INVALID: ${what} in a blob of ${buffer.byteLength} bytes`), {
      code: 'FW_CFG_INVALID',
    });
  if (buffer.byteLength < FwCfgHeader.bytes) throw invalid('no header');
  const memory = new Memory(buffer, 0, buffer.byteLength & ~3);
  const { magic, version, items } = view(FwCfgHeader, memory);
  if (magic !== fwCfg.magic || version !== fwCfg.version)
    throw invalid(`magic 0x${magic.toString(16)}, version ${version}`);
  if (items > fwCfg.maxItems || FwCfgHeader.bytes + items * FwCfgEntry.bytes > buffer.byteLength)
    throw invalid(`${items} items`);
  const index = new Map<number, FwCfgIndexEntry>();
  for (let i = 0; i < items; i++) {
    const { selector, flags, offset, size, writableAt } = view(
      FwCfgEntry,
      memory,
      FwCfgHeader.bytes + i * FwCfgEntry.bytes,
    );
    const isWritable = (flags & fwCfgWritable) !== 0;
    if (offset + size > buffer.byteLength || (isWritable && writableAt + size > fwCfg.writableBytes))
      throw invalid(`item 0x${selector.toString(16)} out of bounds`);
    index.set(selector, { offset, size, writableAt: isWritable ? writableAt : -1 });
  }
  return index;
}
