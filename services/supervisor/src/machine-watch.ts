/** The rounds of a machine: hanging device processes four times a second; vCPUs, odd accesses and interrupts once. */
import type { FaultData, FaultKind } from '@nyx/protocol';
import type { VmSpec } from '@nyx/protocol/spec';
import { IrqEntry, wire } from '@nyx/ring';
import type { DeviceProcess } from './device-process.ts';
import type { Raised } from './fault-desk.ts';
import type { StatusReader } from './status.ts';
import { Growth, HangWatch } from './vitals.ts';

const roundMs = 250;
/** Rounds from one look at the vCPUs to the next. */
const lookEvery = 4;

export interface Rounds {
  runs(): boolean;
  /** Asks vCPUs to publish where they are; they have until the next look. */
  look(): void;
  fault(kind: FaultKind, raised: Raised): void;
  process(p: DeviceProcess, kind: FaultKind, data: FaultData): void;
}

export class MachineWatch {
  readonly #timer: NodeJS.Timeout;
  readonly #hang: HangWatch;
  readonly #growth = new Growth();
  #round = 0;
  #resumed = true;

  constructor(
    readonly spec: VmSpec,
    readonly status: StatusReader,
    readonly processes: readonly DeviceProcess[],
    readonly rounds: Rounds,
  ) {
    // Who asks a deterministic vCPU where it is changes when it looks around.
    this.#hang = new HangWatch(
      spec.deterministic ? 0 : spec.policy.hangTime,
      () => this.status.accel === 'soft',
    );
    // What another supervisor has seen already.
    for (let i = 0; i < spec.cpus; i++) {
      const v = status.page.vcpu.at(i);
      this.#growth.of(`port${i}`, v.unmappedPorts, performance.now());
      this.#growth.of(`mmio${i}`, v.unmappedMmio, performance.now());
    }
    this.#timer = setInterval(() => this.#turn(), roundMs);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #turn(): void {
    const now = performance.now();
    for (const p of this.processes) p.watch(now);
    if (!this.rounds.runs()) {
      this.#resumed = true;
      return;
    }
    if (++this.#round % lookEvery !== 0) return;
    if (this.#resumed) this.#hang.restart();
    this.#resumed = false;
    const { cpus } = this.spec;
    const hang = this.#hang.look(now, this.status.vitals(cpus));
    if (hang) this.rounds.fault('guestHang', { data: { ...hang } });
    for (let i = 0; i < cpus; i++) this.#unmapped(i, now);
    for (const p of this.processes) this.#storm(p, now);
    if (this.#hang.seconds > 0) this.rounds.look();
  }

  /** Accesses to nowhere. */
  #unmapped(i: number, now: number): void {
    const v = this.status.page.vcpu.at(i);
    const rip = this.status.vitals(this.spec.cpus)[i]!.rip;
    const ports = this.#growth.of(`port${i}`, v.unmappedPorts, now);
    if (ports.count > 0)
      this.rounds.fault('unmappedPort', {
        data: { port: `0x${v.lastPort.toString(16)}`, count: ports.count, rip },
      });
    const mmio = this.#growth.of(`mmio${i}`, v.unmappedMmio, now);
    if (mmio.count > 0)
      this.rounds.fault('unmappedMmio', {
        data: { address: `0x${v.lastMmio.toString(16)}`, count: mmio.count, rip },
      });
  }

  /** Words of the interrupt page: edges of lines, numbers of messages. */
  #storm(p: DeviceProcess, now: number): void {
    const words = new Uint32Array(p.plan.memory.irqPage.buffer);
    let sum = 0;
    p.plan.devices
      .flatMap((d) => d.irqs ?? [])
      .forEach((route, entry) => {
        const word = words[(wire.irqEntriesAt + entry * IrqEntry.bytes) >> 2]!;
        sum += route === 'msi' ? word : word >>> 1;
      });
    const { perSecond } = this.#growth.of(`irq ${p.name}`, sum, now);
    if (perSecond > this.spec.policy.stormLimit) this.rounds.process(p, 'interruptStorm', { perSecond });
  }
}
