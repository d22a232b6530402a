/**
 * The wire of the reference simulator: a command port and, one above it, a platform port. The mssim TCTI of tpm2-tss
 * speaks it. Every message starts with a 32-bit big-endian code; every answer ends with a 32-bit result.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { LIMIT } from '../spec/constants.ts';
import { Frames } from './frames.ts';
import type { TpmHost } from './host.ts';

const SIGNAL = {
  POWER_ON: 1,
  POWER_OFF: 2,
  PHYS_PRES_ON: 3,
  PHYS_PRES_OFF: 4,
  HASH_START: 5,
  HASH_DATA: 6,
  HASH_END: 7,
  SEND_COMMAND: 8,
  CANCEL_ON: 9,
  CANCEL_OFF: 10,
  NV_ON: 11,
  NV_OFF: 12,
  KEY_CACHE_ON: 13,
  KEY_CACHE_OFF: 14,
  REMOTE_HANDSHAKE: 15,
  RESET: 17,
  RESTART: 18,
  SESSION_END: 20,
  STOP: 21,
} as const;

const zero = Buffer.alloc(4);
const word = (v: number) => {
  const b = Buffer.alloc(4);
  b.writeUInt32BE(v);
  return b;
};

export class MssimServer {
  private readonly host: TpmHost;
  private readonly onStop: () => void;

  constructor(host: TpmHost, onStop: () => void = () => {}) {
    this.host = host;
    this.onStop = onStop;
  }

  private serveCommands(socket: Socket): void {
    const frames = new Frames((b) => {
      if (b.length < 4) return undefined;
      switch (b.readUInt32BE(0)) {
        case SIGNAL.SEND_COMMAND:
          // Code, locality, size, command.
          return b.length < 9 ? undefined : 9 + Math.min(b.readUInt32BE(5), LIMIT.command + 1);
        case SIGNAL.REMOTE_HANDSHAKE:
          return 8;
        case SIGNAL.HASH_DATA:
          return b.length < 8 ? undefined : 8 + Math.min(b.readUInt32BE(4), LIMIT.command + 1);
        default:
          return 4;
      }
    });
    socket.on('data', (data: Buffer) => {
      for (const m of frames.push(data)) {
        switch (m.readUInt32BE(0)) {
          case SIGNAL.SEND_COMMAND: {
            const response = this.host.command(Buffer.from(m.subarray(9)), m[4]!);
            if (!response || m.length > LIMIT.command + 9) return void socket.destroy();
            socket.write(Buffer.concat([word(response.length), response, zero]));
            break;
          }
          case SIGNAL.REMOTE_HANDSHAKE:
            // Version of the server; flags: TPM 2.0 simulator with platform signals.
            socket.write(Buffer.concat([word(1), word(0b11), zero]));
            break;
          case SIGNAL.HASH_START:
            this.host.tpm?.hashStart();
            socket.write(zero);
            break;
          case SIGNAL.HASH_DATA:
            this.host.tpm?.hashData(m.subarray(8));
            socket.write(zero);
            break;
          case SIGNAL.HASH_END:
            this.host.tpm?.hashEnd();
            socket.write(zero);
            break;
          case SIGNAL.STOP:
            this.onStop();
            return void socket.end();
          default:
            // SESSION_END, and what is not known.
            return void socket.end();
        }
      }
    });
    socket.on('error', () => socket.destroy());
  }

  /** False: the connection ends. */
  private platform(code: number): boolean {
    const { host } = this;
    switch (code) {
      case SIGNAL.POWER_ON:
        if (!host.running) host.powerOn();
        return true;
      case SIGNAL.POWER_OFF:
        host.powerOff();
        return true;
      case SIGNAL.RESET:
      case SIGNAL.RESTART:
        if (host.running) host.powerOn();
        return true;
      case SIGNAL.PHYS_PRES_ON:
      case SIGNAL.PHYS_PRES_OFF:
        if (host.tpm) host.tpm.physicalPresence = code === SIGNAL.PHYS_PRES_ON;
        return true;
      case SIGNAL.CANCEL_ON:
      case SIGNAL.CANCEL_OFF:
        if (host.tpm) host.tpm.cancelled = code === SIGNAL.CANCEL_ON;
        return true;
      // NV is always there; keys are not cached.
      case SIGNAL.NV_ON:
      case SIGNAL.NV_OFF:
      case SIGNAL.KEY_CACHE_ON:
      case SIGNAL.KEY_CACHE_OFF:
        return true;
      case SIGNAL.STOP:
        this.onStop();
        return false;
      default:
        return false;
    }
  }

  private servePlatform(socket: Socket): void {
    const frames = new Frames((b) => (b.length < 4 ? undefined : 4));
    socket.on('data', (data: Buffer) => {
      for (const m of frames.push(data)) {
        if (!this.platform(m.readUInt32BE(0))) return void socket.end();
        socket.write(zero);
      }
    });
    socket.on('error', () => socket.destroy());
  }

  listen(kind: 'command' | 'platform'): Server {
    return createServer({ noDelay: true }, (s) =>
      kind === 'command' ? this.serveCommands(s) : this.servePlatform(s),
    );
  }
}
