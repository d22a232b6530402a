import { createReadStream, existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { files, find } from '@nyx/nyx/rundir';
import { Command } from 'commander';
import { dim, print, red, yellow } from './text.ts';

/** A record (of nyxd, or of a device process: libs/device) as a line for people; what is not one stays as it is. */
const pretty = (line: string): string => {
  try {
    const {
      level,
      time,
      msg,
      message,
      component,
      device,
      vm: _,
      ...rest
    } = JSON.parse(line) as Record<string, unknown>;
    const name = String(level).toUpperCase().padEnd(5);
    const shown = level === 'error' || level === 'fatal' ? red(name) : level === 'warn' ? yellow(name) : name;
    const at =
      time === undefined ? ' '.repeat(12) : new Date(time as string | number).toISOString().slice(11, 23);
    const detail = Object.keys(rest).length ? ` ${dim(JSON.stringify(rest))}` : '';
    return `${dim(at)} ${shown} ${dim(String(component ?? device ?? ''))} ${msg ?? message ?? ''}${detail}`;
  } catch {
    return line;
  }
};

export const make = (): Command =>
  new Command('logs')
    .description(
      'Logs of a machine: what the supervisor and the device processes wrote; of a failed machine too.',
    )
    .argument('[machine]', 'name; not needed when only one runs')
    .option('--console', 'what the guest printed')
    .option('--json', 'the records as they are')
    .addHelpText(
      'after',
      '\nExamples:\n  nyx logs\n  nyx logs debian --console\n  nyx logs debian --json | jq .',
    )
    .action(async (machine: string | undefined, o: { console?: boolean; json?: boolean }) => {
      const { dir } = find(machine);
      if (o.console) {
        for await (const b of createReadStream(join(dir, files.console))) process.stdout.write(b);
        return;
      }
      for (const file of [files.log, files.vcpuLog, files.deviceLog]) {
        const path = join(dir, file);
        if (!existsSync(path)) continue;
        for await (const line of createInterface({ input: createReadStream(path) }))
          print(o.json ? line : pretty(line));
      }
    });
