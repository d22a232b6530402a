/**
 * State blocks that no device process wants (STATE_*: damaged in both halves, of another layout, out of range): a copy is kept
 * in the run directory for whoever looks into it. The place stays isolated as long as the machine lives: emptied state
 * would count interrupts anew, below what the vCPU process has seen of them.
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
