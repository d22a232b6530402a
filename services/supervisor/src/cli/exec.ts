import { Vm } from '@nyx/nyx';
import { Command } from 'commander';
import { number } from './run.ts';

export const make = (): Command =>
  new Command('exec')
    .description('Runs a command in a guest that runs already; exits with its status.')
    .argument('<machine>', 'name of the machine')
    .argument('<command>', 'shell command')
    .option('--timeout <seconds>', 'longest time', '60')
    .addHelpText(
      'after',
      "\nExamples:\n  nyx exec debian 'cat /proc/cpuinfo'\n  nyx exec debian 'dmesg' > dmesg.txt",
    )
    .action(async (machine: string, command: string, o: { timeout: string }) => {
      const vm = Vm.connect(machine);
      const result = await vm.exec(command, {
        timeout: number(o.timeout, '--timeout'),
        onStdout: (b) => process.stdout.write(b),
        onStderr: (b) => process.stderr.write(b),
      });
      process.exitCode = result.status;
    });
