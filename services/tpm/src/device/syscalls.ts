import type { SyscallPolicy } from '@nyx/device';

/** What the TPM needs of the kernel beyond what every device process does: its state is a file, or memory, by descriptor. */
export const syscalls: SyscallPolicy = {
  serve: ['statx', 'pread64', 'pwrite64', 'fsync', 'fdatasync'],
};
