// BT BTS BTR BTC, BSF BSR, POPCNT, CRC32. CPUID offers neither BMI1 nor LZCNT: F3 before BSF and BSR is ignored.
#include "soft/int.h"

namespace nyx::soft {
namespace {

// Bit operations. The index is taken modulo the operand size.
#define NYX_BIT(Name, mnemonic, writes)                                                                             \
  struct Name {                                                                                                     \
    static constexpr bool kWrites = writes;                                                                         \
    template <class T>                                                                                              \
    [[gnu::always_inline]] static T run(Cpu& c, T v, T bit) {                                                       \
      uint32_t f = c.flags;                                                                                         \
      asm(NYX_FLAGS_IN mnemonic " %2, %0" NYX_FLAGS_OUT : "+r"(v), "+a"(f) : "r"(bit) : "cc");                      \
      c.flags = uint16_t(f);                                                                                        \
      return v;                                                                                                     \
    }                                                                                                               \
    template <class T>                                                                                              \
    static void locked(Cpu& c, T* p, T bit) {                                                                       \
      uint32_t f = c.flags;                                                                                         \
      bit &= kBits<T> - 1;                                                                                          \
      asm volatile(NYX_FLAGS_IN "lock; " mnemonic " %2, %0" NYX_FLAGS_OUT                                           \
                   : "+m"(*p), "+a"(f) : "r"(bit) : "cc", "memory");                                                \
      c.flags = uint16_t(f);                                                                                        \
    }                                                                                                               \
  };
NYX_BIT(Bts, "bts", true)
NYX_BIT(Btr, "btr", true)
NYX_BIT(Btc, "btc", true)
#undef NYX_BIT
struct Bt {
  static constexpr bool kWrites = false;
  template <class T>
  [[gnu::always_inline]] static T run(Cpu& c, T v, T bit) {
    uint32_t f = c.flags;
    asm(NYX_FLAGS_IN "bt %2, %1" NYX_FLAGS_OUT : "+a"(f) : "r"(v), "r"(bit) : "cc");
    c.flags = uint16_t(f);
    return v;
  }
};

template <class Op, class T>
void bit_reg(Cpu& c, const Insn* i) {
  const T v = Op::run(c, get_reg<T>(c, i->rm), get_reg<T>(c, i->reg));
  if constexpr (Op::kWrites) set_reg<T>(c, i->rm, v);
  return next(c, i);
}
template <class Op, class T>
void bit_imm(Cpu& c, const Insn* i) {
  const T v = Op::run(c, get_reg<T>(c, i->rm), T(i->imm));
  if constexpr (Op::kWrites) set_reg<T>(c, i->rm, v);
  return next(c, i);
}
template <class Op>
struct BitMemImm {
  template <class T>
  [[gnu::always_inline]] static T run(Cpu& c, const Insn* i, T v) {
    return Op::run(c, v, T(i->imm));
  }
  template <class T>
  static void locked(Cpu& c, const Insn* i, T* p) {
    Op::locked(c, p, T(i->imm));
  }
};
struct BtMemImm {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    Bt::run(c, v, T(i->imm));
  }
};
// A bit string in memory: the register is a signed bit offset from the operand's address.
template <class Op, class T>
void bit_string(Cpu& c, const Insn* i) {
  const T bit = get_reg<T>(c, i->reg);
  const int64_t element = Signed<T>(bit) >> (sizeof(T) == 2 ? 4 : sizeof(T) == 4 ? 5 : 6);
  const uint64_t offset = plain_address(c, i) + uint64_t(element) * sizeof(T);
  if constexpr (!Op::kWrites) {
    Op::run(c, load<T>(c, i, linear_at(c, i, offset, sizeof(T), Access::kRead)), bit);
  } else {
    const uint64_t at = linear_at(c, i, offset, sizeof(T), Access::kWrite);
    T* const p = rmw<T>(c, i, at);
    const bool lock = i->bits & kLock;
    if (p && lock) {
      Op::locked(c, p, bit);
    } else if (p) {
      T v;
      std::memcpy(&v, p, sizeof(T));
      v = Op::run(c, v, bit);
      std::memcpy(p, &v, sizeof(T));
    } else {
      if (lock) split_lock.lock();
      store<T>(c, i, at, Op::run(c, load<T>(c, i, at), bit));
      if (lock) split_lock.unlock();
    }
  }
  return next(c, i);
}

#define NYX_WORDS(f, ...) \
  ::nyx::soft::Handlers { { nullptr, &f<__VA_ARGS__, uint16_t>, &f<__VA_ARGS__, uint32_t>, &f<__VA_ARGS__, uint64_t> } }

template <class Op>
void put_bit(OpTables& t, int opcode, int n) {
  const uint32_t lockable = Op::kWrites ? uint32_t(kLockable) : 0;
  put(t, 1, opcode, op(NYX_WORDS(bit_reg, Op), NYX_WORDS(bit_string, Op), kModrm | lockable));
  Handlers mem;
  if constexpr (Op::kWrites) mem = NYX_WORDS(mem_rmw, BitMemImm<Op>);
  else mem = NYX_WORDS(mem_read, BtMemImm);
  put_group(t, 1, -1, 0xba, n, op(NYX_WORDS(bit_imm, Op), mem, kModrm | lockable, kImmUb));
}

// A zero source leaves the destination as the host does: untouched.
#define NYX_SCAN(Name, mnemonic)                                                                                       \
  struct Name {                                                                                                        \
    template <class T>                                                                                                 \
    [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {                                               \
      uint32_t f = c.flags;                                                                                            \
      uint64_t r = c.gpr[i->reg];                                                                                      \
      if constexpr (sizeof(T) == 2) asm(NYX_FLAGS_IN mnemonic " %2, %w0" NYX_FLAGS_OUT : "+r"(r), "+a"(f) : "r"(v) : "cc"); \
      if constexpr (sizeof(T) == 4) asm(NYX_FLAGS_IN mnemonic " %2, %k0" NYX_FLAGS_OUT : "+r"(r), "+a"(f) : "r"(v) : "cc"); \
      if constexpr (sizeof(T) == 8) asm(NYX_FLAGS_IN mnemonic " %2, %q0" NYX_FLAGS_OUT : "+r"(r), "+a"(f) : "r"(v) : "cc"); \
      c.flags = uint16_t(f);                                                                                           \
      c.gpr[i->reg] = r;                                                                                               \
    }                                                                                                                  \
  };
NYX_SCAN(Bsf, "bsf")
NYX_SCAN(Bsr, "bsr")
NYX_SCAN(Popcnt, "popcnt")
#undef NYX_SCAN

template <class B, class T>
void on_rm(Cpu& c, const Insn* i) {
  B::template run<T>(c, i, get_reg<T>(c, i->rm));
  return next(c, i);
}
template <class B>
OpEntry op_scan() {
  return op(NYX_WORDS(on_rm, B), NYX_WORDS(mem_read, B), kModrm);
}

struct Crc32 {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    uint64_t r = uint32_t(c.gpr[i->reg]);
    if constexpr (sizeof(T) == 8) asm("crc32 %1, %q0" : "+r"(r) : "r"(v));
    else asm("crc32 %1, %k0" : "+r"(r) : "r"(v));
    c.gpr[i->reg] = r;
  }
};

}  // namespace

void register_bit(OpTables& t) {
  put_bit<Bt>(t, 0xa3, 4);
  put_bit<Bts>(t, 0xab, 5);
  put_bit<Btr>(t, 0xb3, 6);
  put_bit<Btc>(t, 0xbb, 7);
  put(t, 1, 0xbc, op_scan<Bsf>());
  put(t, 1, 0xbd, op_scan<Bsr>());
  t.map[1][2][0xb8] = op_scan<Popcnt>();
  // The destination is a general register also in the 8-bit form.
  t.map[2][3][0xf0] = op_all(&on_rm<Crc32, uint8_t>, &mem_read<Crc32, uint8_t>, kModrm | kByteRm);
  t.map[2][3][0xf1] = op(NYX_WORDS(on_rm, Crc32), NYX_WORDS(mem_read, Crc32), kModrm);
}

}  // namespace nyx::soft
