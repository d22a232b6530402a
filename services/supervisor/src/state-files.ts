/**
 * State blocks that no device process wants (STATE_*: damaged in both halves, of another layout, out of range): a copy is kept
 * in the run directory for whoever looks into it. Emptied, a block begins anew; its interrupts go on being counted where
 * the published words stand, because the vCPU process has seen those.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileSize, mmap, munmap } from '@nyx/native';
import { IrqEntry, wire } from '@nyx/ring';
import type { ProcessPlan } from './plan.ts';

/** Copies kept of one device. */
const kept = 4;

/** Saves the blocks of all devices of a process; the files' names. The oldest of earlier copies is overwritten. */
export const saveBlocks = (dir: string, plan: ProcessPlan, nth: number): string[] =>
  plan.role.devices.map((d) => {
    const path = join(dir, `${d.name}.state.${nth % kept}`);
    const fd = plan.fds[d.state]!;
    const memory = mmap(fd, fileSize(fd));
    writeFileSync(path, new Uint8Array(memory), { mode: 0o600 });
    munmap(memory);
    return path;
  });

/**
 * Empties the state block of a device, or of all devices of a process without a name. Its interrupts will be counted from
 * zero: the role says by how much that is short of what was published. (Lines into controllers of the same process are not
 * published; there an edge too many may be seen, as a PC may see one.)
 */
export const emptyBlock = (plan: ProcessPlan, device: string): void => {
  const words = new Uint32Array(plan.memory.irqPage.buffer);
  plan.role.devices.forEach((d, n) => {
    if (device !== '' && d.name !== device) return;
    d.irqShift = (plan.devices[n]?.irqs ?? []).map((route, i) => {
      const word = words[(wire.irqEntriesAt + (d.irqBase + i) * IrqEntry.bytes) >> 2] ?? 0;
      return route === 'msi' ? word : word >>> 1;
    });
    const fd = plan.fds[d.state]!;
    const memory = mmap(fd, fileSize(fd));
    new Uint8Array(memory).fill(0);
    munmap(memory);
  });
};

export const hasStandby = (plan: ProcessPlan, device: string): boolean =>
  plan.role.devices.some((d) => d.name === device && d.fds.standby !== undefined);

/** Devices with two backends go on with the other one, from the next process on. False: there is none. */
export const failOver = (plan: ProcessPlan): boolean => {
  let any = false;
  for (const d of plan.role.devices) {
    const { file, standby } = d.fds;
    if (file === undefined || standby === undefined) continue;
    d.fds = { ...d.fds, file: standby, standby: file };
    any = true;
  }
  return any;
};
