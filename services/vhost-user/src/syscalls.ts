import type { SyscallPolicy } from '@nyx/device';

/**
 * What the front-end needs of the kernel beyond what every device process does: to look at sockets it is sent, and a pair of
 * them for what the back-end asks.
 */
export const syscalls: SyscallPolicy = { attach: ['socketpair'], serve: ['getsockopt', 'socketpair'] };
