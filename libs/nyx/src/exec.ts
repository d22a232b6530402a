/** A command in the guest, by the machine's exec socket. */
import { connect } from 'node:net';
import { join } from 'node:path';
import { controlWire, sockets } from '@nyx/protocol/control';
import { errorFromWire, NyxError } from '@nyx/protocol/errors';
import { ExecFrame, FrameReader } from '@nyx/protocol/exec-stream';

export interface ExecOptions {
  /** Seconds, waiting for the guest to listen included (default 60). */
  timeout?: number;
  /** Output as it comes; `stdout` and `stderr` of the result stay empty then. */
  onStdout?(bytes: Buffer): void;
  onStderr?(bytes: Buffer): void;
}

export interface ExecResult {
  /** Exit status, 128 + n after signal n. */
  status: number;
  stdout: Buffer;
  stderr: Buffer;
}

/** @throws NyxError EXEC_*, COMMAND_TOO_LONG, SUPERVISOR_DIED */
export const execIn = (dir: string, command: string, options: ExecOptions = {}): Promise<ExecResult> =>
  new Promise((resolve, reject) => {
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    const frames = new FrameReader();
    const socket = connect(join(dir, sockets.exec));
    let settled = false;
    const settle = (f: () => void): void => {
      if (settled) return;
      settled = true;
      socket.destroy();
      f();
    };
    const lost = (got: string): void =>
      settle(() => reject(new NyxError('SUPERVISOR_DIED', { expected: 'the end of the command', got })));
    socket.on('error', (e) => lost(e.message));
    socket.on('close', () => lost('the connection was closed'));
    socket.on('data', (bytes) => {
      try {
        for (const { kind, payload } of frames.feed(bytes)) {
          if (kind === ExecFrame.stdout)
            options.onStdout ? options.onStdout(payload) : out.push(Buffer.from(payload));
          else if (kind === ExecFrame.stderr)
            options.onStderr ? options.onStderr(payload) : err.push(Buffer.from(payload));
          else if (kind === ExecFrame.exit)
            settle(() =>
              resolve({
                status: payload.readUInt32LE(0),
                stdout: Buffer.concat(out),
                stderr: Buffer.concat(err),
              }),
            );
          else if (kind === ExecFrame.error)
            settle(() => reject(errorFromWire(JSON.parse(payload.toString()))));
        }
      } catch (e) {
        settle(() => reject(e));
      }
    });
    socket.write(`${JSON.stringify({ v: controlWire.version, command, timeout: options.timeout ?? 60 })}\n`);
  });
