import type { SyscallPolicy } from '@nyx/device';

/** What the front-end needs of the kernel beyond what every device process does: to look at sockets it is sent. */
export const syscalls: SyscallPolicy = { serve: ['getsockopt'] };
