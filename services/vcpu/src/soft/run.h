// Running blocks: the way from one to the next, and the run loop.
//
// Handlers call each other in tail position, so a plain `return` from a handler is the way back to the run loop: set
// c.rip first and make icount exact. Deep inside calls, leave() does the same by longjmp. An instruction after which
// c.mode differs from c.block->mode (segment loads that end the flat model, say) must leave.
#pragma once
#include "soft/block.h"
#include "soft/insn.h"
#include "soft/mem.h"

namespace nyx::soft {

inline constexpr uint64_t kDr6Step = 1 << 14;

// longjmp values to Cpu::unwind.
enum Unwind : int { kUnwindException = 1, kUnwindLeave = 2 /* look at attention / state, then go on at c.rip */ };

// Finds or decodes the block at c.rip for the current mode. May raise a fetch fault.
Block* find_block(Cpu& c);

// Instructions of the current block that come after `i`: they are in icount, but not executed yet.
[[gnu::always_inline]] inline uint64_t ahead(const Cpu& c, const Insn* i) {
  return c.block->count - uint64_t(i - c.block->insns) - 1;
}
// icount as it is when `i` has retired (valid in the handler of i).
[[gnu::always_inline]] inline uint64_t retired(const Cpu& c, const Insn* i) { return c.icount - ahead(c, i); }

// Enters a block; tail position. Leaves to the run loop when the CPU's attention word is set.
[[gnu::always_inline]] inline void enter(Cpu& c, Block* b) {
  c.gpr[kRegBlock] = b->rip;
  c.block = b;
  const uint64_t count = c.icount + b->count;
  if (c.attention->load(std::memory_order_relaxed) != 0 || count > c.deadline) [[unlikely]] {
    c.rip = b->rip;
    return;  // to the run loop
  }
  c.icount = count;
  return b->code(c, b->insns);
}

// Linear address of an instruction.
[[gnu::always_inline]] inline uint64_t fetch_linear(const Cpu& c, uint64_t rip) { return c.code64() ? rip : uint32_t(c.seg[CS].base + rip); }

// Whether the TLB has the bytes at `host`, in one page, as those of linear address `at`.
[[gnu::always_inline]] inline bool fetches(Cpu& c, uint64_t at, const uint8_t* host) {
  const CodeEntry& e = code_entry(c, at);
  return e.page == (at & ~0xfffull) && reinterpret_cast<const uint8_t*>(at + uint64_t(e.addend)) == host;
}
// Whether `b`, which was once found at its RIP in this mode, is what would be found there now: by the TLB alone, so that
// links and the jump cache outlive CR3 loads and INVLPG.
[[gnu::always_inline]] inline bool leads_to(Cpu& c, const Block* b) {
  const uint64_t at = fetch_linear(c, b->rip);
  if (!b->valid || !fetches(c, at, b->host)) return false;
  const uint64_t second = (at | 0xfff) + 1;
  return b->phys2 == ~0ull || fetches(c, c.code64() ? second : uint32_t(second), b->host2);
}

// Goes on at link `k` of the current block, whose target is `rip`; tail position.
void follow_slow(Cpu& c, const Insn* i, int k, uint64_t rip);
[[gnu::always_inline]] inline void follow(Cpu& c, const Insn* i, int k, uint64_t rip) {
  Block* b = c.block->links[k].block;
  if (b && leads_to(c, b)) [[likely]] return enter(c, b);
  return follow_slow(c, i, k, rip);
}

// Goes on at a computed address (indirect jump, return); tail position. Uses the jump cache.
void jump(Cpu& c, const Insn* i, uint64_t rip);

// Leaves to the run loop with c.rip = rip (mode changed, halted, interrupt window ...). From the last instruction of a
// block, or with icount made exact by the caller; otherwise use the two below.
[[noreturn]] void leave(Cpu& c, uint64_t rip);
// From any instruction: it has not retired, and is executed again (a REP instruction that was interrupted).
[[noreturn]] void leave_at(Cpu& c, const Insn* i);
// The same without longjmp, in tail position of a handler.
inline void leave_here(Cpu& c, const Insn* i) {
  c.icount -= ahead(c, i) + 1;
  c.rip = insn_rip(c, i);
}
// From any instruction: it has retired.
[[noreturn]] void leave_after(Cpu& c, const Insn* i);

// STI and MOV SS / POP SS: until the instruction after `i` has retired, the run loop does not call service_attention; after
// MOV SS it also raises no single-step trap. Nothing has to clear it. Such instructions have kShadow in their table entry.
enum Inhibit : uint8_t { kInhibitNone, kInhibitSti, kInhibitMovSs };
inline void set_inhibit(Cpu& c, const Insn* i, Inhibit kind) {
  c.inhibit = kind;
  c.inhibit_at = retired(c, i);
}

// Runs until service_attention says stop. The run loop: service_attention (always, also after a leave() or an exception
// that set no attention bit, so IRET or POPF that set IF need only leave), find a block, enter it. At least one block is
// executed between two calls of service_attention. STI: the block goes on without asking; when the local APIC has
// something deliverable, set a bit in *c.attention, it is looked at after the shadow. While RFLAGS.TF or a breakpoint in DR7 is set, blocks have one
// instruction, and after each the run loop raises #DB (DR6.BS set) or, before it, an instruction breakpoint's #DB (DR6.Bn).
// What sets TF or writes DR7 must therefore leave().
void run(Cpu& c);

// Implemented by the system half.
// Delivers c.exception (c.error_code if c.has_error) at c.rip: pushes the frame and sets c.rip. May raise(), which comes
// back here with the nested vector.
void deliver_exception(Cpu& c);
// Attention bits, at a block border without interrupt shadow: interrupts, timer, flush, DMA, halt. False: return from run.
bool service_attention(Cpu& c);
// FF /3 and FF /5 (mem): far CALL and JMP through memory, size in i->opsize, are entered with put_group by the system half.

}  // namespace nyx::soft
