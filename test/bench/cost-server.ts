/** The consumer of cost.bench.ts: descriptors 3 ring, 4 kick, 5 state; reads change nothing, writes are committed. */
import { array, struct, u32 } from '@nyx/layout';
import { ctl, fileSize, mmap, setPdeathsig } from '@nyx/native';
import { ExitKind, ExitServer, mapRings, StateBlock } from '@nyx/ring';

setPdeathsig(9);
const bytes = Number(process.argv[2]);
const State = struct('CostState', { value: u32(), rest: array('u32', bytes / 4 - 1) });
const block = new StateBlock(mmap(5, fileSize(5)), {
  kind: 'cost',
  stateVersion: 1,
  state: State,
  ranges: 0,
});
const server = new ExitServer({
  rings: mapRings(3),
  kick: 4,
  onExit() {
    block.state.value = (block.state.value + 1) >>> 0;
    if (server.ctl[ctl.kind] === ExitKind.read) server.reply(1, 0, 0);
    else server.commit(block, 1, 0, 0);
  },
});
server.addBlock(block);
server.attach();
server.start();
