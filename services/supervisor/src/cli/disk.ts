/** `nyx disk`: images of disks. Names and options follow qemu-img; the work is done by the storage service's tool. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { Vm } from '@nyx/nyx';
import { files, list } from '@nyx/nyx/rundir';
import { type DiskFormat, diskFormats, isDiskFormat } from '@nyx/protocol/disk-formats';
import { NyxError } from '@nyx/protocol/errors';
import { isNbdUri } from '@nyx/protocol/nbd';
import { parseSize } from '@nyx/protocol/spec';
import { Command } from 'commander';
import { built } from '../paths.ts';
import { bytes, columns, dim, duration, print, progress } from './text.ts';

interface Check {
  leaks: number;
  corruptions: number;
  flags: number;
  leaksFixed: number;
  corruptionsFixed: number;
  allocated: number;
  compressed: number;
  total: number;
  end: number;
  problems: string[];
}

/** The machine that has a file open, if it says so in its specification. */
const userOf = (path: string): string | undefined => {
  const identity = (p: string): string | undefined => {
    const s = statSync(p, { throwIfNoEntry: false });
    return s && `${s.dev}:${s.ino}`;
  };
  const ours = identity(path);
  if (ours === undefined) return undefined;
  for (const machine of list()) {
    if (machine.kind === 'ended') continue;
    try {
      const { disks = [] } = JSON.parse(readFileSync(join(machine.dir, files.spec), 'utf8'));
      if (disks.some((d: { path: string }) => identity(d.path) === ours)) return machine.name;
    } catch {}
  }
  return undefined;
};

/** @throws NyxError */
async function tool<T>(request: Record<string, unknown>, what = ''): Promise<T> {
  const child = spawn(process.execPath, [built('services/storage/dist/disk.cjs'), JSON.stringify(request)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let result: { result: T } | undefined;
  for await (const line of createInterface({ input: child.stdout })) {
    const said = JSON.parse(line);
    if (said.progress !== undefined) progress(what, said.progress);
    else if (said.error) throw errorOf(said.error, String(request.path ?? request.from ?? ''));
    else result = said;
  }
  if (!result) throw new NyxError('HOST_ERROR', { got: 'the disk tool ended without an answer' });
  return result.result;
}

const errorOf = (e: { code: string; message: string }, path: string): NyxError => {
  const got = e.message.includes(path) ? e.message : `${path}: ${e.message}`;
  switch (e.code) {
    case 'ENOENT':
      return new NyxError('FILE_MISSING', { got });
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new NyxError('FILE_DENIED', { got });
    case 'BACKEND_MISSING':
      return new NyxError('BACKEND_MISSING', { expected: 'an NBD server', got });
    case 'FILE_IN_USE': {
      const user = userOf(path);
      return new NyxError('FILE_IN_USE', {
        expected: 'an image that no machine has open',
        got: user === undefined ? got : `${got} (used by '${user}')`,
      });
    }
    case 'FILE_KIND':
      return new NyxError('FILE_KIND', { got });
    case 'QCOW2_OPTION':
    case 'VHDX_OPTION':
    case 'QCOW2_SNAPSHOT':
      return new NyxError('USAGE', { got });
    default:
      return /^(QCOW2|VHDX|NBD)_/.test(e.code)
        ? new NyxError('DISK_INVALID', { got, hint: 'nyx disk check FILE tells more.' })
        : new NyxError('HOST_ERROR', { got });
  }
};

const wrong = (expected: string, got: string): NyxError => new NyxError('USAGE', { expected, got });

const sizeOf = (text: string): number => {
  const n = parseSize(text);
  if (n === undefined) throw wrong('a size such as 512M or 20G', text);
  return n;
};
const formatOf = (text: string): string => {
  if (!isDiskFormat(text)) throw wrong(`the format ${diskFormats.join(', ')}`, text);
  return text;
};
const onOff = (text: string, key: string): boolean => {
  if (text !== 'on' && text !== 'off') throw wrong(`${key}=on or ${key}=off`, text);
  return text === 'on';
};

const jsonOf = (output: string): boolean => {
  if (output !== 'human' && output !== 'json') throw wrong('--output human or --output json', output);
  return output === 'json';
};

/** `-o key=value,...` as of qemu-img. */
const optionsOf = (list: readonly string[]): Record<string, unknown> => {
  const o: Record<string, unknown> = {};
  // As in QEMU: two commas are one that belongs to a value.
  const pairs = list.flatMap((l) => l.replaceAll(',,', '\0').split(',')).map((p) => p.replaceAll('\0', ','));
  for (const pair of pairs) {
    const [, key, value] = /^([^=]*)=?(.*)$/s.exec(pair)! as unknown as [string, string, string];
    switch (key) {
      case 'compat':
        if (!/^(0\.10|v2|1\.1|v3)$/.test(value)) throw wrong('compat=0.10 or compat=1.1', value);
        o.version = value === '0.10' || value === 'v2' ? 2 : 3;
        break;
      case 'cluster_size':
        o.clusterBits = Math.log2(sizeOf(value));
        break;
      case 'refcount_bits':
        o.refcountOrder = Math.log2(Number(value));
        break;
      case 'lazy_refcounts':
        o.lazyRefcounts = onOff(value, key);
        break;
      case 'extended_l2':
        o.extendedL2 = onOff(value, key);
        break;
      case 'preallocation':
        if (!/^(off|metadata|falloc|full)$/.test(value))
          throw wrong('preallocation=off, metadata, falloc or full', value);
        o.preallocation = value;
        break;
      case 'compression_type':
        if (value !== 'zlib' && value !== 'zstd')
          throw wrong('compression_type=zlib or compression_type=zstd', value);
        o.compression = value === 'zlib' ? 0 : 1;
        break;
      case 'subformat':
        if (value !== 'dynamic' && value !== 'fixed')
          throw wrong('subformat=dynamic or subformat=fixed', value);
        o.subformat = value;
        break;
      case 'block_size':
        o.blockBytes = sizeOf(value);
        break;
      case 'log_size':
        o.logBytes = sizeOf(value);
        break;
      case 'backing_file':
        o.backing = value;
        break;
      case 'backing_fmt':
        o.backingFormat = formatOf(value);
        break;
      default:
        throw wrong(
          'compat, cluster_size, refcount_bits, lazy_refcounts, extended_l2, compression_type, preallocation, subformat, block_size, log_size, backing_file or backing_fmt',
          key,
        );
    }
  }
  return o;
};

/** A file of this host, or what a server has. */
const place = (text: string): string => (isNbdUri(text) ? text : resolve(text));

const collect = (v: string, all: string[]): string[] => [...all, v];
const OPTIONS = [
  '-o <key=value,...>',
  'qcow2: cluster_size, compat, compression_type, extended_l2, lazy_refcounts, refcount_bits; qcow2 and raw: preallocation; vhdx: subformat, block_size, log_size; both: backing_file, backing_fmt',
] as const;

const VM = ['--vm <name>', 'running machine; not needed when only one runs'] as const;
const SHARE = [
  '-U, --force-share',
  'read although a machine writes it; what is told may be half of a change',
] as const;

export const make = (): Command => {
  const disk = new Command('disk')
    .description('Images of disks: raw, qcow2 and vhdx.')
    .addHelpText(
      'after',
      '\nExamples:\n  nyx disk create -f qcow2 root.qcow2 20G\n  nyx disk create -f qcow2 -b base.qcow2 -F qcow2 work.qcow2\n  nyx disk info root.qcow2\n  nyx disk convert -O qcow2 old.img new.qcow2\n  nyx disk snapshot -c before-upgrade root.qcow2\n  nyx disk resize root.qcow2 +10G\n  nyx disk check -r all root.qcow2',
    );
  disk
    .command('create')
    .description('makes an empty image')
    .argument('<file>')
    .argument('[size]', 'such as 20G; not needed with -b')
    .option('-f <format>', 'raw, qcow2 or vhdx', 'raw')
    .option('-b <file>', 'backing file: what the image does not have is read from there')
    .option('-F <format>', 'format of the backing file')
    .option('-u', 'the backing file need not be there')
    .option(...OPTIONS, collect, [])
    .action(
      async (
        file: string,
        size: string | undefined,
        o: { f: string; b?: string; F?: string; u?: boolean; o: string[] },
      ) => {
        const r = await tool<{ size: number }>({
          command: 'create',
          path: resolve(file),
          format: formatOf(o.f),
          ...optionsOf(o.o),
          ...(size === undefined ? {} : { size: sizeOf(size) }),
          unchecked: o.u,
          ...(o.b === undefined ? {} : { backing: o.b }),
          ...(o.F === undefined ? {} : { backingFormat: formatOf(o.F) }),
        });
        print(`${file}: ${o.f}, ${bytes(r.size)}`);
      },
    );
  disk
    .command('info')
    .description('tells what an image is')
    .argument('<file>')
    .option('-f <format>', 'instead of looking')
    .option('--output <kind>', 'human or json', 'human')
    .option(...SHARE)
    .action(async (file: string, o: { f?: string; output: string; forceShare?: boolean }) => {
      const i = await tool<Record<string, unknown>>({
        command: 'info',
        path: place(file),
        forceShare: o.forceShare,
        ...(o.f ? { format: formatOf(o.f) } : {}),
      });
      if (jsonOf(o.output)) return print(JSON.stringify(i, null, 2));
      const rows: string[][] = [];
      const add = (values: Record<string, unknown>): void => {
        for (const [k, v] of Object.entries(values)) {
          if (Array.isArray(v)) {
            for (const e of v)
              rows.push([
                dim(k),
                typeof e === 'string'
                  ? e
                  : `${e.id}  ${e.name}  ${new Date(e['date-sec'] * 1000).toISOString()}`,
              ]);
          } else if (v !== null && typeof v === 'object') add(v as Record<string, unknown>);
          else
            rows.push([
              dim(k),
              typeof v === 'number' && k.endsWith('-size') ? `${bytes(v)} (${v} bytes)` : String(v),
            ]);
        }
      };
      add(i);
      print(columns(rows));
    });
  disk
    .command('check')
    .description('checks a qcow2 or vhdx image; exit status 0: good, 2: errors, 3: only leaked space')
    .argument('<file>')
    .option('-r <what>', 'repair: leaks or all')
    .option('-f <format>', 'instead of looking')
    .option('--output <kind>', 'human or json', 'human')
    .option(...SHARE)
    .action(async (file: string, o: CheckFlags) => {
      if (o.r !== undefined && o.r !== 'leaks' && o.r !== 'all') throw wrong('-r leaks or -r all', o.r);
      const c = await tool<Check>(
        {
          command: 'check',
          path: resolve(file),
          repair: o.r ?? 'none',
          forceShare: o.forceShare,
          ...(o.f ? { format: formatOf(o.f) } : {}),
        },
        `checking ${file}`,
      );
      const left = c.corruptions - c.corruptionsFixed + (o.r === 'all' ? 0 : c.flags);
      const leaks = c.leaks - c.leaksFixed;
      process.exitCode = left > 0 ? 2 : leaks > 0 ? 3 : 0;
      if (jsonOf(o.output)) return print(JSON.stringify(checkReport(file, c, left, leaks), null, 2));
      for (const p of c.problems) print(p);
      if (c.leaksFixed + c.corruptionsFixed > 0)
        print(`Repaired: ${c.leaksFixed} leaks, ${c.corruptionsFixed} errors.`);
      print(
        left + leaks === 0
          ? 'No errors were found on the image.'
          : `${left} errors, ${leaks} leaked clusters.`,
      );
      const percent = c.total === 0 ? 0 : (100 * c.allocated) / c.total;
      print(
        `${c.allocated}/${c.total} clusters allocated (${percent.toFixed(1)} %), ${c.compressed} compressed`,
      );
    });
  disk
    .command('convert')
    .description('copies a disk into a new image; zeroes take no space')
    .argument('<from>', 'file, or nbd://HOST/EXPORT')
    .argument('<to>', 'new file, or an export of an NBD server that is there already')
    .option('-f <format>', 'of the source, instead of looking')
    .option('-O <format>', 'of the new image', 'raw')
    .option('-c', 'compresses it (qcow2)')
    .option('-n', 'the target is there already, and at least as large')
    .option(...OPTIONS, collect, [])
    .option(...SHARE)
    .action(
      async (
        from: string,
        to: string,
        o: { f?: string; O: string; c?: boolean; n?: boolean; o: string[]; forceShare?: boolean },
      ) => {
        if (place(from) === place(to)) throw wrong('two files', from);
        const r = await tool<{ size: number }>(
          {
            command: 'convert',
            from: place(from),
            forceShare: o.forceShare,
            compress: o.c,
            existing: o.n,
            ...(o.f ? { format: formatOf(o.f) } : {}),
            to: { path: place(to), format: formatOf(o.O), ...optionsOf(o.o) },
          },
          `${from} -> ${to}`,
        );
        print(`${to}: ${o.O}, ${bytes(r.size)}`);
      },
    );
  disk
    .command('snapshot')
    .description(
      'lists (-l), takes (-c), deletes (-d) or applies (-a) a snapshot inside a qcow2 image; of a disk of a running machine: takes (-c), deletes (-d), or puts a new image over it (--overlay)',
    )
    .argument('<file>', 'an image, or a disk of a running machine like disk0')
    .option('--overlay <file>', 'of a running machine: new qcow2 image over the disk')
    .option(...VM)
    .option('-l', 'list')
    .option('-c <name>', 'take')
    .option('-d <name>', 'delete')
    .option('-a <name>', 'apply: the disk becomes as it was')
    .option(...SHARE)
    .action(async (file: string, o: SnapshotFlags) => {
      if (isRunning(file))
        return hot(o.vm, async (vm) => {
          const what =
            o.overlay !== undefined
              ? { path: o.overlay }
              : o.c !== undefined
                ? { create: o.c }
                : o.d !== undefined
                  ? { remove: o.d }
                  : undefined;
          if (what === undefined)
            throw wrong('--overlay FILE, -c NAME or -d NAME for a disk of a running machine', file);
          return vm.snapshotDisk(file, what);
        });
      const [action, name] =
        o.c !== undefined
          ? ['create', o.c]
          : o.d !== undefined
            ? ['delete', o.d]
            : o.a !== undefined
              ? ['apply', o.a]
              : ['list', ''];
      const list = await tool<{ id: string; name: string; seconds: number }[]>({
        command: 'snapshot',
        path: resolve(file),
        action,
        name,
        forceShare: o.forceShare,
      });
      if (list.length === 0) return print('No snapshots.');
      print(
        columns([
          ['ID', 'NAME', 'TAKEN'].map(dim),
          ...list.map((s) => [s.id, s.name, new Date(s.seconds * 1000).toISOString()]),
        ]),
      );
    });
  disk
    .command('resize')
    .description('makes a disk larger')
    .argument('<file>', 'an image, or a disk of a running machine like disk0')
    .option(...VM)
    .argument('<size>', 'such as 30G, or +10G')
    .option('-f <format>', 'raw, qcow2 or vhdx, instead of looking')
    .action(async (file: string, size: string, o: { f?: string; vm?: string }) => {
      const relative = size.startsWith('+');
      if (size.startsWith('-')) throw wrong('a larger size: a disk can only grow', size);
      if (isRunning(file))
        return hot(o.vm, (vm) => vm.resizeDisk(file, sizeOf(relative ? size.slice(1) : size), relative));
      const r = await tool<{ size: number }>({
        command: 'resize',
        path: resolve(file),
        ...(o.f ? { format: formatOf(o.f) } : {}),
        size: sizeOf(relative ? size.slice(1) : size),
        relative,
      });
      print(`${file}: ${bytes(r.size)}`);
    });
  disk
    .command('commit')
    .description(
      'writes the topmost image of a disk of a running machine into the one below, and goes on without it',
    )
    .argument('<disk>', 'like disk0')
    .option(...VM)
    .action((name: string, o: { vm?: string }) => hot(o.vm, (vm) => vm.commitDisk(name)));
  disk
    .command('mirror')
    .description(
      'copies a disk of a running machine into a new image while the guest goes on, then goes on with the copy',
    )
    .argument('<disk>', 'like disk0')
    .argument('<file>')
    .option('-O <format>', 'of the new image', 'qcow2')
    .option(...VM)
    .action((name: string, file: string, o: { O: string; vm?: string }) =>
      hot(o.vm, (vm) => vm.mirrorDisk(name, file, formatOf(o.O) as DiskFormat)),
    );
  return disk;
};

interface CheckFlags {
  r?: string;
  f?: string;
  output: string;
  forceShare?: boolean;
}

/** As `qemu-img check --output json` says it. */
const checkReport = (file: string, c: Check, left: number, leaks: number): Record<string, unknown> => ({
  filename: file,
  'check-errors': 0,
  corruptions: left,
  leaks,
  ...(c.corruptionsFixed > 0 ? { 'corruptions-fixed': c.corruptionsFixed } : {}),
  ...(c.leaksFixed > 0 ? { 'leaks-fixed': c.leaksFixed } : {}),
  'total-clusters': c.total,
  'allocated-clusters': c.allocated,
  'compressed-clusters': c.compressed,
  ...(c.end > 0 ? { 'image-end-offset': c.end } : {}),
  problems: c.problems,
});

interface SnapshotFlags {
  c?: string;
  d?: string;
  a?: string;
  overlay?: string;
  vm?: string;
  forceShare?: boolean;
}

/** A disk of a machine, not a file. */
const isRunning = (name: string): boolean => /^disk\d+$/.test(name) && !existsSync(name);

/** Does something to a disk of a running machine, and shows how far it is. */
async function hot(
  name: string | undefined,
  work: (vm: Vm) => Promise<{ name: string; downNs: number }>,
): Promise<void> {
  const vm = Vm.connect(name);
  const live = vm.events();
  void (async () => {
    for await (const e of live) if (e.type === 'job') progress(`${e.job} of ${e.device}`, e.fraction);
  })().catch(() => {});
  try {
    const r = await work(vm);
    print(`${r.name}: done; it was away for ${duration(r.downNs)}.`);
  } finally {
    await live.return?.(undefined);
    vm.close();
  }
}
