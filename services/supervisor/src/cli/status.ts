import { setTimeout as sleep } from 'node:timers/promises';
import { Vm } from '@nyx/nyx';
import type { ProcessStatus, Status, VcpuStatus } from '@nyx/protocol/control';
import { Command } from 'commander';
import { describe } from '../fault-log.ts';
import { bold, box, bytes, columns, dim, duration, green, print, red, short, yellow } from './text.ts';

const processState = (p: ProcessStatus): string =>
  p.state === 'serving'
    ? green('● serving')
    : p.state === 'isolated'
      ? red('✕ isolated')
      : yellow(`○ ${p.state}`);

type Jailed = { name: string; jail?: { missing: string[] } | undefined };
/** One word when every layer holds everywhere; else what does not, and why. */
const jailLines = (all: Jailed[], noCgroup: string | undefined): string[] => {
  const lines = all.flatMap((p) =>
    p.jail ? p.jail.missing.map((m) => `jail of ${p.name} lacks ${m}`) : [`${p.name} is in no jail`],
  );
  return lines.length > 0
    ? lines.map((l) => yellow(l))
    : [
        `jail     ${green('complete')} for ${all.map((p) => p.name).join(', ')}`,
        ...(noCgroup ? [dim(`limits   of each process (no control group: ${noCgroup})`)] : []),
      ];
};

/** Faults so far, the worst in full. */
const faultLines = (s: Status): string[] => {
  const f = s.lastFault;
  const all = s.faults
    .filter((c) => c.kind !== 'guestReset' && c.kind !== 'guestShutdown')
    .map((c) => `${c.kind}${c.source && ` of ${c.source}`} ${c.count < 1e3 ? c.count : short(c.count)}`);
  return [
    `faults   ${all.length > 0 ? all.join(', ') : 'none'}`,
    ...(f
      ? [
          red(
            `last     ${new Date(f.at).toISOString().slice(11, 19)} ${f.kind}${f.source && ` of ${f.source}`}: ${describe(f.kind, f.data)}; ${f.strategy}. nyx report and nyx events tell more`,
          ),
        ]
      : []),
  ];
};

/** Where the time of a software CPU goes: since the last look, or since its start. */
const timeLine = (v: VcpuStatus, i: number, before: VcpuStatus | undefined): string => {
  const parts = Object.entries(v.time).map(
    ([name, ns]) => [name, ns - (before?.time[name as keyof typeof v.time] ?? 0)] as const,
  );
  const all = parts.reduce((n, [, ns]) => n + ns, 0);
  const shown = parts.filter(([, ns]) => ns > 0);
  return `time of ${i}  ${shown.map(([name, ns]) => `${name} ${((100 * ns) / all).toFixed(0)} %`).join(', ')}`;
};

/** What `nyx status` shows. @param before an earlier look, for shares of time */
export const draw = (s: Status, before?: Status): string => {
  const head = [
    `${s.state === 'running' ? green(s.state) : yellow(s.state)}   ${s.accel || 'no engine yet'}, ${s.cpus} vCPU${s.cpus > 1 ? 's' : ''}, ${bytes(s.memory)}, guest time ${duration(s.guestNs)}, ${s.resets} resets`,
    ...(s.error ? [red(`${s.error.code}: ${s.error.got ?? ''}`)] : []),
    '',
    ...columns(
      [
        [
          'VCPU',
          'STATE',
          'INSTRUCTIONS',
          '/S',
          'EXITS',
          '/S',
          'SYNC',
          'POSTED',
          'SHADOW',
          'WAITED',
          'LONGEST',
        ].map(dim),
        ...s.vcpus.map((v, i) => {
          const exits = Object.values(v.exits).reduce((a, b) => a + b, 0);
          return [
            String(i),
            v.waitsFor ? `waits for ${v.waitsFor}` : v.state,
            short(v.instructions),
            short(v.instructionsPerSecond),
            short(exits),
            short(v.exitsPerSecond),
            short(v.exits.sync),
            short(v.exits.posted),
            short(v.exits.shadow + v.exits.counter),
            duration(v.waitNs),
            duration(v.maxWaitNs),
          ];
        }),
      ],
      [2, 3, 4, 5, 6, 7, 8, 9, 10],
    ).split('\n'),
    ...(s.accel === 'soft' ? s.vcpus.map((v, i) => dim(timeLine(v, i, before?.vcpus[i]))) : []),
    '',
    ...columns(
      [
        ['PROCESS', 'STATE', 'PID', 'RESTARTS', 'SERVED', '/S', 'RECOVERED IN', 'DEVICES'].map(dim),
        ...s.processes.map((p) => [
          bold(p.name),
          processState(p),
          String(p.pid || '-'),
          String(p.restarts),
          short(p.served),
          short(p.exitsPerSecond),
          p.lastRecovery ? duration(p.lastRecovery.ns) : '-',
          p.devices.map((d) => d.name).join(' '),
        ]),
      ],
      [2, 3, 4, 5, 6],
    ).split('\n'),
    '',
    ...faultLines(s),
    ...jailLines([{ name: 'nyx-vcpu', jail: s.vcpuJail }, ...s.processes], s.noCgroup),
    ...s.processes.flatMap((p) => (p.error ? [red(`${p.name}: ${p.error.code}: ${p.error.got ?? ''}`)] : [])),
  ];
  return box(`${s.name}  (nyxd ${s.pid}, nyx-vcpu ${s.vcpuPid})`, head);
};

export const make = (): Command =>
  new Command('status')
    .description('What a machine does: its vCPUs, its device processes, restarts, exits a second.')
    .argument('[machine]', 'name; not needed when only one runs')
    .option('--json', 'for programs')
    .option('--watch', 'again and again, until Ctrl-C')
    .addHelpText(
      'after',
      '\nExamples:\n  nyx status\n  nyx status debian --watch\n  nyx status --json | jq .vcpus[0].instructions',
    )
    .action(async (machine: string | undefined, o: { json?: boolean; watch?: boolean }) => {
      const vm = Vm.connect(machine);
      await vm.status();
      let last: Status | undefined;
      do {
        // Rates need two looks.
        await sleep(o.watch ? 1000 : 150);
        const s = await vm.status();
        print(
          o.json
            ? JSON.stringify(s)
            : `${o.watch && process.stdout.isTTY ? '\x1b[H\x1b[2J' : ''}${draw(s, last)}`,
        );
        last = o.watch ? s : undefined;
      } while (o.watch);
      vm.close();
    });
