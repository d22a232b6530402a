/** What the processes of disks have to say, and what is done about it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { close } from '@nyx/native';
import type { DeviceEvent } from '@nyx/protocol';
import { connectNbd, parseNbdUri } from '@nyx/protocol/nbd';
import type { DeviceProcess } from './device-process.ts';
import type { DiskOwner } from './disk-table.ts';

const text = (v: unknown): string => (typeof v === 'string' ? v : '');
const count = (v: unknown): number => (typeof v === 'number' && v >= 0 ? v : 0);

export class DiskEvents {
  /** Why the machine stands still: by device, what it could not do. */
  readonly #stopped = new Map<string, string>();

  /** @param pathOf a disk by its name */
  constructor(
    private readonly owner: DiskOwner,
    private readonly pathOf: (device: string) => string | undefined,
  ) {}

  /** A disk holds a request that its backend failed; guest time must not pass until somebody says what is to be. */
  told({ device, event, detail }: DeviceEvent): void {
    if (event === 'connect') void this.#connect(device);
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

  /** The process of a disk that an NBD server has wants a connection: it gets one as soon as there is a server. */
  async #connect(device: string): Promise<void> {
    const p: DeviceProcess | undefined = this.owner.processes().find((x) => x.name === device);
    const address = parseNbdUri(this.pathOf(device) ?? '');
    if (!p || !address) return;
    // Asked again meanwhile, perhaps by a successor: whoever has a connection then closes the one that it does not need.
    if (this.#connecting.has(device)) {
      this.#connecting.set(device, true);
      return;
    }
    do {
      this.#connecting.set(device, false);
      for (let wait = 50; p.state !== 'stopped' && p.state !== 'isolated'; wait = Math.min(2 * wait, 1000)) {
        try {
          const fd = await connectNbd(address);
          p.tell({ type: 'order', device, order: { name: 'connection' } }, [fd]);
          close(fd);
          break;
        } catch {
          await sleep(wait, undefined, { ref: false });
        }
      }
    } while (this.#connecting.get(device));
    this.#connecting.delete(device);
  }
  /** By disk: whether it was asked for again. */
  readonly #connecting = new Map<string, boolean>();

  /** What disks had told a supervisor before us is not known: whoever may wait for something gets it. */
  inherit(devices: readonly string[]): void {
    for (const device of devices) {
      if (parseNbdUri(this.pathOf(device) ?? '')) void this.#connect(device);
      this.#stopped.set(device, 'io');
    }
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
