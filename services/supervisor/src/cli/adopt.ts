import { Vm } from '@nyx/nyx';
import { Command } from 'commander';
import { print } from './text.ts';

export const make = (): Command =>
  new Command('adopt')
    .description(
      'Gives a machine another supervisor when its own has died. That happens by itself, and every command that needs it does the same; this one tells how it went.',
    )
    .argument('[machine]', 'name; not needed when only one runs')
    .addHelpText('after', '\nExamples:\n  nyx adopt\n  nyx adopt debian')
    .action(async (machine?: string) => {
      const vm = Vm.connect(machine);
      await vm.supervised;
      const { state, pid } = await vm.status();
      print(`'${vm.name}' is ${state}; its supervisor is process ${pid}.`);
      vm.close();
    });
