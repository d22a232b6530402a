/**
 * Orders to a running `nyx storage serve`: a second socket beside the one that front-ends connect to, for its owner alone. One
 * line of JSON each way: `{"resize": {"size": N, "relative": false}}`, `{"size": N}` or `{"error": {...}}`.
 */
import { chmodSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { asNyxError, errorFromWire, NyxError } from '@nyx/protocol/errors';

const path = (socket: string): string => `${socket}.control`;

/** Longest order, bytes; longest silence, ms; connections at once. */
const limit = { bytes: 1024, ms: 5000, connections: 4 } as const;

const readLine = (s: Socket, done: (line: string) => void): void => {
  let text = '';
  s.setEncoding('utf8');
  s.on('data', (part: string) => {
    text += part;
    const end = text.indexOf('\n');
    if (end >= 0) done(text.slice(0, end));
    else if (text.length > limit.bytes) s.destroy();
  });
};

export class ServerControl {
  readonly #server: Server;
  readonly #path: string;

  constructor(socket: string, resize: (size: number, relative: boolean) => Promise<number>) {
    this.#path = path(socket);
    // The socket of front-ends is ours: nobody else's control socket is beside it.
    rmSync(this.#path, { force: true });
    const mask = process.umask(0o077);
    this.#server = createServer((s) => {
      s.on('error', () => s.destroy());
      const late = setTimeout(() => s.destroy(), limit.ms);
      readLine(s, (line) => {
        clearTimeout(late);
        s.pause();
        order(line, resize).then(
          (size) => s.end(`${JSON.stringify({ size })}\n`),
          (e) => s.end(`${JSON.stringify({ error: asNyxError(e).toJSON() })}\n`),
        );
      });
    });
    this.#server.maxConnections = limit.connections;
    this.#server.on('error', () => {});
    this.#server.listen(this.#path, () => chmodSync(this.#path, 0o600));
    process.umask(mask);
  }

  close(): void {
    this.#server.close();
    rmSync(this.#path, { force: true });
  }
}

async function order(
  line: string,
  resize: (size: number, relative: boolean) => Promise<number>,
): Promise<number> {
  let o: { resize?: { size?: unknown; relative?: unknown } } | null;
  try {
    o = JSON.parse(line);
  } catch {
    o = null;
  }
  const size = o?.resize?.size;
  if (!Number.isSafeInteger(size) || (size as number) <= 0 || (size as number) % 512 !== 0)
    throw new NyxError('USAGE', { expected: 'a size in whole sectors (512 bytes)', got: line.slice(0, 100) });
  return resize(size as number, o?.resize?.relative === true);
}

/** Asks the server on `socket` to make its disk larger. @returns bytes @throws NyxError */
export function askResize(socket: string, size: number, relative: boolean): Promise<number> {
  return new Promise((resolve, reject) => {
    const s = connect(path(socket));
    s.on('error', (e) =>
      reject(
        new NyxError('BACKEND_MISSING', {
          expected: `\`nyx storage serve\` on ${socket}`,
          got: (e as { code?: string }).code ?? e.message,
        }),
      ),
    );
    s.on('close', () =>
      reject(new NyxError('HOST_ERROR', { got: `${socket}: the server ended without an answer` })),
    );
    readLine(s, (line) => {
      s.destroy();
      const answer = JSON.parse(line);
      if (answer.error) reject(errorFromWire(answer.error));
      else resolve(answer.size);
    });
    s.write(`${JSON.stringify({ resize: { size, relative } })}\n`);
  });
}
