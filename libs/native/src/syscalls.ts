/**
 * The system calls that every device process needs while it serves: what V8, libuv and this addon do after everything
 * is open. No open, socket, connect, exec, clone, ptrace; kill and tgkill reach only the process itself, mmap makes no
 * anonymous shared memory (seccomp_filter.h). A service adds its own (`syscalls.ts` of the service). Not with
 * `otherwise: 'kill'`: now and then libc asks for more, like opening /sys/devices/system/cpu/online when threads
 * compete in malloc, and can do without.
 */
export const deviceSyscalls: readonly string[] = [
  // Memory and threads of V8.
  ...[
    'brk',
    'mmap',
    'munmap',
    'mremap',
    'mprotect',
    'madvise',
    'pkey_mprotect',
    'futex',
    'futex_waitv',
    'membarrier',
  ],
  ...['sched_yield', 'sched_getaffinity', 'getcpu', 'rseq', 'set_robust_list', 'restart_syscall'],
  ...['rt_sigaction', 'rt_sigprocmask', 'rt_sigreturn', 'sigaltstack', 'exit', 'exit_group'],
  ...['getpid', 'gettid', 'getrusage', 'getrandom', 'prlimit64', 'sysinfo'],
  ...['clock_gettime', 'clock_getres', 'clock_nanosleep', 'gettimeofday', 'nanosleep', 'pause'],
  // abort(), and death on purpose.
  ...['kill', 'tgkill'],
  // The event loop; eventfds, timers, the role socket.
  ...['epoll_wait', 'epoll_pwait', 'epoll_ctl', 'poll', 'read', 'write', 'writev', 'close', 'fcntl', 'fstat'],
  ...['newfstatat', 'timerfd_settime', 'recvmsg', 'sendmsg', 'ioctl'],
];

/** What a device process needs besides until it serves: timers and events, and memory for its rehearsal as a spare. */
export const attachSyscalls: readonly string[] = [
  'timerfd_create',
  'eventfd2',
  'memfd_create',
  'ftruncate',
  'getsockopt',
];
