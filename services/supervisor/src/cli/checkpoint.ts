/** Checkpoints: take, list, let go. */
import { Vm } from '@nyx/nyx';
import { Command } from 'commander';
import { bytes, columns, dim, duration, print } from './text.ts';

const MACHINE = ['[machine]', 'name; not needed when only one runs'] as const;

const ls = (): Command =>
  new Command('ls')
    .description('The checkpoint, if there is one.')
    .argument(...MACHINE)
    .option('--json', 'for programs')
    .addHelpText('after', '\nExamples:\n  nyx checkpoint ls\n  nyx checkpoint ls debian --json')
    .action(async (machine: string | undefined, o: { json?: boolean }) => {
      const vm = Vm.connect(machine);
      const all = await vm.checkpoints();
      vm.close();
      if (o.json) return print(JSON.stringify(all));
      if (all.checkpoints.length === 0) return print('No checkpoint. nyx checkpoint takes one.');
      print(
        columns([
          ['TAKEN', 'GUEST TIME', 'MEMORY'].map(dim),
          ...all.checkpoints.map((c) => [
            new Date(c.at).toISOString(),
            duration(c.guestNs),
            c.lost ? 'lost' : bytes(c.bytes),
          ]),
        ]),
      );
    });

const rm = (): Command =>
  new Command('rm')
    .description(
      'Lets the checkpoint go: what the guest wrote since goes into its disks, and the memory is free.',
    )
    .argument(...MACHINE)
    .addHelpText('after', '\nExamples:\n  nyx checkpoint rm')
    .action(async (machine?: string) => {
      const vm = Vm.connect(machine);
      await vm.dropCheckpoint();
      print(`'${vm.name}' has no checkpoint any more.`);
      vm.close();
    });

export const make = (): Command =>
  new Command('checkpoint')
    .description(
      'Remembers a machine as it is, disks included, in memory: `nyx rollback` goes back to it, and so does a policy (docs/checkpoints.md). It replaces the last one.',
    )
    .argument(...MACHINE)
    .addHelpText(
      'after',
      '\nExamples:\n  nyx checkpoint\n  nyx checkpoint debian\n  nyx checkpoint ls\n  nyx checkpoint rm',
    )
    .action(async (machine?: string) => {
      const vm = Vm.connect(machine);
      const t = await vm.checkpoint();
      const memory =
        t.bytes > 0
          ? `${bytes(t.bytes)} of memory were copied`
          : 'memory is saved page by page, when the guest writes to it';
      print(`'${vm.name}' stood still for ${duration(t.pauseNs)}; ${memory}.`);
      vm.close();
    })
    .addCommand(ls())
    .addCommand(rm());
