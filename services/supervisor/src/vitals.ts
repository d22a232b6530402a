/**
 * Looks at what vCPUs and device processes show of themselves in shared memory, once a second, and tells what is not well:
 * a guest that hangs, accesses to nowhere, too many interrupts. Pure but for its memory of the last look.
 */

/** A vCPU as it published itself (VcpuStats). */
export interface VcpuVital {
  /** 0 off, 1 running, 2 halted, 3 waits for a device, 4 paused */
  state: number;
  looks: number;
  rflags: number;
  rip: string;
  interrupts: number;
}

export interface Hang {
  vcpu: number;
  rip: string;
  /** Whole seconds so far. */
  seconds: number;
  what: string;
}

const interruptFlag = 0x200;
const State = { off: 0, running: 1, halted: 2 } as const;

/** What a vCPU has been doing without a break, since when (ms). */
interface Streak {
  what: 'halted' | 'spins' | 'silent' | '';
  since: number;
  last: VcpuVital;
}

/**
 * A guest hangs when one of its vCPUs runs with interrupts off and takes none, or does not come by at all, or when every one
 * that is on has halted with interrupts off; each for `seconds`. A vCPU that waits for a device does not hang: the
 * device does. Told once, and again after progress.
 */
export class HangWatch {
  #streaks: (Streak | undefined)[] = [];
  #told = false;

  /** @param seconds 0: never */
  constructor(
    readonly seconds: number,
    /** The engine counts interrupts that it delivers, so that one that spins with interrupts on is seen, too. */
    readonly counts: () => boolean,
  ) {}

  /** Looks at `now` (ms) at all vCPUs of a machine that runs. */
  look(now: number, vcpus: readonly VcpuVital[]): Hang | undefined {
    if (this.seconds === 0) return undefined;
    vcpus.forEach((v, i) => this.#follow(i, now, v));
    const long = (s: Streak | undefined): boolean =>
      s !== undefined && s.what !== '' && now - s.since >= this.seconds * 1000;
    const on = this.#streaks.flatMap((s, i) => (s && s.last.state !== State.off ? [{ i, s }] : []));
    const stuck =
      on.find(({ s }) => s.what !== 'halted' && long(s)) ??
      (on.length > 0 && on.every(({ s }) => s.what === 'halted' && long(s)) ? on[0] : undefined);
    if (!stuck) {
      this.#told = false;
      return undefined;
    }
    if (this.#told) return undefined;
    this.#told = true;
    const { i, s } = stuck;
    return {
      vcpu: i,
      rip: s.last.rip,
      seconds: Math.floor((now - s.since) / 1000),
      what:
        s.what === 'halted'
          ? 'halted with interrupts off'
          : s.what === 'silent'
            ? 'does not come by'
            : `spins with interrupts ${s.last.rflags & interruptFlag ? 'on, at one place' : 'off'}`,
    };
  }

  /** Nothing seen so far counts: the machine was paused, reset, or nobody looked. */
  restart(): void {
    this.#streaks = [];
    this.#told = false;
  }

  #follow(i: number, now: number, v: VcpuVital): void {
    const s = this.#streaks[i];
    const off = !(v.rflags & interruptFlag);
    let what: Streak['what'] = '';
    if (v.state === State.halted) what = off ? 'halted' : '';
    else if (v.state === State.running && s && s.last.state === State.running) {
      const quiet = v.interrupts === s.last.interrupts;
      if (v.looks === s.last.looks) what = 'silent';
      else if (quiet && (off || (this.counts() && v.rip === s.last.rip))) what = 'spins';
    }
    if (s && s.what === what && what !== '') s.last = v;
    else this.#streaks[i] = { what, since: now, last: v };
  }
}

/** Tells how much a counter has grown since the last look; before the first it was 0. */
export class Growth {
  readonly #last = new Map<string, { value: number; at: number }>();

  /** What came since the last look, and how much that is a second. */
  of(key: string, value: number, nowMs: number): { count: number; perSecond: number } {
    const last = this.#last.get(key);
    this.#last.set(key, { value, at: nowMs });
    if (!last) return { count: value, perSecond: 0 };
    if (value < last.value || nowMs <= last.at) return { count: 0, perSecond: 0 };
    const count = value - last.value;
    return { count, perSecond: Math.round((count * 1000) / (nowMs - last.at)) };
  }
}
