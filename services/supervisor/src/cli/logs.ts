import { createReadStream, existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { files, find } from '@nyx/nyx/rundir';
import { Command } from 'commander';
import { postMortem } from './post-mortem.ts';
import { type LogRecord, Records } from './records.ts';
import { bold, dim, print, red, yellow } from './text.ts';

/** Between two looks at what was written. */
const followMs = 200;

interface Options {
  console?: boolean;
  follow?: boolean;
  postMortem?: string;
  json?: boolean;
}

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
    .option('--follow', 'go on showing what is written')
    .option('--post-mortem <process>', 'how the last process of that place died, and what it wrote before')
    .option('--json', 'the records as they are')
    .addHelpText(
      'after',
      '\nExamples:\n  nyx logs\n  nyx logs debian --console\n  nyx logs debian --json | jq .\n  nyx logs --post-mortem disk0',
    )
    .action(async (machine: string | undefined, o: Options) => {
      const { dir } = find(machine);
      if (o.console) {
        for await (const b of createReadStream(join(dir, files.console))) process.stdout.write(b);
        return;
      }
      const show = (r: LogRecord): void => print(o.json ? r.line : pretty(r.line));
      if (o.postMortem !== undefined) {
        const { process: name, death, records } = postMortem(dir, o.postMortem);
        if (!o.json)
          print(
            death
              ? `${bold(name)}, process ${death.pid}: ${red(death.reason)} at ${new Date(death.at).toISOString()}`
              : `${bold(name)}: no process of it has died`,
          );
        for (const r of records) show(r);
        return;
      }
      const records = new Records(dir);
      for (;;) {
        for (const r of records.read()) show(r);
        if (!o.follow || !existsSync(dir)) return;
        await sleep(followMs);
      }
    });
