// Moves to and from segment registers, far pointer loads, BOUND, SWAPGS, FS and GS base (Intel SDM vol. 2).
#include "soft/run.h"
#include "soft/segment.h"
#include "soft/system.h"

namespace nyx::soft {
namespace {

// Which segment register: REX.R says nothing about it.
SegReg sreg(const Insn* i) { return SegReg(i->reg & 7); }

// A load outside of 64-bit mode may end the flat model or change the stack's width.
[[gnu::always_inline]] inline void go_on(Cpu& c, const Insn* i) {
  if (c.mode != c.block->mode) [[unlikely]]
    leave_after(c, i);
  return next(c, i);
}

void to_sreg(Cpu& c, const Insn* i, uint16_t v) {
  load_segment(c, i, sreg(i), v);
  if (sreg(i) == SS) set_inhibit(c, i, kInhibitMovSs);
}

void check_sreg(Cpu& c, const Insn* i, bool load) {
  if (sreg(i) > GS || (load && sreg(i) == CS)) raise(c, i, kUD);
}

void op_mov_to_sreg_reg(Cpu& c, const Insn* i) {
  check_sreg(c, i, true);
  to_sreg(c, i, uint16_t(c.gpr[i->rm]));
  return go_on(c, i);
}
void op_mov_to_sreg_mem(Cpu& c, const Insn* i) {
  check_sreg(c, i, true);
  to_sreg(c, i, load_rm<uint16_t>(c, i));
  return go_on(c, i);
}
void op_mov_from_sreg_reg(Cpu& c, const Insn* i) {
  check_sreg(c, i, false);
  const uint16_t v = c.seg[sreg(i)].selector;
  if (i->opsize == 2) set_reg<uint16_t>(c, i->rm, v);
  else c.gpr[i->rm] = v;
  return next(c, i);
}
void op_mov_from_sreg_mem(Cpu& c, const Insn* i) {
  check_sreg(c, i, false);
  store_rm<uint16_t>(c, i, c.seg[sreg(i)].selector);
  return next(c, i);
}

template <SegReg R>
void op_push_sreg(Cpu& c, const Insn* i) {
  const uint16_t v = c.seg[R].selector;
  if (i->opsize == 2) push<uint16_t>(c, i, v);
  else if (i->opsize == 4) push<uint32_t>(c, i, v);
  else push<uint64_t>(c, i, v);
  return next(c, i);
}

template <SegReg R>
[[gnu::noinline]] void pop_sreg(Cpu& c, const Insn* i) {
  const uint64_t sp = c.gpr[RSP];
  const uint16_t v = uint16_t(pop_slow(c, i, i->opsize));
  const uint64_t after = c.gpr[RSP];
  c.gpr[RSP] = sp;  // the load may fault
  // A new SS sets the width of the stack for what follows; the pop itself used the old one.
  load_segment(c, i, R, v);
  c.gpr[RSP] = after;
  if (R == SS) set_inhibit(c, i, kInhibitMovSs);
}
template <SegReg R>
void op_pop_sreg(Cpu& c, const Insn* i) {
  pop_sreg<R>(c, i);
  return go_on(c, i);
}

template <SegReg R>
[[gnu::noinline]] void load_far(Cpu& c, const Insn* i) {
  const unsigned size = i->opsize;
  uint8_t bytes[10] = {};
  load_slow(c, i, linear_of(c, i, size + 2, Access::kRead), bytes, size + 2);
  uint16_t selector;
  uint64_t offset = 0;
  std::memcpy(&offset, bytes, size);
  std::memcpy(&selector, bytes + size, 2);
  load_segment(c, i, R, selector);
  if (size == 2) set_reg<uint16_t>(c, i->reg, uint16_t(offset));
  else c.gpr[i->reg] = offset;
}
template <SegReg R>
void op_load_far(Cpu& c, const Insn* i) {
  load_far<R>(c, i);
  return go_on(c, i);
}

template <class T>
void bound(Cpu& c, const Insn* i) {
  const uint64_t at = linear_of(c, i, 2 * sizeof(T), Access::kRead);
  const T low = load<T>(c, i, at), high = load<T>(c, i, at + sizeof(T)), v = T(c.gpr[i->reg]);
  if (v < low || v > high) raise(c, i, kBR);
}
void op_bound(Cpu& c, const Insn* i) {
  if (i->opsize == 2) bound<int16_t>(c, i);
  else bound<int32_t>(c, i);
  return next(c, i);
}

void op_swapgs(Cpu& c, const Insn* i) {
  if (c.cpl != 0) raise(c, i, kGP, 0);
  const uint64_t old = c.seg[GS].base;
  c.seg[GS].base = c.kernel_gs_base;
  c.kernel_gs_base = old;
  return next(c, i);
}

void need_fsgsbase(Cpu& c, const Insn* i) {
  if (!(c.cr4 & kCr4FSGSBASE)) raise(c, i, kUD);
}
template <SegReg R>
void op_read_base(Cpu& c, const Insn* i) {
  need_fsgsbase(c, i);
  c.gpr[i->rm] = i->opsize == 8 ? c.seg[R].base : uint32_t(c.seg[R].base);
  return next(c, i);
}
template <SegReg R>
void op_write_base(Cpu& c, const Insn* i) {
  need_fsgsbase(c, i);
  const uint64_t v = i->opsize == 8 ? c.gpr[i->rm] : uint32_t(c.gpr[i->rm]);
  if (int64_t(v << 16) >> 16 != int64_t(v)) raise(c, i, kGP, 0);
  c.seg[R].base = v;
  return next(c, i);
}

}  // namespace

void register_segments(OpTables& t) {
  put(t, 0, 0x8c, op_all(op_mov_from_sreg_reg, op_mov_from_sreg_mem, kModrm));
  put(t, 0, 0x8e, op_all(op_mov_to_sreg_reg, op_mov_to_sreg_mem, kModrm | kShadow));
  put(t, 0, 0x06, op_all(op_push_sreg<ES>, nullptr, kNo64));
  put(t, 0, 0x0e, op_all(op_push_sreg<CS>, nullptr, kNo64));
  put(t, 0, 0x16, op_all(op_push_sreg<SS>, nullptr, kNo64));
  put(t, 0, 0x1e, op_all(op_push_sreg<DS>, nullptr, kNo64));
  put(t, 1, 0xa0, op_all(op_push_sreg<FS>, nullptr, kDef64));
  put(t, 1, 0xa8, op_all(op_push_sreg<GS>, nullptr, kDef64));
  put(t, 0, 0x07, op_all(op_pop_sreg<ES>, nullptr, kNo64));
  put(t, 0, 0x17, op_all(op_pop_sreg<SS>, nullptr, kNo64 | kShadow));
  put(t, 0, 0x1f, op_all(op_pop_sreg<DS>, nullptr, kNo64));
  put(t, 1, 0xa1, op_all(op_pop_sreg<FS>, nullptr, kDef64));
  put(t, 1, 0xa9, op_all(op_pop_sreg<GS>, nullptr, kDef64));
  put(t, 0, 0xc4, op_all(nullptr, op_load_far<ES>, kModrm | kMemOnly | kNo64));
  put(t, 0, 0xc5, op_all(nullptr, op_load_far<DS>, kModrm | kMemOnly | kNo64));
  put(t, 1, 0xb2, op_all(nullptr, op_load_far<SS>, kModrm | kMemOnly));
  put(t, 1, 0xb4, op_all(nullptr, op_load_far<FS>, kModrm | kMemOnly));
  put(t, 1, 0xb5, op_all(nullptr, op_load_far<GS>, kModrm | kMemOnly));
  put(t, 0, 0x62, op_all(nullptr, op_bound, kModrm | kMemOnly | kNo64));
  put_group(t, 1, -1, 0x01, 0xf8, op_all(op_swapgs, nullptr, kOnly64));
  for (int rm = 0; rm < 8; rm++) {
    put_group(t, 1, 2, 0xae, 0xc0 + rm, op_all(op_read_base<FS>, nullptr, kOnly64));
    put_group(t, 1, 2, 0xae, 0xc8 + rm, op_all(op_read_base<GS>, nullptr, kOnly64));
    put_group(t, 1, 2, 0xae, 0xd0 + rm, op_all(op_write_base<FS>, nullptr, kOnly64));
    put_group(t, 1, 2, 0xae, 0xd8 + rm, op_all(op_write_base<GS>, nullptr, kOnly64));
  }
}

}  // namespace nyx::soft
