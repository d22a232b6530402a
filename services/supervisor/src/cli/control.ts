/** pause, resume, reset: a word to the supervisor each. */
import { Vm } from '@nyx/nyx';
import { Command } from 'commander';
import { print } from './text.ts';

const simple = (
  name: string,
  description: string,
  act: (vm: Vm) => Promise<void>,
  done: string,
): { make(): Command } => ({
  make: () =>
    new Command(name)
      .description(description)
      .argument('[machine]', 'name; not needed when only one runs')
      .addHelpText('after', `\nExamples:\n  nyx ${name}\n  nyx ${name} debian`)
      .action(async (machine?: string) => {
        const vm = Vm.connect(machine);
        await act(vm);
        print(`'${vm.name}' ${done}.`);
        vm.close();
      }),
});

export const pause = simple(
  'pause',
  'Stops the guest where it is; its time stands still.',
  (vm) => vm.pause(),
  'is paused',
);
export const resume = simple('resume', 'Lets a paused guest go on.', (vm) => vm.resume(), 'goes on');
export const reset = simple(
  'reset',
  'The reset button: the guest starts anew. Isolated devices get another chance.',
  (vm) => vm.reset(),
  'was reset',
);
