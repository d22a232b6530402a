/**
 * The disks of a machine that runs: what their processes tell, and what may be changed under them. Every change is a change
 * of a role: the process is ended at whatever it does, and its successor begins with the files that it has then. Requests
 * that were under way are done again by the successor, as after any death.
 */
import type { DeviceEvent } from '@nyx/protocol';
import type { VmEvent } from '@nyx/protocol/control';
import type { DeviceProcess } from './device-process.ts';

/** The machine, as far as disks need it. */
export interface DiskOwner {
  processes(): readonly DeviceProcess[];
  /** Guest time stands still; nothing to do when it does already. */
  pause(): void;
  emit(e: VmEvent): void;
}

const text = (v: unknown): string => (typeof v === 'string' ? v : '');
const count = (v: unknown): number => (typeof v === 'number' && v >= 0 ? v : 0);

export class Disks {
  /** Why the machine stands still: by disk, what it could not do. */
  readonly #stopped = new Map<string, string>();

  constructor(private readonly owner: DiskOwner) {}

  /** A disk holds a request that its backend failed; guest time must not pass until somebody says what is to be. */
  told({ device, event, detail }: DeviceEvent): void {
    if (event !== 'stopped') return;
    const reason = detail.reason === 'noSpace' ? 'noSpace' : 'io';
    this.#stopped.set(device, reason);
    this.owner.emit({
      type: 'disk',
      at: Date.now(),
      device,
      op: text(detail.op),
      position: count(detail.position),
      bytes: count(detail.bytes),
      reason,
    });
    this.owner.pause();
  }

  /** Guest time is about to pass again: what is held is tried again. */
  retry(): void {
    for (const device of this.#stopped.keys())
      for (const p of this.owner.processes())
        if (p.plan.devices.some((d) => d.name === device))
          p.tell({ type: 'order', device, order: { name: 'retry' } });
    this.#stopped.clear();
  }
}
