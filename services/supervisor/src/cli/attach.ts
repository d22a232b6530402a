/** Connects this terminal (or pipe) with a console. */
import type { Socket } from 'node:net';
import type { Vm } from '@nyx/nyx';

const leave = 0x1d;

/**
 * Until the console closes ('closed') or the user presses Ctrl-] ('left'). A terminal is put into raw mode meanwhile: all other
 * keys are the guest's. The end of a piped stdin leaves the console open.
 */
export const attach = async (vm: Vm): Promise<'left' | 'closed'> => {
  const socket: Socket = await vm.console();
  const { stdin, stdout } = process;
  const raw = stdin.isTTY === true;
  return new Promise((resolve) => {
    const done = (how: 'left' | 'closed'): void => {
      stdin.off('data', onKeys);
      if (raw) stdin.setRawMode(false);
      stdin.pause();
      socket.destroy();
      resolve(how);
    };
    const onKeys = (keys: Buffer): void => {
      const at = raw ? keys.indexOf(leave) : -1;
      if (at < 0) {
        socket.write(keys);
        return;
      }
      socket.write(keys.subarray(0, at));
      done('left');
    };
    if (raw) stdin.setRawMode(true);
    // Whoever reads our output (a pipe) has left.
    stdout.on('error', () => done('left'));
    stdin.on('data', onKeys);
    stdin.on('error', () => {});
    socket.on('data', (b) => stdout.write(b));
    socket.on('error', () => {});
    socket.on('close', () => done('closed'));
  });
};
