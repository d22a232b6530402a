// ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NOT NEG.
#include "soft/int.h"

namespace nyx::soft {
namespace {

// Two-operand operations. `in` brings flags into EAX's consumers, kWrites: the result is stored.
#define NYX_ALU(Name, mnemonic, writes, constraint, in)                                                          \
  struct Name {                                                                                                  \
    static constexpr bool kWrites = writes;                                                                      \
    template <class T>                                                                                           \
    [[gnu::always_inline]] static T run(Cpu& c, T a, T b) {                                                      \
      uint32_t f = c.flags;                                                                                      \
      asm(in mnemonic " %2, %0" NYX_FLAGS_OUT : "+r"(a), constraint(f) : "r"(b) : "cc");                         \
      c.flags = uint16_t(f);                                                                                     \
      return a;                                                                                                  \
    }                                                                                                            \
    template <class T>                                                                                           \
    [[gnu::always_inline]] static void locked(Cpu& c, T* p, T b) {                                               \
      uint32_t f = c.flags;                                                                                      \
      asm volatile(in "lock; " mnemonic " %2, %0" NYX_FLAGS_OUT : "+m"(*p), constraint(f) : "r"(b) : "cc", "memory"); \
      c.flags = uint16_t(f);                                                                                     \
    }                                                                                                            \
  };
NYX_ALU(Add, "add", true, "=a", "")
NYX_ALU(Or, "or", true, "+a", NYX_FLAGS_IN)  // AF is undefined: it may stay as it was
NYX_ALU(Adc, "adc", true, "+a", NYX_CARRY_IN)
NYX_ALU(Sbb, "sbb", true, "+a", NYX_CARRY_IN)
NYX_ALU(And, "and", true, "+a", NYX_FLAGS_IN)
NYX_ALU(Sub, "sub", true, "=a", "")
NYX_ALU(Xor, "xor", true, "+a", NYX_FLAGS_IN)
NYX_ALU(Cmp, "cmp", false, "=a", "")
NYX_ALU(Test, "test", false, "+a", NYX_FLAGS_IN)
#undef NYX_ALU

// One-operand operations.
#define NYX_LOCKED(text) asm volatile(text : "+m"(*p), "+a"(f) : : "cc", "memory")
#define NYX_UNARY(Name, mnemonic, in, out)                                                                  \
  struct Name {                                                                                             \
    template <class T>                                                                                      \
    [[gnu::always_inline]] static T run(Cpu& c, T a) {                                                      \
      uint32_t f = c.flags;                                                                                 \
      asm(in mnemonic " %0" out : "+r"(a), "+a"(f) : : "cc");                                               \
      c.flags = uint16_t(f);                                                                                \
      return a;                                                                                             \
    }                                                                                                       \
    template <class T>                                                                                      \
    [[gnu::always_inline]] static void locked(Cpu& c, T* p) {                                               \
      uint32_t f = c.flags;                                                                                 \
      if constexpr (sizeof(T) == 1) NYX_LOCKED(in "lock; " mnemonic "b %0" out);                            \
      else if constexpr (sizeof(T) == 2) NYX_LOCKED(in "lock; " mnemonic "w %0" out);                       \
      else if constexpr (sizeof(T) == 4) NYX_LOCKED(in "lock; " mnemonic "l %0" out);                       \
      else NYX_LOCKED(in "lock; " mnemonic "q %0" out);                                                     \
      c.flags = uint16_t(f);                                                                                \
    }                                                                                                       \
  };
NYX_UNARY(Inc, "inc", NYX_CARRY_IN, NYX_FLAGS_OUT)
NYX_UNARY(Dec, "dec", NYX_CARRY_IN, NYX_FLAGS_OUT)
NYX_UNARY(Neg, "neg", "", NYX_FLAGS_OUT)
NYX_UNARY(Not, "not", "", "")
#undef NYX_UNARY
#undef NYX_LOCKED

template <class Op, class T>
[[gnu::always_inline]] inline void to_reg(Cpu& c, uint8_t r, T b) {
  const T v = Op::run(c, get_reg<T>(c, r), b);
  if constexpr (Op::kWrites) set_reg<T>(c, r, v);
}

template <class Op, class T>
void rm_reg(Cpu& c, const Insn* i) {
  to_reg<Op>(c, i->rm, get_reg<T>(c, i->reg));
  return next(c, i);
}
template <class Op, class T>
void reg_rm(Cpu& c, const Insn* i) {
  to_reg<Op>(c, i->reg, get_reg<T>(c, i->rm));
  return next(c, i);
}
template <class Op, class T>
void rm_imm(Cpu& c, const Insn* i) {
  to_reg<Op>(c, i->rm, T(i->imm));
  return next(c, i);
}

template <class Op>
struct RegFromMem {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    to_reg<Op>(c, i->reg, v);
  }
};
// CMP and TEST with a memory operand on the left.
template <class Op>
struct MemWithReg {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    Op::run(c, v, get_reg<T>(c, i->reg));
  }
};
template <class Op>
struct MemWithImm {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    Op::run(c, v, T(i->imm));
  }
};
template <class Op>
struct MemFromReg {
  template <class T>
  [[gnu::always_inline]] static T run(Cpu& c, const Insn* i, T v) {
    return Op::run(c, v, get_reg<T>(c, i->reg));
  }
  template <class T>
  static void locked(Cpu& c, const Insn* i, T* p) {
    Op::locked(c, p, get_reg<T>(c, i->reg));
  }
};
template <class Op>
struct MemFromImm {
  template <class T>
  [[gnu::always_inline]] static T run(Cpu& c, const Insn* i, T v) {
    return Op::run(c, v, T(i->imm));
  }
  template <class T>
  static void locked(Cpu& c, const Insn* i, T* p) {
    Op::locked(c, p, T(i->imm));
  }
};

template <class Op, class T>
void unary_reg(Cpu& c, const Insn* i) {
  set_reg<T>(c, i->rm, Op::run(c, get_reg<T>(c, i->rm)));
  return next(c, i);
}
template <class Op>
struct MemUnary {
  template <class T>
  [[gnu::always_inline]] static T run(Cpu& c, const Insn*, T v) {
    return Op::run(c, v);
  }
  template <class T>
  static void locked(Cpu& c, const Insn*, T* p) {
    Op::locked(c, p);
  }
};

// Opcodes 8n .. 8n + 5 and member n of group 1.
template <class Op>
void put_alu(OpTables& t, int n) {
  Handlers mem_reg, mem_imm;
  uint32_t lockable = 0;
  if constexpr (Op::kWrites) {
    mem_reg = NYX_SIZES(mem_rmw, MemFromReg<Op>);
    mem_imm = NYX_SIZES(mem_rmw, MemFromImm<Op>);
    lockable = kLockable;
  } else {
    mem_reg = NYX_SIZES(mem_read, MemWithReg<Op>);
    mem_imm = NYX_SIZES(mem_read, MemWithImm<Op>);
  }
  put_pair(t, 0, 8 * n, op(NYX_SIZES(rm_reg, Op), mem_reg, kModrm | lockable));
  put_pair(t, 0, 8 * n + 2, op(NYX_SIZES(reg_rm, Op), NYX_SIZES(mem_read, RegFromMem<Op>), kModrm));
  put_pair(t, 0, 8 * n + 4, op_reg(NYX_SIZES(rm_imm, Op), 0, kImmZ));
  OpEntry group = op(NYX_SIZES(rm_imm, Op), mem_imm, kModrm | lockable, kImmB);
  put_group(t, 0, -1, 0x83, n, group);
  group.imm = kImmZ;
  put_group(t, 0, -1, 0x81, n, group);
  group.imm = kImmB;
  group.bits |= kByte;
  put_group(t, 0, -1, 0x80, n, group);
  group.bits |= kNo64;
  put_group(t, 0, -1, 0x82, n, group);
}

template <class Op>
void put_unary(OpTables& t, int opcode, int n) {
  OpEntry e = op(NYX_SIZES(unary_reg, Op), NYX_SIZES(mem_rmw, MemUnary<Op>), kModrm | kLockable);
  put_group(t, 0, -1, opcode + 1, n, e);
  e.bits |= kByte;
  put_group(t, 0, -1, opcode, n, e);
}

}  // namespace

void register_alu(OpTables& t) {
  put_alu<Add>(t, 0);
  put_alu<Or>(t, 1);
  put_alu<Adc>(t, 2);
  put_alu<Sbb>(t, 3);
  put_alu<And>(t, 4);
  put_alu<Sub>(t, 5);
  put_alu<Xor>(t, 6);
  put_alu<Cmp>(t, 7);

  put_pair(t, 0, 0x84, op(NYX_SIZES(rm_reg, Test), NYX_SIZES(mem_read, MemWithReg<Test>), kModrm));
  put_pair(t, 0, 0xa8, op_reg(NYX_SIZES(rm_imm, Test), 0, kImmZ));
  for (int n = 0; n < 2; n++) {
    OpEntry e = op(NYX_SIZES(rm_imm, Test), NYX_SIZES(mem_read, MemWithImm<Test>), kModrm, kImmZ);
    put_group(t, 0, -1, 0xf7, n, e);
    e.bits |= kByte;
    e.imm = kImmB;
    put_group(t, 0, -1, 0xf6, n, e);
  }

  put_unary<Not>(t, 0xf6, 2);
  put_unary<Neg>(t, 0xf6, 3);
  put_unary<Inc>(t, 0xfe, 0);
  put_unary<Dec>(t, 0xfe, 1);
  for (int r = 0; r < 8; r++) {
    put(t, 0, 0x40 + r, op_reg(NYX_SIZES(unary_reg, Inc), kOpcodeReg | kNo64));
    put(t, 0, 0x48 + r, op_reg(NYX_SIZES(unary_reg, Dec), kOpcodeReg | kNo64));
  }
}

}  // namespace nyx::soft
