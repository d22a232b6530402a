/** The control channel as a unix socket, on which a peer may hand over the data socket: what Node's sockets cannot receive. */
import { Socket } from 'node:net';
import { acceptUnix, close, dup, listenUnix, receiveRights, watch } from '@nyx/native';
import type { SwtpmServer } from './swtpm.ts';

/** Octets taken at once. */
const chunk = 65536;

function serve(server: SwtpmServer, fd: number): void {
  // Node writes, and closes its descriptor; this reads.
  const out = new Socket({ fd: dup(fd), readable: false, writable: true, allowHalfOpen: true });
  let open = true;
  const end = () => {
    if (!open) return;
    open = false;
    reading.close();
    close(fd);
    out.destroy();
    reader.end();
  };
  const reader = server.controlReader({ write: (b) => void out.write(b), close: end });
  const receive = () => {
    while (open) {
      let got: ReturnType<typeof receiveRights>;
      try {
        got = receiveRights(fd, chunk);
      } catch {
        return end();
      }
      if (!got) return;
      let taken = false;
      if (got.bytes.length > 0) {
        reader.data(Buffer.from(got.bytes.buffer), got.fds, () => {
          taken = true;
        });
      }
      if (!taken) for (const extra of got.fds) close(extra);
      if (got.bytes.length === 0) return end();
    }
  };
  out.on('error', end);
  const reading = watch(fd, receive);
}

/** Listens at a path that does not exist yet; throws with the code of the system call. Returns how to stop. */
export function listenControl(server: SwtpmServer, path: string): () => void {
  const fd = listenUnix(path);
  const waiting = watch(fd, () => {
    for (let peer = acceptUnix(fd); peer >= 0; peer = acceptUnix(fd)) serve(server, peer);
  });
  return () => {
    waiting.close();
    close(fd);
  };
}
