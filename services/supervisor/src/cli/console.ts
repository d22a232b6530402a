import { Vm } from '@nyx/nyx';
import { Command } from 'commander';
import { attach } from './attach.ts';
import { note } from './text.ts';

export const make = (): Command =>
  new Command('console')
    .description("The serial console of a machine. Ctrl-] leaves it; all other keys are the guest's.")
    .argument('[machine]', 'name; not needed when only one runs')
    .addHelpText('after', '\nExamples:\n  nyx console\n  nyx console debian')
    .action(async (machine?: string) => {
      const vm = Vm.connect(machine);
      if (process.stdin.isTTY) note(`Console of '${vm.name}'. Ctrl-] leaves.`);
      const how = await attach(vm);
      note(how === 'left' ? `\n'${vm.name}' goes on.` : `\n'${vm.name}' has ended.`);
      vm.close();
    });
