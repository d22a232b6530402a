/** Connects this terminal (or pipe) with a console. */
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Vm } from '@nyx/nyx';
import { inspect } from '@nyx/nyx/rundir';
import { note } from './text.ts';

const leave = 0x1d;

/**
 * Until the console closes ('closed') or the user presses Ctrl-] ('left'). A terminal is put into raw mode meanwhile: all other
 * keys are the guest's. The end of a piped stdin leaves the console open.
 */
export const attach = async (vm: Vm): Promise<'left' | 'closed'> => {
  let socket: Socket = await vm.console();
  const { stdin, stdout } = process;
  const raw = stdin.isTTY === true;
  return new Promise((resolve) => {
    let left = false;
    const done = (how: 'left' | 'closed'): void => {
      left = true;
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
    // The newest that was shown: what comes after it in a console that begins anew has not been.
    let shown: Buffer = Buffer.alloc(0);
    const show = (b: Buffer): void => {
      shown = Buffer.from(Buffer.concat([shown, b]).subarray(-overlap));
      stdout.write(b);
    };
    const use = (s: Socket): void => {
      socket = s;
      let isFirst = shown.length > 0;
      s.on('data', (b) => {
        const at = isFirst ? b.indexOf(shown) : -1;
        isFirst = false;
        show(at < 0 ? b : b.subarray(at + shown.length));
      });
      s.on('error', () => {});
      s.on('close', () => {
        if (left) return;
        again(vm).then(
          (next) => (next ? use(next) : done('closed')),
          (e: Error) => {
            note(`\n${e.message}`);
            done('closed');
          },
        );
      });
    };
    use(socket);
  });
};

const patience = 20_000;
/** Bytes by which it is known where the console was. */
const overlap = 512;

/**
 * The console was closed. Because the machine has ended, or because its supervisor has died: then it gets another one, and the
 * console goes on. @throws NyxError ADOPTION_FAILED
 */
const again = async (vm: Vm): Promise<Socket | undefined> => {
  for (const end = Date.now() + patience; Date.now() < end; await sleep(50)) {
    const info = inspect(vm.dir, vm.name);
    if (info === undefined || info.kind === 'ended') return undefined;
    const other = Vm.connect(vm.name);
    await other.supervised;
    const socket = await other.console().catch(() => undefined);
    if (!socket) continue;
    return socket;
  }
  return undefined;
};
