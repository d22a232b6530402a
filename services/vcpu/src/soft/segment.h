// Segment registers and descriptors (Intel SDM vol. 3, chapters 3 and 5).
#pragma once
#include "soft/mmu.h"

namespace nyx::soft {

// System descriptor types (S = 0).
enum SystemType : uint8_t {
  kTss16 = 1, kLdt = 2, kTss16Busy = 3, kCallGate16 = 4, kTaskGate = 5, kIntGate16 = 6, kTrapGate16 = 7,
  kTss32 = 9, kTss32Busy = 11, kCallGate32 = 12, kIntGate32 = 14, kTrapGate32 = 15,
};

// A descriptor as it is in its table; `high` is the second half of 16-byte ones (long mode: TSS, LDT, gates).
struct Descriptor {
  uint64_t low = 0, high = 0;
  uint64_t at = 0;  // linear address
  unsigned type() const { return low >> 40 & 15; }
  bool s() const { return low >> 44 & 1; }
  unsigned dpl() const { return low >> 45 & 3; }
  bool present() const { return low >> 47 & 1; }
  bool l() const { return low >> 53 & 1; }
  bool db() const { return low >> 54 & 1; }
  bool code() const { return s() && (type() & 8); }
  bool conforming() const { return (type() & 0xc) == 0xc; }
  bool readable() const { return !(type() & 8) || (type() & 2); }
  bool writable_data() const { return s() && (type() & 0xa) == 2; }
  // Gates.
  uint16_t gate_selector() const { return uint16_t(low >> 16); }
  uint64_t gate_offset(bool wide) const {
    return (low & 0xffff) | (low >> 32 & 0xffff0000) | (wide ? high << 32 : 0);
  }
};

Segment unpack(const Descriptor& d, uint16_t selector);
// Base of a 16-byte system descriptor.
inline uint64_t wide_base(const Descriptor& d) {
  return (d.low >> 16 & 0xffffff) | (d.low >> 32 & 0xff000000) | d.high << 32;
}

inline bool null_selector(uint16_t s) { return (s & 0xfffc) == 0; }
inline bool protected_mode(const Cpu& c) { return (c.cr0 & kCr0PE) && !(c.eflags & kVM); }
inline bool vm86(const Cpu& c) { return (c.cr0 & kCr0PE) && (c.eflags & kVM); }

// What SGDT, SIDT, SLDT, STR and SMSW tell is not for users when the supervisor says so.
inline void check_umip(Cpu& c, const Insn* i) {
  if ((c.cr4 & kCr4UMIP) && c.cpl != 0) raise(c, i, kGP, 0);
}

// Reads the 8-byte descriptor of a selector. False: the selector is beyond its table.
bool read_descriptor(Cpu& c, const Insn* i, uint16_t selector, Descriptor* d);
// The same, raising `vector` with the selector as error code (plus `ext`).
Descriptor need_descriptor(Cpu& c, const Insn* i, uint16_t selector, int vector, unsigned ext = 0);
// Second half of a 16-byte descriptor. Its type field must be 0: #GP.
void read_high(Cpu& c, const Insn* i, uint16_t selector, Descriptor* d);
// Sets the accessed bit of a code or data descriptor in its table, and in `d`.
void set_accessed(Cpu& c, const Insn* i, Descriptor* d);

// MOV/POP/Lxx to a data segment register or SS in any mode. Ends with update_mode().
void load_segment(Cpu& c, const Insn* i, SegReg r, uint16_t selector);
// Real-mode and vm86 values.
void set_real_segment(Cpu& c, SegReg r, uint16_t selector);
// CS after all checks; the privilege level becomes `cpl`, and the selector's RPL with it. Invalidates links when CS.base
// changes. Callers call update_mode() when all registers are set.
// Inline, so that what was just put together is not read back from memory.
[[gnu::always_inline]] inline void set_cs(Cpu& c, const Segment& s, unsigned cpl) {
  c.seg[CS].base = s.base;
  c.seg[CS].limit = s.limit;
  c.seg[CS].attr = s.attr;
  c.seg[CS].selector = protected_mode(c) ? uint16_t((s.selector & 0xfffc) | cpl) : s.selector;
  c.cpl = uint8_t(cpl);
}
// After a return to an outer level: data segments that the new level may not use become null.
void drop_inner_segments(Cpu& c);

// Checks a stack segment for privilege level `cpl`; errors raise `vector` (#TS or #GP) or #SS with the selector + ext.
Descriptor need_stack(Cpu& c, const Insn* i, uint16_t selector, unsigned cpl, int vector, unsigned ext = 0);

// A stack that is being written before its SS:RSP are loaded. Nothing is committed until the caller does.
struct Stack {
  Segment ss;
  uint64_t sp;
  bool wide;  // 64-bit mode: no segment
  bool user;  // the rights of the level that the stack belongs to
  uint16_t ss_error = 0;  // error code of #SS
  uint64_t mask() const { return wide ? ~uint64_t{0} : ss.db() ? 0xffffffff : 0xffff; }
};
Stack current_stack(const Cpu& c);
void push_on(Cpu& c, const Insn* i, Stack& s, uint64_t v, unsigned size);
uint64_t pop_from(Cpu& c, const Insn* i, Stack& s, unsigned size);
// RSP (or its lower part) of the current stack.
void commit_sp(Cpu& c, const Stack& s);

}  // namespace nyx::soft
