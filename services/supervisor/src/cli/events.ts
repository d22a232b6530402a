/** What has happened to a machine: states, faults and what was done, deaths, recoveries. */
import { Vm } from '@nyx/nyx';
import type { VmEvent } from '@nyx/protocol/control';
import { Command } from 'commander';
import { describe } from '../fault-log.ts';
import { bytes, dim, duration, print, red, yellow } from './text.ts';

const words = (e: VmEvent): string => {
  switch (e.type) {
    case 'state':
      return `${e.from} -> ${e.to}${e.error ? `: ${e.error.code} ${e.error.got ?? ''}` : ''}`;
    case 'death':
      return `${e.process}, process ${e.pid}: ${e.reason}`;
    case 'recovered':
      return `${e.recovery.process} serves again after ${duration(e.recovery.ns)}: ${e.recovery.reason}`;
    case 'isolated':
      return `${e.process}: ${e.error.got ?? e.error.code}`;
    case 'wait':
      return `for ${e.process}, ${duration(e.ns)}${e.over ? ', over' : ''}`;
    case 'machine':
      return `${e.event} by vCPU ${e.vcpu}`;
    case 'disk':
      return red(
        `${e.device} holds a ${e.op} of ${e.bytes} bytes at ${e.position}: ${e.reason === 'noSpace' ? 'no room' : 'the backend failed'}; nyx resume tries again`,
      );
    case 'job':
      return `${e.job} of ${e.device}: ${Math.round(e.fraction * 100)} %`;
    case 'checkpoint':
      return e.error
        ? yellow(`none could be taken: ${e.error.code} ${e.error.got ?? ''}`)
        : e.action === 'dropped'
          ? 'let go'
          : `${e.action === 'taken' ? 'taken' : 'gone back to'} in ${duration(e.pauseNs)}, ${bytes(e.bytes)} of memory`;
    case 'agent':
      return 'the guest takes commands';
    case 'fault': {
      const what = `${e.kind}${e.source && ` of ${e.source}`}: ${describe(e.kind, e.data)} -> ${e.strategy}${e.escalated ? ' (budget spent)' : ''}`;
      return e.severity === 'critical' || e.severity === 'error'
        ? red(what)
        : e.severity === 'warning'
          ? yellow(what)
          : what;
    }
  }
};

const line = (e: VmEvent): string =>
  `${dim(new Date(e.at).toISOString().slice(11, 23))} ${e.type.padEnd(9)} ${words(e)}`;

export const make = (): Command =>
  new Command('events')
    .description(
      'What has happened to a machine: its states, faults and what was done about them, recoveries.',
    )
    .argument('[machine]', 'name; not needed when only one runs')
    .option('--follow', 'go on showing what happens')
    .option('--faults', 'faults alone')
    .option('--json', 'for programs, one a line')
    .addHelpText(
      'after',
      '\nExamples:\n  nyx events\n  nyx events debian --follow --faults\n  nyx events --json | jq .kind',
    )
    .action(
      async (machine: string | undefined, o: { follow?: boolean; faults?: boolean; json?: boolean }) => {
        const vm = Vm.connect(machine);
        const show = (e: VmEvent): void => {
          if (!o.faults || e.type === 'fault') print(o.json ? JSON.stringify(e) : line(e));
        };
        // Listening comes first, so that nothing is missed in between; what is in both is shown once.
        const live = o.follow ? vm.events() : undefined;
        const first = live?.next();
        let last = 0;
        for (const e of await vm.history()) {
          show(e);
          last = e.at;
        }
        if (live && first)
          for (let n = await first; !n.done; n = await live.next()) if (n.value.at > last) show(n.value);
        vm.close();
      },
    );
