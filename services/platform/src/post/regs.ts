/** POST codes: port 0x80. */
import { pad, registers, struct, u8, u32 } from '@nyx/layout';

export const postRegisters = registers('post', 1, {
  code: { at: 0, width: 1, doc: 'Last code written', read: 'shadow', write: 'posted', reset: 0 },
});

export const PostState = struct('PostState', {
  code: u8(),
  pad0: pad(3),
  writes: u32('for the status page'),
});
