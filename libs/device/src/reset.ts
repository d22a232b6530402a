/** Power-on state of a device, as the kit makes it before it calls `Device.reset`. */
import { type Memory, resetValues, type Struct } from '@nyx/layout';

/** Writes the reset values at `base`, but leaves the fields named in `keep` as they are. */
export function resetState(state: Struct, keep: readonly string[], memory: Memory, base: number): void {
  const kept = state.placed
    .filter((p) => keep.includes(p.name))
    .map((p) => ({
      at: base + p.offset,
      bytes: memory.u8.slice(base + p.offset, base + p.offset + p.bytes),
    }));
  resetValues(state, memory, base);
  for (const { at, bytes } of kept) memory.u8.set(bytes, at);
}
