/** From the descriptors of a role to a driver: one file, an image and what lies under it, or nothing at all. */
import { diskFormats } from '@nyx/protocol/disk-formats';
import type { OpenBlock } from './block.ts';
import { hostIo, patientIo } from './host.ts';
import { NbdDisk } from './nbd/disk.ts';
import { NullDisk } from './null.ts';
import { Qcow2Disk } from './qcow2/disk.ts';
import { Journal as Qcow2Journal } from './qcow2/journal.ts';
import { Tables as Qcow2Tables } from './qcow2/tables.ts';
import { RawDisk } from './raw.ts';
import { checkChain, VhdxDisk } from './vhdx/disk.ts';
import { VhdxImage } from './vhdx/image.ts';
import { Journal as VhdxJournal } from './vhdx/journal.ts';
import { Tables as VhdxTables } from './vhdx/tables.ts';

/** One file of a disk. */
export interface DiskLayer {
  /** One of diskFormats, 'null': no file, or 'nbd': a server has it. */
  format: string;
  /** Bytes of the file; without one, of the disk. */
  size: number;
}

/** What of a configuration is about the files of a disk. */
export interface DiskConfig {
  readOnly?: boolean;
  /** Offer discard to the guest (default true). */
  discard?: boolean;
  /** Bytes, for a block device; default: the size of the file. */
  size?: number;
  /** Files of an image, the topmost first; without it one raw file. */
  layers?: DiskLayer[];
  /** Of an NBD server. */
  exportName?: string;
  /** Seconds that requests wait for it; without it, without end. */
  reconnectDelay?: number;
}

/** What is wrong with the layers of a configuration, if anything. */
export const badLayers = (layers: unknown): string | undefined => {
  const known: readonly unknown[] = [...diskFormats, 'null', 'nbd'];
  const good =
    layers === undefined ||
    (Array.isArray(layers) &&
      layers.every((l) => Number.isSafeInteger(l?.size) && known.includes(l?.format)));
  return good ? undefined : `layers, expected a list of { format: ${known.join(' or ')}, size }`;
};

/** Descriptors and memory by name. */
export interface DiskSource {
  fd(name: string): number;
  has(name: string): boolean;
  bulk(name: string): ArrayBuffer;
  /**
   * Nobody minds when the process stands still while the host makes a write wait: then writes are done without a way through
   * the kernel's threads. A device of a machine answers exits, and is killed when its heart stops.
   */
  readonly mayWait?: boolean;
  /** Tells the supervisor: 'connect' asks for a connection to the NBD server. */
  tell?(event: string, detail: Record<string, never>): void;
  log?(level: 'info', message: string): void;
}

/**
 * A disk: descriptor `file`. With `layers` in its configuration that is the topmost of several, the others are `layer1`,
 * `layer2` ..., and `journal` is memory that outlives the process. `journal1` is that of a predecessor that wrote `layer1`
 * while it was the topmost: what it holds is written out first.
 */
export const openDisk =
  (source: DiskSource, config: DiskConfig): OpenBlock =>
  (memory, completed) => {
    const { readOnly = false, discard = true, size, layers } = config;
    const [top, under] = layers ?? [];
    const { mayWait = false } = source;
    const io = mayWait ? patientIo : hostIo;
    if (top?.format === 'nbd')
      return new NbdDisk(
        {
          exportName: config.exportName ?? '',
          size: top.size,
          readOnly,
          discard,
          ...(config.reconnectDelay === undefined ? {} : { reconnectDelay: config.reconnectDelay }),
          ...(source.has('connection') ? { fd: source.fd('connection') } : {}),
          connect: () => source.tell?.('connect', {}),
          note: (text) => source.log?.('info', text),
        },
        memory,
        completed,
      );
    if (top?.format === 'null') return new NullDisk(top.size, readOnly, memory, completed);
    if (top === undefined || top.format === 'raw')
      return new RawDisk(
        {
          fd: source.fd('file'),
          readOnly,
          discard,
          ...(source.has('direct') ? { direct: source.fd('direct') } : {}),
          mayWait,
          ...(size === undefined ? {} : { size }),
        },
        memory,
        completed,
      );
    const fds = layers!.map((_, i) => source.fd(i === 0 ? 'file' : `layer${i}`));
    const journal = source.has('journal') ? { journal: source.bulk('journal') } : {};
    if (top.format === 'vhdx')
      return new VhdxDisk(
        io,
        { files: fds.map((fd) => ({ fd })), readOnly, discard, ...journal },
        memory,
        completed,
      );
    if (under?.format === 'qcow2' && source.has('journal1')) {
      const left = new Qcow2Journal(source.bulk('journal1'));
      if (!left.empty) new Qcow2Tables(hostIo, fds[1]!, left);
    }
    // A VHDX image under an overlay, with its own parents.
    const vhdx = layers!.findIndex((l) => l.format === 'vhdx');
    if (vhdx > 0 && source.has('journal1') && vhdx === 1) {
      const left = new VhdxJournal(source.bulk('journal1'));
      if (!left.empty) new VhdxTables(hostIo, fds[1]!, left).close();
    }
    const files = layers!.map((l, i) => ({
      fd: fds[i]!,
      qcow2: l.format === 'qcow2',
      ...(l.format === 'vhdx' ? { layer: new VhdxImage(hostIo, fds[i]!) } : {}),
      ...(l.format === 'raw' ? { size: l.size } : {}),
    }));
    checkChain(files.flatMap((f) => ('layer' in f && f.layer ? [f.layer] : [])));
    return new Qcow2Disk(io, { files, readOnly, discard, ...journal }, memory, completed);
  };
