// Near branches: Jcc JMP CALL RET LOOP JCXZ. In 64-bit mode their operand size is always 64 bits.
#include "soft/int.h"

namespace nyx::soft {
namespace {

[[noreturn, gnu::noinline, gnu::cold]] void bad_target(Cpu& c, const Insn* i) { raise(c, i, kGP, 0); }

// Targets outside the code segment, or not canonical, fault at the branch, before anything has changed.
template <class T>
[[gnu::always_inline]] inline void check_target(Cpu& c, const Insn* i, uint64_t target) {
  if constexpr (sizeof(T) == 8) {
    if (uint64_t(int64_t(target << 16) >> 16) != target) [[unlikely]]
      bad_target(c, i);
  } else {
    if (!(c.mode & kModeFlat) && target > c.seg[CS].limit) [[unlikely]]
      bad_target(c, i);
  }
}
template <class T>
[[gnu::always_inline]] inline uint64_t relative_target(Cpu& c, const Insn* i) {
  const uint64_t target = T(c.gpr[kRegBlock] + i->imm);
  // In 64-bit mode only code at the edge of the address space gets to a target that is not canonical; fetching faults.
  if constexpr (sizeof(T) != 8) check_target<T>(c, i, target);
  return target;
}
[[gnu::always_inline]] inline uint64_t fall_through(const Cpu& c, const Insn* i, bool wide) {
  const uint64_t rip = next_rip(c, i);
  return wide ? rip : uint32_t(rip);
}

// Of a jump in the middle of a block.
[[gnu::noinline]] void leave_by_side(Cpu& c, const Insn* i, uint64_t target) {
  c.icount -= ahead(c, i);
  return follow(c, i, i->reg, target);
}
template <int CC, class T>
void jcc(Cpu& c, const Insn* i) {
  if (!condition<CC>(c)) return next(c, i);  // behind the last instruction is the block's end
  const uint64_t target = relative_target<T>(c, i);
  if (i->reg) [[unlikely]] return leave_by_side(c, i, target);
  c.block->taken++;
  return follow(c, i, 0, target);
}
template <class T>
void jmp(Cpu& c, const Insn* i) {
  return follow(c, i, 0, relative_target<T>(c, i));
}
template <class T>
void call(Cpu& c, const Insn* i) {
  const uint64_t target = relative_target<T>(c, i);
  push<T>(c, i, T(next_rip(c, i)));
  return follow(c, i, 0, target);
}
[[gnu::noinline]] void call64_full(Cpu& c, const Insn* i) { return call<uint64_t>(c, i); }
void call64(Cpu& c, const Insn* i) {
  const uint64_t at = c.gpr[RSP] - 8;
  const TlbEntry& e = tlb_entry(c, at);
  if (((at + 7) & ~0xfffull) == e.write) [[likely]] {
    const uint64_t rip = next_rip(c, i);
    std::memcpy(reinterpret_cast<void*>(at + uint64_t(e.addend)), &rip, 8);
    c.gpr[RSP] = at;
    return follow(c, i, 0, c.gpr[kRegBlock] + i->imm);
  }
  return call64_full(c, i);
}

template <class T>
[[gnu::always_inline]] inline T indirect_target(Cpu& c, const Insn* i, bool memory) {
  const T target = memory ? load_rm<T>(c, i) : get_reg<T>(c, i->rm);
  check_target<T>(c, i, target);
  return target;
}
template <class T, bool kMemory>
void jmp_indirect(Cpu& c, const Insn* i) {
  return jump(c, i, indirect_target<T>(c, i, kMemory));
}
template <class T, bool kMemory>
void call_indirect(Cpu& c, const Insn* i) {
  const T target = indirect_target<T>(c, i, kMemory);
  push<T>(c, i, T(next_rip(c, i)));
  return jump(c, i, target);
}

// imm: bytes of arguments to drop, 0 for C3. POP leaves RSP to be put back when the target faults.
template <class T>
void ret(Cpu& c, const Insn* i) {
  const uint64_t sp = c.gpr[RSP];
  const T target = pop<T>(c, i);
  const uint64_t after = c.gpr[RSP];
  c.gpr[RSP] = sp;
  check_target<T>(c, i, target);
  if (c.mode & (kMode64 | kModeSs32)) c.gpr[RSP] = c.mode & kMode64 ? after + i->imm : uint32_t(after + i->imm);
  else set_reg<uint16_t>(c, RSP, uint16_t(after + i->imm));
  return jump(c, i, target);
}
[[gnu::noinline]] void ret64_full(Cpu& c, const Insn* i) { return ret<uint64_t>(c, i); }
void ret64(Cpu& c, const Insn* i) {
  const uint64_t at = c.gpr[RSP];
  const TlbEntry& e = tlb_entry(c, at);
  if (((at + 7) & ~0xfffull) == e.read) [[likely]] {
    uint64_t target;
    std::memcpy(&target, reinterpret_cast<const void*>(at + uint64_t(e.addend)), 8);
    check_target<uint64_t>(c, i, target);
    c.gpr[RSP] = at + 8 + i->imm;
    return jump(c, i, target);
  }
  return ret64_full(c, i);
}

// LOOPNE, LOOPE, LOOP: the count has the width of an address.
template <int kKind, class T>
void loop(Cpu& c, const Insn* i) {
  const uint64_t target = T(c.gpr[kRegBlock] + i->imm);
  const unsigned width = address_bytes(i);
  const uint64_t count = width == 2 ? uint16_t(c.gpr[RCX] - 1) : width == 4 ? uint32_t(c.gpr[RCX] - 1) : c.gpr[RCX] - 1;
  const bool zf = c.flags & (kZF << 8);
  const bool taken = count != 0 && (kKind == 2 || zf == (kKind == 1));
  if (taken && sizeof(T) != 8) check_target<T>(c, i, target);
  if (width == 2) set_reg<uint16_t>(c, RCX, uint16_t(count));
  else c.gpr[RCX] = count;
  if (taken) return follow(c, i, 0, target);
  return follow(c, i, 1, fall_through(c, i, sizeof(T) == 8));
}
template <class T>
void jcxz(Cpu& c, const Insn* i) {
  const unsigned width = address_bytes(i);
  const uint64_t count = width == 2 ? uint16_t(c.gpr[RCX]) : width == 4 ? uint32_t(c.gpr[RCX]) : c.gpr[RCX];
  if (count == 0) return follow(c, i, 0, relative_target<T>(c, i));
  return follow(c, i, 1, fall_through(c, i, sizeof(T) == 8));
}

constexpr uint32_t kBranch = kEnds | kForce64;

template <int CC>
void put_jcc(OpTables& t) {
  const Handlers h{{nullptr, &jcc<CC, uint16_t>, &jcc<CC, uint32_t>, &jcc<CC, uint64_t>}};
  put(t, 0, 0x70 + CC, op_reg(h, kBranch, kImmRelB));
  put(t, 1, 0x80 + CC, op_reg(h, kBranch, kImmRelZ));
  if constexpr (CC < 15) put_jcc<CC + 1>(t);
}

}  // namespace

void register_branch(OpTables& t) {
  put_jcc<0>(t);
  const Handlers jmps{{nullptr, &jmp<uint16_t>, &jmp<uint32_t>, &jmp<uint64_t>}};
  put(t, 0, 0xe9, op_reg(jmps, kBranch, kImmRelZ));
  put(t, 0, 0xeb, op_reg(jmps, kBranch, kImmRelB));
  put(t, 0, 0xe8, op_reg({{nullptr, &call<uint16_t>, &call<uint32_t>, &call64}}, kBranch, kImmRelZ));
  const Handlers rets{{nullptr, &ret<uint16_t>, &ret<uint32_t>, &ret64}};
  put(t, 0, 0xc2, op_reg(rets, kBranch, kImmW));
  put(t, 0, 0xc3, op_reg(rets, kBranch));
  put(t, 0, 0xe0, op_reg({{nullptr, &loop<0, uint16_t>, &loop<0, uint32_t>, &loop<0, uint64_t>}}, kBranch, kImmRelB));
  put(t, 0, 0xe1, op_reg({{nullptr, &loop<1, uint16_t>, &loop<1, uint32_t>, &loop<1, uint64_t>}}, kBranch, kImmRelB));
  put(t, 0, 0xe2, op_reg({{nullptr, &loop<2, uint16_t>, &loop<2, uint32_t>, &loop<2, uint64_t>}}, kBranch, kImmRelB));
  put(t, 0, 0xe3, op_reg({{nullptr, &jcxz<uint16_t>, &jcxz<uint32_t>, &jcxz<uint64_t>}}, kBranch, kImmRelB));
  put_group(t, 0, -1, 0xff, 2,
            op({{nullptr, &call_indirect<uint16_t, false>, &call_indirect<uint32_t, false>, &call_indirect<uint64_t, false>}},
               {{nullptr, &call_indirect<uint16_t, true>, &call_indirect<uint32_t, true>, &call_indirect<uint64_t, true>}}, kBranch));
  put_group(t, 0, -1, 0xff, 4,
            op({{nullptr, &jmp_indirect<uint16_t, false>, &jmp_indirect<uint32_t, false>, &jmp_indirect<uint64_t, false>}},
               {{nullptr, &jmp_indirect<uint16_t, true>, &jmp_indirect<uint32_t, true>, &jmp_indirect<uint64_t, true>}}, kBranch));
}

}  // namespace nyx::soft
