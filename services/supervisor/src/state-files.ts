/**
 * State blocks that no device process wants (STATE_*: damaged in both halves, of another layout, out of range): a copy is kept
 * in the run directory for whoever looks into it. Emptied, a block begins anew; its interrupts go on being counted where
 * the published words stand, because the vCPU process has seen those.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileSize, mmap, munmap } from '@nyx/native';
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

/** Empties the state block of a device, or of all devices of a process without a name. */
export const emptyBlock = (plan: ProcessPlan, device: string): void => {
  for (const d of plan.role.devices) {
    if (device !== '' && d.name !== device) continue;
    const fd = plan.fds[d.state]!;
    const memory = mmap(fd, fileSize(fd));
    new Uint8Array(memory).fill(0);
    munmap(memory);
  }
};
