// XCHG XADD CMPXCHG CMPXCHG8B CMPXCHG16B.
#include "soft/int.h"

namespace nyx::soft {

std::mutex split_lock;

namespace {

template <class T>
void xchg_reg(Cpu& c, const Insn* i) {
  const T a = get_reg<T>(c, i->rm), b = get_reg<T>(c, i->reg);
  set_reg<T>(c, i->rm, b);
  set_reg<T>(c, i->reg, a);
  return next(c, i);
}
// Locked with or without the prefix.
template <class T>
void xchg_mem(Cpu& c, const Insn* i) {
  const uint64_t at = linear_of(c, i, sizeof(T), Access::kWrite);
  T v = get_reg<T>(c, i->reg);
  T* const p = rmw<T>(c, i, at);
  if (p) [[likely]] {
    asm volatile("xchg %0, %1" : "+r"(v), "+m"(*p) : : "memory");
  } else {
    split_lock.lock();
    const T old = load<T>(c, i, at);
    store<T>(c, i, at, v);
    split_lock.unlock();
    v = old;
  }
  set_reg<T>(c, i->reg, v);
  return next(c, i);
}
// 90+r: the accumulator with the register in rm. Register 0 is NOP, which does not clear the upper half of RAX.
template <class T>
void xchg_acc(Cpu& c, const Insn* i) {
  if (i->rm == RAX) return next(c, i);
  return xchg_reg<T>(c, i);
}

template <class T>
[[gnu::always_inline]] inline T add(Cpu& c, T a, T b) {
  uint32_t f;
  asm("add %2, %0" NYX_FLAGS_OUT : "+r"(a), "=a"(f) : "r"(b) : "cc");
  c.flags = uint16_t(f);
  return a;
}
template <class T>
void xadd_reg(Cpu& c, const Insn* i) {
  const T a = get_reg<T>(c, i->rm), sum = add<T>(c, a, get_reg<T>(c, i->reg));
  set_reg<T>(c, i->reg, a);
  set_reg<T>(c, i->rm, sum);  // the same register: the sum stays
  return next(c, i);
}
struct Xadd {
  template <class T>
  [[gnu::always_inline]] static T run(Cpu& c, const Insn* i, T v) {
    const T sum = add<T>(c, v, get_reg<T>(c, i->reg));
    set_reg<T>(c, i->reg, v);
    return sum;
  }
  template <class T>
  static void locked(Cpu& c, const Insn* i, T* p) {
    T v = get_reg<T>(c, i->reg);
    uint32_t f;
    asm volatile("lock; xadd %1, %0" NYX_FLAGS_OUT : "+m"(*p), "+r"(v), "=a"(f) : : "cc", "memory");
    c.flags = uint16_t(f);
    set_reg<T>(c, i->reg, v);
  }
};

// Flags of `accumulator - v`.
template <class T>
[[gnu::always_inline]] inline bool compare(Cpu& c, T accumulator, T v) {
  uint32_t f;
  asm("cmp %2, %1" NYX_FLAGS_OUT : "=a"(f) : "r"(accumulator), "r"(v) : "cc");
  c.flags = uint16_t(f);
  return accumulator == v;
}
// On registers the host does it all: what happens to upper halves differs between processors.
#define NYX_CMPXCHG(m)                                                                                   \
  asm("cmpxchg %" m "3, %" m "1\n\tmov %%rax, %2" NYX_FLAGS_OUT : "+a"(a), "+r"(to), "=&r"(accumulator) : "r"(from) : "cc")
template <class T>
void cmpxchg_reg(Cpu& c, const Insn* i) {
  if constexpr (sizeof(T) == 1) {
    const T v = get_reg<T>(c, i->rm), accumulator = get_reg<T>(c, RAX), from = get_reg<T>(c, i->reg);
    if (compare<T>(c, accumulator, v)) set_reg<T>(c, i->rm, from);
    else set_reg<T>(c, RAX, v);
  } else {
    uint64_t a = c.gpr[RAX], to = c.gpr[i->rm], accumulator;
    const uint64_t from = c.gpr[i->reg];
    if constexpr (sizeof(T) == 2) NYX_CMPXCHG("w");
    else if constexpr (sizeof(T) == 4) NYX_CMPXCHG("k");
    else NYX_CMPXCHG("q");
    c.flags = uint16_t(a);
    c.gpr[RAX] = accumulator;
    c.gpr[i->rm] = to;
  }
  return next(c, i);
}
#undef NYX_CMPXCHG
struct Cmpxchg {
  template <class T>
  [[gnu::always_inline]] static T run(Cpu& c, const Insn* i, T v) {
    if (compare<T>(c, get_reg<T>(c, RAX), v)) return get_reg<T>(c, i->reg);
    set_reg<T>(c, RAX, v);
    return v;
  }
  template <class T>
  static void locked(Cpu& c, const Insn* i, T* p) {
    const T expected = get_reg<T>(c, RAX);
    T v = expected;
    asm volatile("lock; cmpxchg %2, %0" : "+m"(*p), "+a"(v) : "r"(get_reg<T>(c, i->reg)) : "cc", "memory");
    if (!compare<T>(c, expected, v)) set_reg<T>(c, RAX, v);
  }
};

// Two halves of type T, the low one first in memory: RDX:RAX with it, RCX:RBX to it. ZF alone changes.
template <class T>
void cmpxchg_pair(Cpu& c, const Insn* i) {
  const uint64_t at = linear_of(c, i, 2 * sizeof(T), Access::kWrite);
  if constexpr (sizeof(T) == 8) {
    if (at & 15) [[unlikely]]
      raise(c, i, kGP, 0);
  }
  struct Pair {
    T low, high;
  };
  Pair* const p = rmw<Pair>(c, i, at);
  const T want_low = get_reg<T>(c, RAX), want_high = get_reg<T>(c, RDX);
  T low = want_low, high = want_high;
  if (p) [[likely]] {
    // Always with LOCK: without it the guest may not rely on less.
    if constexpr (sizeof(T) == 8)
      asm volatile("lock; cmpxchg16b %0" : "+m"(*p), "+a"(low), "+d"(high) : "b"(c.gpr[RBX]), "c"(c.gpr[RCX]) : "cc", "memory");
    else
      asm volatile("lock; cmpxchg8b %0" : "+m"(*p), "+a"(low), "+d"(high) : "b"(T(c.gpr[RBX])), "c"(T(c.gpr[RCX])) : "cc", "memory");
  } else {
    split_lock.lock();
    low = load<T>(c, i, at);
    high = load<T>(c, i, at + sizeof(T));
    const bool same = low == want_low && high == want_high;
    store<T>(c, i, at, same ? get_reg<T>(c, RBX) : low);
    store<T>(c, i, at + sizeof(T), same ? get_reg<T>(c, RCX) : high);
    split_lock.unlock();
  }
  if (low == want_low && high == want_high) {
    c.flags |= kZF << 8;
  } else {
    c.flags = uint16_t(c.flags & ~(kZF << 8));
    set_reg<T>(c, RAX, low);
    set_reg<T>(c, RDX, high);
  }
  return next(c, i);
}

}  // namespace

void register_exchange(OpTables& t) {
  put_pair(t, 0, 0x86, op(NYX_SIZES(xchg_reg), NYX_SIZES(xchg_mem), kModrm | kLockable));
  for (int r = 0; r < 8; r++) put(t, 0, 0x90 + r, op_reg(NYX_SIZES(xchg_acc), kOpcodeReg));
  put_pair(t, 1, 0xb0, op(NYX_SIZES(cmpxchg_reg), NYX_SIZES(mem_rmw, Cmpxchg), kModrm | kLockable));
  put_pair(t, 1, 0xc0, op(NYX_SIZES(xadd_reg), NYX_SIZES(mem_rmw, Xadd), kModrm | kLockable));
  put_group(t, 1, -1, 0xc7, 1,
            op({}, {{nullptr, &cmpxchg_pair<uint32_t>, &cmpxchg_pair<uint32_t>, &cmpxchg_pair<uint64_t>}},
               kModrm | kMemOnly | kLockable));
}

}  // namespace nyx::soft
