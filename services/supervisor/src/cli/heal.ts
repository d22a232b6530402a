import { Vm } from '@nyx/nyx';
import { Command } from 'commander';
import { print } from './text.ts';

export const make = (): Command =>
  new Command('heal')
    .description(
      'Brings a device back that was isolated or given up: it goes on where it was, or begins anew if its state was damaged.',
    )
    .argument('<device>', 'device or process')
    .option('--vm <machine>', 'name; not needed when only one runs')
    .addHelpText('after', '\nExamples:\n  nyx heal disk0\n  nyx heal platform --vm debian')
    .action(async (device: string, o: { vm?: string }) => {
      const vm = Vm.connect(o.vm);
      const healed = await vm.healDevice(device);
      vm.close();
      print(healed ? `'${device}' gets another process.` : `'${device}' is served already.`);
    });
