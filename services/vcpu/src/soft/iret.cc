// IRET in all modes, INT n, INT3, INTO, INT1, SYSCALL/SYSRET and SYSENTER/SYSEXIT (Intel SDM vol. 2).
#include "soft/run.h"
#include "soft/system.h"
#include "soft/transfer.h"

namespace nyx::soft {
namespace {

bool canonical(uint64_t a) { return int64_t(a << 16) >> 16 == int64_t(a); }

void nmi_window(Cpu& c) {
  c.nmi_blocked = false;
  if (c.eflags & kIF || c.irq_pending) interrupts_enabled(c);
}

// RFLAGS bits of `mask` from `value`.
void merge_flags(Cpu& c, uint64_t value, uint64_t mask) { set_rflags(c, (rflags(c) & ~mask) | (value & mask)); }

void iret_real(Cpu& c, const Insn* i) {
  const unsigned size = i->opsize;
  if (vm86(c) && (c.eflags & kIOPL) != kIOPL) raise(c, i, kGP, 0);
  Stack s = current_stack(c);
  const uint64_t rip = pop_from(c, i, s, size);
  const uint16_t cs = uint16_t(pop_from(c, i, s, size));
  const uint64_t flags = pop_from(c, i, s, size);
  if (rip > c.seg[CS].limit) raise(c, i, kGP, 0);
  uint64_t mask = kArith | kDF | kTF | kIF | kNT | (vm86(c) ? 0 : kIOPL);
  if (size == 4) mask |= kRF | kAC | kID;
  commit_sp(c, s);
  merge_flags(c, flags, mask);
  set_real_cs(c, cs);
  c.rip = rip;
  update_mode(c);
}

void iret_to_vm86(Cpu& c, const Insn* i, Stack& s, uint64_t rip, uint16_t cs, uint64_t flags) {
  const uint64_t sp = pop_from(c, i, s, 4);
  uint16_t sel[5];
  for (uint16_t& v : sel) v = uint16_t(pop_from(c, i, s, 4));
  set_rflags(c, flags);
  c.cpl = 3;
  constexpr SegReg order[5] = {SS, ES, DS, FS, GS};
  for (unsigned k = 0; k < 5; k++) set_real_segment(c, order[k], sel[k]);
  set_real_cs(c, cs);
  c.gpr[RSP] = uint32_t(sp);
  c.rip = uint16_t(rip);
  update_mode(c);
}

void iret_protected(Cpu& c, const Insn* i) {
  const unsigned size = i->opsize;
  if (c.eflags & kNT) {
    if (c.long_mode()) raise(c, i, kGP, 0);
    if (!c.seg[TR].present()) raise(c, i, kTS, 0);
    const uint16_t back = load_system<uint16_t>(c, i, uint32_t(c.seg[TR].base));
    return task_switch(c, i, back, TaskSource::kIret, next_rip(c, i), nullptr);
  }
  Stack s = current_stack(c);
  const uint64_t rip = pop_from(c, i, s, size);
  const uint16_t selector = uint16_t(pop_from(c, i, s, size));
  const uint64_t flags = pop_from(c, i, s, size);
  if (size == 4 && (flags & kVM) && c.cpl == 0 && !c.long_mode()) return iret_to_vm86(c, i, s, rip, selector, flags);

  if (null_selector(selector)) raise(c, i, kGP, 0);
  const uint32_t error = selector & 0xfffcu;
  Descriptor d = need_descriptor(c, i, selector, kGP);
  const unsigned rpl = selector & 3;
  if (!d.code() || rpl < c.cpl || (d.conforming() ? d.dpl() > rpl : d.dpl() != rpl)) raise(c, i, kGP, error);
  if (c.long_mode() && d.l() && d.db()) raise(c, i, kGP, error);
  if (!d.present()) raise(c, i, kNP, error);
  const bool wide = c.long_mode() && d.l();
  const bool with_stack = c.code64() || rpl != c.cpl;
  uint64_t sp = 0;
  Segment stack = c.seg[SS];
  if (with_stack) {
    sp = pop_from(c, i, s, size);
    const uint16_t ss = uint16_t(pop_from(c, i, s, size));
    if (null_selector(ss)) {
      if (!wide || rpl == 3 || (ss & 3) != rpl) raise(c, i, kGP, 0);
      stack = Segment{0, 0, ss, uint16_t(rpl << 5)};
    } else {
      Descriptor sd = need_stack(c, i, ss, rpl, kGP);
      set_accessed(c, i, &sd);
      stack = unpack(sd, ss);
    }
  }
  const Segment cs = unpack(d, selector);
  if (wide ? !canonical(rip) : rip > cs.limit) raise(c, i, kGP, 0);
  set_accessed(c, i, &d);

  uint64_t mask = kArith | kDF | kTF | kNT;
  if (size != 2) mask |= kRF | kAC | kID;
  if (c.cpl <= (c.eflags >> 12 & 3)) mask |= kIF;
  if (c.cpl == 0) mask |= kIOPL | (size != 2 ? kVIF | kVIP : 0);
  const bool outward = rpl != c.cpl;
  if (with_stack) {
    c.seg[SS] = stack;
    s = {stack, sp, wide, false};
  }
  commit_sp(c, s);
  merge_flags(c, flags, mask);
  set_cs(c, cs, rpl);
  c.seg[CS].attr |= 1;
  if (outward) drop_inner_segments(c);
  c.rip = rip;
  update_mode(c);
}

[[gnu::noinline]] void iret(Cpu& c, const Insn* i) {
  if (protected_mode(c)) {
    iret_protected(c, i);
  } else {
    iret_real(c, i);
  }
  // RF lasts for one instruction and matters to breakpoints only.
  if (!(c.dr[7] & 0xff)) c.eflags &= ~kRF;
  nmi_window(c);
}

void op_iret(Cpu& c, const Insn* i) {
  iret(c, i);
  if ((c.eflags & (kTF | kRF)) != 0) [[unlikely]]
    leave(c, c.rip);
  return jump(c, i, c.rip);
}

void op_int(Cpu& c, const Insn* i) {
  if (vm86(c) && (c.eflags & kIOPL) != kIOPL) raise(c, i, kGP, 0);
  software_interrupt(c, i, int(i->imm & 0xff), false);
}
void op_int3(Cpu& c, const Insn* i) { software_interrupt(c, i, kBP, false); }
void op_int1(Cpu& c, const Insn* i) {
  // A data breakpoint that MOV SS holds back is reported by the same #DB.
  c.dr[6] |= c.watch_hits;
  c.watch_hits = 0;
  software_interrupt(c, i, kDB, true);
}
void op_into(Cpu& c, const Insn* i) {
  if (c.flags & 1) software_interrupt(c, i, kOFx, false);
  return next(c, i);
}

// Flat segments that the fast system calls load without looking at any table.
Segment flat_code(uint16_t selector, unsigned dpl, bool wide) {
  return {0, 0xffffffff, selector, uint16_t((wide ? 0xa09b : 0xc09b) | dpl << 5)};
}
Segment flat_data(uint16_t selector, unsigned dpl) { return {0, 0xffffffff, selector, uint16_t(0xc093 | dpl << 5)}; }

// SYSCALL and SYSRET: the single-step trap comes directly after them when TF is set then, whatever it was before.
void step_after(Cpu& c) {
  c.trap_pending = false;
  if (!(c.eflags & kTF)) [[likely]]
    return;
  c.dr[6] |= kDr6Step;
  raise(c, nullptr, kDB);
}

// In 64-bit mode alone, as Intel has it. That is no detail: a kernel that knows the vendor leaves CSTAR at 0, and a user's SYSCALL
// from compatibility mode would go there with the supervisor's rights.
[[gnu::noinline]] void syscall(Cpu& c, const Insn* i) {
  if (!(c.efer & kEferSCE) || !c.code64()) raise(c, i, kUD);
  const uint16_t selector = uint16_t(c.star >> 32) & 0xfffc;
  c.gpr[RCX] = next_rip(c, i);
  c.gpr[R11] = rflags(c) & ~uint64_t{kRF};
  set_rflags(c, rflags(c) & ~(c.sfmask | kRF));
  set_cs(c, flat_code(selector, 0, true), 0);
  c.seg[SS] = flat_data(uint16_t(selector + 8), 0);
  c.rip = c.lstar;
  update_mode(c);
}

void op_syscall(Cpu& c, const Insn* i) {
  syscall(c, i);
  step_after(c);
  return jump(c, i, c.rip);
}

[[gnu::noinline]] void sysret(Cpu& c, const Insn* i) {
  if (!(c.efer & kEferSCE) || !c.code64()) raise(c, i, kUD);
  if (c.cpl != 0) raise(c, i, kGP, 0);
  const bool wide = i->opsize == 8;
  const uint64_t rip = wide ? c.gpr[RCX] : uint32_t(c.gpr[RCX]);
  if (wide && !canonical(rip)) raise(c, i, kGP, 0);
  const uint16_t base = uint16_t(c.star >> 48);
  set_rflags(c, c.gpr[R11] & ~uint64_t{kRF | kVM});
  set_cs(c, flat_code(uint16_t((base + (wide ? 16 : 0)) | 3), 3, wide), 3);
  c.seg[SS] = flat_data(uint16_t((base + 8) | 3), 3);
  c.rip = rip;
  update_mode(c);
  if (c.eflags & kIF) interrupts_enabled(c);
}

void op_sysret(Cpu& c, const Insn* i) {
  sysret(c, i);
  step_after(c);
  return jump(c, i, c.rip);
}

void op_sysenter(Cpu& c, const Insn* i) {
  if (!(c.cr0 & kCr0PE) || null_selector(uint16_t(c.sysenter_cs))) raise(c, i, kGP, 0);
  const bool wide = c.long_mode();
  const uint16_t selector = uint16_t(c.sysenter_cs) & 0xfffc;
  c.eflags &= ~(kVM | kIF | kRF);
  set_cs(c, flat_code(selector, 0, wide), 0);
  c.seg[SS] = flat_data(uint16_t(selector + 8), 0);
  c.gpr[RSP] = wide ? c.sysenter_esp : uint32_t(c.sysenter_esp);
  c.rip = wide ? c.sysenter_eip : uint32_t(c.sysenter_eip);
  update_mode(c);
  leave(c, c.rip);
}

void op_sysexit(Cpu& c, const Insn* i) {
  if (!(c.cr0 & kCr0PE) || null_selector(uint16_t(c.sysenter_cs)) || c.cpl != 0) raise(c, i, kGP, 0);
  const bool wide = i->opsize == 8;
  uint64_t rip = c.gpr[RDX], rsp = c.gpr[RCX];
  if (wide && (!canonical(rip) || !canonical(rsp))) raise(c, i, kGP, 0);
  if (!wide) {
    rip = uint32_t(rip);
    rsp = uint32_t(rsp);
  }
  const uint16_t selector = uint16_t((c.sysenter_cs & 0xfffc) + (wide ? 32 : 16)) | 3;
  set_cs(c, flat_code(selector, 3, wide), 3);
  c.seg[SS] = flat_data(uint16_t(selector + 8), 3);
  c.gpr[RSP] = rsp;
  c.rip = rip;
  update_mode(c);
  leave(c, rip);
}

}  // namespace

void register_iret(OpTables& t) {
  put(t, 0, 0xcf, op_all(op_iret, nullptr, kEnds));
  put(t, 0, 0xcd, op_all(op_int, nullptr, kEnds, kImmUb));
  put(t, 0, 0xcc, op_all(op_int3, nullptr, kEnds));
  put(t, 0, 0xf1, op_all(op_int1, nullptr, kEnds));
  put(t, 0, 0xce, op_all(op_into, nullptr, kEnds | kNo64));
  put(t, 1, 0x05, op_all(op_syscall, nullptr, kEnds));
  put(t, 1, 0x07, op_all(op_sysret, nullptr, kEnds));
  put(t, 1, 0x34, op_all(op_sysenter, nullptr, kEnds));
  put(t, 1, 0x35, op_all(op_sysexit, nullptr, kEnds));
}

}  // namespace nyx::soft
