/** A vhost-user connection: frames in and out, each end of it closing the other cleanly. */
import { close, openFrameSocket } from '@nyx/native';
import { decode, encode, Limit, type Message } from './protocol.ts';

export interface Connection {
  send(request: number, flags: number, payload?: Uint8Array, fds?: readonly number[]): void;
  /** `closed` is told the reason, once. */
  close(reason?: string): void;
}

export interface ConnectionEvents {
  /** `fds` are the receiver's to close. */
  message(m: Message): void;
  /** Without a reason the peer closed it. */
  closed(reason?: string): void;
}

/** @param fd a connected SOCK_STREAM socket; it is the connection's from now on */
export function connect(fd: number, events: ConnectionEvents): Connection {
  let open = true;
  const end = (reason?: string): void => {
    if (!open) return;
    open = false;
    socket.close();
    events.closed(reason);
  };
  const socket = openFrameSocket(fd, {
    headerBytes: Limit.headerBytes,
    lengthAt: 8,
    maxBytes: Limit.headerBytes + Limit.payloadBytes,
    maxFds: Limit.tableRegions,
    onMessage(bytes, fds) {
      let m: Message;
      try {
        m = decode(bytes, fds);
      } catch (e) {
        for (const fd of fds) close(fd);
        end((e as Error).message);
        return;
      }
      events.message(m);
    },
    onClose: (error) => end(error?.message),
  });
  return {
    send(request, flags, payload, fds) {
      if (!open) return;
      try {
        socket.send(encode(request, flags, payload), fds);
      } catch (e) {
        end((e as Error).message);
      }
    },
    close: end,
  };
}
