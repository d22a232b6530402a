// Descriptor tables and questions about descriptors: LGDT .. STR, LAR, LSL, VERR, VERW, ARPL (Intel SDM vol. 2).
#include "soft/run.h"
#include "soft/segment.h"
#include "soft/system.h"

namespace nyx::soft {
namespace {

bool canonical(uint64_t a) { return int64_t(a << 16) >> 16 == int64_t(a); }

void set_zf(Cpu& c, bool z) { c.flags = uint16_t(z ? c.flags | 0x4000 : c.flags & ~0x4000); }

[[gnu::noinline]] void load_table(Cpu& c, const Insn* i, TableRegister& r) {
  if (c.cpl != 0) raise(c, i, kGP, 0);
  const unsigned size = c.code64() ? 10 : 6;
  uint8_t bytes[10];
  load_slow(c, i, linear_of(c, i, size, Access::kRead), bytes, size);
  uint16_t limit;
  uint64_t base = 0;
  std::memcpy(&limit, bytes, 2);
  std::memcpy(&base, bytes + 2, size - 2);
  if (c.code64() ? !canonical(base) : false) raise(c, i, kGP, 0);
  if (!c.code64() && i->opsize == 2) base &= 0xffffff;
  r = {base, limit};
}

[[gnu::noinline]] void store_table(Cpu& c, const Insn* i, const TableRegister& r) {
  check_umip(c, i);
  const unsigned size = c.code64() ? 10 : 6;
  uint8_t bytes[10];
  const uint16_t limit = uint16_t(r.limit);
  std::memcpy(bytes, &limit, 2);
  std::memcpy(bytes + 2, &r.base, 8);
  store_slow(c, i, linear_of(c, i, size, Access::kWrite), bytes, size);
}

void op_lgdt(Cpu& c, const Insn* i) { load_table(c, i, c.gdtr); return next(c, i); }
void op_lidt(Cpu& c, const Insn* i) { load_table(c, i, c.idtr); return next(c, i); }
void op_sgdt(Cpu& c, const Insn* i) { store_table(c, i, c.gdtr); return next(c, i); }
void op_sidt(Cpu& c, const Insn* i) { store_table(c, i, c.idtr); return next(c, i); }

void need_protected(Cpu& c, const Insn* i) {
  if (!protected_mode(c)) raise(c, i, kUD);
}

uint16_t operand16(Cpu& c, const Insn* i, bool memory) {
  return memory ? load_rm<uint16_t>(c, i) : uint16_t(c.gpr[i->rm]);
}

// SLDT, STR.
template <SegReg R>
void op_store_reg(Cpu& c, const Insn* i) {
  need_protected(c, i);
  check_umip(c, i);
  if (i->opsize == 2) set_reg<uint16_t>(c, i->rm, c.seg[R].selector);
  else c.gpr[i->rm] = c.seg[R].selector;
  return next(c, i);
}
template <SegReg R>
void op_store_mem(Cpu& c, const Insn* i) {
  need_protected(c, i);
  check_umip(c, i);
  store_rm<uint16_t>(c, i, c.seg[R].selector);
  return next(c, i);
}

Segment system_segment(Cpu& c, const Insn* i, uint16_t selector, Descriptor& d) {
  if (c.long_mode()) read_high(c, i, selector, &d);
  Segment s = unpack(d, selector);
  if (c.long_mode()) {
    s.base = wide_base(d);
    if (!canonical(s.base)) raise(c, i, kGP, selector & 0xfffcu);
  }
  return s;
}

[[gnu::noinline]] void lldt(Cpu& c, const Insn* i, bool memory) {
  need_protected(c, i);
  if (c.cpl != 0) raise(c, i, kGP, 0);
  const uint16_t selector = operand16(c, i, memory);
  if (null_selector(selector)) {
    c.seg[LDTR] = Segment{0, 0, selector, 0};
    return;
  }
  if (selector & 4) raise(c, i, kGP, selector & 0xfffcu);
  Descriptor d = need_descriptor(c, i, selector, kGP);
  if (d.s() || d.type() != kLdt) raise(c, i, kGP, selector & 0xfffcu);
  if (!d.present()) raise(c, i, kNP, selector & 0xfffcu);
  c.seg[LDTR] = system_segment(c, i, selector, d);
}

[[gnu::noinline]] void ltr(Cpu& c, const Insn* i, bool memory) {
  need_protected(c, i);
  if (c.cpl != 0) raise(c, i, kGP, 0);
  const uint16_t selector = operand16(c, i, memory);
  if (null_selector(selector)) raise(c, i, kGP, 0);
  if (selector & 4) raise(c, i, kGP, selector & 0xfffcu);
  Descriptor d = need_descriptor(c, i, selector, kGP);
  if (d.s() || !(d.type() == kTss32 || (d.type() == kTss16 && !c.long_mode()))) raise(c, i, kGP, selector & 0xfffcu);
  if (!d.present()) raise(c, i, kNP, selector & 0xfffcu);
  Segment s = system_segment(c, i, selector, d);
  s.attr |= 2;  // busy
  store_system<uint8_t>(c, i, d.at + 5, uint8_t(s.attr));
  c.seg[TR] = s;
}

void op_lldt_reg(Cpu& c, const Insn* i) { lldt(c, i, false); return next(c, i); }
void op_lldt_mem(Cpu& c, const Insn* i) { lldt(c, i, true); return next(c, i); }
void op_ltr_reg(Cpu& c, const Insn* i) { ltr(c, i, false); return next(c, i); }
void op_ltr_mem(Cpu& c, const Insn* i) { ltr(c, i, true); return next(c, i); }

// Descriptor that the current level may look at with the selector's RPL.
bool visible(Cpu& c, const Insn* i, uint16_t selector, Descriptor* d) {
  if (null_selector(selector) || !read_descriptor(c, i, selector, d)) return false;
  if (d->code() && d->conforming()) return true;
  return d->dpl() >= c.cpl && d->dpl() >= (selector & 3u);
}

[[gnu::noinline]] void verify(Cpu& c, const Insn* i, uint16_t selector, bool write) {
  Descriptor d;
  set_zf(c, visible(c, i, selector, &d) && d.s() && (write ? d.writable_data() : d.readable()));
}
template <bool Write>
void op_verify_reg(Cpu& c, const Insn* i) {
  need_protected(c, i);
  verify(c, i, uint16_t(c.gpr[i->rm]), Write);
  return next(c, i);
}
template <bool Write>
void op_verify_mem(Cpu& c, const Insn* i) {
  need_protected(c, i);
  verify(c, i, load_rm<uint16_t>(c, i), Write);
  return next(c, i);
}

// Bit n: LAR (LSL) knows system type n.
constexpr uint32_t kLarLegacy = 0x1a3e, kLarLong = 0x1a04, kLslLegacy = 0x0a0e, kLslLong = 0x0a04;

[[gnu::noinline]] void lar_lsl(Cpu& c, const Insn* i, uint16_t selector, bool limit) {
  need_protected(c, i);
  Descriptor d;
  bool ok = visible(c, i, selector, &d);
  if (ok && !d.s()) {
    const uint32_t known = limit ? (c.long_mode() ? kLslLong : kLslLegacy) : (c.long_mode() ? kLarLong : kLarLegacy);
    ok = known >> d.type() & 1;
  }
  set_zf(c, ok);
  if (!ok) return;
  const uint32_t v = limit ? unpack(d, selector).limit : uint32_t(d.low >> 32) & 0x00ffff00;
  if (i->opsize == 2) set_reg<uint16_t>(c, i->reg, uint16_t(v));
  else c.gpr[i->reg] = v;
}
template <bool Limit>
void op_lar_reg(Cpu& c, const Insn* i) {
  lar_lsl(c, i, uint16_t(c.gpr[i->rm]), Limit);
  return next(c, i);
}
template <bool Limit>
void op_lar_mem(Cpu& c, const Insn* i) {
  need_protected(c, i);
  lar_lsl(c, i, load_rm<uint16_t>(c, i), Limit);
  return next(c, i);
}

uint16_t adjusted(Cpu& c, uint16_t dest, uint16_t src) {
  const bool raise_rpl = (dest & 3) < (src & 3);
  set_zf(c, raise_rpl);
  return raise_rpl ? uint16_t((dest & ~3) | (src & 3)) : dest;
}
void op_arpl_reg(Cpu& c, const Insn* i) {
  need_protected(c, i);
  set_reg<uint16_t>(c, i->rm, adjusted(c, uint16_t(c.gpr[i->rm]), uint16_t(c.gpr[i->reg])));
  return next(c, i);
}
void op_arpl_mem(Cpu& c, const Insn* i) {
  need_protected(c, i);
  const uint64_t at = linear_of(c, i, 2, Access::kWrite);
  const uint16_t old = load<uint16_t>(c, i, at);
  const uint16_t flags = c.flags;
  const uint16_t v = adjusted(c, old, uint16_t(c.gpr[i->reg]));
  const uint16_t after = c.flags;
  c.flags = flags;  // the store may fault
  store<uint16_t>(c, i, at, v);
  c.flags = after;
  return next(c, i);
}

}  // namespace

void register_tables(OpTables& t) {
  put_group(t, 1, -1, 0x01, 0, op_all(nullptr, op_sgdt, 0));
  put_group(t, 1, -1, 0x01, 1, op_all(nullptr, op_sidt, 0));
  put_group(t, 1, -1, 0x01, 2, op_all(nullptr, op_lgdt, 0));
  put_group(t, 1, -1, 0x01, 3, op_all(nullptr, op_lidt, 0));
  put_group(t, 1, -1, 0x00, 0, op_all(op_store_reg<LDTR>, op_store_mem<LDTR>, 0));
  put_group(t, 1, -1, 0x00, 1, op_all(op_store_reg<TR>, op_store_mem<TR>, 0));
  put_group(t, 1, -1, 0x00, 2, op_all(op_lldt_reg, op_lldt_mem, 0));
  put_group(t, 1, -1, 0x00, 3, op_all(op_ltr_reg, op_ltr_mem, 0));
  put_group(t, 1, -1, 0x00, 4, op_all(op_verify_reg<false>, op_verify_mem<false>, 0));
  put_group(t, 1, -1, 0x00, 5, op_all(op_verify_reg<true>, op_verify_mem<true>, 0));
  put(t, 1, 0x02, op_all(op_lar_reg<false>, op_lar_mem<false>, kModrm | kWordRm));
  put(t, 1, 0x03, op_all(op_lar_reg<true>, op_lar_mem<true>, kModrm | kWordRm));
  put_legacy(t, 0, 0x63, op_all(op_arpl_reg, op_arpl_mem, kModrm));
}

}  // namespace nyx::soft
