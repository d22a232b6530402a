/**
 * The data socket as a unix socket, by its descriptor: a command is received, executed and answered in one go, and the next one is
 * waited for a moment before the event loop is asked, because who sends commands one after the other has the next one soon.
 */
import { acceptUnix, close, listenUnix, receive, transmit, waitReadable, watch } from '@nyx/native';
import { LIMIT } from '../spec/constants.ts';

/** How long the next command is waited for, unless something else is to be done. */
const waitMs = 20;
/** Commands in one turn of the event loop, so that control channel and timers are served. */
const commandsPerTurn = 256;

/** Executes a command; undefined: there is no answer, the connection ends. */
export type Execute = (command: Buffer) => Buffer | undefined;

/** Serves a connection until it ends; owns the descriptor. `ended`: called once, then. */
export function serveDataFd(fd: number, execute: Execute, ended: () => void = () => {}): { close(): void } {
  // A larger command is answered as far as it is there, as its size tells it is too large.
  const input = Buffer.alloc(2 * LIMIT.command);
  let have = 0;
  let open = true;
  let again: NodeJS.Immediate | undefined;

  const end = () => {
    if (!open) return;
    open = false;
    clearImmediate(again);
    reading.close();
    close(fd);
    ended();
  };
  /** Octets of the command in front; undefined: not known. */
  const size = () => (have < 10 ? undefined : Math.max(10, input.readUInt32BE(2)));

  /** Executes what is complete. False: the connection has ended. */
  const run = (): boolean => {
    for (let n = size(); n !== undefined && (n <= have || n > LIMIT.command); n = size()) {
      const response = n > LIMIT.command ? undefined : execute(Buffer.from(input.subarray(0, n)));
      // A peer that does not read its answers (the socket holds more than 200) is not waited for.
      const sent =
        response && transmit(fd, response.buffer as ArrayBuffer, response.byteOffset, response.length);
      if (!response || sent !== response.length) {
        end();
        return false;
      }
      input.copyWithin(0, n, have);
      have -= n;
    }
    return true;
  };
  const serve = () => {
    again = undefined;
    try {
      for (let commands = 0; open; ) {
        if (commands > 0 && !waitReadable(fd, waitMs)) return;
        const n = receive(fd, input.buffer as ArrayBuffer, input.byteOffset + have, input.length - have);
        if (n === 0) return end();
        if (n < 0) return;
        have += n;
        if (!run()) return;
        if (++commands === commandsPerTurn) {
          again = setImmediate(serve);
          return;
        }
      }
    } catch {
      end();
    }
  };
  const reading = watch(fd, serve);
  return { close: end };
}

/** Listens at a path that does not exist yet; throws with the code of the system call. Returns how to stop. */
export function listenData(path: string, execute: Execute): () => void {
  const fd = listenUnix(path);
  const connections = new Set<{ close(): void }>();
  const waiting = watch(fd, () => {
    for (let peer = acceptUnix(fd); peer >= 0; peer = acceptUnix(fd)) {
      const c = serveDataFd(peer, execute, () => connections.delete(c));
      connections.add(c);
    }
  });
  return () => {
    waiting.close();
    close(fd);
    for (const c of connections) c.close();
  };
}
