/**
 * Loads the addon. It is found by walking up from this file, or from the bundle that contains it, to the folder
 * that has `libs/native/build/Release/nyx_native.node`; `nyx_native.node` beside the file wins.
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type {
  CtlIndex,
  FaultVerbIndex,
  IoOps,
  IoQueue,
  IoQueueOptions,
  Native,
  PlaceIndex,
} from './types.ts';

/** The folder of this file as a module, or of the CommonJS bundle that it became part of. */
const here = (): string =>
  typeof __filename === 'string' ? dirname(__filename) : dirname(fileURLToPath(import.meta.url));

function find(): string {
  let folder = here();
  const beside = join(folder, 'nyx_native.node');
  if (existsSync(beside)) return beside;
  for (;;) {
    const path = join(folder, 'libs/native/build/Release/nyx_native.node');
    if (existsSync(path)) return path;
    const up = dirname(folder);
    if (up === folder)
      throw Object.assign(
        new Error(`nyx_native.node was not found above ${here()}: build it with "npm run build"`),
        { code: 'NATIVE_MISSING' },
      );
    folder = up;
  }
}

function load(): Native {
  const module = { exports: {} };
  process.dlopen(module, find());
  return module.exports as Native;
}

export const native: Native = load();

export const {
  memfdCreate,
  mmap,
  munmap,
  createWindow,
  mapInto,
  unmapFrom,
  fileSize,
  close,
  dup,
  setNonblock,
  pread,
  pwrite,
  fsync,
  fallocate,
  ofdLock,
  ofdTest,
  eventfd,
  eventfdWrite,
  eventfdRead,
  watch,
  createTimer,
  createDeathWatch,
  createPageSaver,
  monotonicNs,
  futexWait,
  futexWake,
  memcpy,
  crc32c,
  socketpair,
  streamPair,
  openSeqSocket,
  receiveRights,
  createExchange,
  openFrameSocket,
  listenUnix,
  connectSeq,
  connectUnix,
  acceptUnix,
  spawnProcess,
  waitProcess,
  pidfdOpen,
  pidfdSendSignal,
  getcpu,
  pinThread,
  cpuCount,
  createExitCore,
  createTestProducer,
  createSpinPolicy,
  createStallBudget,
  benchPingPong,
  benchRing,
  setNoNewPrivs,
  setRlimit,
  landlockAbi,
  landlock,
  seccomp,
  onDenied,
  leaveFiles,
  unshare,
  setPdeathsig,
  chroot,
  dropUser,
} = native;

/** See IoQueue. What the addon makes has slow properties; this is an object as V8 likes them. */
export function createIoQueue(options: IoQueueOptions): IoQueue {
  const made = native.createIoQueue(options);
  const { engine, request, segments, completions, queueRequest, addMemory, submit, harvest } = made;
  const { close, ref, unref } = made;
  return {
    engine,
    segments,
    completions,
    addMemory,
    queue(op, id, fd, fileOffset, segmentCount) {
      request[0] = op;
      request[1] = id;
      request[2] = fd;
      request[3] = fileOffset;
      request[4] = segmentCount;
      return queueRequest();
    },
    submit,
    harvest,
    get inFlight() {
      return made.inFlight;
    },
    get mapped() {
      return made.mapped;
    },
    close,
    ref,
    unref,
  };
}

export const ioOp: IoOps = { read: 0, write: 1, fsync: 2, fdatasync: 3, punchHole: 4, zeroRange: 5 };

export const ctl: CtlIndex = {
  ring: 0,
  kind: 1,
  width: 2,
  device: 3,
  region: 4,
  flags: 5,
  count: 6,
  offsetLo: 7,
  offsetHi: 8,
  dataLo: 9,
  dataHi: 10,
  seqLo: 11,
  seqHi: 12,
  block: 16,
  replyLo: 17,
  replyHi: 18,
  status: 19,
  faultPlace: 20,
  faultVerb: 21,
  faultUs: 22,
};

export const place: PlaceIndex = { nowhere: 0, commit: 1, reply: 2, tail: 3, settle: 4, done: 5 };
export const faultVerb: FaultVerbIndex = { kill: 0, hang: 1, delay: 2 };
