// Shared by the integer instruction handlers (int_*.cc): flags through the host, operand forms, table building.
//
// Forms. A body B holds what an instruction does with its operand; a form brings the operand and goes on to the next
// instruction. The plain versions of the memory forms serve 64-bit addressing with a TLB hit, call nothing and so need
// no stack frame; everything else (segment bases, truncation, TLB misses, LOCK) is in their `_full` twins.
#pragma once
#include <mutex>

#include "soft/mem.h"
#include "soft/run.h"

// Assembly around an instruction of the host. EAX holds Cpu::flags: "+a" with one of the _IN, "=a" without.
#define NYX_FLAGS_IN "addb $127, %%al\n\tsahf\n\t"  // all six
#define NYX_CARRY_IN "btl $8, %%eax\n\t"            // CF only
#define NYX_FLAGS_OUT "\n\tlahf\n\tseto %%al"

// The four operand sizes of a handler template whose last parameter is the operand type.
#define NYX_SIZES(f, ...)                                                                    \
  ::nyx::soft::Handlers {                                                                    \
    {                                                                                        \
      &f<__VA_ARGS__ __VA_OPT__(, ) uint8_t>, &f<__VA_ARGS__ __VA_OPT__(, ) uint16_t>,       \
          &f<__VA_ARGS__ __VA_OPT__(, ) uint32_t>, &f<__VA_ARGS__ __VA_OPT__(, ) uint64_t>   \
    }                                                                                        \
  }

namespace nyx::soft {

struct Handlers {
  Handler h[4] = {};
};

inline OpEntry op(const Handlers& reg, const Handlers& mem, uint32_t bits, Imm imm = kImmNone) {
  OpEntry e;
  for (int k = 0; k < 4; k++) {
    e.reg[k] = reg.h[k];
    e.mem[k] = mem.h[k];
  }
  e.bits = bits;
  e.imm = imm;
  return e;
}
inline OpEntry op_reg(const Handlers& reg, uint32_t bits, Imm imm = kImmNone) { return op(reg, {}, bits, imm); }
inline OpEntry op_one(Handler h, uint32_t bits, Imm imm = kImmNone) { return op_all(h, h, bits, imm); }

// Enters `e` (for 16, 32, 64 bits) at opcode + 1 and its 8-bit version at opcode.
inline void put_pair(OpTables& t, int map, int opcode, OpEntry e) {
  put(t, map, opcode + 1, e);
  e.bits |= kByte;
  if (e.imm == kImmZ) e.imm = kImmB;
  put(t, map, opcode, e);
}

// LOCK on an operand that crosses a page or is not RAM: such accesses exclude each other.
extern std::mutex split_lock;

template <class T>
using Signed = std::make_signed_t<T>;
template <class T>
inline constexpr int kBits = int(sizeof(T)) * 8;

// Condition codes as in the low four bits of Jcc, SETcc, CMOVcc.
template <int CC>
[[gnu::always_inline]] inline bool condition(const Cpu& c) {
  const unsigned f = c.flags;
  bool r;
  switch (CC >> 1) {
    case 0: r = f & 1; break;
    case 1: r = f & 0x100; break;
    case 2: r = f & 0x4000; break;
    case 3: r = f & 0x4100; break;
    case 4: r = f & 0x8000; break;
    case 5: r = f & 0x400; break;
    case 6: r = ((f >> 15) ^ f) & 1; break;
    default: r = ((f & 0x4000) | (((f >> 15) ^ f) & 1)) != 0; break;
  }
  return CC & 1 ? !r : r;
}

[[gnu::always_inline]] inline uint64_t plain_address(const Cpu& c, const Insn* i) {
  return c.gpr[i->base] + (c.gpr[i->index] << i->shift) + uint64_t(int64_t(i->disp));
}

// B::run(c, i, value): register destination is B's business.
template <class B, class T>
[[gnu::noinline]] void mem_read_full(Cpu& c, const Insn* i) {
  B::run(c, i, load_rm<T>(c, i));
  return next(c, i);
}
template <class B, class T>
void mem_read(Cpu& c, const Insn* i) {
  const uint64_t at = plain_address(c, i);
  const TlbEntry& e = tlb_entry(c, at);
  if (i->ea == 0 && ((at + (sizeof(T) - 1)) & ~0xfffull) == e.read) [[likely]] {
    T v;
    std::memcpy(&v, reinterpret_cast<const void*>(at + uint64_t(e.addend)), sizeof(T));
    B::run(c, i, v);
    return next(c, i);
  }
  return mem_read_full<B, T>(c, i);
}

// B::get(c, i): the value to store.
template <class B, class T>
[[gnu::noinline]] void mem_write_full(Cpu& c, const Insn* i) {
  store_rm<T>(c, i, B::template get<T>(c, i));
  return next(c, i);
}
template <class B, class T>
void mem_write(Cpu& c, const Insn* i) {
  const uint64_t at = plain_address(c, i);
  const TlbEntry& e = tlb_entry(c, at);
  if (i->ea == 0 && ((at + (sizeof(T) - 1)) & ~0xfffull) == e.write) [[likely]] {
    const T v = B::template get<T>(c, i);
    std::memcpy(reinterpret_cast<void*>(at + uint64_t(e.addend)), &v, sizeof(T));
    return next(c, i);
  }
  return mem_write_full<B, T>(c, i);
}

// B::run(c, i, value): the new value; B::locked(c, i, pointer): the same with host atomics.
template <class B, class T>
[[gnu::noinline]] void mem_rmw_full(Cpu& c, const Insn* i) {
  const uint64_t at = linear_of(c, i, sizeof(T), Access::kWrite);
  T* const p = rmw<T>(c, i, at);
  if (p && (i->bits & kLock)) {
    B::locked(c, i, p);
  } else if (p) {
    T v;
    std::memcpy(&v, p, sizeof(T));
    v = B::run(c, i, v);
    std::memcpy(p, &v, sizeof(T));
  } else {
    const bool lock = i->bits & kLock;
    if (lock) split_lock.lock();
    const T v = B::run(c, i, load<T>(c, i, at));
    store<T>(c, i, at, v);
    if (lock) split_lock.unlock();
  }
  return next(c, i);
}
template <class B, class T>
void mem_rmw(Cpu& c, const Insn* i) {
  const uint64_t at = plain_address(c, i);
  const TlbEntry& e = tlb_entry(c, at);
  if ((i->ea | (i->bits & kLock)) == 0 && ((at + (sizeof(T) - 1)) & ~0xfffull) == e.write) [[likely]] {
    void* const p = reinterpret_cast<void*>(at + uint64_t(e.addend));
    T v;
    std::memcpy(&v, p, sizeof(T));
    v = B::run(c, i, v);
    std::memcpy(p, &v, sizeof(T));
    return next(c, i);
  }
  return mem_rmw_full<B, T>(c, i);
}

// Width in bytes of the address size: of RCX, RSI, RDI in string instructions, LOOP and JCXZ.
[[gnu::always_inline]] inline unsigned address_bytes(const Insn* i) { return i->ea & kEa16 ? 2 : i->ea & kEa32 ? 4 : 8; }

// Linear address of `offset` in the segment of the memory operand, for operands that ModRM does not describe.
inline uint64_t linear_at(Cpu& c, const Insn* i, uint64_t offset, unsigned size, Access a) {
  if (i->ea & (kEa16 | kEa32)) offset = i->ea & kEa16 ? uint16_t(offset) : uint32_t(offset);
  if (i->ea & kEaCheck) return linear_legacy(c, i, offset, size, a);
  return offset + (i->ea & kEaSegBase ? c.seg[i->seg].base : 0);
}

// Parts of register_integer.
void register_alu(OpTables& t);
void register_shift(OpTables& t);
void register_multiply(OpTables& t);
void register_decimal(OpTables& t);
void register_move(OpTables& t);
void register_bit(OpTables& t);
void register_exchange(OpTables& t);
void register_stack(OpTables& t);
void register_branch(OpTables& t);
void register_string(OpTables& t);

}  // namespace nyx::soft
