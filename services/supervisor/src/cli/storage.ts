/** `nyx storage serve`: a disk for any program that speaks vhost-user. */
import { resolve } from 'node:path';
import { diskFormats } from '@nyx/protocol/disk-options';
import { NyxError } from '@nyx/protocol/errors';
import { parseSize } from '@nyx/protocol/spec';
import { Command, Option } from 'commander';
import { askResize } from '../storage-control.ts';
import { StorageServer } from '../storage-server.ts';
import { bytes, note, print } from './text.ts';

interface Flags {
  socket: string;
  format?: (typeof diskFormats)[number];
  readonly?: boolean;
  forceShare?: boolean;
  numQueues: string;
  serial: string;
  logicalBlockSize: string;
  pollMaxNs: string;
  lifetime?: boolean;
}

const integer = (text: string, flag: string, least: number, most: number): number => {
  const n = Number(text);
  if (!Number.isInteger(n) || n < least || n > most || text.trim() === '')
    throw new NyxError('USAGE', {
      expected: `${flag} with a number from ${least} to ${most}`,
      got: `'${text}'`,
    });
  return n;
};

const serve = (): Command =>
  new Command('serve')
    .description('Serves a disk image on a socket, as a vhost-user-blk back-end.')
    .argument('<image>', 'image file or block device')
    .requiredOption('--socket <path>', 'socket to listen on; one front-end at a time')
    .addOption(
      new Option('--format <format>', 'what the image is (default raw; never guessed)').choices(diskFormats),
    )
    .option('--readonly', 'the front-end may not write')
    .option('--force-share', 'read-only, of an image that others may write meanwhile')
    .option('--num-queues <n>', 'queues that a front-end may use, 1 to 8', '8')
    .option('--serial <text>', 'serial number, up to 20 characters', 'nyx-storage')
    .option('--logical-block-size <bytes>', '512 or 4096', '512')
    .option('--lifetime', 'tell how worn the medium below the image is, where the host knows (eMMC)')
    .option('--poll-max-ns <ns>', 'longest time to look for work before sleeping; 0: never', '50000')
    .addHelpText(
      'after',
      `
Examples:
  nyx storage serve --socket /tmp/disk.sock root.img
  nyx storage serve --socket /tmp/disk.sock --format qcow2 --num-queues 4 root.qcow2
  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=ram,size=1G,share=on -machine q35,memory-backend=ram \\
    -chardev socket,id=disk,path=/tmp/disk.sock,reconnect=1 -device vhost-user-blk-pci,chardev=disk

The process that serves the image may be killed: another one takes its place, and a front-end that reconnects loses
no request (docs/vhost-user.md).`,
    )
    .action(async (image: string, f: Flags) => {
      const size = integer(f.logicalBlockSize, '--logical-block-size', 512, 4096);
      if (size !== 512 && size !== 4096)
        throw new NyxError('USAGE', {
          expected: '--logical-block-size 512 or 4096',
          got: f.logicalBlockSize,
        });
      if (!/^[\x20-\x7e]{0,20}$/.test(f.serial))
        throw new NyxError('USAGE', {
          expected: '--serial with at most 20 printable characters',
          got: f.serial,
        });
      await new Promise<void>((done, fail) => {
        const server = new StorageServer(
          {
            socket: resolve(f.socket),
            path: resolve(image),
            format: f.format,
            readonly: f.readonly === true || f.forceShare === true,
            forceShare: f.forceShare === true,
            queues: integer(f.numQueues, '--num-queues', 1, 8),
            serial: f.serial,
            blockBytes: size,
            lifetime: f.lifetime === true,
            spinNs: integer(f.pollMaxNs, '--poll-max-ns', 0, 10_000_000),
          },
          {
            log: (level, message) => {
              if (level !== 'debug') note(message);
            },
            serving(pid, n, missing) {
              for (const m of missing) note(`jail: ${m}`);
              note(
                `${image}: ${bytes(n)}${f.readonly ? ', read-only' : ''}, served on ${f.socket} by process ${pid}`,
              );
            },
            failed: fail,
          },
        );
        const end = (): void => void server.close().then(done);
        process.once('SIGINT', end);
        process.once('SIGTERM', end);
      });
    });

const resize = (): Command =>
  new Command('resize')
    .description('Makes the disk that is served on a socket larger; the front-end is told.')
    .argument('<socket>', 'as after `nyx storage serve --socket`')
    .argument('<size>', 'such as 30G, or +10G')
    .addHelpText(
      'after',
      `
Examples:
  nyx storage resize /tmp/disk.sock +10G

The process that serves is replaced: the front-end must reconnect (QEMU: reconnect=1; a guest of Nyx does).`,
    )
    .action(async (socket: string, text: string) => {
      const relative = text.startsWith('+');
      const size = parseSize(relative ? text.slice(1) : text);
      if (size === undefined)
        throw new NyxError('USAGE', { expected: 'a size such as 30G or +10G', got: text });
      const now = await askResize(resolve(socket), size, relative);
      print(`${socket}: ${bytes(now)}`);
    });

export const make = (): Command =>
  new Command('storage').description('Disks for other programs.').addCommand(serve()).addCommand(resize());
