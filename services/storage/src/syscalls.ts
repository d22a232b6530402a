import type { SyscallPolicy } from '@nyx/device';

/** What the disk needs of the kernel beyond what every device process does. */
export const syscalls: SyscallPolicy = {
  attach: [
    // The queue of a role's disk; which operations it may ever do is fixed when it is made (io_uring.cc).
    ...['io_uring_setup', 'io_uring_register'],
    // The four threads that stand in for it where the kernel refuses io_uring.
    ...['clone3', 'clone'],
  ],
  serve: [
    'io_uring_enter',
    // What is done at once (io_inline.h), the threads' requests, and those that the queue cannot do on this file system.
    ...[
      'pread64',
      'pwrite64',
      'preadv',
      'preadv2',
      'pwritev',
      'fsync',
      'fdatasync',
      'fallocate',
      'ftruncate',
      'lseek',
      // Reads by a mapping (mapped_file.h): which pages are there, and whether we may be told.
      'mincore',
      'geteuid',
      'faccessat2',
    ],
  ],
};
