/**
 * The system calls that a device process needs once it serves: what V8, libuv and this addon do after everything
 * is open. No open, socket, connect, exec, clone, kill, ptrace. For `seccomp({ allow: deviceSyscalls })`, after the
 * role was taken, files and memory mapped, and the I/O queue made. Not with `otherwise: 'kill'`: now and then libc asks
 * for more, like opening /sys/devices/system/cpu/online when threads compete in malloc, and can do without.
 */
export const deviceSyscalls: readonly string[] = [
  // Memory and threads of V8.
  ...['brk', 'mmap', 'munmap', 'mremap', 'mprotect', 'madvise', 'pkey_mprotect', 'futex', 'membarrier'],
  ...['sched_yield', 'sched_getaffinity', 'getcpu', 'rseq', 'set_robust_list', 'restart_syscall'],
  ...['rt_sigaction', 'rt_sigprocmask', 'rt_sigreturn', 'sigaltstack', 'exit', 'exit_group'],
  ...['getpid', 'gettid', 'getrusage', 'getrandom', 'prlimit64', 'sysinfo'],
  ...['clock_gettime', 'clock_getres', 'clock_nanosleep', 'gettimeofday', 'nanosleep'],
  // The event loop; eventfds, timers, the role socket.
  ...['epoll_wait', 'epoll_pwait', 'epoll_ctl', 'poll', 'read', 'write', 'writev', 'close', 'fcntl', 'fstat'],
  ...['newfstatat', 'timerfd_create', 'timerfd_settime', 'eventfd2', 'recvmsg', 'sendmsg', 'ioctl'],
  // Files that are open.
  ...['pread64', 'pwrite64', 'preadv', 'pwritev', 'fsync', 'fdatasync', 'fallocate', 'ftruncate', 'lseek'],
  'io_uring_enter',
];
