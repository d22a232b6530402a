/** Faults on purpose in a machine that runs: add, list, remove. */
import { readFileSync } from 'node:fs';
import { Vm } from '@nyx/nyx';
import { NyxError } from '@nyx/protocol/errors';
import { Command } from 'commander';
import { columns, dim, print } from './text.ts';

/** Words of a rule: POINT VERB key=value ... */
const ruleOf = async (words: readonly string[]): Promise<Record<string, unknown>> => {
  const { parse } = await import('yaml');
  const [point, verb, ...rest] = words;
  const rule: Record<string, unknown> = { point, verb };
  for (const word of rest) {
    const at = word.indexOf('=');
    if (at < 1) throw new NyxError('USAGE', { expected: 'key=value', got: `'${word}'` });
    rule[word.slice(0, at)] = parse(word.slice(at + 1));
  }
  return rule;
};

const isFile = (word: string): boolean => /\.(ya?ml|json)$/.test(word);

/** What a rule says beyond point, verb and device. */
const details = (rule: Record<string, unknown>): string =>
  Object.entries(rule)
    .filter(([k]) => !['point', 'verb', 'device'].includes(k))
    .filter(([k, v]) => v !== usual[k])
    .map(([k, v]) => `${k}=${JSON.stringify(v).replaceAll('"', '')}`)
    .join(' ');
const usual: Record<string, unknown> = {
  after: 0,
  every: 1,
  count: 0,
  probability: 1,
  delay: 0.01,
  mask: 0,
  bytes: 512,
  again: false,
};

const machine = ['--vm <machine>', 'name; not needed when only one runs'] as const;

const add = (): Command =>
  new Command('add')
    .description('Makes faults from now on: one rule in words, or the rules of a plan file.')
    .argument('<rule...>', 'POINT VERB key=value ..., or PLAN.yaml')
    .option('--seed <n>', 'of the decisions; without it that of the plan, or 1')
    .option(...machine)
    .addHelpText(
      'after',
      '\nExamples:\n  nyx fault add io error device=disk0 type=write count=1\n  nyx fault add process kill device=platform every=1000 place=reply\n  nyx fault add interrupt drop device=disk0 probability=0.01 --seed 7\n  nyx fault add plan.yaml\n\ndocs/fault-injection.md lists points, verbs and keys.',
    )
    .action(async (words: string[], o: { seed?: string; vm?: string }) => {
      const { parseFaultPlan, parseFaultText } = await import('@nyx/protocol/fault-file');
      const plan =
        words.length === 1 && isFile(words[0]!)
          ? parseFaultText(readPlan(words[0]!), words[0]!)
          : parseFaultPlan({ rules: [await ruleOf(words)] }, 'the command line');
      if (o.seed !== undefined) plan.seed = Number(o.seed);
      const vm = Vm.connect(o.vm);
      const ids = await vm.inject(plan);
      print(`rule ${ids.join(', ')} in force`);
      vm.close();
    });

export const readPlan = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch (e) {
    const missing = (e as NodeJS.ErrnoException).code === 'ENOENT';
    throw new NyxError(missing ? 'FILE_MISSING' : 'FILE_DENIED', { got: path });
  }
};

const ls = (): Command =>
  new Command('ls')
    .description('Rules in force, and how often each has found a match and made a fault.')
    .option(...machine)
    .option('--json', 'for programs; with the newest faults')
    .addHelpText('after', '\nExamples:\n  nyx fault ls\n  nyx fault ls --json | jq .happened')
    .action(async (o: { vm?: string; json?: boolean }) => {
      const vm = Vm.connect(o.vm);
      const book = await vm.faults();
      if (o.json) print(JSON.stringify(book));
      else if (book.rules.length === 0) print('No rules.');
      else
        print(
          columns(
            [
              ['ID', 'POINT', 'VERB', 'DEVICE', 'MATCHES', 'FAULTS', ''].map(dim),
              ...book.rules.map((r) => [
                String(r.id),
                r.rule.point,
                r.rule.verb,
                r.rule.device,
                String(r.matches),
                String(r.fired),
                details(r.rule),
              ]),
            ],
            [0, 4, 5],
          ),
        );
      vm.close();
    });

const rm = (): Command =>
  new Command('rm')
    .description('Ends rules.')
    .argument('<id>', "number of the rule, or 'all'")
    .option(...machine)
    .addHelpText('after', '\nExamples:\n  nyx fault rm 1\n  nyx fault rm all')
    .action(async (id: string, o: { vm?: string }) => {
      if (id !== 'all' && !/^\d+$/.test(id))
        throw new NyxError('USAGE', { expected: "a number, or 'all'", got: `'${id}'` });
      const vm = Vm.connect(o.vm);
      print(`${await vm.heal(id === 'all' ? undefined : Number(id))} removed`);
      vm.close();
    });

export const make = (): Command =>
  new Command('fault')
    .description('Faults on purpose: what a device process or its backend does wrong, and when.')
    .addCommand(add())
    .addCommand(ls())
    .addCommand(rm());
