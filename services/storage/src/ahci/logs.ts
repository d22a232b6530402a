/** Logs of a disk: READ LOG EXT (ATA8-ACS 7.28, annex A), and SMART (7.53). */
import type { GuestMemory } from '@nyx/device';
import { type Command, Protocol } from './command.ts';
import { answered, failed, good } from './drive.ts';
import { AtaError, type PortView } from './regs.ts';

/** Byte 511 makes the sum of the block 0. */
const seal = (bytes: Uint8Array): Uint8Array => {
  let sum = 0;
  for (let i = 0; i < 511; i++) sum += bytes[i]!;
  bytes[511] = -sum & 0xff;
  return bytes;
};

/** A.16: what the queued command that failed looked like. */
function queuedError(s: PortView): Uint8Array {
  const log = new Uint8Array(512);
  log[0] = s.logged ? s.errorTag : 0x80;
  if (s.logged) {
    log[2] = s.errorStatus;
    log[3] = s.errorCode;
    for (let i = 0; i < 3; i++) {
      log[4 + i] = s.errorLbaLo >>> (8 * i);
      log[8 + i] = s.errorLbaHi >>> (8 * i);
    }
    log[7] = s.errorDevice;
    log[12] = s.errorCount & 0xff;
    log[13] = s.errorCount >>> 8;
  }
  return seal(log);
}

/** `pages` pages of a log from `page` on; undefined: there is no such log or page. */
export function errorLog(s: PortView, log: number, page: number, pages: number): Uint8Array | undefined {
  if (page !== 0 || pages !== 1) return undefined;
  if (log === 0x10) return queuedError(s);
  if (log !== 0) return undefined;
  // A.2, the directory: version 1, one page at address 10h.
  const directory = new Uint8Array(512);
  directory[0] = 1;
  directory[2 * 0x10] = 1;
  return directory;
}

const Smart = {
  data: 0xd0,
  thresholds: 0xd1,
  autosave: 0xd2,
  saveValues: 0xd3,
  readLog: 0xd5,
  enable: 0xd8,
  disable: 0xd9,
  status: 0xda,
} as const;

/** SMART: no attribute is known of a file, so none is told; the status is good. */
export function smart(c: Command, s: PortView, memory: GuestMemory): number {
  const mark = c.lbaLo >>> 8;
  const what = c.features & 0xff;
  if (mark !== 0xc24f || (!s.smart && what !== Smart.enable)) return failed(c, AtaError.abrt);
  switch (what) {
    case Smart.enable:
      s.smart = 1;
      return good(c);
    case Smart.disable:
      s.smart = 0;
      return good(c);
    case Smart.autosave:
    case Smart.saveValues:
      return good(c);
    case Smart.status:
      // 7.53.8: 4Fh and C2h stay what they were when no threshold is exceeded.
      return good(c);
    case Smart.data:
    case Smart.thresholds: {
      const data = new Uint8Array(512);
      data[0] = 0x10;
      return answered(c, memory, seal(data), Protocol.pioIn);
    }
    case Smart.readLog: {
      const data = smartLog(c.lbaLo & 0xff);
      return data === undefined || (c.count & 0xff) !== 1
        ? failed(c, AtaError.abrt)
        : answered(c, memory, data, Protocol.pioIn);
    }
    default:
      return failed(c, AtaError.abrt);
  }
}

/** A.2 the directory, A.3 the summary error log: no error. */
function smartLog(log: number): Uint8Array | undefined {
  const data = new Uint8Array(512);
  data[0] = 1;
  if (log === 0) {
    data[2] = 1;
    return data;
  }
  return log === 1 ? seal(data) : undefined;
}
