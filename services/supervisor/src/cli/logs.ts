import { createReadStream, existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { files, find } from '@nyx/nyx/rundir';
import { Command } from 'commander';
import { dim, print, red, yellow } from './text.ts';

const levels: Record<number, string> = { 10: 'TRACE', 20: 'DEBUG', 30: 'INFO ', 40: 'WARN ', 50: 'ERROR', 60: 'FATAL' };

/** A pino record as a line for people; what is not one stays as it is. */
const pretty = (line: string): string => {
  try {
    const { level, time, msg, pid: _p, hostname: _h, component: _c, vm: _v, ...rest } = JSON.parse(line);
    const name = levels[level] ?? String(level);
    const detail = Object.keys(rest).length ? ` ${dim(JSON.stringify(rest))}` : '';
    return `${dim(new Date(time).toISOString().slice(11, 23))} ${level >= 50 ? red(name) : level >= 40 ? yellow(name) : name} ${msg}${detail}`;
  } catch {
    return line;
  }
};

export const make = (): Command =>
  new Command('logs')
    .description('Logs of a machine: what the supervisor and the device processes wrote; of a failed machine too.')
    .argument('[machine]', 'name; not needed when only one runs')
    .option('--console', 'what the guest printed')
    .option('--json', 'the records as they are')
    .addHelpText('after', '\nExamples:\n  nyx logs\n  nyx logs debian --console\n  nyx logs debian --json | jq .')
    .action(async (machine: string | undefined, o: { console?: boolean; json?: boolean }) => {
      const { dir } = find(machine);
      if (o.console) {
        for await (const b of createReadStream(join(dir, files.console))) process.stdout.write(b);
        return;
      }
      for (const file of [files.log, files.vcpuLog, files.deviceLog]) {
        const path = join(dir, file);
        if (!existsSync(path)) continue;
        for await (const line of createInterface({ input: createReadStream(path) })) print(o.json ? line : pretty(line));
      }
    });
