// Exceptions and interrupts: double faults, delivery through IVT and IDT (Intel SDM vol. 3, chapter 6).
#include "soft/run.h"
#include "soft/system.h"
#include "soft/transfer.h"

namespace nyx::soft {

namespace {

// Cpu::delivering while an interrupt is delivered: harmless for the double-fault rule.
constexpr int kBenign = 0x100;

bool contributory(int v) { return v == kDE || (v >= kTS && v <= kGP); }

constexpr uint32_t kCleared = kTF | kNT | kRF | kVM;

void deliver_real(Cpu& c, const Insn* i, const Event& e, uint64_t rip) {
  const unsigned at = unsigned(e.vector) * 4;
  if (at + 3 > c.idtr.limit) raise(c, i, kGP, 0);
  const uint32_t target = load_system<uint32_t>(c, i, uint32_t(c.idtr.base + at));
  Stack s = current_stack(c);
  push_on(c, i, s, uint16_t(rflags(c)), 2);
  push_on(c, i, s, c.seg[CS].selector, 2);
  push_on(c, i, s, uint16_t(rip), 2);
  commit_sp(c, s);
  c.eflags &= ~(kIF | kTF | kAC | kRF);
  set_real_cs(c, uint16_t(target >> 16));
  c.rip = uint16_t(target);
  update_mode(c);
}

// The gate's code segment, checked for the transfer.
Descriptor gate_target(Cpu& c, const Insn* i, uint16_t selector, unsigned ext) {
  if (null_selector(selector)) raise(c, i, kGP, ext);
  const uint32_t error = (selector & 0xfffcu) | ext;
  Descriptor d = need_descriptor(c, i, selector, kGP, ext);
  if (!d.code() || d.dpl() > c.cpl) raise(c, i, kGP, error);
  if (c.long_mode() && (!d.l() || d.db())) raise(c, i, kGP, error);
  if (!d.present()) raise(c, i, kNP, error);
  return d;
}

uint32_t pushed_flags(const Cpu& c, const Event& e) { return uint32_t(rflags(c)) | (e.fault ? kRF : 0); }

void deliver_long(Cpu& c, const Insn* i, const Event& e, uint64_t rip) {
  const unsigned at = unsigned(e.vector) * 16;
  const uint32_t error = unsigned(e.vector) * 8 + 2 + e.ext;
  if (at + 15 > c.idtr.limit) raise(c, i, kGP, error);
  Descriptor gate;
  gate.low = load_system<uint64_t>(c, i, c.idtr.base + at);
  gate.high = load_system<uint64_t>(c, i, c.idtr.base + at + 8);
  if (gate.s() || (gate.type() != kIntGate32 && gate.type() != kTrapGate32)) raise(c, i, kGP, error);
  if (e.software && gate.dpl() < c.cpl) raise(c, i, kGP, error);
  if (!gate.present()) raise(c, i, kNP, error);
  Descriptor target = gate_target(c, i, gate.gate_selector(), e.ext);
  const unsigned cpl = target.conforming() ? c.cpl : target.dpl();
  const unsigned ist = gate.low >> 32 & 7;
  Stack s{{}, c.gpr[RSP], true, cpl == 3};
  s.ss_error = uint16_t(e.ext);
  if (ist || cpl < c.cpl) s.sp = tss_stack64(c, i, cpl, ist, e.ext);
  s.sp &= ~uint64_t{15};
  push_on(c, i, s, c.seg[SS].selector, 8);
  push_on(c, i, s, c.gpr[RSP], 8);
  push_on(c, i, s, pushed_flags(c, e), 8);
  push_on(c, i, s, c.seg[CS].selector, 8);
  push_on(c, i, s, rip, 8);
  if (e.has_error) push_on(c, i, s, e.error, 8);
  const uint64_t offset = gate.gate_offset(true);
  if (int64_t(offset << 16) >> 16 != int64_t(offset)) raise(c, i, kGP, e.ext);
  set_accessed(c, i, &target);
  if (cpl != c.cpl) c.seg[SS] = Segment{0, 0, uint16_t(cpl), uint16_t(cpl << 5)};
  c.gpr[RSP] = s.sp;
  c.eflags &= ~(kCleared | (gate.type() == kIntGate32 ? kIF : 0));
  set_cs(c, unpack(target, gate.gate_selector()), cpl);
  c.rip = offset;
  update_mode(c);
}

void deliver_legacy(Cpu& c, const Insn* i, const Event& e, uint64_t rip) {
  const unsigned at = unsigned(e.vector) * 8;
  const uint32_t error = at + 2 + e.ext;
  if (at + 7 > c.idtr.limit) raise(c, i, kGP, error);
  Descriptor gate;
  gate.low = load_system<uint64_t>(c, i, uint32_t(c.idtr.base + at));
  const unsigned type = gate.type();
  const bool task = type == kTaskGate;
  if (gate.s() || !(task || (type & 6) == 6)) raise(c, i, kGP, error);
  if (e.software && gate.dpl() < c.cpl) raise(c, i, kGP, error);
  if (!gate.present()) raise(c, i, kNP, error);
  if (task) return task_switch(c, i, gate.gate_selector(), TaskSource::kEvent, rip, &e);

  const uint16_t selector = gate.gate_selector();
  const unsigned size = type & 8 ? 4 : 2;
  const bool from_vm86 = vm86(c);
  Descriptor target = gate_target(c, i, selector, e.ext);
  const unsigned cpl = target.conforming() ? c.cpl : target.dpl();
  if (from_vm86 && cpl != 0) raise(c, i, kGP, (selector & 0xfffcu) | e.ext);
  Stack s = current_stack(c);
  s.ss_error = uint16_t(e.ext);
  if (cpl < c.cpl) {
    uint16_t ss;
    const uint32_t sp = tss_stack(c, i, cpl, e.ext, &ss);
    Descriptor d = need_stack(c, i, ss, cpl, kTS, e.ext);
    set_accessed(c, i, &d);
    s = {unpack(d, ss), sp, false, cpl == 3};
    s.ss_error = uint16_t((ss & 0xfffc) | e.ext);
    if (from_vm86) {
      for (const SegReg r : {GS, FS, DS, ES}) push_on(c, i, s, c.seg[r].selector, size);
    }
    push_on(c, i, s, c.seg[SS].selector, size);
    push_on(c, i, s, uint32_t(c.gpr[RSP]), size);
  }
  push_on(c, i, s, pushed_flags(c, e), size);
  push_on(c, i, s, c.seg[CS].selector, size);
  push_on(c, i, s, uint32_t(rip), size);
  if (e.has_error) push_on(c, i, s, e.error, size);
  const uint32_t offset = uint32_t(gate.gate_offset(false)) & (size == 4 ? 0xffffffff : 0xffff);
  const Segment cs = unpack(target, selector);
  if (offset > cs.limit) raise(c, i, kGP, e.ext);
  set_accessed(c, i, &target);
  c.eflags &= ~(kCleared | (type & 1 ? 0 : kIF));
  if (from_vm86) {
    for (const SegReg r : {GS, FS, DS, ES}) c.seg[r] = Segment{0, 0, 0, 0};
  }
  c.seg[SS] = s.ss;
  commit_sp(c, s);
  set_cs(c, cs, cpl);
  c.seg[CS].attr |= 1;
  c.rip = offset;
  update_mode(c);
}

}  // namespace

void set_real_cs(Cpu& c, uint16_t selector) {
  set_real_segment(c, CS, selector);
}

void deliver_event(Cpu& c, const Insn* i, const Event& e, uint64_t rip) {
  if (!(c.cr0 & kCr0PE)) return deliver_real(c, i, e, rip);
  if (c.long_mode()) return deliver_long(c, i, e, rip);
  return deliver_legacy(c, i, e, rip);
}

void deliver_exception(Cpu& c) {
  Event e{c.exception, c.has_error, c.error_code};
  const int first = c.delivering;
  if (first >= 0) {
    if (first == kDF8) {
      c.shutdown = true;
      return;
    }
    const bool bad = (contributory(first) && contributory(e.vector)) ||
                     (first == kPFx && (contributory(e.vector) || e.vector == kPFx));
    if (bad) e = Event{kDF8, true, 0};
  }
  // The error code of #DF, #TS .. #PF and #AC is pushed in protected mode only.
  if (!(c.cr0 & kCr0PE)) e.has_error = false;
  e.fault = e.vector != kDB;
  if (e.vector == kDB) c.dr[7] &= ~uint64_t{0x2000};  // GD
  c.halted = false;  // a single-step trap after HLT
  c.delivering = e.vector;
  deliver_event(c, nullptr, e, c.rip);
  c.delivering = -1;
}

void deliver_interrupt(Cpu& c, int vector) {
  c.delivering = kBenign;
  c.stat_interrupts++;
  Event e{vector};
  deliver_event(c, nullptr, e, c.rip);
  c.delivering = -1;
}

void software_interrupt(Cpu& c, const Insn* i, int vector, bool privileged) {
  c.trap_pending = false;
  Event e{vector};
  e.software = !privileged;
  e.ext = privileged;
  deliver_event(c, i, e, next_rip(c, i));
  leave(c, c.rip);
}

}  // namespace nyx::soft
