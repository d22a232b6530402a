/**
 * The data socket as a unix socket, by its descriptor: a command is received, executed and answered in one go, and the next one is
 * waited for a moment before the event loop is asked, because who sends commands one after the other has the next one soon.
 */
import { acceptUnix, close, createExchange, listenUnix, watch } from '@nyx/native';
import { Prefixes } from '../spec/codec.ts';
import { LIMIT } from '../spec/constants.ts';

/** How long the next command is waited for, when nobody else is served. */
const waitMs = 4;
/** Commands in one turn of the event loop, so that control channel and timers are served. */
const commandsPerTurn = 256;

/** Executes a command; undefined: there is no answer, the connection ends. The answer is used at once. */
export type Execute = (command: Buffer) => Buffer | undefined;

/**
 * Serves a connection until it ends; owns the descriptor. `ended`: called once, then. `alone`: no other connection has to wait
 * while this one does.
 */
export function serveDataFd(
  fd: number,
  execute: Execute,
  ended: () => void = () => {},
  alone: () => boolean = () => true,
): { close(): void } {
  // A larger command is answered as far as it is there, as its size tells it is too large.
  const input = Buffer.from(new ArrayBuffer(2 * LIMIT.command));
  const output = Buffer.from(new ArrayBuffer(LIMIT.response));
  const exchange = createExchange(fd, input.buffer as ArrayBuffer, output.buffer as ArrayBuffer, waitMs);
  const commands = new Prefixes(input);
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
  /** Octets of the command in front; undefined: it is not complete. */
  const size = () => {
    const n = have < 10 ? Number.POSITIVE_INFINITY : Math.max(10, input.readUInt32BE(2));
    return n <= have || (n > LIMIT.command && have >= 10) ? n : undefined;
  };
  const serve = () => {
    again = undefined;
    try {
      for (let served = 0, answer = 0, closed = false; open; ) {
        // The first look is at what the event loop has seen.
        const mayWait = served > 0 && size() === undefined && alone();
        const received = exchange.next(answer, have, mayWait);
        answer = 0;
        if (received > 0) have += received;
        else if (received === 0) closed = true;
        const n = size();
        if (n === undefined) {
          if (closed) return end();
          if (received < 0) return;
          continue;
        }
        if (++served > commandsPerTurn) {
          again = setImmediate(serve);
          return;
        }
        const response = n > LIMIT.command ? undefined : execute(commands.get(n));
        if (!response) return end();
        output.set(response);
        answer = response.length;
        input.copyWithin(0, n, have);
        have -= n;
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
      const c = serveDataFd(
        peer,
        execute,
        () => connections.delete(c),
        () => connections.size === 1,
      );
      connections.add(c);
    }
  });
  return () => {
    waiting.close();
    close(fd);
    for (const c of connections) c.close();
  };
}
