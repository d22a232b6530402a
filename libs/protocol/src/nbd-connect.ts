/** Connections to NBD servers: made by whoever may, for whoever speaks on them. */
import { Socket } from 'node:net';
import { dup } from '@nyx/native';
import { NyxError } from './errors.ts';
import type { NbdAddress } from './nbd-uri.ts';

/**
 * Connects. @returns a descriptor that does not block, from which nothing was read; it is the caller's
 * @throws NyxError BACKEND_MISSING
 */
export function connectNbd({ at }: NbdAddress, timeoutMs = 5000): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = new Socket();
    // Paused, it reads nothing: the server speaks first.
    socket.pause();
    const fail = (why: string): void => {
      socket.destroy();
      const where = 'path' in at ? at.path : `${at.host}:${at.port}`;
      reject(new NyxError('BACKEND_MISSING', { expected: 'an NBD server', got: `${where}: ${why}` }));
    };
    socket.setTimeout(timeoutMs, () => fail('no answer'));
    socket.once('error', (e) => fail(e.message));
    socket.once('connect', () => {
      socket.setNoDelay(true);
      try {
        const fd = dup((socket as unknown as { _handle: { fd: number } })._handle.fd);
        socket.destroy();
        resolve(fd);
      } catch (e) {
        fail((e as Error).message);
      }
    });
    if ('path' in at) socket.connect(at.path);
    else socket.connect(at.port, at.host);
  });
}
