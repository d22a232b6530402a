// Guest memory access by instruction handlers: effective address, TLB fast path, slow paths (mmu.cc).
// Linear addresses throughout. A fault leaves by raise() and never returns; nothing architectural may have been
// changed by the instruction before its last access that can fault.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "soft/insn.h"

namespace nyx::soft {

enum class Access : uint8_t { kRead, kWrite, kExec };

// Slow paths (mmu.cc). They fill the TLB, walk page tables, cut page-crossing accesses, go to devices, invalidate
// blocks of pages that are written. `size` is 1..64 bytes.
void load_slow(Cpu& c, const Insn* i, uint64_t linear, void* out, unsigned size);
void store_slow(Cpu& c, const Insn* i, uint64_t linear, const void* in, unsigned size);
// Host pointer for a read-modify-write or a locked access of `size` bytes inside one RAM page, after all write checks;
// null when the access crosses pages or is not RAM: then use load/store (write permission has been checked).
uint8_t* rmw_slow(Cpu& c, const Insn* i, uint64_t linear, unsigned size);
// Legacy effective address: segment limit and type checks (#GP or #SS), base added, truncated to 32 bits.
uint64_t linear_legacy(Cpu& c, const Insn* i, uint64_t offset, unsigned size, Access a);
// The same for a given segment (string instructions, stack): what linear_legacy does with i->seg.
uint64_t linear_seg(Cpu& c, const Insn* i, SegReg seg, uint64_t offset, unsigned size, Access a);

inline TlbEntry& tlb_entry(Cpu& c, uint64_t linear) { return c.tlb->entries[linear >> 12 & (kTlbEntries - 1)]; }
// For fetching instructions; checks of data accesses do not matter here.
inline CodeEntry& code_entry(Cpu& c, uint64_t linear) { return c.tlbs[c.cpl == 3].code[linear >> 12 & (kCodeEntries - 1)]; }

// Offset part of the effective address (LEA).
[[gnu::always_inline]] inline uint64_t ea_offset(const Cpu& c, const Insn* i) {
  uint64_t a = c.gpr[i->base] + (c.gpr[i->index] << i->shift) + uint64_t(int64_t(i->disp));
  if (i->ea & (kEa32 | kEa16)) [[unlikely]]
    a = i->ea & kEa16 ? uint16_t(a) : uint32_t(a);
  return a;
}

// Linear address of the memory operand of `size` bytes.
[[gnu::always_inline]] inline uint64_t linear_of(Cpu& c, const Insn* i, unsigned size, Access a) {
  uint64_t at = c.gpr[i->base] + (c.gpr[i->index] << i->shift) + uint64_t(int64_t(i->disp));
  if (i->ea) [[unlikely]] {
    if (i->ea & (kEa32 | kEa16)) at = i->ea & kEa16 ? uint16_t(at) : uint32_t(at);
    if (i->ea & kEaCheck) return linear_legacy(c, i, at, size, a);
    if (i->ea & (kEaSegBase | kEaLegacy)) at += c.seg[i->seg].base;
    if (i->ea & kEaLegacy) at = uint32_t(at);
  }
  return at;
}

// By value, so that no local of a handler has its address taken: that would cost it the tail call.
template <class T>
[[gnu::noinline, gnu::cold]] T load_miss(Cpu& c, const Insn* i, uint64_t linear) {
  T v;
  load_slow(c, i, linear, &v, sizeof(T));
  return v;
}
template <class T>
[[gnu::noinline, gnu::cold]] void store_miss(Cpu& c, const Insn* i, uint64_t linear, T v) {
  store_slow(c, i, linear, &v, sizeof(T));
}

template <class T>
[[gnu::always_inline]] inline T load(Cpu& c, const Insn* i, uint64_t linear) {
  const TlbEntry& e = tlb_entry(c, linear);
  if (((linear + (sizeof(T) - 1)) & ~0xfffull) == e.read) [[likely]] {
    T v;
    std::memcpy(&v, reinterpret_cast<const void*>(linear + uint64_t(e.addend)), sizeof(T));
    return v;
  }
  return load_miss<T>(c, i, linear);
}

template <class T>
[[gnu::always_inline]] inline void store(Cpu& c, const Insn* i, uint64_t linear, T v) {
  const TlbEntry& e = tlb_entry(c, linear);
  if (((linear + (sizeof(T) - 1)) & ~0xfffull) == e.write) [[likely]] {
    std::memcpy(reinterpret_cast<void*>(linear + uint64_t(e.addend)), &v, sizeof(T));
    return;
  }
  store_miss<T>(c, i, linear, v);
}

// Host pointer for read-modify-write (see rmw_slow).
template <class T>
[[gnu::always_inline]] inline T* rmw(Cpu& c, const Insn* i, uint64_t linear) {
  const TlbEntry& e = tlb_entry(c, linear);
  if (((linear + (sizeof(T) - 1)) & ~0xfffull) == e.write) [[likely]]
    return reinterpret_cast<T*>(linear + uint64_t(e.addend));
  return reinterpret_cast<T*>(rmw_slow(c, i, linear, sizeof(T)));
}

// Memory operand.
template <class T>
[[gnu::always_inline]] inline T load_rm(Cpu& c, const Insn* i) {
  return load<T>(c, i, linear_of(c, i, sizeof(T), Access::kRead));
}
template <class T>
[[gnu::always_inline]] inline void store_rm(Cpu& c, const Insn* i, T v) {
  store<T>(c, i, linear_of(c, i, sizeof(T), Access::kWrite), v);
}

// Stack: pushes and pops of 2, 4, 8 bytes by the stack's width, with SS checks outside of 64-bit mode. RSP changes only
// after the access succeeded. The slow parts are in segment.cc.
void push_slow(Cpu& c, const Insn* i, uint64_t v, unsigned size);
uint64_t pop_slow(Cpu& c, const Insn* i, unsigned size);

// Stacks without a segment to check: 64-bit mode, and flat 32-bit ones.
[[gnu::always_inline]] inline bool simple_stack(const Cpu& c) {
  return (c.mode & kMode64) || (c.mode & (kModeFlat | kModeSs32)) == (kModeFlat | kModeSs32);
}
template <class T>
[[gnu::always_inline]] inline void push(Cpu& c, const Insn* i, T v) {
  if (simple_stack(c)) [[likely]] {
    uint64_t sp = c.gpr[RSP] - sizeof(T);
    if (!(c.mode & kMode64)) sp = uint32_t(sp);
    const TlbEntry& e = tlb_entry(c, sp);
    if (((sp + (sizeof(T) - 1)) & ~0xfffull) == e.write) [[likely]] {
      std::memcpy(reinterpret_cast<void*>(sp + uint64_t(e.addend)), &v, sizeof(T));
      c.gpr[RSP] = sp;
      return;
    }
  }
  push_slow(c, i, std::make_unsigned_t<T>(v), sizeof(T));
}
template <class T>
[[gnu::always_inline]] inline T pop(Cpu& c, const Insn* i) {
  if (simple_stack(c)) [[likely]] {
    const uint64_t sp = c.gpr[RSP];
    const TlbEntry& e = tlb_entry(c, sp);
    if (((sp + (sizeof(T) - 1)) & ~0xfffull) == e.read) [[likely]] {
      T v;
      std::memcpy(&v, reinterpret_cast<const void*>(sp + uint64_t(e.addend)), sizeof(T));
      c.gpr[RSP] = c.mode & kMode64 ? sp + sizeof(T) : uint32_t(sp + sizeof(T));
      return v;
    }
  }
  return T(pop_slow(c, i, sizeof(T)));
}

// A handler from a body that keeps locals in memory: in the handler itself they would cost it the tail call, and the host's
// stack would grow with every execution. `Body` must be noinline.
template <void (*Body)(Cpu&, const Insn*)>
void then_next(Cpu& c, const Insn* i) {
  Body(c, i);
  return next(c, i);
}

// Register operands. 8-bit ones are byte offsets in gpr; a 32-bit write clears the upper half.
template <class T>
[[gnu::always_inline]] inline T get_reg(const Cpu& c, uint8_t r) {
  if constexpr (sizeof(T) == 1) return reinterpret_cast<const uint8_t*>(c.gpr)[r];
  else return T(c.gpr[r]);
}
template <class T>
[[gnu::always_inline]] inline void set_reg(Cpu& c, uint8_t r, T v) {
  if constexpr (sizeof(T) == 1) reinterpret_cast<uint8_t*>(c.gpr)[r] = uint8_t(v);
  else if constexpr (sizeof(T) == 2) std::memcpy(&c.gpr[r], &v, 2);
  else c.gpr[r] = std::make_unsigned_t<T>(v);
}

}  // namespace nyx::soft
