import type { SyscallPolicy } from '@nyx/device';

/** The chips of the platform live in shared memory alone: nothing beyond what every device process does. */
export const syscalls: SyscallPolicy = {};
