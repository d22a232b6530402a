/** Media of CD drives in a machine that runs: list, eject, insert. */
import { Vm } from '@nyx/nyx';
import { Command } from 'commander';
import { columns, dim, print } from './text.ts';

const machine = ['--vm <machine>', 'name; not needed when only one runs'] as const;
const drive = ['--drive <name>', 'cd0, cd1 ...; not needed where there is one'] as const;

interface Options {
  vm?: string;
  drive?: string;
  force?: boolean;
}

const ls = (): Command =>
  new Command('ls')
    .description('CD drives, what is in them, and whether the guest has locked them.')
    .option(...machine)
    .option('--json', 'for programs')
    .addHelpText('after', '\nExamples:\n  nyx cd ls\n  nyx cd ls --json')
    .action(async (o: Options & { json?: boolean }) => {
      const vm = Vm.connect(o.vm);
      const drives = await vm.cds();
      if (o.json) print(JSON.stringify(drives));
      else if (drives.length === 0) print('No CD drive. A machine gets one with --cdrom.');
      else
        print(
          columns([
            ['DRIVE', 'TRAY', 'LOCKED', 'MEDIUM'].map(dim),
            ...drives.map((d) => [
              d.name,
              d.open ? 'open' : 'closed',
              d.locked ? 'yes' : 'no',
              d.path ?? '-',
            ]),
          ]),
        );
      vm.close();
    });

const eject = (): Command =>
  new Command('eject')
    .description('Takes the medium out. A guest that has locked the drive is asked to give it free.')
    .option(...drive)
    .option('--force', 'although the guest has locked the drive')
    .option(...machine)
    .addHelpText('after', '\nExamples:\n  nyx cd eject\n  nyx cd eject --drive cd1 --force')
    .action(async (o: Options) => {
      const vm = Vm.connect(o.vm);
      const done = await vm.ejectCd(o.drive, o.force ?? false);
      print(done ? 'The tray is open and empty.' : 'The guest has locked the drive; it was asked to eject.');
      if (!done) process.exitCode = 75;
      vm.close();
    });

const insert = (): Command =>
  new Command('insert')
    .description('Puts an ISO image in, instead of the one that is there.')
    .argument('<file>', 'ISO image')
    .option(...drive)
    .option('--force', 'although the guest has locked the drive')
    .option(...machine)
    .addHelpText('after', '\nExamples:\n  nyx cd insert debian-12.iso\n  nyx cd insert tools.iso --drive cd1')
    .action(async (file: string, o: Options) => {
      const vm = Vm.connect(o.vm);
      await vm.insertCd(file, o.drive, o.force ?? false);
      print(`${file} is in the drive.`);
      vm.close();
    });

export const make = (): Command =>
  new Command('cd')
    .description('CD drives: list, eject and insert media while the guest runs.')
    .addCommand(ls())
    .addCommand(eject())
    .addCommand(insert());
