/**
 * A device process for tests, bundled and started as a child: descriptor 3 is the ring memfd, 4 the kick
 * eventfd, 5 the state block. Device 0 adds what is written to its total and replies with the new total; a
 * register with a side effect, so that an exit that is executed twice or
 * never shows.
 * Arguments: killAt and killPoint of the addon; 0: does not die by itself. A third one: jails itself.
 */
import { struct, u32, u64 } from '@nyx/layout';
import { ctl, deviceSyscalls, fileSize, mmap, seccomp, setPdeathsig } from '@nyx/native';
import { StateBlock } from '../block.ts';
import { mapRings } from '../rings.ts';
import { ExitServer } from '../server.ts';
import { Status } from '../wire.ts';

export const CounterState = struct('CounterState', {
  total: u64(),
  last: u64('data of the newest write'),
  writes: u32(),
  disorder: u32('writes whose data was not last + 1'),
});
export const counterSpec = { kind: 'counter', stateVersion: 1, state: CounterState, ranges: 2 };

/** Serves until it is killed. */
export function main(): void {
  setPdeathsig(9);
  const block = new StateBlock(mmap(5, fileSize(5)), counterSpec);
  const [killAt, killPoint] = process.argv.slice(2).map(Number);
  const server: ExitServer = new ExitServer({
    rings: mapRings(3),
    kick: 4,
    ...(killAt ? { killAt, killPoint: killPoint ?? 0 } : {}),
    onExit() {
      const words = server.ctl;
      if (words[ctl.device] !== 0) return server.reply(0xffffffff, 0xffffffff, Status.unclaimed);
      const { state } = block;
      if (words[ctl.dataLo] !== state.last + 1) state.disorder++;
      state.last = words[ctl.dataLo]!;
      state.total += state.last;
      state.writes++;
      server.commit(block, state.totalLo, state.totalHi, Status.ok);
    },
  });
  server.addBlock(block);
  server.attach();
  if (process.argv[4]) seccomp({ allow: deviceSyscalls });
  server.start();
}
