/**
 * One builder at a time. The lock is a bound abstract socket: the kernel frees it when its holder dies, however that
 * happens, so there is nothing stale to clean up. (Holders in other network namespaces do not see it; since results are
 * renamed into place whole, two builders then only do the work twice.)
 */
import { createHash } from 'node:crypto';
import { createServer, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { ImageError } from './errors.ts';

const RETRY_MS = 100;

function bind(name: string): Promise<Server | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer((peer) => peer.destroy());
    server.unref();
    server.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'EADDRINUSE' ? resolve(undefined) : reject(error),
    );
    server.listen(`\0${name}`, () => resolve(server));
  });
}

/**
 * Runs `work` while no other process works on `what`.
 * @param onWait called once when another one is at it
 * @throws ImageError IMAGE_LOCKED after `timeoutMs`
 */
export async function withLock<T>(
  what: string,
  work: () => Promise<T>,
  onWait: () => void,
  timeoutMs = 600_000,
): Promise<T> {
  const name = `nyx-image-${process.getuid?.() ?? 0}-${createHash('sha256').update(what).digest('hex').slice(0, 32)}`;
  const until = Date.now() + timeoutMs;
  let server = await bind(name);
  if (!server) onWait();
  while (!server) {
    if (Date.now() >= until)
      throw new ImageError(
        'IMAGE_LOCKED',
        `the other process that works on ${what} to end within ${timeoutMs / 1000} s`,
        'it still runs',
        'Look for another `nyx image build` or `nyx run` and end it.',
      );
    await sleep(RETRY_MS);
    server = await bind(name);
  }
  try {
    return await work();
  } finally {
    server.close();
  }
}
