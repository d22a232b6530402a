import { rmSync } from 'node:fs';
import { forceStop, Vm } from '@nyx/nyx';
import { find } from '@nyx/nyx/rundir';
import { Command } from 'commander';
import { number } from './run.ts';
import { print } from './text.ts';

export const make = (): Command =>
  new Command('stop')
    .description(
      'Presses the power button; a guest that does not power off in time is ended. Clears away what is left of a failed machine.',
    )
    .argument('[machine]', 'name; not needed when only one runs')
    .option('--timeout <seconds>', 'how long the guest may take', '30')
    .option('--force', 'end it at once; works without its supervisor too')
    .addHelpText('after', '\nExamples:\n  nyx stop\n  nyx stop debian --timeout 5\n  nyx stop debian --force')
    .action(async (machine: string | undefined, o: { timeout: string; force?: boolean }) => {
      const timeout = number(o.timeout, '--timeout');
      const info = find(machine);
      if (info.kind === 'ended' || (info.kind === 'orphaned' && o.force)) {
        forceStop(info);
        rmSync(info.dir, { recursive: true, force: true });
        return print(`'${info.name}' is gone.`);
      }
      const vm = Vm.connect(info.name);
      try {
        const { forced } = await vm.stop(o.force ? 0 : timeout);
        print(forced ? `'${vm.name}' was ended.` : `'${vm.name}' powered off.`);
      } catch (e) {
        if (!o.force) throw e;
        // Its supervisor is there and does not answer.
        forceStop(info);
        rmSync(info.dir, { recursive: true, force: true });
        print(`'${info.name}' was ended.`);
      }
    });
