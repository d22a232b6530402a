#include "soft/run.h"

#include "soft/lockstep.h"
#include "soft/mmu.h"
#include "soft/translate.h"

// Calls `code`, which may be translated code: it leaves no register as it was.
extern "C" void nyx_soft_call(nyx::soft::Cpu& c, const nyx::soft::Insn* i, nyx::soft::Handler code);
asm(R"(
.pushsection .text
.globl nyx_soft_call
.type nyx_soft_call, @function
nyx_soft_call:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  sub $8, %rsp
  call *%rdx
  add $8, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
.size nyx_soft_call, . - nyx_soft_call
.popsection
)");

namespace nyx::soft {
namespace {

void jump_slow(Cpu& c, uint64_t rip) {
  c.rip = rip;
  Block* const b = find_block(c);
  c.blocks->RememberJump(b);
  return enter(c, b);
}

// Instruction breakpoints (SDM vol. 3, 17.2): raises #DB when one is at c.rip.
void check_breakpoints(Cpu& c) {
  const uint64_t linear = fetch_linear(c, c.rip);
  uint64_t hit = 0;
  for (unsigned n = 0; n < 4; n++) {
    const bool enabled = c.dr[7] >> (2 * n) & 3, execute = (c.dr[7] >> (16 + 4 * n) & 15) == 0;
    if (enabled && execute && c.dr[n] == linear) hit |= 1u << n;
  }
  if (!hit) return;
  c.dr[6] = (c.dr[6] & ~0xfull) | hit;
  raise(c, nullptr, kDB);
}

[[noreturn]] void fault(Cpu& c, const Insn* i, int vector) {
  if (i) {
    c.icount -= ahead(c, i) + 1;
    c.rip = insn_rip(c, i);
  }
  c.exception = vector;
  std::longjmp(c.unwind, kUnwindException);
}

}  // namespace

void raise(Cpu& c, const Insn* i, int vector) {
  c.has_error = false;
  c.error_code = 0;
  fault(c, i, vector);
}
void raise(Cpu& c, const Insn* i, int vector, uint32_t error) {
  c.has_error = true;
  c.error_code = error;
  fault(c, i, vector);
}

Block* find_block(Cpu& c) { return c.blocks->Find(c, c.mode); }

void follow_slow(Cpu& c, const Insn*, int k, uint64_t rip) {
  Block* const from = c.block;
  c.rip = rip;
  // Its memory may be the new block's when it was dropped, or everything is.
  const bool linkable = from->valid;
  const uint64_t generation = c.blocks->generation();
  Block* const b = find_block(c);
  if (linkable && generation == c.blocks->generation()) {
    from->links[k].block = b;
    connect(from->links[k], b);
  }
  return enter(c, b);
}

void jump(Cpu& c, const Insn*, uint64_t rip) {
  Block* const b = c.blocks->jump_entry(c.mode, rip).block;
  if (b && b->rip == rip && b->mode == c.mode && leads_to(c, b)) [[likely]] return enter(c, b);
  return jump_slow(c, rip);
}

void leave(Cpu& c, uint64_t rip) {
  c.rip = rip;
  std::longjmp(c.unwind, kUnwindLeave);
}
void leave_at(Cpu& c, const Insn* i) {
  leave_here(c, i);
  std::longjmp(c.unwind, kUnwindLeave);
}
void leave_after(Cpu& c, const Insn* i) {
  c.icount -= ahead(c, i);
  const uint64_t rip = next_rip(c, i);
  leave(c, c.code64() ? rip : uint32_t(rip));
}

namespace {

// Executes a block without looking at attention first, so that every turn of the run loop makes progress.
void execute(Cpu& c, Block* b) {
  c.gpr[kRegBlock] = b->rip;
  c.block = b;
  c.icount += b->count;
  nyx_soft_call(c, b->insns, b->code);
}

bool in_shadow(const Cpu& c) { return c.inhibit != kInhibitNone && c.icount == c.inhibit_at; }

}  // namespace

void run(Cpu& c) {
  std::atomic<uint32_t>* const attention = c.attention;
  // While single-stepping, blocks look at this word, which always says leave.
  constexpr uint32_t kAlways = 1u << 31;
  std::atomic<uint32_t> stepping{kAlways};

  const int why = setjmp(c.unwind);
  c.where = kInGuestCode;
  switch (why) {
    case kUnwindException:
      c.attention = attention;
      c.inhibit = kInhibitNone;
      c.trap_pending = false;
      c.watch_hits = 0;
      deliver_exception(c);
      break;
    default: break;
  }
  for (;;) {
    if (c.attention != attention) {  // a step has ended
      c.attention = attention;
      if (const uint32_t asked = stepping.exchange(kAlways, std::memory_order_relaxed) & ~kAlways) attention->fetch_or(asked);
      // MOV SS holds traps back until the next instruction has retired.
      const bool held = in_shadow(c) && c.inhibit == kInhibitMovSs;
      if ((c.trap_pending || c.watch_hits) && !held) {
        c.dr[6] |= c.watch_hits | (c.trap_pending ? kDr6Step : 0);
        c.trap_pending = false;
        c.watch_hits = 0;
        raise(c, nullptr, kDB);
      }
    }
    const bool shadow = in_shadow(c);
    if (!shadow) {
      c.inhibit = kInhibitNone;
      if (!service_attention(c)) return;
    }
    const bool trap = c.eflags & kTF, breakpoints = c.dr[7] & 0xff;
    if (!(shadow || trap || breakpoints)) [[likely]] {
      Block* const b = find_block(c);
      // Close to the deadline: one instruction after the other, up to it exactly.
      if (c.icount + b->count <= c.deadline) [[likely]] {
        c.eflags &= ~kRF;
        if (c.lockstep) [[unlikely]]
          c.lockstep->Step(c);
        else
          execute(c, b);
        continue;
      }
    }
    if (breakpoints && !(c.eflags & kRF) && !(shadow && c.inhibit == kInhibitMovSs)) check_breakpoints(c);
    Block* const b = c.blocks->Find(c, c.mode | kModeStep);
    // A fault of the instruction is delivered with RF as it is set there; when it completes, RF is clear.
    c.eflags &= ~kRF;
    c.trap_pending = trap;
    c.attention = &stepping;
    execute(c, b);
  }
}

}  // namespace nyx::soft
