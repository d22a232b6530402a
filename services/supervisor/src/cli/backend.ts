/** `nyx backend`: what stands behind the disks of a machine that runs. */
import { Vm } from '@nyx/nyx';
import { isDiskFormat } from '@nyx/protocol/disk-formats';
import { NyxError } from '@nyx/protocol/errors';
import { Command } from 'commander';
import { columns, dim, duration, print } from './text.ts';

const VM = ['--vm <name>', 'machine; not needed when only one runs'] as const;

const list = (): Command =>
  new Command('ls')
    .description('Disks and their files, the topmost first.')
    .option(...VM)
    .option('--json', 'for programs')
    .addHelpText('after', '\nExamples:\n  nyx backend ls\n  nyx backend ls --vm debian --json')
    .action(async (o: { vm?: string; json?: boolean }) => {
      const vm = Vm.connect(o.vm);
      const disks = await vm.disks();
      vm.close();
      if (o.json) return print(JSON.stringify(disks));
      if (disks.length === 0) return print('No disks.');
      const rows = disks.map((d) => [d.name, d.format, d.chain.join(' <- ') || d.path]);
      print(columns([['DISK', 'FORMAT', 'FILES'].map(dim), ...rows]));
    });

const swap = (): Command =>
  new Command('swap')
    .description(
      'Puts another program, or other files with the same content, behind a disk. Requests under way are not lost.',
    )
    .argument('<disk>', 'e.g. disk0')
    .argument('[file]', 'image with the same content; without one the files stay')
    .option('-f <format>', 'format of the image: raw, qcow2 or vhdx (default: as now)')
    .option('--service <file>', 'program that serves the disk: a bundle as of services/storage')
    .option(...VM)
    .addHelpText(
      'after',
      '\nExamples:\n  nyx backend swap disk0                          a new process of the same program\n  nyx backend swap disk0 --service ./storage.cjs  another version of it\n  nyx backend swap disk0 copy.qcow2 -f qcow2      a copy of the image',
    )
    .action(
      async (disk: string, file: string | undefined, o: { f?: string; service?: string; vm?: string }) => {
        if (o.f !== undefined && !isDiskFormat(o.f))
          throw new NyxError('USAGE', { expected: 'the format raw, qcow2 or vhdx', got: o.f });
        const vm = Vm.connect(o.vm);
        const r = await vm.swapBackend(disk, {
          ...(file === undefined ? {} : { path: file }),
          ...(o.f === undefined ? {} : { format: o.f }),
          ...(o.service === undefined ? {} : { service: o.service }),
        });
        vm.close();
        print(`${disk} was away for ${duration(r.downNs)}.`);
      },
    );

export const make = (): Command =>
  new Command('backend')
    .description('What stands behind the disks of a machine that runs.')
    .addCommand(list())
    .addCommand(swap());
