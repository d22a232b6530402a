import { Vm } from '@nyx/nyx';
import { Command } from 'commander';
import { bytes, duration, print } from './text.ts';

export const make = (): Command =>
  new Command('rollback')
    .description(
      'The machine goes on where it was when its checkpoint was taken, disks included. What happened since has not happened; the checkpoint stays.',
    )
    .argument('[machine]', 'name; not needed when only one runs')
    .addHelpText('after', '\nExamples:\n  nyx rollback\n  nyx rollback debian')
    .action(async (machine?: string) => {
      const vm = Vm.connect(machine);
      const r = await vm.rollback();
      print(
        `'${vm.name}' is ${duration(r.lostNs)} younger, after ${duration(r.ns)}; ${bytes(r.bytes)} of memory were put back.`,
      );
      vm.close();
    });
