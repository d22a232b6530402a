/** What is done about faults: shown and changed while the machine runs. */
import { Vm } from '@nyx/nyx';
import { type FaultKind, strategies } from '@nyx/protocol';
import type { PolicyRule } from '@nyx/protocol/control';
import { NyxError } from '@nyx/protocol/errors';
import { parseKind, parseStrategy } from '@nyx/protocol/policy';
import { Command } from 'commander';
import { bold, columns, dim, print } from './text.ts';

const machine = ['--vm <machine>', 'name; not needed when only one runs'] as const;
const device = ['--device <name>', 'for that device or process alone'] as const;

const budget = (r: PolicyRule): string =>
  Number.isFinite(r.budget) ? `${r.budget} in ${r.window} s, then ${r.escalate}` : 'no limit';

const get = (): Command =>
  new Command('get')
    .description('What is done about each kind of fault: strategy, budget, what comes when it is spent.')
    .argument('[fault]', 'one kind')
    .option(...device)
    .option(...machine)
    .option('--json', 'for programs; an endless budget is null')
    .addHelpText('after', '\nExamples:\n  nyx policy get\n  nyx policy get deviceCrash --device disk0')
    .action(async (fault: string | undefined, o: { vm?: string; device?: string; json?: boolean }) => {
      const kind = fault === undefined ? undefined : parseKind(fault);
      const vm = Vm.connect(o.vm);
      const all = await vm.policy();
      vm.close();
      const rules = all.filter(
        (r) => (kind === undefined || r.kind === kind) && (o.device === undefined || r.source === o.device),
      );
      if (o.json) return print(JSON.stringify(rules));
      if (rules.length === 0)
        return print(`No rules of its own. What holds for all: nyx policy get ${kind ?? ''}`);
      print(
        columns([
          ['FAULT', 'OF', 'STRATEGY', 'BUDGET', 'USED'].map(dim),
          ...rules.map((r) => [
            r.set ? bold(r.kind) : r.kind,
            r.source || '-',
            r.action,
            budget(r),
            r.recent > 0 ? String(r.recent) : '',
          ]),
        ]),
      );
    });

/** Words of a rule: [strategy] key=value ... */
const ruleOf = async (
  kind: FaultKind,
  fault: string,
  words: readonly string[],
): Promise<Record<string, unknown>> => {
  const { parse } = await import('yaml');
  const rule: Record<string, unknown> = {};
  for (const word of words) {
    const at = word.indexOf('=');
    if (at < 0) rule.action = parseStrategy(fault, word);
    else rule[word.slice(0, at)] = parse(word.slice(at + 1));
  }
  if (Object.keys(rule).length === 0)
    throw new NyxError('USAGE', { expected: `a strategy for ${kind}, or key=value`, got: 'neither' });
  return rule;
};

const set = (): Command =>
  new Command('set')
    .description(
      `Changes what is done about a kind of fault, from now on.\n\nStrategies: ${Object.keys(strategies).join(', ')}.`,
    )
    .argument('<fault>', 'kind of fault (nyx policy get lists them; QEMU: panic, reboot, shutdown, watchdog)')
    .argument('<rule...>', 'STRATEGY and any of budget=, window=, backoff=, maxBackoff=, escalate=')
    .option(...device)
    .option(...machine)
    .addHelpText(
      'after',
      '\nExamples:\n  nyx policy set guestPanic pause\n  nyx policy set deviceCrash restart budget=3 window=60 escalate=pause --device disk0',
    )
    .action(async (fault: string, words: string[], o: { vm?: string; device?: string }) => {
      const kind = parseKind(fault);
      const rule = await ruleOf(kind, fault, words);
      const vm = Vm.connect(o.vm);
      await vm.setPolicy(kind, rule, o.device);
      const r = (await vm.policy()).find((x) => x.kind === kind && x.source === (o.device ?? ''))!;
      vm.close();
      print(`${r.kind}${r.source && ` of ${r.source}`}: ${r.action}, ${budget(r)}`);
    });

const reset = (): Command =>
  new Command('reset')
    .description('What the machine file says again, or what is usual.')
    .argument('[fault]', 'one kind; without it everything')
    .option(...device)
    .option(...machine)
    .addHelpText('after', '\nExamples:\n  nyx policy reset\n  nyx policy reset guestPanic')
    .action(async (fault: string | undefined, o: { vm?: string; device?: string }) => {
      const vm = Vm.connect(o.vm);
      await vm.resetPolicy(fault === undefined ? undefined : parseKind(fault), o.device);
      vm.close();
      print('As it was.');
    });

export const make = (): Command =>
  new Command('policy')
    .description('What is done about faults: crashes of device processes, panics, hangs (docs/recovery.md).')
    .addCommand(get())
    .addCommand(set())
    .addCommand(reset());
