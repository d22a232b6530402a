/**
 * The wire of swtpm: a data socket with plain commands and responses, and a control channel (its tpm_ioctl.h) with
 * 32-bit big-endian command codes. QEMU's `-tpmdev emulator` and the swtpm TCTI of tpm2-tss speak it.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { firmwareVersion } from '../core/attest.ts';
import { errorResponse } from '../core/dispatch.ts';
import { ciphers, rsaBits } from '../spec/algorithms.ts';
import { ALG, LIMIT, RC } from '../spec/constants.ts';
import { isSealed } from '../store/blobs.ts';
import { serveDataFd } from './data.ts';
import { Frames } from './frames.ts';
import type { TpmHost } from './host.ts';

/** Results: those of TPM 1.2, as swtpm gives them. */
const RES = {
  SUCCESS: 0,
  BAD_PARAMETER: 0x03,
  FAIL: 0x09,
  BAD_ORDINAL: 0x0a,
  IOERROR: 0x1f,
  DECRYPT_ERROR: 0x21,
  BAD_LOCALITY: 0x3d,
} as const;

/** Commands of the control channel. */
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
} as const;

/** PTM_CAP_*: what of these is here. Bit 4 stands for the three of hashing; 15: SEND_COMMAND_HEADER, localities by a header. */
const capabilities = 0x7fff;
const initDeleteVolatile = 1;
const blobDecrypted = 1;
const blobEncrypted = 2;
const configFileKey = 1;

/** Octets of a request after its code; undefined: not known with what is there. */
function bodySize(code: number, b: Buffer): number | undefined {
  switch (code) {
    case CMD.INIT:
    case CMD.SET_BUFFERSIZE:
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

/** The largest control message that is waited for; a state blob is not larger. */
const maxControl = 1 << 20;
/** How long the rest of a message may take. */
const partialMs = 5000;

const words = (...values: number[]) => {
  const b = Buffer.alloc(values.length * 4);
  values.forEach((v, i) => b.writeUInt32BE(v >>> 0, 4 * i));
  return b;
};

/** What CMD_GET_INFO tells, by flag: names and form are those of libtpms. */
function info(flags: number): string {
  const hex = (v: number) => `0x${v.toString(16)}`;
  const parts: [number, string, unknown][] = [
    [1, 'TPMSpecification', { family: '2.0', level: 0, revision: 159 }],
    [
      2,
      'TPMAttributes',
      { manufacturer: 'id:4E595800', version: `id:${hex(firmwareVersion[0]).slice(2)}`, model: 'Nyx' },
    ],
    [4, 'TPMFeatures', { RSAKeySizes: rsaBits, CamelliaKeySizes: ciphers[ALG.CAMELLIA]?.bits ?? [] }],
  ];
  return JSON.stringify(
    Object.fromEntries(parts.flatMap(([bit, name, value]) => (flags & bit ? [[name, value]] : []))),
  );
}

export interface SwtpmOptions {
  /** Startup(CLEAR) with the power. */
  startupClear?: boolean;
  /** Called when the control channel asks for the end, or its connection ends and `terminate` is set. */
  onShutdown?: () => void;
  terminate?: boolean;
}

/** Where answers go; `close` drops the peer. */
export interface Peer {
  write(bytes: Buffer): void;
  close(): void;
}

export class SwtpmServer {
  private readonly host: TpmHost;
  private readonly options: SwtpmOptions;
  private locality = 0;
  /** One was handed over, and is in use. */
  private dataOpen = false;

  constructor(host: TpmHost, options: SwtpmOptions = {}) {
    this.host = host;
    this.options = options;
  }

  private init(flags: number): number {
    this.host.shutdown();
    if (!this.host.init((flags & initDeleteVolatile) !== 0)) return RES.FAIL;
    if (this.options.startupClear) this.host.startupClear();
    return RES.SUCCESS;
  }

  private getBlob(flags: number, type: number, offset: number): Buffer {
    if (!this.host.running) return words(RES.BAD_ORDINAL, 0, 0, 0);
    const blob = this.host.stateBlob(type, (flags & blobDecrypted) !== 0);
    if (!blob) return words(RES.BAD_PARAMETER, 0, 0, 0);
    const rest = blob.subarray(Math.min(offset, blob.length));
    const outFlags = isSealed(blob) ? blobEncrypted : 0;
    return Buffer.concat([words(RES.SUCCESS, outFlags, rest.length, rest.length), rest]);
  }
  private setBlob(type: number, blob: Buffer): number {
    if (this.host.running) return RES.BAD_ORDINAL;
    const result = this.host.setStateBlob(type, blob);
    return result === 'done' ? RES.SUCCESS : result === 'key' ? RES.DECRYPT_ERROR : RES.BAD_PARAMETER;
  }

  /** A command at the locality that the control channel has set. Without power there is an answer, too: QEMU asks before CMD_INIT. */
  readonly execute = (command: Buffer): Buffer =>
    this.host.command(command, this.locality) ?? errorResponse(RC.FAILURE);
  /** The same; the response lies where the next one will be. */
  readonly executeShared = (command: Buffer): Buffer =>
    this.host.command(command, this.locality, true) ?? errorResponse(RC.FAILURE);

  /** The data socket that a peer of a unix control channel hands over. It is the server's to close. */
  private setData(fds: readonly number[]): number {
    if (fds.length !== 1) return RES.BAD_PARAMETER;
    if (this.dataOpen) return RES.IOERROR;
    try {
      serveDataFd(fds[0]!, this.executeShared, () => (this.dataOpen = false));
    } catch {
      return RES.BAD_PARAMETER;
    }
    this.dataOpen = true;
    return RES.SUCCESS;
  }

  /** The answer to one control message; the first 4 octets of `m` are its code. `taken` tells that the descriptors are used. */
  control(m: Buffer, fds: readonly number[] = [], taken: () => void = () => {}): Buffer {
    const { host } = this;
    const code = m.readUInt32BE(0);
    switch (code) {
      case CMD.GET_CAPABILITY:
        return words(0, capabilities);
      case CMD.INIT:
        return words(this.init(m.readUInt32BE(4)));
      case CMD.SHUTDOWN:
        host.shutdown();
        host.powerOff();
        this.options.onShutdown?.();
        return words(RES.SUCCESS);
      case CMD.STOP:
        host.shutdown();
        host.powerOff();
        return words(RES.SUCCESS);
      case CMD.SET_LOCALITY:
        if (m[4]! > 4) return words(RES.BAD_LOCALITY);
        this.locality = m[4]!;
        return words(RES.SUCCESS);
      case CMD.GET_STATEBLOB:
        return this.getBlob(m.readUInt32BE(4), m.readUInt32BE(8), m.readUInt32BE(12));
      case CMD.SET_STATEBLOB:
        return words(this.setBlob(m.readUInt32BE(8), m.subarray(16)));
      case CMD.GET_CONFIG:
        return words(RES.SUCCESS, host.hasKey ? configFileKey : 0);
      case CMD.SET_DATAFD: {
        const result = this.setData(fds);
        if (result === RES.SUCCESS) taken();
        return words(result);
      }
      case CMD.SET_BUFFERSIZE:
        if (m.readUInt32BE(4) > 0 && host.running) return words(RES.BAD_ORDINAL);
        // The size is fixed, which the specification of the wire allows: what is in use is said.
        return words(RES.SUCCESS, LIMIT.command, LIMIT.command, LIMIT.command);
      case CMD.GET_INFO: {
        const text = Buffer.from(`${info(m.readUInt32BE(8))}\0`);
        const offset = m.readUInt32BE(12);
        if (offset >= text.length - 1) return words(RES.BAD_PARAMETER);
        const rest = text.subarray(offset);
        return Buffer.concat([words(RES.SUCCESS, text.length, rest.length), rest]);
      }
      default:
        return this.signal(code, m);
    }
  }

  /** What only a TPM with power can be told. */
  private signal(code: number, m: Buffer): Buffer {
    const { tpm } = this.host;
    if (!tpm) return words(RES.BAD_ORDINAL);
    let established: Buffer | undefined;
    switch (code) {
      case CMD.GET_TPMESTABLISHED:
        established = Buffer.of(tpm.established ? 1 : 0, 0, 0, 0);
        break;
      case CMD.RESET_TPMESTABLISHED:
        if (m[4] !== 3 && m[4] !== 4) return words(RES.BAD_LOCALITY);
        tpm.established = false;
        break;
      case CMD.HASH_START:
        tpm.hashStart();
        break;
      case CMD.HASH_DATA:
        tpm.hashData(m.subarray(8));
        break;
      case CMD.HASH_END:
        tpm.hashEnd();
        break;
      case CMD.CANCEL_TPM_CMD:
        // No command is under way while this is read.
        break;
      case CMD.STORE_VOLATILE:
        this.host.storeVolatile();
        break;
      default:
        return words(RES.BAD_ORDINAL);
    }
    tpm.commitSignal();
    return established ? Buffer.concat([words(RES.SUCCESS), established]) : words(RES.SUCCESS);
  }

  /** What is to be done with what a control connection sends. A peer that does not keep to the protocol is dropped. */
  controlReader(peer: Peer): {
    data(bytes: Buffer, fds?: readonly number[], taken?: () => void): void;
    end(): void;
  } {
    let size: number | undefined;
    const frames = new Frames((b) => {
      if (b.length < 4) return undefined;
      const code = b.readUInt32BE(0);
      // QEMU pads a locality to 4 octets; others do not. No command has number 0.
      if (code === 0) return 1;
      size = bodySize(code, b);
      return size === undefined ? undefined : 4 + size;
    });
    let timer: NodeJS.Timeout | undefined;
    return {
      data: (bytes, fds, taken) => {
        clearTimeout(timer);
        for (const m of frames.push(bytes)) if (m.length >= 4) peer.write(this.control(m, fds, taken));
        if (frames.pending < 4) return;
        if ((size ?? 0) > maxControl || frames.pending > maxControl) peer.close();
        else timer = setTimeout(() => peer.close(), partialMs).unref();
      },
      end: () => {
        clearTimeout(timer);
        if (this.options.terminate) this.options.onShutdown?.();
      },
    };
  }

  /** Without descriptors: Node drops them. See unix.ts. */
  serveControl(socket: Socket): void {
    const reader = this.controlReader({ write: (b) => socket.write(b), close: () => socket.destroy() });
    socket.on('data', (bytes: Buffer) => reader.data(bytes));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => reader.end());
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
        if (m.length > LIMIT.command) return void socket.destroy();
        socket.write(this.execute(Buffer.from(m)));
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
