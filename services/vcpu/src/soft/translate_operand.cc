// Flags, registers and memory operands of a translated instruction.
#include <cstddef>

#include "soft/translation.h"

namespace nyx::soft {

// ---- flags

void Translation::save_flags() {
  byte(0x9f);                                   // lahf
  ins(1, 0x0f90, 0, reg(hAX));                  // seto al
  store(cpu_field(offsetof(Cpu, flags)), hAX, 2);
  in_mem_ = true;
}

void Translation::need_host_flags() {
  if (in_host_) return;
  ins(4, 0x0fb7, hAX, cpu_field(offsetof(Cpu, flags)));
  byte(0x04), byte(0x7f);  // add al, 127: OF
  byte(0x9e);              // sahf
  in_host_ = true;
}

void Translation::need_host_carry() {
  if (in_host_) return;
  ins(4, 0x0fba, 4, cpu_field(offsetof(Cpu, flags)), 1);
  byte(8);
}

int Translation::condition(int cc) {
  if (in_host_) return cc;
  static constexpr uint8_t kMask[6] = {1, 1, 0x40, 0x41, 0x80, 4};
  if (cc >> 1 >= 6) {
    need_host_flags();
    return cc;
  }
  const unsigned at = offsetof(Cpu, flags) + (cc >> 1 == 0 ? 0 : 1);
  ins(1, 0xf6, 0, cpu_field(at), 1);
  byte(kMask[cc >> 1]);
  return cc & 1 ? ccE : ccNE;
}

// ---- operands

int Translation::value(uint8_t r, unsigned size, int scratch) {
  const Rm m = guest(r, size);
  if (m.kind == Rm::kReg) return m.base;
  load(scratch, m, size < 4 ? 4 : size);
  return scratch;
}

void Translation::set(uint8_t r, int from, unsigned size) {
  const Rm m = guest(r, size);
  if (m.kind == Rm::kReg) {
    if (size >= 4) mov(m.base, from, size);
    else rr(size, size == 1 ? 0x8a : 0x8b, m.base, from);
  } else if (size == 4) {
    const int low = from == hAX || from == hCX || from == h10 ? from : int(hCX);
    mov(low, from, 4);
    store(m, low, 8);
  } else {
    store(m, from, size);
  }
}

bool Translation::bytes_ok(bool has_reg, bool has_rm) const {
  return i_->opsize != 1 || (!(has_reg && high_byte(i_->reg)) && !(has_rm && high_byte(i_->rm)));
}

void Translation::address() {
  const Insn& i = *i_;
  if (i.base == kRegBlock) {
    imm(hAX, b_->rip + uint64_t(int64_t(i.disp)));
  } else {
    int base = -1, index = -1;
    if (i.index != kRegZero) {
      index = kHost[i.index];
      if (index < 0) load(index = hCX, gpr_field(i.index));
    }
    if (i.base != kRegZero) {
      base = kHost[i.base];
      if (base < 0) load(base = hAX, gpr_field(i.base));
    }
    if (base < 0 && index < 0) {
      imm(hAX, uint64_t(int64_t(i.disp)));
    } else if (base < 0) {
      imm(hAX, uint64_t(int64_t(i.disp)));
      lea(hAX, mem(hAX, index, i.shift, 0));
    } else if (index >= 0) {
      lea(hAX, mem(base, index, i.shift, i.disp));
    } else if (i.disp || base == hAX) {
      if (i.disp) lea(hAX, mem(base, i.disp));
    } else {
      mov(hAX, base);
    }
  }
  if (i.ea & kEa32) mov(hAX, hAX, 4);
  if (i.ea & kEaCheck) {
    // FS or GS outside 64-bit mode: a writable segment of 4 GiB, or the interpreter checks.
    const auto field = [&](size_t at) { return cpu_field(offsetof(Cpu, seg) + i.seg * sizeof(Segment) + at); };
    alu_imm(4, 7, field(offsetof(Segment, limit)), -1);
    bail(jcc(ccNE));
    ins(4, 0x0fb7, hCX, field(offsetof(Segment, attr)));
    alu_imm(4, 4, reg(hCX), 0x9e);
    alu_imm(4, 7, reg(hCX), 0x92);
    bail(jcc(ccNE));
    ins(4, 0x03, hAX, field(offsetof(Segment, base)));
  }
  if (i.ea & kEaSegBase) ins(8, 0x03, hAX, cpu_field(offsetof(Cpu, seg) + i.seg * sizeof(Segment) + offsetof(Segment, base)));
}

void Translation::translate_address(unsigned size, bool write, bool x87) {
  static_assert(sizeof(TlbEntry) == 32);
  mov(h10, hAX, 4);
  ins(4, 0xc1, 5, reg(h10), 1), byte(7);
  alu_imm(4, 4, reg(h10), (kTlbEntries - 1) << 5);
  if (size > 1) lea(hCX, mem(hAX, int(size) - 1));
  else mov(hCX, hAX);
  alu_imm(8, 4, reg(hCX), -4096);
  const int64_t entry = int64_t(tlb_ + offsetof(Tlb, entries));
  ins(8, 0x3b, hCX, mem(hBP, h10, 0, entry + int64_t(write ? offsetof(TlbEntry, write) : offsetof(TlbEntry, read))));
  bail(jcc(ccNE));
  if (x87) store(cpu_field(offsetof(Cpu, x87_dp)), hAX);
  ins(8, 0x03, hAX, mem(hBP, h10, 0, entry + int64_t(offsetof(TlbEntry, addend))));
  in_host_ = false;
}

}  // namespace nyx::soft
