import { Vm } from '@nyx/nyx';
import { list } from '@nyx/nyx/rundir';
import { asNyxError } from '@nyx/protocol/errors';
import { Command } from 'commander';
import { bytes, columns, dim, duration, green, print, red, yellow } from './text.ts';

export const make = (): Command =>
  new Command('ps')
    .description(
      'Lists the machines of this user; what is left of ended ones is cleared away, failed ones stay until looked at.',
    )
    .option('--json', 'for programs')
    .addHelpText('after', '\nExamples:\n  nyx ps\n  nyx ps --json | jq .')
    .action(async (o: { json?: boolean }) => {
      const rows = await Promise.all(
        list().map(async (info) => {
          if (info.kind === 'ended')
            return {
              name: info.name,
              // Stopped, and yet here: a fault ended it, and nyx report tells about it.
              state: info.result?.state ?? 'failed',
              error: info.result?.error?.code ?? info.result?.fault?.split(':')[0],
            };
          const vm = Vm.connect(info.name);
          try {
            // One whose supervisor has died gets another.
            await vm.supervised;
          } catch (e) {
            return { name: info.name, state: 'orphaned', error: asNyxError(e).code };
          }
          try {
            const s = await vm.status();
            vm.close();
            return {
              name: s.name,
              state: s.state,
              accel: s.accel,
              cpus: s.cpus,
              memory: s.memory,
              guestNs: s.guestNs,
              pid: s.pid,
              restarts: s.processes.reduce((n, p) => n + p.restarts, 0),
            };
          } catch {
            return { name: info.name, state: 'silent' };
          }
        }),
      );
      if (o.json) return print(JSON.stringify(rows));
      if (rows.length === 0) return print('No machines. nyx run debian starts one.');
      const state = (s: string): string =>
        s === 'running'
          ? green(s)
          : s === 'failed' || s === 'orphaned' || s === 'silent'
            ? red(s)
            : yellow(s);
      print(
        columns(
          [
            ['NAME', 'STATE', 'ENGINE', 'CPUS', 'MEMORY', 'TIME', 'RESTARTS', 'PID'].map(dim),
            ...rows.map((r) => [
              r.name,
              state(r.state),
              r.accel ?? r.error ?? '',
              String(r.cpus ?? ''),
              r.memory ? bytes(r.memory) : '',
              r.guestNs === undefined ? '' : duration(r.guestNs),
              String(r.restarts ?? ''),
              String(r.pid ?? ''),
            ]),
          ],
          [3, 6],
        ),
      );
    });
