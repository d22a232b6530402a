/**
 * Every export of the addon `nyx_native`. Memory is `ArrayBuffer` over shared mappings; sizes and offsets are
 * bytes; times are nanoseconds of CLOCK_MONOTONIC as numbers; descriptors are numbers and always close-on-exec.
 *
 * Every function validates its arguments first and throws `NativeError`: `code` 'EINVAL' for a wrong argument
 * (TypeError for a wrong type has `code` 'ERR_INVALID_ARG'), else the name of errno, with `syscall` and `errno`.
 *
 * Length: nothing but declarations, all that the addon has; who looks for one looks here.
 */
export interface NativeError extends Error {
  /** 'EINVAL', 'ENOMEM', ... or 'ERR_INVALID_ARG'. */
  code: string;
  syscall?: string;
  errno?: number;
}

export interface MemfdOptions {
  /** Adds F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL (default true). */
  seal?: boolean;
  /** Backs the file by 2 MiB huge pages; `size` must be a multiple of them. ENOMEM when the host has none. */
  hugePages?: boolean;
}

export interface MmapOptions {
  /** Multiple of 4096 (default 0). */
  offset?: number;
  /** Default true. */
  write?: boolean;
  /** Refuse (EPERM) a file that its other holders could shrink: reading it could kill us with SIGBUS (default false). */
  sealed?: boolean;
}

/** A descriptor watched in the event loop. */
export interface Watch {
  /** Stops watching. The descriptor stays open. Idempotent. */
  close(): void;
  /** Whether it keeps the process alive (default yes). */
  ref(): void;
  unref(): void;
}

/** A timerfd on CLOCK_MONOTONIC in the event loop. */
export interface Timer {
  /** Fires once at that absolute time; at once when it has passed. Replaces an earlier time. Infinity disarms. */
  armAt(ns: number): void;
  disarm(): void;
  close(): void;
  ref(): void;
  unref(): void;
}

/** A stream socket whose peer waits for each answer before it asks again. */
export interface Exchange {
  /**
   * Sends the first `answer` octets of the output (0: none), then receives into the input behind the first `have` octets. Octets
   * received; 0: the peer has closed, or does not read its answers; -1: nothing has come. With `mayWait` it blocks for the time
   * that was given, unless the event loop has something to do.
   */
  next(answer: number, have: number, mayWait: boolean): number;
}

export interface SeqSocketOptions {
  /** `bytes` is the receiver's own copy; `fds` now belong to it and must be closed by it. */
  onMessage(bytes: Uint8Array, fds: number[]): void;
  /** The peer closed (no error), or the socket failed, or the peer broke a limit (code 'EMSGSIZE'). Called once. */
  onClose?(error?: NativeError): void;
  /** All queued messages were sent, after `send` returned false. */
  onDrain?(): void;
  /** Longest message accepted, default 65536, at most 1 MiB. */
  maxBytes?: number;
  /** Most descriptors accepted with one message, default 64, at most 253. */
  maxFds?: number;
}

/** A stream, on which each message begins with a header that tells the length of the rest. */
export interface FrameSocketOptions extends SeqSocketOptions {
  /** 4..64; `maxBytes` counts it too. */
  headerBytes: number;
  /** Where in the header is the length of what follows it: 32 bits, little-endian. */
  lengthAt: number;
}

/** One end of a connection that keeps messages whole. Owns its descriptor. */
export interface SeqSocket {
  /**
   * Sends one message; the descriptors are duplicated, the caller keeps its own. Returns false when it was queued
   * because the peer does not read (`onDrain` follows). ENOBUFS when 4 MiB are queued; EPIPE after close.
   */
  send(bytes: Uint8Array, fds?: readonly number[]): boolean;
  /** Bytes queued. */
  readonly queued: number;
  close(): void;
  ref(): void;
  unref(): void;
}

/** What IoQueue does with a file. */
export interface IoOps {
  readonly read: 0;
  readonly write: 1;
  readonly fsync: 2;
  readonly fdatasync: 3;
  /** fallocate(PUNCH_HOLE | KEEP_SIZE); the length is segment 0's length. */
  readonly punchHole: 4;
  /** fallocate(ZERO_RANGE | KEEP_SIZE); -EOPNOTSUPP where the file system cannot: write zeroes then. */
  readonly zeroRange: 5;
}

export interface IoQueueOptions {
  /** Requests in flight at most; power of two, 1..4096. */
  entries: number;
  /** 'auto' (default): io_uring, or a pool of 4 threads when the kernel refuses it. */
  engine?: 'auto' | 'io_uring' | 'threads';
  /**
   * What is done in `queue` itself: 'cached' (default) reads that the page cache answers; 'all' writes too, and reads of file
   * systems that cannot say whether they would wait, or from a mapping: they hardly ever wait, but then it may be long (io_inline.h). Not of files
   * open with O_DIRECT, which a descriptor is asked for once: it must not become another file while the queue lives.
   */
  inline?: 'none' | 'cached' | 'all';
  /** Completions wait in the queue: call `harvest`. */
  onReady(): void;
}

/** The queue as the addon makes it; `createIoQueue` of native.ts gives it its `queue`. */
export interface NativeIoQueue extends Omit<IoQueue, 'queue'> {
  /** Arguments of `queue`, in their order: a call with none takes half as long as one with five. */
  readonly request: Float64Array;
  queueRequest(): boolean;
}

/**
 * Asynchronous file I/O into mapped memory without an allocation per request. Fill `segments` with
 * (memory index, byte offset, length) triples, call `queue` for each request, then `submit` once. Completions are
 * (id, result) pairs, result >= 0 bytes or -errno, in `completions`.
 */
export interface IoQueue {
  readonly engine: 'io_uring' | 'threads';
  /** 3 * 256 numbers: up to 256 (memory, offset, length) triples of the request being queued. */
  readonly segments: Float64Array;
  /** Pairs, 2 * entries numbers. */
  readonly completions: Int32Array;
  /** Makes a mapped buffer addressable; the queue keeps it mapped. Returns its memory index. */
  addMemory(buffer: ArrayBuffer): number;
  /**
   * Adds a request, or does it (`inline`). id: 0..2^31-1, chosen by the caller. Returns false when `entries` are in flight.
   * EINVAL when a segment lies outside its memory. `segmentCount` is 0 for the syncs.
   */
  queue(op: number, id: number, fd: number, fileOffset: number, segmentCount: number): boolean;
  /**
   * Starts all queued requests. True: some are complete already, `harvest` gives them at once; else, or if it is
   * not called, `onReady` tells.
   */
  submit(): boolean;
  /** Moves finished requests to `completions`; returns how many pairs. No system call when there are none. */
  harvest(): number;
  readonly inFlight: number;
  /** Reads that were answered from a mapping of the file (mapped_file.h). */
  readonly mapped: number;
  /** Waits for what is in flight, then frees the queue. */
  close(): void;
  ref(): void;
  unref(): void;
}

/** Indices of `ExitCore.ctl`. `wait` fills the first group, the caller the second before `commit` or `reply`. */
export interface CtlIndex {
  readonly ring: 0;
  readonly kind: 1;
  readonly width: 2;
  readonly device: 3;
  readonly region: 4;
  readonly flags: 5;
  readonly count: 6;
  readonly offsetLo: 7;
  readonly offsetHi: 8;
  readonly dataLo: 9;
  readonly dataHi: 10;
  readonly seqLo: 11;
  readonly seqHi: 12;
  readonly block: 16;
  readonly replyLo: 17;
  readonly replyHi: 18;
  readonly status: 19;
  /** A fault on purpose in the exit being served: where (`place`), what (`faultVerb`), microseconds of a delay. */
  readonly faultPlace: 20;
  readonly faultVerb: 21;
  readonly faultUs: 22;
}

export interface ExitCoreOptions {
  /** The whole ring memfd. */
  rings: ArrayBuffer;
  /** eventfd that producers kick. */
  kick: number;
  /** Called when there may be exits; must loop over `wait` until it is negative. */
  onWork(): void;
  /** Longest spin before going to sleep, default 50_000 ns; 0: never spins. */
  maxSpinNs?: number;
  /** Longest stay out of the event loop, default 200_000 ns. */
  maxBusyNs?: number;
  /** Period of the heartbeat while idle, default 100 ms. */
  heartbeatMs?: number;
  /**
   * Only this thread, and file requests of `createIoQueue`, change what outlives the process: its death is told at once
   * (`createDeathWatch`). Default true; false: only a pidfd tells.
   */
  alone?: boolean;
  /** For tests: dies by SIGKILL while it serves its `killAt`-th exit since the start ... */
  killAt?: number;
  /** ... 0 before the commit, 1 between commit and reply, 2 between reply and tail, 3 after the tail moved. */
  killPoint?: number;
}

/** Values of `ctl[faultPlace]`: cleared when the fault has happened. */
export interface PlaceIndex {
  readonly nowhere: 0;
  /** After the handler, before the commit. */
  readonly commit: 1;
  /** Between commit and reply. */
  readonly reply: 2;
  /** Between reply and tail. */
  readonly tail: 3;
  /** Between tail and settle. */
  readonly settle: 4;
  /** After settle, interrupts and lines, before the next exit is looked for. */
  readonly done: 5;
}

/** Values of `ctl[faultVerb]`. */
export interface FaultVerbIndex {
  /** SIGKILL. */
  readonly kill: 0;
  /** For ever. */
  readonly hang: 1;
  /** `ctl[faultUs]` microseconds. */
  readonly delay: 2;
}

/** The consumer of exit rings: waiting, the commit point, the reply. libs/ring wraps it. */
export interface ExitCore {
  /** 32 words; see CtlIndex. */
  readonly ctl: Uint32Array;
  /**
   * Registers a state block that was validated; its inactive half becomes a copy of the active one.
   * Returns its index for `ctl[block]`. `truth` is the generation to serve.
   */
  addBlock(buffer: ArrayBuffer): number;
  /**
   * Attach: takes the tails, publishes committed replies, wakes producers, stores `epoch`. Once, after all blocks.
   * Returns the number of replies published again. Code RING_CORRUPT when a ring's head is nonsense.
   */
  attach(): number;
  /** Begins to serve: `attached = epoch`, then onWork when something waits. */
  start(): void;
  /** Next exit's ring (request copied to `ctl`), -1: asleep until onWork, -2: event loop's turn, then onWork. */
  wait(): number;
  /** Commits `ctl[block]` with the exit last returned by `wait`, publishes its reply, prepares the next half. */
  commit(): void;
  /** Publishes a reply without a commit: accesses that changed nothing. */
  reply(): void;
  /** Commits a change that is not an exit. */
  commitEvent(block: number): void;
  /** Makes the inactive half a copy of the active one again: throws a change away. */
  revert(block: number): void;
  /** Does what `ctl[faultVerb]` says, here and now. */
  strike(): void;
  /** Requests answered natively because a producer's request was not well formed. */
  readonly malformed: number;
  /** Stops serving. */
  close(): void;
}

/** Hears of the death of the thread that serves exit rings, milliseconds before a pidfd is readable. */
export interface DeathWatch {
  /** Watches who serves these rings now. Once. The watch is silent when that one does not tell. */
  start(rings: ArrayBuffer): void;
  close(): void;
  ref(): void;
  unref(): void;
}

export interface LandlockRule {
  path: string;
  /** 'read' (files and directories), 'write' (also create, remove), 'execute'. */
  access: readonly ('read' | 'write' | 'execute')[];
}

export interface SeccompOptions {
  /** Names ('read', 'futex') or numbers of system calls that stay allowed. */
  allow: readonly (string | number)[];
  /** What other calls get (default 'EPERM'); 'log': EPERM too, and they are told to `onDenied` and on standard error. */
  otherwise?: 'EPERM' | 'log' | 'kill';
}

/** Acts as a vCPU thread on one ring; for tests and benchmarks. `sync` blocks its thread. */
export interface TestProducer {
  /** [replyLo, replyHi, status] of the last sync. */
  readonly result: Uint32Array;
  /** Waits at most `timeoutNs`; returns the latency in ns, or -1 on timeout (then `await` goes on waiting). */
  sync(
    kind: number,
    device: number,
    region: number,
    offset: number,
    width: number,
    dataLo: number,
    dataHi: number,
    count?: number,
    timeoutNs?: number,
  ): number;
  /** Publishes without waiting for an answer; false when the ring is full. `flags` is ExitSlot.flags. */
  publish(
    kind: number,
    device: number,
    region: number,
    offset: number,
    width: number,
    dataLo: number,
    dataHi: number,
    count?: number,
    flags?: number,
  ): boolean;
  /** Waits until everything published was answered; false on timeout. */
  await(timeoutNs: number): boolean;
  /** n sync exits as fast as possible; latencies in ns into `out` (length >= n). Returns ns in all. */
  bench(
    n: number,
    kind: number,
    device: number,
    region: number,
    offset: number,
    width: number,
    out: Float64Array,
  ): number;
  /** Posted exits, n in all, waiting only while the ring is full; cost in ns each into `out`. */
  benchPosted(
    n: number,
    device: number,
    region: number,
    offset: number,
    width: number,
    out: Float64Array,
  ): number;
  /** Sequence of the newest request. */
  readonly head: number;
}

/** A load on one split virtqueue of a block device; guest addresses are offsets in the memory. */
export interface RingLoad {
  /** Entries of the ring, a power of two, at least 3 * depth. */
  size: number;
  desc: number;
  avail: number;
  used: number;
  /** Place for 32 * depth bytes. */
  headers: number;
  /** Place for bytes * depth. */
  data: number;
  depth: number;
  count: number;
  /** Of a request. */
  bytes: number;
  /** 0: reads, 1: writes. */
  type: number;
  /** Bytes of the disk that are used. */
  span: number;
  /** 1: one after the other; 0: anywhere. */
  sequential: number;
  /** 1: the driver spins instead of waiting for `call`. */
  polling: number;
  kick: number;
  call: number;
  seed: number;
}

/** The policy by which `wait` decides how long to spin; pure, for tests. */
export interface SpinPolicy {
  /** Nanoseconds to spin now. */
  next(): number;
  /** Work came `gapNs` after the last; `slept`: we had gone to sleep (the gap then includes the wake-up). */
  arrived(gapNs: number, slept: boolean): void;
}

/** The policy by which an IoQueue decides whether to do what may wait in `queue` itself; pure, for tests. */
export interface StallBudget {
  allows(nowNs: number): boolean;
  spent(beganNs: number, endedNs: number, bytes: number): void;
}

/** Saves pages of guest RAM before this process writes to them, while there is a checkpoint (page_store.h). */
export interface PageSaver {
  /** `length` bytes of RAM at `at` may be written when it returns. EINVAL when they are not all RAM. */
  save(at: number, length: number): void;
}

export interface Native {
  memfdCreate(name: string, size: number, options?: MemfdOptions): number;
  /** Maps MAP_SHARED, until `munmap`. EINVAL when offset + length is beyond the end of the file. Any size that the host can map. */
  mmap(fd: number, length: number, options?: MmapOptions): ArrayBuffer;
  /** @param pageMap its memfd, page store included; EINVAL when it is too small for `ram`, which is all of guest RAM, mapped */
  createPageSaver(pageMap: number, ram: ArrayBuffer): PageSaver;
  /** Detaches the buffer (its views become empty) and unmaps it as soon as no native object uses it. */
  munmap(buffer: ArrayBuffer): void;
  /**
   * Address space of `length` bytes without memory behind it: touching what nothing was mapped into is a SIGSEGV, so
   * its user checks every access.
   */
  createWindow(length: number): ArrayBuffer;
  /**
   * Maps a file, shared and writable, into a window, over what was there. `at` and `offset` are multiples of 4096, or of
   * the file's huge pages. EINVAL when the file is too short.
   */
  mapInto(window: ArrayBuffer, at: number, length: number, fd: number, offset: number): void;
  unmapFrom(window: ArrayBuffer, at: number, length: number): void;
  /** Size of the file behind a descriptor. */
  fileSize(fd: number): number;
  close(fd: number): void;
  dup(fd: number): number;
  /** O_NONBLOCK, for all who share the open file. */
  setNonblock(fd: number): void;
  pread(fd: number, buffer: ArrayBuffer, byteOffset: number, length: number, position: number): number;
  pwrite(fd: number, buffer: ArrayBuffer, byteOffset: number, length: number, position: number): number;
  fsync(fd: number, dataOnly?: boolean): void;
  fallocate(fd: number, mode: 'punchHole' | 'zeroRange', offset: number, length: number): void;
  /**
   * A lock of a range that belongs to the open file description (F_OFD_SETLK): it lasts until the last descriptor of that is
   * closed, in whatever process. False when another one is in the way. 'read' needs a descriptor for reading, 'write' one for writing.
   */
  ofdLock(fd: number, kind: 'read' | 'write' | 'none', offset: number, length: number): boolean;
  /** Whether such a lock could be had now. */
  ofdTest(fd: number, kind: 'read' | 'write', offset: number, length: number): boolean;

  eventfd(initial?: number): number;
  eventfdWrite(fd: number, count?: number): void;
  /** The count, 0 when there was none. */
  eventfdRead(fd: number): number;
  /** Calls back when `fd` is readable. `drain`: 8 bytes (eventfd, timerfd) are read first and given as the count. */
  watch(fd: number, readable: (count: number) => void, options?: { drain?: boolean }): Watch;
  createTimer(fired: () => void): Timer;
  monotonicNs(): number;

  /** 0 woken (or spurious), 1 value differed, 2 timed out. Infinity waits for ever. Blocks the thread. */
  futexWait(buffer: ArrayBuffer, byteOffset: number, expected: number, timeoutNs: number): number;
  /** Number of threads woken, in all processes. */
  futexWake(buffer: ArrayBuffer, byteOffset: number, count: number): number;
  memcpy(to: ArrayBuffer, toOffset: number, from: ArrayBuffer, fromOffset: number, length: number): void;
  /** CRC-32C (Castagnoli) of a range; `seed` continues an earlier one. */
  crc32c(buffer: ArrayBuffer, byteOffset: number, length: number, seed?: number): number;

  /** Connected sockets that keep the borders of messages (SOCK_SEQPACKET). */
  socketpair(): [number, number];
  /** The same of SOCK_STREAM. */
  streamPair(): [number, number];
  openSeqSocket(fd: number, options: SeqSocketOptions): SeqSocket;
  /**
   * What waits at a unix stream socket, and the descriptors that came with it, which the caller must close. Undefined when
   * nothing waits; no bytes and no descriptors: the peer has closed.
   */
  receiveRights(fd: number, maxBytes: number): { bytes: Uint8Array; fds: number[] } | undefined;
  /** Takes the descriptor out of O_NONBLOCK; the caller keeps and closes it. `waitMs`: how long `next` may block. */
  createExchange(fd: number, input: ArrayBuffer, output: ArrayBuffer, waitMs: number): Exchange;
  openFrameSocket(fd: number, options: FrameSocketOptions): SeqSocket;
  /** SOCK_STREAM at a path that does not exist yet (EADDRINUSE). */
  listenUnix(path: string): number;
  /** ECONNREFUSED when nobody listens there, ENOENT when the path does not exist. */
  connectUnix(path: string): number;
  /** The same where SOCK_SEQPACKET listens. */
  connectSeq(path: string): number;
  /** A peer of `listenUnix`; -1 when none waits. */
  acceptUnix(fd: number): number;

  /**
   * Starts a program as a child in a session of its own, in '/', with `fds[i]` (-1: /dev/null) as its descriptor i and
   * `env` ('NAME=value'), in new `namespaces` (as in `unshare`; EPERM when the kernel does not let us); returns its pid. Unlike fork it does not copy this process's page tables. Only
   * `waitProcess` reaps it.
   */
  spawnProcess(
    program: string,
    args: readonly string[],
    env: readonly string[],
    fds: readonly number[],
    namespaces?: readonly string[],
  ): number;
  /** Reaps a child: its exit status, or minus the signal that ended it; undefined while it runs. */
  waitProcess(pidfd: number): number | undefined;
  pidfdOpen(pid: number): number;
  pidfdSendSignal(pidfd: number, signal: number): void;
  /** CPU that this thread runs on. */
  getcpu(): number;
  pinThread(cpu: number): void;
  /** CPUs that this process may use. */
  cpuCount(): number;

  createIoQueue(options: IoQueueOptions): NativeIoQueue;
  createStallBudget(): StallBudget;
  createExitCore(options: ExitCoreOptions): ExitCore;
  createTestProducer(rings: ArrayBuffer, ring: number, kick: number): TestProducer;
  createSpinPolicy(maxSpinNs: number): SpinPolicy;
  /** Round trips of two native threads over one cache line: ns each into `out`. For comparison in benchmarks. */
  benchPingPong(mode: 'spin' | 'futex', n: number, out: Float64Array): void;

  /**
   * Drives a virtqueue with event index until `count` requests are done, blocking the thread; latencies in ns. Returns ns in all.
   * EIO when the device fails a request or does not answer for 10 s.
   */
  benchRing(memory: ArrayBuffer, load: RingLoad, latencies: Float64Array): number;

  setNoNewPrivs(): void;
  /** resource: 'NOFILE', 'AS', 'CORE', 'NPROC', 'FSIZE', 'MEMLOCK'. */
  setRlimit(resource: string, soft: number, hard: number): void;
  /** ABI of the kernel's Landlock, 0 when it has none. */
  landlockAbi(): number;
  /** Restricts the calling thread and threads that it starts later; no rules: no files at all. */
  landlock(rules: readonly LandlockRule[]): void;
  /** Installs an allow-list for all threads of the process. Implies setNoNewPrivs. */
  seccomp(options: SeccompOptions): void;
  /** Calls back after system calls were denied by `seccomp` with 'log': [name, count, name, count ...]. One per process. */
  /**
   * Starts a thread that can wait for a death (linux/futex.h, robust futexes). `died`: once, with the number of file
   * requests that others may still be carrying out for the dead; when it is not 0, only a pidfd tells when they have ended.
   */
  createDeathWatch(died: (inFlight: number) => void): DeathWatch;
  onDenied(denied: (calls: (string | number)[]) => void): Watch;
  /** Asks the helper of nyx-jail on that socket to empty the root directory; closes the socket. */
  leaveFiles(fd: number): void;
  /** 'user', 'net', 'ipc', 'uts', 'mount', 'pid'. */
  unshare(namespaces: readonly string[]): void;
  setPdeathsig(signal: number): void;
  /** chroot and chdir to '/'. */
  chroot(path: string): void;
  /** Drops supplementary groups, then gid, then uid, for good. */
  dropUser(uid: number, gid: number): void;
}
