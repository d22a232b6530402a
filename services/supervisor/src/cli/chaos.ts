/** A campaign of faults, and its reports. */
import { writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { NyxError } from '@nyx/protocol/errors';
import { Command } from 'commander';
import { readPlan } from './fault.ts';
import { duration, green, note, print, red } from './text.ts';

/** '7', '1..20' or '1,5,9'. */
export const seedsOf = (text: string): number[] => {
  const wrong = (): never => {
    throw new NyxError('USAGE', { expected: '--seeds 1..20, 7 or 1,5,9', got: `'${text}'` });
  };
  const range = /^(\d+)\.\.(\d+)$/.exec(text);
  const list = range
    ? Array.from({ length: Number(range[2]) - Number(range[1]) + 1 }, (_, i) => Number(range[1]) + i)
    : text.split(',').map((s) => (/^\d+$/.test(s) ? Number(s) : wrong()));
  if (list.length === 0 || list.length > 100_000 || list.some((s) => s > 0xffffffff)) wrong();
  return list;
};

interface Flags {
  seeds: string;
  json?: string;
  junit?: string;
}

const campaign = async (path: string, f: Flags): Promise<void> => {
  const [{ chaos, junit }, { parseChaosText }] = await Promise.all([
    import('@nyx/nyx/chaos'),
    import('@nyx/protocol/chaos-plan'),
  ]);
  const seeds = seedsOf(f.seeds);
  const plan = parseChaosText(readPlan(path), path);
  note(`${plan.name}: ${seeds.length} seeds`);
  const report = await chaos(plan, seeds, {
    base: dirname(resolve(path)),
    onRun: (r) => {
      print(
        `seed ${r.seed}  ${r.ok ? green('ok') : red('failed')}  ${r.faults} faults, ${r.restarts} restarts, longest wait ${duration(r.maxWaitNs)}, ${r.seconds.toFixed(1)} s`,
      );
      for (const why of r.why) print(`  ${why}`);
    },
  });
  if (f.json) writeFileSync(f.json, `${JSON.stringify(report, null, 2)}\n`);
  if (f.junit) writeFileSync(f.junit, junit(report));
  print(`${report.runs.length} runs, ${report.faults} faults, ${report.failures} failed`);
  if (report.failures > 0) process.exitCode = 1;
};

export const make = (): Command =>
  new Command('chaos')
    .description(
      'Runs a machine and a command in it again and again under the rules of a plan, with one seed after another. The same seed makes the same faults. Exit status 1 when what the plan expects did not hold.',
    )
    .argument('<plan>', 'YAML or JSON file')
    .option('--seeds <seeds>', 'first..last, or a list', '1..5')
    .option('--json <file>', 'writes the report')
    .option('--junit <file>', 'writes the report as JUnit XML')
    .addHelpText(
      'after',
      '\nExamples:\n  nyx chaos plan.yaml --seeds 1..20 --junit chaos.xml\n  nyx chaos plan.yaml --seeds 7',
    )
    .action(campaign);
