#include "soft/segment.h"

#include "soft/walk.h"

namespace nyx::soft {

Segment unpack(const Descriptor& d, uint16_t selector) {
  Segment s;
  s.base = (d.low >> 16 & 0xffffff) | (d.low >> 32 & 0xff000000);
  s.limit = uint32_t((d.low & 0xffff) | (d.low >> 32 & 0xf0000));
  s.attr = uint16_t(d.low >> 40);
  if (s.attr & 0x8000) s.limit = s.limit << 12 | 0xfff;
  s.selector = selector;
  return s;
}

bool read_descriptor(Cpu& c, const Insn* i, uint16_t selector, Descriptor* d) {
  uint64_t base = c.gdtr.base;
  uint32_t limit = c.gdtr.limit;
  if (selector & 4) {
    if (!c.seg[LDTR].present()) return false;
    base = c.seg[LDTR].base;
    limit = c.seg[LDTR].limit;
  }
  if (uint32_t(selector | 7) > limit) return false;
  d->at = base + (selector & 0xfff8u);
  if (!c.long_mode()) d->at = uint32_t(d->at);
  d->low = load_system<uint64_t>(c, i, d->at);
  return true;
}

Descriptor need_descriptor(Cpu& c, const Insn* i, uint16_t selector, int vector, unsigned ext) {
  Descriptor d;
  if (!read_descriptor(c, i, selector, &d)) raise(c, i, vector, (selector & 0xfffcu) | ext);
  return d;
}

void read_high(Cpu& c, const Insn* i, uint16_t selector, Descriptor* d) {
  const uint32_t limit = selector & 4 ? c.seg[LDTR].limit : c.gdtr.limit;
  if (uint32_t(selector & 0xfff8) + 15 > limit) raise(c, i, kGP, selector & 0xfffcu);
  d->high = load_system<uint64_t>(c, i, d->at + 8);
  if (d->high >> 40 & 0x1f) raise(c, i, kGP, selector & 0xfffcu);
}

void set_accessed(Cpu& c, const Insn* i, Descriptor* d) {
  if (d->low >> 40 & 1) return;
  d->low |= 1ull << 40;
  store_system<uint8_t>(c, i, d->at + 5, uint8_t(d->low >> 40));
}

void set_real_segment(Cpu& c, SegReg r, uint16_t selector) {
  Segment& s = c.seg[r];
  s.selector = selector;
  s.base = uint64_t{selector} << 4;
  if (vm86(c)) {
    s.limit = 0xffff;
    s.attr = 0xf3;
  } else {
    // Real mode keeps limit and size: "unreal" mode. What was null or execute-only becomes usable.
    s.attr = uint16_t((s.attr & 0xf000) | 0x93);
  }
}

Descriptor need_stack(Cpu& c, const Insn* i, uint16_t selector, unsigned cpl, int vector, unsigned ext) {
  const uint32_t error = (selector & 0xfffcu) | ext;
  if (null_selector(selector)) raise(c, i, vector, ext);
  Descriptor d = need_descriptor(c, i, selector, vector, ext);
  if ((selector & 3u) != cpl || d.dpl() != cpl || !d.writable_data()) raise(c, i, vector, error);
  if (!d.present()) raise(c, i, kSSx, error);
  return d;
}

namespace {

[[gnu::noinline]] void load_protected(Cpu& c, const Insn* i, SegReg r, uint16_t selector) {
  Descriptor d;
  if (r == SS) {
    if (null_selector(selector)) {
      if (!c.code64() || c.cpl == 3 || (selector & 3) != c.cpl) raise(c, i, kGP, 0);
      c.seg[SS] = Segment{0, 0, selector, uint16_t(c.cpl << 5)};
      return;
    }
    d = need_stack(c, i, selector, c.cpl, kGP);
  } else {
    if (null_selector(selector)) {
      c.seg[r] = Segment{0, 0, selector, 0};
      return;
    }
    d = need_descriptor(c, i, selector, kGP);
    if (!d.s() || !d.readable()) raise(c, i, kGP, selector & 0xfffcu);
    const bool checked = !d.code() || !d.conforming();
    if (checked && ((selector & 3u) > d.dpl() || c.cpl > d.dpl())) raise(c, i, kGP, selector & 0xfffcu);
    if (!d.present()) raise(c, i, kNP, selector & 0xfffcu);
  }
  set_accessed(c, i, &d);
  c.seg[r] = unpack(d, selector);
}

}  // namespace

void load_segment(Cpu& c, const Insn* i, SegReg r, uint16_t selector) {
  if (protected_mode(c)) {
    load_protected(c, i, r, selector);
  } else {
    set_real_segment(c, r, selector);
  }
  if (!c.code64()) update_mode(c);
}

void drop_inner_segments(Cpu& c) {
  for (const SegReg r : {ES, DS, FS, GS}) {
    Segment& s = c.seg[r];
    const bool checked = (s.attr & 0x1c) != 0x1c;  // data, non-conforming code (and null)
    if (!s.present() || (checked && s.dpl() < c.cpl)) {
      // In 64-bit mode the base of FS and GS is of use with a null selector.
      s = Segment{s.base, 0, 0, 0};
      if (!c.long_mode()) s.base = 0;
    }
  }
}

uint64_t linear_seg(Cpu& c, const Insn* i, SegReg r, uint64_t offset, unsigned size, Access a) {
  const Segment& s = c.seg[r];
  const uint64_t last = offset + size - 1;
  bool ok;
  if (s.expand_down() && (s.attr & 0x10)) {
    ok = offset > s.limit && last <= (s.db() ? 0xffffffffu : 0xffffu);
  } else {
    ok = last <= s.limit || (s.limit == 0xffffffff && offset <= 0xffffffff);
  }
  if (protected_mode(c)) {
    ok = ok && s.present() && (a == Access::kWrite ? s.writable() : !s.code() || (s.attr & 2));
  }
  if (!ok) [[unlikely]]
    raise(c, i, r == SS ? kSSx : kGP, 0);
  return uint32_t(s.base + offset);
}

uint64_t linear_legacy(Cpu& c, const Insn* i, uint64_t offset, unsigned size, Access a) {
  return linear_seg(c, i, SegReg(i->seg), offset, size, a);
}

Stack current_stack(const Cpu& c) {
  return {c.seg[SS], c.gpr[RSP], c.code64(), c.cpl == 3};
}

namespace {

// Linear address of `size` bytes at `sp` in the stack's segment.
uint64_t stack_linear(Cpu& c, const Insn* i, const Stack& s, uint64_t sp, unsigned size) {
  if (s.wide) {
    if (int64_t(sp << 16) >> 16 != int64_t(sp)) raise(c, i, kSSx, s.ss_error);
    return sp;
  }
  const uint64_t last = sp + size - 1;
  const bool ok = s.ss.expand_down() && (s.ss.attr & 0x10)
                      ? sp > s.ss.limit && last <= (s.ss.db() ? 0xffffffffu : 0xffffu)
                      : last <= s.ss.limit || s.ss.limit == 0xffffffff;
  if (!ok) raise(c, i, kSSx, s.ss_error);
  return uint32_t(s.ss.base + sp);
}

Rights rights_of(const Stack& s) { return s.user ? Rights::kUser : Rights::kSupervisor; }

}  // namespace

void push_on(Cpu& c, const Insn* i, Stack& s, uint64_t v, unsigned size) {
  const uint64_t sp = (s.sp - size) & s.mask();
  store_as(c, i, stack_linear(c, i, s, sp, size), &v, size, rights_of(s));
  s.sp = sp | (s.sp & ~s.mask());
}

uint64_t pop_from(Cpu& c, const Insn* i, Stack& s, unsigned size) {
  const uint64_t sp = s.sp & s.mask();
  uint64_t v = 0;
  load_as(c, i, stack_linear(c, i, s, sp, size), &v, size, rights_of(s));
  s.sp = ((sp + size) & s.mask()) | (s.sp & ~s.mask());
  return v;
}

void commit_sp(Cpu& c, const Stack& s) {
  if (s.wide || s.ss.db()) {
    c.gpr[RSP] = s.wide ? s.sp : uint32_t(s.sp);
  } else {
    c.gpr[RSP] = (c.gpr[RSP] & ~uint64_t{0xffff}) | (s.sp & 0xffff);
  }
}

void push_slow(Cpu& c, const Insn* i, uint64_t v, unsigned size) {
  if (c.ac_check && ((c.gpr[RSP] - size) & (size - 1))) raise(c, i, kACx, 0);
  Stack s = current_stack(c);
  push_on(c, i, s, v, size);
  if (c.watch) watch_access(c, stack_linear(c, i, s, s.sp & s.mask(), size), size, true);
  commit_sp(c, s);
}

uint64_t pop_slow(Cpu& c, const Insn* i, unsigned size) {
  if (c.ac_check && (c.gpr[RSP] & (size - 1))) raise(c, i, kACx, 0);
  Stack s = current_stack(c);
  if (c.watch) watch_access(c, stack_linear(c, i, s, s.sp & s.mask(), size), size, false);
  const uint64_t v = pop_from(c, i, s, size);
  commit_sp(c, s);
  return v;
}

}  // namespace nyx::soft
