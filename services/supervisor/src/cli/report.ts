/** What happened when something serious happened, for a person. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { find } from '@nyx/nyx/rundir';
import { NyxError } from '@nyx/protocol/errors';
import { Command } from 'commander';
import { reportName } from '../report.ts';
import { number } from './run.ts';
import { print } from './text.ts';

export const make = (): Command =>
  new Command('report')
    .description('The report of the newest serious fault: when, where, registers, last words, what was done.')
    .argument('[machine]', 'name; not needed when only one runs; also of one that has failed')
    .option('--back <n>', 'the n-th before', '0')
    .addHelpText('after', '\nExamples:\n  nyx report\n  nyx report debian --back 1')
    .action((machine: string | undefined, o: { back: string }) => {
      const { dir, name } = find(machine);
      const path = join(dir, reportName(number(o.back, '--back')));
      if (!existsSync(path))
        throw new NyxError('NO_REPORT', {
          got: `'${name}'${o.back === '0' ? '' : `, report ${o.back} before`}`,
        });
      print(readFileSync(path, 'utf8').trimEnd());
    });
