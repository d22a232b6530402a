// MOVS CMPS STOS LODS SCAS, alone and repeated.
//
// A repeated instruction works in runs inside pages: MOVS and STOS forward use the host's own REP instruction, whose
// behaviour on overlapping operands is the guest's. RCX, RSI and RDI are exact after every run, so that a fault or an
// event finds the instruction restartable. Events are looked for between runs, after at least one element.
#include <algorithm>

#include "soft/int.h"

namespace nyx::soft {
namespace {

[[gnu::always_inline]] inline uint64_t address_mask(const Insn* i) {
  return i->ea & kEa16 ? 0xffff : i->ea & kEa32 ? 0xffffffff : ~0ull;
}
// Writes RCX, RSI or RDI: 16-bit addresses keep the rest of the register, 32-bit ones clear it.
[[gnu::always_inline]] inline void set_address_reg(Cpu& c, const Insn* i, uint8_t r, uint64_t v) {
  if (i->ea & kEa16) set_reg<uint16_t>(c, r, uint16_t(v));
  else c.gpr[r] = v & address_mask(i);
}
[[gnu::always_inline]] inline uint64_t source(Cpu& c, const Insn* i, unsigned size) {
  return linear_at(c, i, c.gpr[RSI], size, Access::kRead);
}
// ES:RDI, which no prefix changes.
[[gnu::always_inline]] inline uint64_t destination(Cpu& c, const Insn* i, unsigned size, Access a) {
  const uint64_t offset = c.gpr[RDI] & address_mask(i);
  return i->ea & kEaCheck ? linear_seg(c, i, ES, offset, size, a) : offset;
}
template <class T>
[[gnu::always_inline]] inline void advance(Cpu& c, const Insn* i, uint8_t r, uint64_t elements = 1) {
  const uint64_t bytes = elements * sizeof(T);
  set_address_reg(c, i, r, c.df ? c.gpr[r] - bytes : c.gpr[r] + bytes);
}

// Elements from `linear` up to the end of its page, and of what address width and segment limit allow from `offset`.
template <class T>
uint64_t run_length(const Cpu& c, const Insn* i, SegReg seg, uint64_t offset, uint64_t linear) {
  uint64_t bytes = 0x1000 - (linear & 0xfff);
  if (i->ea & (kEa16 | kEa32)) bytes = std::min(bytes, address_mask(i) - offset + 1);
  if (i->ea & kEaCheck) {
    const Segment& s = c.seg[seg];
    if (!s.code() && s.expand_down()) return 1;
    bytes = std::min(bytes, uint64_t(s.limit) - offset + 1);
  }
  return bytes / sizeof(T);
}

// The TLB entry of `linear`. Under SMAP, what the supervisor copies from and to users is in the user's TLB.
[[gnu::always_inline]] inline const TlbEntry& page_entry(Cpu& c, uint64_t linear) {
  const bool user = (c.eflags & kAC) && !(c.mode & (kModeChecked | kModeUser)) && (tlb_entry(c, linear).read ^ linear) >> 12 != 0;
  return user ? c.tlbs[1].entries[linear >> 12 & (kTlbEntries - 1)] : tlb_entry(c, linear);
}

template <class T>
[[gnu::always_inline]] inline void host_rep_movs(void* to, const void* from, uint64_t n) {
  if constexpr (sizeof(T) == 1) asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  if constexpr (sizeof(T) == 2) asm volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  if constexpr (sizeof(T) == 4) asm volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  if constexpr (sizeof(T) == 8) asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}
template <class T>
[[gnu::always_inline]] inline void host_rep_stos(void* to, T v, uint64_t n) {
  if constexpr (sizeof(T) == 1) asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory");
  if constexpr (sizeof(T) == 2) asm volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(v) : "memory");
  if constexpr (sizeof(T) == 4) asm volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(v) : "memory");
  if constexpr (sizeof(T) == 8) asm volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(v) : "memory");
}

template <class T>
[[gnu::always_inline]] inline void compare(Cpu& c, T a, T b) {
  uint32_t f;
  asm("cmp %2, %1" NYX_FLAGS_OUT : "=a"(f) : "r"(a), "r"(b) : "cc");
  c.flags = uint16_t(f);
}

// Each operation: one() does one element; run() does up to `n` forward at once and gives how many (0: not possible now).
// kStops: the repetition also ends by ZF.
struct Movs {
  static constexpr bool kStops = false;
  template <class T>
  static void one(Cpu& c, const Insn* i) {
    const T v = load<T>(c, i, source(c, i, sizeof(T)));
    store<T>(c, i, destination(c, i, sizeof(T), Access::kWrite), v);
    advance<T>(c, i, RSI);
    advance<T>(c, i, RDI);
  }
  template <class T>
  static uint64_t run(Cpu& c, const Insn* i, uint64_t n) {
    const uint64_t from = source(c, i, sizeof(T)), to = destination(c, i, sizeof(T), Access::kWrite);
    const TlbEntry &r = page_entry(c, from), &w = page_entry(c, to);
    if (r.read != (from & ~0xfffull) || w.write != (to & ~0xfffull)) return 0;
    n = std::min(n, run_length<T>(c, i, SegReg(i->seg), c.gpr[RSI] & address_mask(i), from));
    n = std::min(n, run_length<T>(c, i, ES, c.gpr[RDI] & address_mask(i), to));
    if (n == 0) return 0;
    host_rep_movs<T>(reinterpret_cast<void*>(to + uint64_t(w.addend)), reinterpret_cast<const void*>(from + uint64_t(r.addend)), n);
    advance<T>(c, i, RSI, n);
    advance<T>(c, i, RDI, n);
    return n;
  }
};
struct Stos {
  static constexpr bool kStops = false;
  template <class T>
  static void one(Cpu& c, const Insn* i) {
    store<T>(c, i, destination(c, i, sizeof(T), Access::kWrite), T(c.gpr[RAX]));
    advance<T>(c, i, RDI);
  }
  template <class T>
  static uint64_t run(Cpu& c, const Insn* i, uint64_t n) {
    const uint64_t to = destination(c, i, sizeof(T), Access::kWrite);
    const TlbEntry& w = page_entry(c, to);
    if (w.write != (to & ~0xfffull)) return 0;
    n = std::min(n, run_length<T>(c, i, ES, c.gpr[RDI] & address_mask(i), to));
    if (n == 0) return 0;
    host_rep_stos<T>(reinterpret_cast<void*>(to + uint64_t(w.addend)), T(c.gpr[RAX]), n);
    advance<T>(c, i, RDI, n);
    return n;
  }
};
template <class Op>
struct Single : Op {
  template <class T>
  static uint64_t run(Cpu&, const Insn*, uint64_t) {
    return 0;
  }
};
struct LodsOne {
  static constexpr bool kStops = false;
  template <class T>
  static void one(Cpu& c, const Insn* i) {
    set_reg<T>(c, RAX, load<T>(c, i, source(c, i, sizeof(T))));
    advance<T>(c, i, RSI);
  }
};
struct CmpsOne {
  static constexpr bool kStops = true;
  template <class T>
  static void one(Cpu& c, const Insn* i) {
    const T a = load<T>(c, i, source(c, i, sizeof(T)));
    const T b = load<T>(c, i, destination(c, i, sizeof(T), Access::kRead));
    compare<T>(c, a, b);
    advance<T>(c, i, RSI);
    advance<T>(c, i, RDI);
  }
};
struct ScasOne {
  static constexpr bool kStops = true;
  template <class T>
  static void one(Cpu& c, const Insn* i) {
    compare<T>(c, T(c.gpr[RAX]), load<T>(c, i, destination(c, i, sizeof(T), Access::kRead)));
    advance<T>(c, i, RDI);
  }
};

template <class Op, class T>
[[gnu::noinline]] void repeat(Cpu& c, const Insn* i) {
  uint64_t n = c.gpr[RCX] & address_mask(i);
  while (n != 0) {
    uint64_t done = c.df ? 0 : Op::template run<T>(c, i, n);
    if (done == 0) {
      Op::template one<T>(c, i);
      done = 1;
    }
    n -= done;
    set_address_reg(c, i, RCX, n);
    if (Op::kStops && bool(c.flags & (kZF << 8)) != bool(i->bits & kRep)) break;
    if (n != 0 && c.attention->load(std::memory_order_relaxed) != 0) [[unlikely]]
      return leave_here(c, i);
  }
  return next(c, i);
}
template <class Op, class T>
void string(Cpu& c, const Insn* i) {
  if (i->bits & (kRep | kRepne)) return repeat<Op, T>(c, i);
  Op::template one<T>(c, i);
  return next(c, i);
}

}  // namespace

void register_string(OpTables& t) {
  put_pair(t, 0, 0xa4, op_reg(NYX_SIZES(string, Movs), 0));
  put_pair(t, 0, 0xa6, op_reg(NYX_SIZES(string, Single<CmpsOne>), 0));
  put_pair(t, 0, 0xaa, op_reg(NYX_SIZES(string, Stos), 0));
  put_pair(t, 0, 0xac, op_reg(NYX_SIZES(string, Single<LodsOne>), 0));
  put_pair(t, 0, 0xae, op_reg(NYX_SIZES(string, Single<ScasOne>), 0));
}

void register_integer(OpTables& t) {
  register_alu(t);
  register_shift(t);
  register_multiply(t);
  register_decimal(t);
  register_move(t);
  register_bit(t);
  register_exchange(t);
  register_stack(t);
  register_branch(t);
  register_string(t);
}

}  // namespace nyx::soft
