import { Vm } from '@nyx/nyx';
import { Command } from 'commander';
import { duration, print } from './text.ts';

export const make = (): Command =>
  new Command('upgrade')
    .description(
      'Another build of the program behind a device takes over while the guest runs. A build that cannot load the state of the device is refused, and the old one goes on.',
    )
    .argument('<device>', "device or process, e.g. disk0 or platform ('nyx status' lists them)")
    .argument('[machine]', 'name; not needed when only one runs')
    .requiredOption('--service <path>', 'bundle of the new build, e.g. services/storage/dist/storage.cjs')
    .option('--json', 'for programs')
    .addHelpText(
      'after',
      '\nExamples:\n  nyx upgrade disk0 --service /opt/nyx-2/storage.cjs\n  nyx upgrade platform debian --service ./platform.cjs',
    )
    .action(async (device: string, machine: string | undefined, o: { service: string; json?: boolean }) => {
      const vm = Vm.connect(machine);
      const r = await vm.upgrade(device, o.service);
      vm.close();
      if (o.json) return print(JSON.stringify(r));
      const state = r.migrated.length > 0 ? `; the state of ${r.migrated.join(', ')} was migrated` : '';
      print(`${r.process} is served by ${o.service}; it was away for ${duration(r.ns)}${state}.`);
    });
