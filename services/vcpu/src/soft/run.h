// Running blocks: the way from one to the next, and the run loop.
#pragma once
#include "soft/insn.h"

namespace nyx::soft {

// longjmp values to Cpu::unwind.
enum Unwind : int { kUnwindException = 1, kUnwindLeave = 2 /* look at attention / state, then go on at c.rip */ };

// Finds or decodes the block at c.rip for the current mode. May raise a fetch fault.
Block* find_block(Cpu& c);

// Enters a block; tail position. Leaves to the run loop when the CPU's attention word is set.
[[gnu::always_inline]] inline void enter(Cpu& c, Block* b) {
  c.gpr[kRegBlock] = b->rip;
  c.block = b;
  if (c.attention->load(std::memory_order_relaxed) != 0) [[unlikely]] {
    c.rip = b->rip;
    return;  // to the run loop
  }
  c.icount += b->count;
  return b->insns[0].fn(c, b->insns);
}

// Goes on at link `k` of the current block, whose target is `rip`; tail position.
void follow_slow(Cpu& c, const Insn* i, int k, uint64_t rip);
[[gnu::always_inline]] inline void follow(Cpu& c, const Insn* i, int k, uint64_t rip) {
  Block* b = c.block->link[k];
  if (c.block->link_gen[k] == c.map_gen && b->valid) [[likely]] return enter(c, b);
  return follow_slow(c, i, k, rip);
}

// Goes on at a computed address (indirect jump, return); tail position. Uses the jump cache.
void jump(Cpu& c, const Insn* i, uint64_t rip);

// Leaves to the run loop with c.rip = rip (mode changed, halted, interrupt window ...).
[[noreturn]] void leave(Cpu& c, uint64_t rip);

// Runs until the attention word asks the CPU to stop. The run loop: deliver events, find a block, enter it.
void run(Cpu& c);

}  // namespace nyx::soft
