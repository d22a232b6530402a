/** What `nyx status` shows, read from shared memory: nobody is asked, so a machine that hangs can be looked at too. */
import { Memory, type View, view } from '@nyx/layout';
import { monotonicNs } from '@nyx/native';
import { type ProcessStatus, type VcpuStatus, vcpuStates } from '@nyx/protocol/control';
import { GuestClock, VmPage, wire } from '@nyx/ring';
import type { DeviceProcess } from './device-process.ts';
import type { VcpuVital } from './vitals.ts';

/** Turns counters into rates between two looks (at least 50 ms apart). */
class Rates {
  readonly #last = new Map<string, { at: number; value: number; rate: number }>();
  of(key: string, value: number): number {
    const at = monotonicNs();
    const last = this.#last.get(key);
    if (last && at - last.at < 5e7) return last.rate;
    const rate = last && value >= last.value ? ((value - last.value) * 1e9) / (at - last.at) : 0;
    this.#last.set(key, { at, value, rate });
    return rate;
  }
}

export class StatusReader {
  readonly page: View<typeof VmPage>;
  readonly clock: GuestClock;
  readonly #rates = new Rates();

  constructor(vmPage: ArrayBuffer) {
    this.page = view(VmPage, new Memory(vmPage));
    this.clock = new GuestClock(vmPage);
  }

  get accel(): string {
    return ['', 'kvm', 'soft'][this.page.accel] ?? '';
  }

  vcpus(count: number, processes: readonly string[]): VcpuStatus[] {
    return Array.from({ length: count }, (_, i) => {
      const v = this.page.vcpu.at(i);
      const exits = {
        sync: v.exitsSync,
        posted: v.exitsPosted,
        shadow: v.exitsShadow,
        counter: v.exitsCounter,
        unclaimed: v.exitsUnclaimed,
        halt: v.exitsHalt,
      };
      const all = Object.values(exits).reduce((a, b) => a + b, 0);
      const state = vcpuStates[v.state] ?? 'off';
      const waitsFor = state === 'waits' ? processes[v.waitsFor] : undefined;
      return {
        state,
        instructions: v.instructions,
        instructionsPerSecond: this.#rates.of(`i${i}`, v.instructions),
        exits,
        exitsPerSecond: this.#rates.of(`e${i}`, all),
        interrupts: v.interrupts,
        waitNs: v.waitNs,
        time: {
          translated: v.inTranslated * wire.sampleNs,
          interpreter: v.inInterpreter * wire.sampleNs,
          translator: v.inTranslator * wire.sampleNs,
          mmu: v.inMmu * wire.sampleNs,
          exits: v.inExits * wire.sampleNs,
          waiting: v.waitNs,
          halted: v.haltedNs,
        },
        maxWaitNs: v.maxWaitNs,
        lastRip: `0x${v.lastRipHi.toString(16).padStart(8, '0')}${v.lastRipLo.toString(16).padStart(8, '0')}`,
        ...(waitsFor === undefined ? {} : { waitsFor }),
      };
    });
  }

  /** What a watch for hangs needs of each vCPU. */
  vitals(count: number): VcpuVital[] {
    return Array.from({ length: count }, (_, i) => {
      const v = this.page.vcpu.at(i);
      const rip = `0x${(BigInt(v.lastRipHi) * 0x1_0000_0000n + BigInt(v.lastRipLo)).toString(16)}`;
      return { state: v.state, looks: v.looks, rflags: v.rflags, rip, interrupts: v.interrupts };
    });
  }

  process(p: DeviceProcess): ProcessStatus {
    const served = p.control.servedHi * 2 ** 32 + p.control.servedLo;
    return {
      name: p.name,
      state: p.state,
      pid: p.pid,
      ...(p.standbyPid ? { standby: { pid: p.standbyPid, armed: p.standbyArmed } } : {}),
      devices: p.plan.devices.map((d) => ({ name: d.name, kind: d.kind })),
      restarts: p.restarts,
      served,
      exitsPerSecond: this.#rates.of(p.name, served),
      violations: p.violations,
      ...(p.jail ? { jail: p.jail } : {}),
      ...(p.lastRecovery ? { lastRecovery: p.lastRecovery } : {}),
      ...(p.error ? { error: p.error.toJSON() } : {}),
    };
  }
}
