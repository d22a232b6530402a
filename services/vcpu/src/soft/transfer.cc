// Far JMP, CALL and RET, with call gates (Intel SDM vol. 3, 5.8; vol. 2, CALL, JMP, RET).
#include "soft/transfer.h"

#include "soft/run.h"
#include "soft/system.h"

namespace nyx::soft {
namespace {

bool canonical(uint64_t a) { return int64_t(a << 16) >> 16 == int64_t(a); }

// A code segment that a JMP or CALL goes to directly: privilege, presence, mode bits.
void check_direct(Cpu& c, const Insn* i, uint16_t selector, const Descriptor& d) {
  const uint32_t error = selector & 0xfffcu;
  if (c.long_mode() && d.l() && d.db()) raise(c, i, kGP, error);
  if (d.conforming() ? d.dpl() > c.cpl : (selector & 3u) > c.cpl || d.dpl() != c.cpl) raise(c, i, kGP, error);
  if (!d.present()) raise(c, i, kNP, error);
}

// The target must lie in its segment.
void check_target(Cpu& c, const Insn* i, const Descriptor& d, const Segment& cs, uint64_t offset) {
  const bool wide = c.long_mode() && d.l();
  if (wide ? !canonical(offset) : offset > cs.limit) raise(c, i, kGP, 0);
}

struct Gate {
  uint16_t selector;
  uint64_t offset;
  unsigned size;  // operand size of the frame
  unsigned params;
};

// A call gate's own checks.
Gate open_gate(Cpu& c, const Insn* i, uint16_t selector, Descriptor d) {
  const uint32_t error = selector & 0xfffcu;
  const unsigned type = d.type();
  if (type != kCallGate32 && (type != kCallGate16 || c.long_mode())) raise(c, i, kGP, error);
  if (d.dpl() < c.cpl || (selector & 3u) > d.dpl()) raise(c, i, kGP, error);
  if (c.long_mode()) read_high(c, i, selector, &d);
  if (!d.present()) raise(c, i, kNP, error);
  Gate g;
  g.selector = d.gate_selector();
  g.size = c.long_mode() ? 8 : type == kCallGate32 ? 4 : 2;
  g.offset = d.gate_offset(c.long_mode());
  if (g.size == 2) g.offset &= 0xffff;
  g.params = d.low >> 32 & 31;
  return g;
}

// The code segment behind a call gate.
Descriptor gate_code(Cpu& c, const Insn* i, const Gate& g, bool call) {
  if (null_selector(g.selector)) raise(c, i, kGP, 0);
  const uint32_t error = g.selector & 0xfffcu;
  Descriptor d = need_descriptor(c, i, g.selector, kGP);
  if (!d.code() || d.dpl() > c.cpl) raise(c, i, kGP, error);
  if (!call && !d.conforming() && d.dpl() != c.cpl) raise(c, i, kGP, error);
  if (c.long_mode() && (!d.l() || d.db())) raise(c, i, kGP, error);
  if (!d.present()) raise(c, i, kNP, error);
  return d;
}

void commit_cs(Cpu& c, const Insn* i, Descriptor& d, uint16_t selector, unsigned cpl, uint64_t rip) {
  set_accessed(c, i, &d);
  set_cs(c, unpack(d, selector), cpl);
  c.rip = rip;
  update_mode(c);
}

void jump_protected(Cpu& c, const Insn* i, uint16_t selector, uint64_t offset) {
  if (null_selector(selector)) raise(c, i, kGP, 0);
  Descriptor d = need_descriptor(c, i, selector, kGP);
  if (d.s()) {
    if (!d.code()) raise(c, i, kGP, selector & 0xfffcu);
    check_direct(c, i, selector, d);
    check_target(c, i, d, unpack(d, selector), offset);
    return commit_cs(c, i, d, selector, c.cpl, offset);
  }
  const unsigned type = d.type();
  if (!c.long_mode() && (type == kTaskGate || type == kTss16 || type == kTss32)) {
    if (d.dpl() < c.cpl || (selector & 3u) > d.dpl()) raise(c, i, kGP, selector & 0xfffcu);
    if (!d.present()) raise(c, i, kNP, selector & 0xfffcu);
    return task_switch(c, i, type == kTaskGate ? d.gate_selector() : selector, TaskSource::kJump, next_rip(c, i), nullptr);
  }
  const Gate g = open_gate(c, i, selector, d);
  Descriptor code = gate_code(c, i, g, false);
  check_target(c, i, code, unpack(code, g.selector), g.offset);
  commit_cs(c, i, code, g.selector, c.cpl, g.offset);
}

void push_return(Cpu& c, const Insn* i, Stack& s, unsigned size) {
  push_on(c, i, s, c.seg[CS].selector, size);
  push_on(c, i, s, next_rip(c, i), size);
}

void call_gate(Cpu& c, const Insn* i, const Gate& g) {
  Descriptor code = gate_code(c, i, g, true);
  const Segment cs = unpack(code, g.selector);
  if (code.conforming() || code.dpl() == c.cpl) {
    Stack s = current_stack(c);
    if (g.size == 8) s.wide = true;
    push_return(c, i, s, g.size);
    check_target(c, i, code, cs, g.offset);
    commit_sp(c, s);
    return commit_cs(c, i, code, g.selector, c.cpl, g.offset);
  }
  const unsigned cpl = code.dpl();
  const Stack old = current_stack(c);
  Stack s;
  Segment ss;
  if (c.long_mode()) {
    ss = Segment{0, 0, uint16_t(cpl), uint16_t(cpl << 5)};
    s = {ss, tss_stack64(c, i, cpl, 0, 0), true, false};
  } else {
    uint16_t selector;
    const uint32_t sp = tss_stack(c, i, cpl, 0, &selector);
    Descriptor d = need_stack(c, i, selector, cpl, kTS);
    set_accessed(c, i, &d);
    ss = unpack(d, selector);
    s = {ss, sp, false, cpl == 3};
    s.ss_error = selector & 0xfffc;
  }
  push_on(c, i, s, c.seg[SS].selector, g.size);
  push_on(c, i, s, c.gpr[RSP], g.size);
  if (!c.long_mode()) {
    // Parameters keep their order: the last one on the old stack is pushed first.
    for (unsigned k = g.params; k-- > 0;) {
      Stack from = old;
      from.sp = old.sp + k * g.size;
      push_on(c, i, s, pop_from(c, i, from, g.size), g.size);
    }
  }
  push_return(c, i, s, g.size);
  check_target(c, i, code, cs, g.offset);
  c.seg[SS] = ss;
  commit_sp(c, s);
  commit_cs(c, i, code, g.selector, cpl, g.offset);
}

void call_protected(Cpu& c, const Insn* i, uint16_t selector, uint64_t offset, unsigned size) {
  if (null_selector(selector)) raise(c, i, kGP, 0);
  Descriptor d = need_descriptor(c, i, selector, kGP);
  if (d.s()) {
    if (!d.code()) raise(c, i, kGP, selector & 0xfffcu);
    check_direct(c, i, selector, d);
    Stack s = current_stack(c);
    push_return(c, i, s, size);
    check_target(c, i, d, unpack(d, selector), offset);
    commit_sp(c, s);
    return commit_cs(c, i, d, selector, c.cpl, offset);
  }
  const unsigned type = d.type();
  if (!c.long_mode() && (type == kTaskGate || type == kTss16 || type == kTss32)) {
    if (d.dpl() < c.cpl || (selector & 3u) > d.dpl()) raise(c, i, kGP, selector & 0xfffcu);
    if (!d.present()) raise(c, i, kNP, selector & 0xfffcu);
    return task_switch(c, i, type == kTaskGate ? d.gate_selector() : selector, TaskSource::kCall, next_rip(c, i), nullptr);
  }
  call_gate(c, i, open_gate(c, i, selector, d));
}

[[gnu::noinline]] void far_jump(Cpu& c, const Insn* i, uint16_t selector, uint64_t offset) {
  if (protected_mode(c)) return jump_protected(c, i, selector, offset);
  if (offset > c.seg[CS].limit) raise(c, i, kGP, 0);
  set_real_cs(c, selector);
  c.rip = offset;
  update_mode(c);
}

[[gnu::noinline]] void far_call(Cpu& c, const Insn* i, uint16_t selector, uint64_t offset, unsigned size) {
  if (protected_mode(c)) return call_protected(c, i, selector, offset, size);
  Stack s = current_stack(c);
  push_return(c, i, s, size);
  if (offset > c.seg[CS].limit) raise(c, i, kGP, 0);
  commit_sp(c, s);
  set_real_cs(c, selector);
  c.rip = offset;
  update_mode(c);
}

// Far pointer in memory.
[[gnu::noinline]] uint64_t far_pointer(Cpu& c, const Insn* i, uint16_t* selector) {
  const unsigned size = i->opsize;
  const uint64_t at = linear_of(c, i, size + 2, Access::kRead);
  uint8_t bytes[10] = {};
  load_slow(c, i, at, bytes, size + 2);
  uint64_t offset = 0;
  std::memcpy(&offset, bytes, size);
  std::memcpy(selector, bytes + size, 2);
  return offset;
}

[[gnu::noinline]] void far_return(Cpu& c, const Insn* i, unsigned drop) {
  const unsigned size = i->opsize;
  Stack s = current_stack(c);
  const uint64_t rip = pop_from(c, i, s, size);
  const uint16_t selector = uint16_t(pop_from(c, i, s, size));
  if (!protected_mode(c)) {
    if (rip > c.seg[CS].limit) raise(c, i, kGP, 0);
    s.sp += drop;
    commit_sp(c, s);
    set_real_cs(c, selector);
    c.rip = rip;
    return update_mode(c);
  }
  if (null_selector(selector)) raise(c, i, kGP, 0);
  const uint32_t error = selector & 0xfffcu;
  Descriptor d = need_descriptor(c, i, selector, kGP);
  const unsigned rpl = selector & 3;
  if (!d.code() || rpl < c.cpl || (d.conforming() ? d.dpl() > rpl : d.dpl() != rpl)) raise(c, i, kGP, error);
  if (c.long_mode() && d.l() && d.db()) raise(c, i, kGP, error);
  if (!d.present()) raise(c, i, kNP, error);
  s.sp += drop;
  if (rpl == c.cpl) {
    check_target(c, i, d, unpack(d, selector), rip);
    commit_sp(c, s);
    return commit_cs(c, i, d, selector, rpl, rip);
  }
  uint64_t sp = pop_from(c, i, s, size);
  const uint16_t ss = uint16_t(pop_from(c, i, s, size));
  const bool wide = c.long_mode() && d.l();
  Segment stack{0, 0, ss, uint16_t(rpl << 5)};
  if (!null_selector(ss)) {
    Descriptor sd = need_stack(c, i, ss, rpl, kGP);
    set_accessed(c, i, &sd);
    stack = unpack(sd, ss);
  } else if (!wide || rpl == 3 || (ss & 3) != rpl) {
    raise(c, i, kGP, 0);
  }
  check_target(c, i, d, unpack(d, selector), rip);
  c.seg[SS] = stack;
  Stack outer{stack, sp + drop, wide, rpl == 3};
  commit_sp(c, outer);
  commit_cs(c, i, d, selector, rpl, rip);
  drop_inner_segments(c);
  update_mode(c);
}

// These go on through leave(): the host stack cannot grow however the compiler treats the calls above.
void op_jmp_far(Cpu& c, const Insn* i) {
  far_jump(c, i, uint16_t(i->imm >> 32), uint32_t(i->imm));
  leave(c, c.rip);
}
void op_call_far(Cpu& c, const Insn* i) {
  far_call(c, i, uint16_t(i->imm >> 32), uint32_t(i->imm), i->opsize);
  leave(c, c.rip);
}
void op_ret_far(Cpu& c, const Insn* i) {
  far_return(c, i, 0);
  leave(c, c.rip);
}
void op_ret_far_imm(Cpu& c, const Insn* i) {
  far_return(c, i, uint16_t(i->imm));
  leave(c, c.rip);
}

}  // namespace

void op_jmp_far_mem(Cpu& c, const Insn* i) {
  uint16_t selector;
  const uint64_t offset = far_pointer(c, i, &selector);
  far_jump(c, i, selector, offset);
  leave(c, c.rip);
}
void op_call_far_mem(Cpu& c, const Insn* i) {
  uint16_t selector;
  const uint64_t offset = far_pointer(c, i, &selector);
  far_call(c, i, selector, offset, i->opsize);
  leave(c, c.rip);
}

void register_transfer(OpTables& t) {
  put(t, 0, 0x9a, op_all(op_call_far, nullptr, kEnds | kNo64, kImmFar));
  put(t, 0, 0xea, op_all(op_jmp_far, nullptr, kEnds | kNo64, kImmFar));
  put(t, 0, 0xca, op_all(op_ret_far_imm, nullptr, kEnds, kImmW));
  put(t, 0, 0xcb, op_all(op_ret_far, nullptr, kEnds));
  put_group(t, 0, -1, 0xff, 3, op_all(nullptr, op_call_far_mem, kEnds | kMemOnly));
  put_group(t, 0, -1, 0xff, 5, op_all(nullptr, op_jmp_far_mem, kEnds | kMemOnly));
}

}  // namespace nyx::soft
