/**
 * The wire of swtpm: a data socket with plain commands and responses, and a control channel (its tpm_ioctl.h) with
 * 32-bit big-endian command codes. QEMU's `-tpmdev emulator` and the swtpm TCTI of tpm2-tss speak it.
 */
import { createServer, Socket as NetSocket, type Server, type Socket } from 'node:net';
import { LIMIT } from '../spec/constants.ts';
import { Frames } from './frames.ts';
import type { TpmHost } from './host.ts';

const CMD = {
  GET_CAPABILITY: 1,
  INIT: 2,
  SHUTDOWN: 3,
  GET_TPMESTABLISHED: 4,
  SET_LOCALITY: 5,
  HASH_START: 6,
  HASH_DATA: 7,
  HASH_END: 8,
  CANCEL_TPM_CMD: 9,
  STORE_VOLATILE: 10,
  RESET_TPMESTABLISHED: 11,
  GET_STATEBLOB: 12,
  SET_STATEBLOB: 13,
  STOP: 14,
  GET_CONFIG: 15,
  SET_DATAFD: 16,
  SET_BUFFERSIZE: 17,
  GET_INFO: 18,
  LOCK_STORAGE: 19,
} as const;

/** Results: those of TPM 1.2, as swtpm gives them. */
const RES = { SUCCESS: 0, FAIL: 9, BAD_PARAMETER: 3, BAD_LOCALITY: 0x3d, BAD_ORDINAL: 10 } as const;

/** Bit n - 1 for command n of those that are here. */
const capabilities = [
  CMD.INIT,
  CMD.SHUTDOWN,
  CMD.GET_TPMESTABLISHED,
  CMD.SET_LOCALITY,
  CMD.CANCEL_TPM_CMD,
  CMD.RESET_TPMESTABLISHED,
  CMD.STOP,
  CMD.GET_CONFIG,
  CMD.SET_BUFFERSIZE,
];
const capabilityBit: Record<number, number> = {
  [CMD.INIT]: 0,
  [CMD.SHUTDOWN]: 1,
  [CMD.GET_TPMESTABLISHED]: 2,
  [CMD.SET_LOCALITY]: 3,
  [CMD.CANCEL_TPM_CMD]: 5,
  [CMD.RESET_TPMESTABLISHED]: 7,
  [CMD.STOP]: 10,
  [CMD.GET_CONFIG]: 11,
  [CMD.SET_BUFFERSIZE]: 13,
};
const hashingBit = 4;

/** Octets of a request after its code; undefined: not known with what is there. */
function bodySize(code: number, b: Buffer): number | undefined {
  switch (code) {
    case CMD.INIT:
    case CMD.SET_BUFFERSIZE:
    case CMD.LOCK_STORAGE:
      return 4;
    case CMD.SET_LOCALITY:
    case CMD.RESET_TPMESTABLISHED:
      return 1;
    case CMD.HASH_DATA:
      return b.length < 8 ? undefined : 4 + b.readUInt32BE(4);
    case CMD.GET_STATEBLOB:
      return 12;
    case CMD.SET_STATEBLOB:
      return b.length < 16 ? undefined : 12 + b.readUInt32BE(12);
    case CMD.GET_INFO:
      return 16;
    default:
      return 0;
  }
}

/** The largest control message that is waited for. */
const maxControl = 1 << 20;

const words = (...values: number[]) => {
  const b = Buffer.alloc(values.length * 4);
  values.forEach((v, i) => b.writeUInt32BE(v >>> 0, 4 * i));
  return b;
};

export interface SwtpmOptions {
  /** Startup(CLEAR) with the power. */
  startupClear?: boolean;
  /** Called when the control channel asks for the end, or its connection ends and `terminate` is set. */
  onShutdown?: () => void;
  terminate?: boolean;
}

export class SwtpmServer {
  private readonly host: TpmHost;
  private readonly options: SwtpmOptions;
  private locality = 0;

  constructor(host: TpmHost, options: SwtpmOptions = {}) {
    this.host = host;
    this.options = options;
  }

  private init(): void {
    this.host.shutdownState();
    this.host.powerOn();
    if (this.options.startupClear) this.host.startupClear();
  }

  /** The answer to one control message; the first 4 octets of `m` are its code. */
  control(m: Buffer): Buffer {
    const { host } = this;
    switch (m.readUInt32BE(0)) {
      case CMD.GET_CAPABILITY:
        return words(
          RES.SUCCESS,
          capabilities.reduce((bits, c) => bits | (1 << capabilityBit[c]!), 1 << hashingBit),
        );
      case CMD.INIT:
        this.init();
        return words(RES.SUCCESS);
      case CMD.SHUTDOWN:
        host.shutdownState();
        host.powerOff();
        this.options.onShutdown?.();
        return words(RES.SUCCESS);
      case CMD.STOP:
        host.shutdownState();
        host.powerOff();
        return words(RES.SUCCESS);
      case CMD.GET_TPMESTABLISHED:
        return Buffer.concat([words(RES.SUCCESS), Buffer.of(host.established ? 1 : 0, 0, 0, 0)]);
      case CMD.RESET_TPMESTABLISHED: {
        const locality = m[4]!;
        if (locality !== 3 && locality !== 4) return words(RES.BAD_LOCALITY);
        host.established = false;
        return words(RES.SUCCESS);
      }
      case CMD.SET_LOCALITY:
        if (m[4]! > 4) return words(RES.BAD_LOCALITY);
        this.locality = m[4]!;
        return words(RES.SUCCESS);
      case CMD.HASH_START:
        if (!host.tpm) return words(RES.BAD_ORDINAL);
        host.established = true;
        host.tpm.hashStart();
        return words(RES.SUCCESS);
      case CMD.HASH_DATA:
        if (!host.tpm) return words(RES.BAD_ORDINAL);
        host.tpm.hashData(m.subarray(8));
        return words(RES.SUCCESS);
      case CMD.HASH_END:
        if (!host.tpm) return words(RES.BAD_ORDINAL);
        host.tpm.hashEnd();
        return words(RES.SUCCESS);
      case CMD.CANCEL_TPM_CMD:
        // No command is under way while this is read.
        return words(host.running ? RES.SUCCESS : RES.BAD_ORDINAL);
      case CMD.GET_CONFIG:
        return words(RES.SUCCESS, 0);
      case CMD.SET_BUFFERSIZE:
        // The size is fixed, which the specification of the wire allows: what is in use is said.
        return words(RES.SUCCESS, LIMIT.command, LIMIT.command, LIMIT.command);
      default:
        return words(RES.BAD_ORDINAL);
    }
  }

  serveControl(socket: Socket): void {
    const frames = new Frames((b) => {
      if (b.length < 4) return undefined;
      const body = bodySize(b.readUInt32BE(0), b);
      if (body === undefined) return undefined;
      return body > maxControl ? 4 : 4 + body;
    });
    socket.on('data', (data: Buffer) => {
      for (const m of frames.push(data)) socket.write(this.control(m));
      if (frames.pending > maxControl) socket.destroy();
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      if (this.options.terminate) this.options.onShutdown?.();
    });
  }

  /** One command after the other; a header whose size is beyond the largest command ends the connection. */
  serveData(socket: Socket): void {
    const frames = new Frames((b) => {
      if (b.length < 10) return undefined;
      const size = b.readUInt32BE(2);
      return size < 10 ? 10 : Math.min(size, LIMIT.command + 1);
    });
    socket.on('data', (data: Buffer) => {
      for (const m of frames.push(data)) {
        const response = this.host.command(Buffer.from(m), this.locality);
        if (!response || m.length > LIMIT.command) return void socket.destroy();
        socket.write(response);
      }
    });
    socket.on('error', () => socket.destroy());
  }

  listen(kind: 'control' | 'data'): Server {
    return createServer({ noDelay: true }, (s) =>
      kind === 'control' ? this.serveControl(s) : this.serveData(s),
    );
  }
}

/** A socket that was inherited, by its descriptor. */
export const socketOfFd = (fd: number): Socket => new NetSocket({ fd });
