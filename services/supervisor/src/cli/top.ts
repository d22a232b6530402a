import { setTimeout as sleep } from 'node:timers/promises';
import { Vm } from '@nyx/nyx';
import { NyxError } from '@nyx/protocol/errors';
import { Command } from 'commander';
import { usage } from './processor.ts';
import {
  blue,
  bold,
  box,
  bytes,
  columns,
  cut,
  dim,
  duration,
  green,
  magenta,
  note,
  print,
  red,
  short,
  yellow,
} from './text.ts';
import { type Look, type Part, parts, rates, type Top } from './top-rates.ts';

const barWidth = 24;
/** Where a vCPU's processor time goes, each part with a sign and a colour of its own. */
const legend: Record<Part, [sign: string, paint: (s: string) => string, name: string]> = {
  translated: ['█', green, 'translated code'],
  interpreter: ['▓', yellow, 'interpreter'],
  translator: ['▒', magenta, 'translator'],
  mmu: ['░', blue, 'MMU'],
  exits: ['◆', red, 'exits'],
};

/** A row of `barWidth` signs: the processor time of one vCPU by parts, then what it did not use. */
const bar = (v: Top['vcpus'][number]): string => {
  let text = '';
  let used = 0;
  let sum = 0;
  for (const k of parts) {
    sum += ((v.shares?.[k] ?? 0) / 100) * Math.min(100, v.cpu);
    const n = Math.round((sum / 100) * barWidth) - used;
    used += n;
    text += legend[k][1](legend[k][0].repeat(n));
  }
  return text + dim('·'.repeat(barWidth - used));
};

const percent = (n: number): string => `${n.toFixed(n < 9.95 ? 1 : 0)} %`;
const state = (s: string): string =>
  s === 'running' || s === 'serving' ? green(s) : s === 'failed' || s === 'isolated' ? red(s) : yellow(s);

/** The screen: no colours or cursor movements where the output is no terminal. */
export const draw = (t: Top): string => {
  const soft = t.vcpus.some((v) => v.shares);
  const all = t.cpu.vcpus + t.cpu.devices + t.cpu.nyxd;
  const share = (v: Top['vcpus'][number], k: Part): string => (v.shares ? percent(v.shares[k]) : '-');
  return box(t.name, [
    `${state(t.state)}  ${t.accel || 'no engine yet'}, ${t.vcpus.length} vCPU${t.vcpus.length === 1 ? '' : 's'}, ${bytes(t.memory)}, guest time ${duration(t.guestNs)}`,
    `processors of the host ${bold(percent(all))}: nyx-vcpu ${percent(t.cpu.vcpus)}, devices ${percent(t.cpu.devices)}, nyxd ${percent(t.cpu.nyxd)}`,
    '',
    ...columns(
      [
        [
          'VCPU',
          'STATE',
          'CPU',
          'INSTR/S',
          'IRQS/S',
          'SYNC/S',
          'POSTED/S',
          'SHADOW/S',
          'COUNTER/S',
          'NOBODY/S',
          'HALTS/S',
        ].map(dim),
        ...t.vcpus.map((v) => [
          String(v.index),
          state(v.state),
          percent(v.cpu),
          short(v.instructionsPerSecond),
          short(v.interruptsPerSecond),
          ...(['sync', 'posted', 'shadow', 'counter', 'unclaimed', 'halt'] as const).map((k) =>
            short(v.exitsPerSecond[k]),
          ),
        ]),
      ],
      [2, 3, 4, 5, 6, 7, 8, 9, 10],
    ).split('\n'),
    ...(soft
      ? [
          '',
          ...columns(
            [
              [
                dim('VCPU'),
                dim('PROCESSOR TIME'),
                ...parts.map((k) => `${legend[k][1](legend[k][0])} ${dim(legend[k][2])}`),
                dim('HALTED'),
                dim('WAITS'),
              ],
              ...t.vcpus.map((v) => [
                String(v.index),
                bar(v),
                ...parts.map((k) => share(v, k)),
                percent(v.halted),
                percent(v.waiting),
              ]),
            ],
            [2, 3, 4, 5, 6, 7, 8],
          ).split('\n'),
        ]
      : []),
    '',
    ...columns(
      [
        ['PROCESS', 'STATE', 'PID', 'CPU', 'MEMORY', 'EXITS/S', 'RESTARTS', 'DEVICES'].map(dim),
        ...t.processes.map((p) => [
          bold(p.name),
          state(p.state),
          String(p.pid || '-'),
          percent(p.cpu),
          bytes(p.bytes),
          short(p.exitsPerSecond),
          String(p.restarts),
          p.devices.join(' '),
        ]),
      ],
      [2, 3, 4, 5, 6],
    ).split('\n'),
  ]);
};

const look = async (vm: Vm): Promise<Look> => {
  const status = await vm.status();
  const pids = [status.pid, status.vcpuPid, ...status.processes.map((p) => p.pid)];
  return { at: performance.now() * 1e6, status, usage: new Map(pids.map((pid) => [pid, usage(pid)])) };
};

const seconds = (text: string): number => {
  const n = Number(text);
  if (text.trim() === '' || !(n >= 0.2 && n <= 3600))
    throw new NyxError('USAGE', { expected: '--interval: 0.2 to 3600 seconds', got: text });
  return n;
};

/** The whole terminal, until `close`: each screen replaces the one before without flicker. */
const fullScreen = (): { show(text: string): void; close(): void } => {
  const { stdout } = process;
  stdout.write('\x1b[?1049h\x1b[?25l');
  return {
    show: (text) => {
      const lines = text.split('\n').slice(0, Math.max(1, (stdout.rows || 24) - 1));
      const shown = lines.map((l) => `${cut(l, stdout.columns || 80)}\x1b[K\n`).join('');
      stdout.write(`\x1b[H${shown}${dim('q or Ctrl-C ends')}\x1b[K\x1b[J`);
    },
    close: () => void stdout.write('\x1b[?25h\x1b[?1049l'),
  };
};

export const make = (): Command =>
  new Command('top')
    .description(
      'What a machine uses, live: processor time and exits of each vCPU by kind, where the time of the software CPU goes, and what each device process costs.',
    )
    .argument('[machine]', 'name; not needed when only one runs')
    .option('--once', 'one look of one interval, then the end')
    .option('--json', 'for programs: one line for each look')
    .option('--interval <seconds>', 'between two looks', seconds, 1)
    .addHelpText(
      'after',
      `
CPU and HALTED, WAITS are shares of the clock: 100 % is one processor of the host. SYNC exits wait for a device process, POSTED ones
do not; SHADOW and COUNTER are answered by nyx-vcpu itself; NOBODY: no device is at the address. MEMORY is what a process
shares with nobody. The parts of the processor time are samples, with an error of about 3 % in a second (machines with KVM have none).

Examples:
  nyx top
  nyx top debian --once
  nyx top --json --interval 5 | jq -c '.vcpus[].shares'`,
    )
    .action(async (machine: string | undefined, o: { once?: boolean; json?: boolean; interval: number }) => {
      const vm = Vm.connect(machine);
      const abort = new AbortController();
      const quit = (): void => abort.abort();
      const ended = (async () => {
        for await (const _ of vm.events()) if (abort.signal.aborted) break;
        return undefined;
      })();
      let before = await look(vm);
      const screen = !o.once && !o.json && process.stdout.isTTY ? fullScreen() : undefined;
      const { stdin } = process;
      const keys = screen && stdin.isTTY;
      if (keys) {
        stdin.setRawMode(true).resume();
        stdin.on('data', (k: Buffer) => [0x71, 3, 4].some((key) => k.includes(key)) && quit());
      }
      process.once('SIGINT', quit).once('SIGTERM', quit);
      let over = false;
      try {
        do {
          await Promise.race([sleep(o.interval * 1000, undefined, abort).catch(() => {}), ended]);
          if (abort.signal.aborted) break;
          // A machine that ends does not answer.
          const now = await Promise.race([look(vm), ended]);
          if (!now) {
            over = true;
            break;
          }
          const top = rates(before, now);
          before = now;
          if (screen) screen.show(draw(top));
          else print(o.json ? JSON.stringify(top) : draw(top));
        } while (!o.once);
      } finally {
        screen?.close();
        if (keys) stdin.setRawMode(false).pause();
        vm.close();
      }
      if (over) note(`${vm.name} has ended`);
    });
