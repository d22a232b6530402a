import { setTimeout as sleep } from 'node:timers/promises';
import { Vm } from '@nyx/nyx';
import type { Recovered } from '@nyx/protocol/control';
import { NyxError } from '@nyx/protocol/errors';
import { Command } from 'commander';
import { duration, print } from './text.ts';

export interface Killed {
  process: string;
  pid: number;
  recovery: Recovered;
}

/** Kills the process of `target` and waits until its successor serves. @throws NyxError DEVICE_UNKNOWN, DEVICE_CRASH_LOOP, DEVICE_SILENT */
export const killAndWait = async (vm: Vm, target: string): Promise<Killed> => {
  const before = await vm.status();
  const { process: name, pid } = await vm.kill(target);
  const restarts = before.processes.find((p) => p.name === name)?.restarts ?? 0;
  for (let tries = 0; tries < 500; tries++) {
    const p = (await vm.status()).processes.find((x) => x.name === name)!;
    if (p.state === 'isolated')
      throw new NyxError('DEVICE_CRASH_LOOP', { got: `${name}: ${p.error?.got ?? 'isolated'}` });
    if (p.restarts > restarts && p.lastRecovery && p.state === 'serving')
      return { process: name, pid, recovery: p.lastRecovery };
    await sleep(20);
  }
  throw new NyxError('DEVICE_SILENT', {
    expected: `a successor of ${name} (${pid})`,
    got: 'none within 10 s',
  });
};

export const make = (): Command =>
  new Command('kill')
    .description(
      'SIGKILL to the process of a device, to see that the guest does not notice; waits for its recovery.',
    )
    .argument('<device>', "device or process, e.g. disk0 or platform ('nyx status' lists them)")
    .argument('[machine]', 'name; not needed when only one runs')
    .addHelpText('after', '\nExamples:\n  nyx kill disk0\n  nyx kill platform debian')
    .action(async (device: string, machine?: string) => {
      const vm = Vm.connect(machine);
      const k = await killAndWait(vm, device);
      print(`${k.process} (${k.pid}) was killed; its successor served after ${duration(k.recovery.ns)}.`);
      vm.close();
    });
