// Task switches and the stacks in the TSS (Intel SDM vol. 3, chapter 7).
#include "soft/transfer.h"

namespace nyx::soft {

uint64_t tss_stack64(Cpu& c, const Insn* i, unsigned cpl, unsigned ist, unsigned ext) {
  const Segment& tss = c.seg[TR];
  const unsigned at = ist ? 0x24 + (ist - 1) * 8 : 4 + cpl * 8;
  if (at + 7 > tss.limit) raise(c, i, kTS, (tss.selector & 0xfffcu) | ext);
  const uint64_t sp = load_system<uint64_t>(c, i, tss.base + at);
  if (int64_t(sp << 16) >> 16 != int64_t(sp)) raise(c, i, kSSx, ext);
  return sp;
}

uint32_t tss_stack(Cpu& c, const Insn* i, unsigned cpl, unsigned ext, uint16_t* ss) {
  const Segment& tss = c.seg[TR];
  const bool wide = tss.attr & 8;
  const unsigned at = wide ? 4 + cpl * 8 : 2 + cpl * 4;
  if (at + (wide ? 5 : 3) > tss.limit) raise(c, i, kTS, (tss.selector & 0xfffcu) | ext);
  const uint32_t base = uint32_t(tss.base + at);
  *ss = load_system<uint16_t>(c, i, base + (wide ? 4 : 2));
  return wide ? load_system<uint32_t>(c, i, base) : load_system<uint16_t>(c, i, base);
}

namespace {

// Offsets of what a TSS saves. Segment selectors are in the order ES CS SS DS FS GS.
struct Layout {
  unsigned size;  // of a register
  unsigned eip, eflags, eax, es, ldt, min_limit, segments;
};
constexpr Layout k32 = {4, 0x20, 0x24, 0x28, 0x48, 0x60, 0x67, 6};
constexpr Layout k16 = {2, 0x0e, 0x10, 0x12, 0x22, 0x2a, 0x2b, 4};

uint32_t get(Cpu& c, const Insn* i, uint32_t at, unsigned size) {
  return size == 4 ? load_system<uint32_t>(c, i, at) : load_system<uint16_t>(c, i, at);
}
void put(Cpu& c, const Insn* i, uint32_t at, unsigned size, uint32_t v) {
  if (size == 4) store_system<uint32_t>(c, i, at, v);
  else store_system<uint16_t>(c, i, at, uint16_t(v));
}

void set_busy(Cpu& c, const Insn* i, Descriptor d, bool busy) {
  const uint8_t v = uint8_t(d.low >> 40);
  store_system<uint8_t>(c, i, d.at + 5, uint8_t(busy ? v | 2 : v & ~2));
}

void save_task(Cpu& c, const Insn* i, uint32_t base, const Layout& l, uint32_t rip, uint32_t flags) {
  put(c, i, base + l.eip, l.size, rip);
  put(c, i, base + l.eflags, l.size, flags);
  for (unsigned k = 0; k < 8; k++) put(c, i, base + l.eax + k * l.size, l.size, uint32_t(c.gpr[k]));
  for (unsigned k = 0; k < l.segments; k++) store_system<uint16_t>(c, i, base + l.es + k * l.size, c.seg[k].selector);
}

// The new task's segments are loaded in its own context: errors are #TS, #NP or #SS there.
void load_task_segments(Cpu& c, const uint16_t* selectors, uint16_t ldt, unsigned ext) {
  for (unsigned k = 0; k < 6; k++) c.seg[k] = Segment{0, 0, selectors[k], 0};
  c.seg[LDTR] = Segment{0, 0, ldt, 0};
  if (!null_selector(ldt)) {
    const uint32_t error = (ldt & 0xfffcu) | ext;
    if (ldt & 4) raise(c, nullptr, kTS, error);
    const Descriptor d = need_descriptor(c, nullptr, ldt, kTS, ext);
    if (d.s() || d.type() != kLdt || !d.present()) raise(c, nullptr, kTS, error);
    c.seg[LDTR] = unpack(d, ldt);
  }
  if (c.eflags & kVM) {
    c.cpl = 3;
    for (unsigned k = 0; k < 6; k++) set_real_segment(c, SegReg(k), selectors[k]);
    return;
  }
  const uint16_t cs = selectors[CS];
  const uint32_t cs_error = (cs & 0xfffcu) | ext;
  c.cpl = cs & 3;
  if (null_selector(cs)) raise(c, nullptr, kTS, cs_error);
  Descriptor code = need_descriptor(c, nullptr, cs, kTS, ext);
  if (!code.code() || (code.conforming() ? code.dpl() > c.cpl : code.dpl() != c.cpl)) raise(c, nullptr, kTS, cs_error);
  if (!code.present()) raise(c, nullptr, kNP, cs_error);
  Descriptor stack = need_stack(c, nullptr, selectors[SS], c.cpl, kTS, ext);
  set_accessed(c, nullptr, &stack);
  c.seg[SS] = unpack(stack, selectors[SS]);
  for (const SegReg r : {ES, DS, FS, GS}) {
    const uint16_t s = selectors[r];
    if (null_selector(s)) continue;
    const uint32_t error = (s & 0xfffcu) | ext;
    Descriptor d = need_descriptor(c, nullptr, s, kTS, ext);
    if (!d.s() || !d.readable()) raise(c, nullptr, kTS, error);
    if (!(d.code() && d.conforming()) && (d.dpl() < c.cpl || d.dpl() < (s & 3u))) raise(c, nullptr, kTS, error);
    if (!d.present()) raise(c, nullptr, kNP, error);
    set_accessed(c, nullptr, &d);
    c.seg[r] = unpack(d, s);
  }
  set_accessed(c, nullptr, &code);
  c.seg[CS] = unpack(code, cs);
}

}  // namespace

void task_switch(Cpu& c, const Insn* i, uint16_t selector, TaskSource source, uint64_t rip, const Event* e) {
  const unsigned ext = e ? e->ext : 0;
  const int bad = source == TaskSource::kIret ? kTS : kGP;
  const uint32_t error = (selector & 0xfffcu) | ext;
  if (selector & 4) raise(c, i, bad, error);
  Descriptor d = need_descriptor(c, i, selector, bad, ext);
  const bool wide = d.type() & 8;
  const unsigned expected = (wide ? 9 : 1) | (source == TaskSource::kIret ? 2 : 0);
  if (d.s() || d.type() != expected) raise(c, i, bad, error);
  if (!d.present()) raise(c, i, kNP, error);
  Segment next = unpack(d, selector);
  const Layout& to = wide ? k32 : k16;
  if (next.limit < to.min_limit) raise(c, i, kTS, error);

  // The old task.
  const Segment old = c.seg[TR];
  const Layout& from = old.attr & 8 ? k32 : k16;
  uint32_t flags = uint32_t(rflags(c));
  if (e && e->fault) flags |= kRF;
  if (source == TaskSource::kIret) flags &= ~kNT;
  const uint32_t old_base = uint32_t(old.base), base = uint32_t(next.base);

  // Everything of the new task is read before anything is changed.
  const uint32_t new_cr3 = wide ? get(c, i, base + 0x1c, 4) : 0;
  const uint32_t new_rip = get(c, i, base + to.eip, to.size);
  uint32_t new_flags = get(c, i, base + to.eflags, to.size);
  uint32_t regs[8];
  for (unsigned k = 0; k < 8; k++) regs[k] = get(c, i, base + to.eax + k * to.size, to.size);
  uint16_t selectors[6] = {};
  for (unsigned k = 0; k < to.segments; k++) selectors[k] = load_system<uint16_t>(c, i, base + to.es + k * to.size);
  const uint16_t ldt = load_system<uint16_t>(c, i, base + to.ldt);
  const bool debug_trap = wide && (load_system<uint16_t>(c, i, base + 0x64) & 1);

  if (source == TaskSource::kJump || source == TaskSource::kIret) {
    Descriptor od;
    if (read_descriptor(c, i, old.selector, &od)) set_busy(c, i, od, false);
  }
  save_task(c, i, old_base, from, uint32_t(rip), flags);
  if (source == TaskSource::kCall || source == TaskSource::kEvent) {
    store_system<uint16_t>(c, i, base, old.selector);
    new_flags |= kNT;
  }
  if (source != TaskSource::kIret) set_busy(c, i, d, true);

  // From here on faults belong to the new task.
  next.attr |= 2;
  c.seg[TR] = next;
  c.cr0 |= kCr0TS;
  c.rip = new_rip;
  if (wide && (c.cr0 & kCr0PG) && c.cr3 != new_cr3) {
    c.cr3 = new_cr3;
    tlb_flush_nonglobal(c);
  }
  for (unsigned k = 0; k < 8; k++) {
    c.gpr[k] = wide ? regs[k] : (c.gpr[k] & 0xffff0000) | regs[k];
  }
  set_rflags(c, wide ? new_flags : (rflags(c) & 0xffff0000 & ~uint64_t{kVM}) | new_flags);
  c.dr[7] &= ~uint64_t{0x155};  // local breakpoints
  load_task_segments(c, selectors, ldt, ext);
  update_mode(c);
  if (e && e->has_error) {
    Stack s = current_stack(c);
    push_on(c, nullptr, s, e->error, wide ? 4 : 2);
    commit_sp(c, s);
  }
  if (c.rip > c.seg[CS].limit) raise(c, nullptr, kGP, 0);
  if (debug_trap) {
    c.dr[6] |= 0x8000;
    raise(c, nullptr, kDB);
  }
}

}  // namespace nyx::soft
