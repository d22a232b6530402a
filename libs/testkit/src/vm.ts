/**
 * A machine for a test. Its name is its own, so that tests run side by side; its disks are files in a folder of its own;
 * and when the test is over, or its process ends without a word, nothing of it is left.
 */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type FaultPlanInput,
  type FaultRuleInput,
  forceStop,
  NyxError,
  type Recovered,
  Vm,
  type VmSpecInput,
} from '@nyx/nyx';
import { files, list } from '@nyx/nyx/rundir';

export interface TestVmOptions {
  /** Blank disks to make, bytes each; they come after those of the specification. */
  blankDisks?: readonly number[];
  /** Seconds until the guest must answer (default 120). */
  bootTimeout?: number;
}

/** A command that has run in the guest. */
export interface Ran {
  status: number;
  stdout: string;
  stderr: string;
}

let made = 0;
const alive = new Set<TestVm>();
let watching = false;

/** The last resort: a test process that is on its way out has no time for promises. */
const endAll = (): void => {
  for (const vm of alive) vm.destroy();
};

export class TestVm {
  /** Files of the blank disks, in order. */
  readonly disks: string[] = [];

  private constructor(
    readonly vm: Vm,
    readonly folder: string,
  ) {}

  /**
   * Boots and waits until the guest answers commands.
   * @throws NyxError what went wrong; nothing is left then
   */
  static async boot(spec: VmSpecInput, options: TestVmOptions = {}): Promise<TestVm> {
    if (!watching) process.once('exit', endAll);
    watching = true;
    const folder = mkdtempSync(join(tmpdir(), 'nyx-test-'));
    let test: TestVm | undefined;
    try {
      const blank = (options.blankDisks ?? []).map((bytes, i) => {
        const path = join(folder, `disk${i}.img`);
        writeFileSync(path, '');
        truncateSync(path, bytes);
        return path;
      });
      const name = spec.name ?? `test-${process.pid}-${++made}`;
      const vm = await Vm.launch({ agent: true, ...spec, name, disks: [...(spec.disks ?? []), ...blank] });
      test = new TestVm(vm, folder);
      alive.add(test);
      test.disks.push(...blank);
      await vm.launched!.running;
      await test.run('true', options.bootTimeout ?? 120);
      return test;
    } catch (e) {
      if (test) await test.close();
      else rmSync(folder, { recursive: true, force: true });
      throw e;
    }
  }

  /** Runs a command in the guest. @param timeout seconds. @throws NyxError EXEC_*; what ended the machine, if it ended */
  async run(command: string, timeout = 60): Promise<Ran> {
    const ended = this.vm.launched!.ended.then(() => {
      throw new NyxError('VM_STATE', { expected: 'a machine that runs', got: 'it stopped' });
    });
    ended.catch(() => {});
    const r = await Promise.race([this.vm.exec(command, { timeout }), ended]);
    return { status: r.status, stdout: r.stdout.toString(), stderr: r.stderr.toString() };
  }

  /** Makes faults from now on; a rule, or a plan. @returns ids */
  inject(plan: FaultPlanInput | FaultRuleInput): Promise<number[]> {
    return this.vm.inject(plan);
  }

  /** Ends a rule, or all. */
  heal(id?: number): Promise<number> {
    return this.vm.heal(id);
  }

  /** Faults made so far by the rules in force. */
  async faults(): Promise<number> {
    return (await this.vm.faults()).rules.reduce((n, r) => n + r.fired, 0);
  }

  /** SIGKILL to the process of a device; resolves when its successor serves. @throws Error when none does within 10 s */
  async kill(device: string): Promise<Recovered> {
    const before = new Map((await this.vm.status()).processes.map((p) => [p.name, p.restarts]));
    const { process: name } = await this.vm.kill(device);
    for (let tries = 0; tries < 500; tries++) {
      const p = (await this.vm.status()).processes.find((x) => x.name === name)!;
      if (p.state === 'serving' && p.restarts > (before.get(name) ?? 0) && p.lastRecovery)
        return p.lastRecovery;
      await sleep(20);
    }
    throw new Error(`no successor of ${name} within 10 s`);
  }

  /** Restarts of all device processes. */
  async restarts(): Promise<number> {
    return (await this.vm.metrics()).restarts;
  }

  /** What the guest has printed on its serial console. */
  console(): string {
    return readFileSync(join(this.vm.dir, files.console), 'utf8');
  }

  /** Ends the machine and removes its files. Idempotent, does not throw. */
  async close(): Promise<void> {
    if (!alive.has(this)) return;
    const ended = this.vm.launched!.ended.catch(() => {});
    // One that has ended already does not answer.
    await Promise.race([this.vm.stop(0).catch(() => {}), ended]);
    await Promise.race([ended, sleep(5000, undefined, { ref: false })]);
    this.vm.close();
    this.destroy();
  }

  /** As `close`, at once: what still runs of the machine is killed. */
  destroy(): void {
    alive.delete(this);
    for (const info of list()) if (info.name === this.vm.name) forceStop(info);
    rmSync(this.folder, { recursive: true, force: true });
  }
}
