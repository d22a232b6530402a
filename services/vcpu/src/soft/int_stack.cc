// PUSH POP PUSHA POPA ENTER LEAVE. PUSHF, POPF and segment registers are in the system half.
#include "soft/int.h"

namespace nyx::soft {
namespace {

// B::get<T>(c, i) is the value. The 64-bit operand size exists in 64-bit mode only, where the stack has no segment.
template <class B, class T>
[[gnu::noinline]] void push_full(Cpu& c, const Insn* i) {
  push<T>(c, i, B::template get<T>(c, i));
  return next(c, i);
}
template <class B>
void push64(Cpu& c, const Insn* i) {
  const uint64_t at = c.gpr[RSP] - 8;
  const TlbEntry& e = tlb_entry(c, at);
  if (((at + 7) & ~0xfffull) == e.write) [[likely]] {
    const uint64_t v = B::template get<uint64_t>(c, i);
    std::memcpy(reinterpret_cast<void*>(at + uint64_t(e.addend)), &v, 8);
    c.gpr[RSP] = at;
    return next(c, i);
  }
  return push_full<B, uint64_t>(c, i);
}
struct RmValue {
  template <class T>
  [[gnu::always_inline]] static T get(Cpu& c, const Insn* i) {
    return get_reg<T>(c, i->rm);
  }
};
struct ImmValue {
  template <class T>
  [[gnu::always_inline]] static T get(Cpu&, const Insn* i) {
    return T(i->imm);
  }
};
struct MemValue {
  template <class T>
  static T get(Cpu& c, const Insn* i) {
    return load_rm<T>(c, i);
  }
};
template <class B>
Handlers push_handlers() {
  return {{nullptr, &push_full<B, uint16_t>, &push_full<B, uint32_t>, &push64<B>}};
}

template <class T>
[[gnu::noinline]] void pop_reg(Cpu& c, const Insn* i) {
  const T v = pop<T>(c, i);
  set_reg<T>(c, i->rm, v);
  return next(c, i);
}
void pop64(Cpu& c, const Insn* i) {
  const uint64_t at = c.gpr[RSP];
  const TlbEntry& e = tlb_entry(c, at);
  if (((at + 7) & ~0xfffull) == e.read) [[likely]] {
    uint64_t v;
    std::memcpy(&v, reinterpret_cast<const void*>(at + uint64_t(e.addend)), 8);
    c.gpr[RSP] = at + 8;
    c.gpr[i->rm] = v;  // POP RSP: the value
    return next(c, i);
  }
  return pop_reg<uint64_t>(c, i);
}
// An address with RSP in it uses RSP after the pop; RSP changes only when the store has succeeded.
template <class T>
void pop_mem(Cpu& c, const Insn* i) {
  const uint64_t before = c.gpr[RSP];
  const T v = pop<T>(c, i);
  const uint64_t after = c.gpr[RSP], offset = plain_address(c, i);
  c.gpr[RSP] = before;
  store<T>(c, i, linear_at(c, i, offset, sizeof(T), Access::kWrite), v);
  c.gpr[RSP] = after;
  return next(c, i);
}

// ---- several words at once, all accesses before any change

// Offset in the stack segment cut to the stack's width.
uint64_t stack_offset(const Cpu& c, uint64_t sp) {
  return c.mode & kMode64 ? sp : c.mode & kModeSs32 ? uint32_t(sp) : uint16_t(sp);
}
uint64_t stack_linear(Cpu& c, const Insn* i, uint64_t sp, unsigned size, Access a) {
  const uint64_t offset = stack_offset(c, sp);
  return c.mode & (kMode64 | kModeFlat) ? offset : linear_seg(c, i, SS, offset, size, a);
}
void set_stack(Cpu& c, uint8_t r, uint64_t v) {
  if (c.mode & kMode64) c.gpr[r] = v;
  else if (c.mode & kModeSs32) c.gpr[r] = uint32_t(v);
  else set_reg<uint16_t>(c, r, uint16_t(v));
}
template <class T>
T stack_load(Cpu& c, const Insn* i, uint64_t sp) {
  return load<T>(c, i, stack_linear(c, i, sp, sizeof(T), Access::kRead));
}
template <class T>
void stack_store(Cpu& c, const Insn* i, uint64_t sp, T v) {
  store<T>(c, i, stack_linear(c, i, sp, sizeof(T), Access::kWrite), v);
}

template <class T>
void pusha(Cpu& c, const Insn* i) {
  const uint64_t sp = c.gpr[RSP];
  // A fault in the middle leaves some words written below the unchanged stack pointer, as on processors.
  for (unsigned r = 0; r < 8; r++) stack_store<T>(c, i, sp - (r + 1) * sizeof(T), T(r == RSP ? sp : c.gpr[r]));
  set_stack(c, RSP, sp - 8 * sizeof(T));
  return next(c, i);
}
template <class T>
void popa(Cpu& c, const Insn* i) {
  const uint64_t sp = c.gpr[RSP];
  T v[8];
  for (unsigned k = 0; k < 8; k++) v[7 - k] = stack_load<T>(c, i, sp + k * sizeof(T));
  for (uint8_t r = 0; r < 8; r++) {
    if (r != RSP) set_reg<T>(c, r, v[r]);
  }
  set_stack(c, RSP, sp + 8 * sizeof(T));
  return next(c, i);
}

template <class T>
void enter_frame(Cpu& c, const Insn* i) {
  const unsigned size = uint16_t(i->imm), level = i->imm >> 16 & 31;
  uint64_t sp = c.gpr[RSP] - sizeof(T), bp = c.gpr[RBP];
  stack_store<T>(c, i, sp, T(bp));
  const uint64_t frame = stack_offset(c, sp);
  for (unsigned k = 1; k < level; k++) {
    bp -= sizeof(T);
    const T v = stack_load<T>(c, i, bp);
    sp -= sizeof(T);
    stack_store<T>(c, i, sp, v);
  }
  if (level) {
    sp -= sizeof(T);
    stack_store<T>(c, i, sp, T(frame));
  }
  // The new top of the stack must be writable too.
  rmw<T>(c, i, stack_linear(c, i, sp - size, sizeof(T), Access::kWrite));
  set_reg<T>(c, RBP, T(frame));
  set_stack(c, RSP, sp - size);
  return next(c, i);
}
template <class T>
void leave_frame(Cpu& c, const Insn* i) {
  const uint64_t bp = c.gpr[RBP];
  const T v = stack_load<T>(c, i, bp);
  set_stack(c, RSP, bp + sizeof(T));
  set_reg<T>(c, RBP, v);
  return next(c, i);
}

}  // namespace

void register_stack(OpTables& t) {
  for (int r = 0; r < 8; r++) {
    put(t, 0, 0x50 + r, op_reg(push_handlers<RmValue>(), kOpcodeReg | kDef64));
    put(t, 0, 0x58 + r, op_reg({{nullptr, &pop_reg<uint16_t>, &pop_reg<uint32_t>, &pop64}}, kOpcodeReg | kDef64));
  }
  put(t, 0, 0x68, op_reg(push_handlers<ImmValue>(), kDef64, kImmZ));
  put(t, 0, 0x6a, op_reg(push_handlers<ImmValue>(), kDef64, kImmB));
  put_group(t, 0, -1, 0xff, 6,
            op(push_handlers<RmValue>(),
               {{nullptr, &push_full<MemValue, uint16_t>, &push_full<MemValue, uint32_t>, &push_full<MemValue, uint64_t>}}, kModrm | kDef64));
  put_group(t, 0, -1, 0x8f, 0,
            op({{nullptr, &pop_reg<uint16_t>, &pop_reg<uint32_t>, &pop64}},
               {{nullptr, &pop_mem<uint16_t>, &pop_mem<uint32_t>, &pop_mem<uint64_t>}}, kModrm | kDef64));
  put(t, 0, 0x60, op_reg({{nullptr, &pusha<uint16_t>, &pusha<uint32_t>, nullptr}}, kNo64));
  put(t, 0, 0x61, op_reg({{nullptr, &popa<uint16_t>, &popa<uint32_t>, nullptr}}, kNo64));
  put(t, 0, 0xc8, op_reg({{nullptr, &enter_frame<uint16_t>, &enter_frame<uint32_t>, &enter_frame<uint64_t>}}, kDef64, kImmWB));
  put(t, 0, 0xc9, op_reg({{nullptr, &leave_frame<uint16_t>, &leave_frame<uint32_t>, &leave_frame<uint64_t>}}, kDef64));
}

}  // namespace nyx::soft
