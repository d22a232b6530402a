/** Campaigns of faults: the same machine and command under the same rules with one seed after another. */
import type { ChaosPlan } from '@nyx/protocol/chaos-plan';
import { asNyxError } from '@nyx/protocol/errors';
import type { FaultEntry } from '@nyx/protocol/fault-plan';
import { Vm } from './vm.ts';

export interface ChaosRule {
  rule: FaultEntry;
  matches: number;
  fired: number;
  /** Numbers of the matches that were made faults, of the newest 1024 of each process. */
  at: number[];
}

export interface ChaosRun {
  seed: number;
  ok: boolean;
  /** Why it is not. */
  why: string[];
  seconds: number;
  /** Of the command; -1: it did not end. */
  status: number;
  output: string;
  rules: ChaosRule[];
  faults: number;
  restarts: number;
  /** Nanoseconds of the longest wait of a vCPU for a device. */
  maxWaitNs: number;
}

export interface ChaosReport {
  name: string;
  runs: ChaosRun[];
  failures: number;
  faults: number;
}

/** Of the output, this much is kept. */
const keptOutput = 4000;

/** One seed. Never throws for what the faults do: that is the result. */
export const chaosRun = async (plan: ChaosPlan, seed: number, base = process.cwd()): Promise<ChaosRun> => {
  const from = performance.now();
  const run: ChaosRun = {
    seed,
    ok: false,
    why: [],
    seconds: 0,
    status: -1,
    output: '',
    rules: [],
    faults: 0,
    restarts: 0,
    maxWaitNs: 0,
  };
  let vm: Vm | undefined;
  try {
    vm = await Vm.launch(plan.machine, { base });
    const { running, ended } = vm.launched!;
    const failed = new Promise<never>((_, reject) =>
      ended.then(() => reject(new Error('the machine stopped')), reject),
    );
    failed.catch(() => {});
    await running;
    const left = (): number => Math.max(1, plan.timeout - (performance.now() - from) / 1000);
    await Promise.race([vm.exec('true', { timeout: left() }), failed]);
    await vm.inject({ seed, rules: plan.rules });
    try {
      const r = await Promise.race([vm.exec(plan.run, { timeout: left() }), failed]);
      run.status = r.status;
      run.output = `${r.stdout}${r.stderr}`.slice(-keptOutput);
    } catch (e) {
      run.why.push(`the command did not end: ${(e as Error).message}`);
    }
    await collect(vm, run).catch((e) => run.why.push(`no account of the faults: ${(e as Error).message}`));
  } catch (e) {
    run.why.push(asNyxError(e).message);
  } finally {
    await vm?.stop(0).catch(() => {});
    await vm?.launched?.ended.catch(() => {});
    vm?.close();
  }
  const { status, output, faults } = plan.expect;
  if (run.status >= 0 && run.status !== status) run.why.push(`status ${run.status}, expected ${status}`);
  if (run.status >= 0 && output !== undefined && !new RegExp(output).test(run.output))
    run.why.push(`the output does not match /${output}/`);
  if (run.faults < faults) run.why.push(`${run.faults} faults happened, expected ${faults} or more`);
  run.ok = run.why.length === 0;
  run.seconds = (performance.now() - from) / 1000;
  return run;
};

const collect = async (vm: Vm, run: ChaosRun): Promise<void> => {
  const { rules, happened } = await vm.faults();
  run.rules = rules.map((r) => ({
    rule: r.rule,
    matches: r.matches,
    fired: r.fired,
    at: happened.filter((h) => h.id === r.id).map((h) => h.match),
  }));
  run.faults = rules.reduce((n, r) => n + r.fired, 0);
  const metrics = await vm.metrics();
  run.restarts = metrics.restarts;
  run.maxWaitNs = metrics.maxWaitNs;
};

/** All seeds, one after another. */
export const chaos = async (
  plan: ChaosPlan,
  seeds: readonly number[],
  options: { base?: string; onRun?(run: ChaosRun): void } = {},
): Promise<ChaosReport> => {
  const report: ChaosReport = { name: plan.name, runs: [], failures: 0, faults: 0 };
  for (const seed of seeds) {
    const run = await chaosRun(plan, seed, options.base);
    report.runs.push(run);
    report.faults += run.faults;
    if (!run.ok) report.failures++;
    options.onRun?.(run);
  }
  return report;
};

const xml = (s: string): string =>
  s
    // Control characters have no place in XML 1.0, not even escaped.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
    .replace(/[\x00-\x08\x0b\x0c\x0e-\x1f]/g, '?')
    .replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);

/** The report as JUnit XML: a test case for each seed. */
export const junit = (r: ChaosReport): string => {
  const time = (s: number): string => s.toFixed(3);
  const cases = r.runs.map((run) => {
    const head = `  <testcase classname="${xml(r.name)}" name="seed ${run.seed}" time="${time(run.seconds)}">`;
    const body = [
      ...(run.ok ? [] : [`    <failure message="${xml(run.why.join('; '))}"/>`]),
      `    <system-out>${xml(`${run.faults} faults, ${run.restarts} restarts\n${run.output}`)}</system-out>`,
    ];
    return [head, ...body, '  </testcase>'].join('\n');
  });
  const total = time(r.runs.reduce((n, run) => n + run.seconds, 0));
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<testsuite name="${xml(r.name)}" tests="${r.runs.length}" failures="${r.failures}" errors="0" skipped="0" time="${total}">`,
    ...cases,
    '</testsuite>',
    '',
  ].join('\n');
};
