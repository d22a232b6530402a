// SSE, translated. Within a block guest XMM registers are cached in the host registers of the same number and written
// through to Cpu::fx, so that every way out finds them there.
#include <cstddef>

#include "soft/simd.h"
#include "soft/translation.h"

namespace nyx::soft {
namespace {

enum Kind : uint8_t {
  kNone,
  kPlain,    // xmm = op(xmm, xmm/mem)
  kFloat,    // the same, under the guest's MXCSR
  kCompare,  // flags = op(xmm, xmm/mem), under MXCSR
};
struct Class {
  Kind kind;
  uint8_t bytes;  // of a memory operand
  bool imm;
};

bool among(unsigned opcode, std::initializer_list<uint8_t> list) {
  for (const uint8_t o : list)
    if (o == opcode) return true;
  return false;
}

// Rows: 0 no prefix, 1 66, 2 F3, 3 F2. What is not here stays with the interpreter.
Class classify(const OpName& n) {
  const unsigned o = n.opcode, row = n.row;
  if (n.map == 2) {
    const bool whole = row == 1 && (o <= 0x0b || (o >= 0x1c && o <= 0x1e) || o == 0x28 || o == 0x29 || o == 0x2b || (o >= 0x37 && o <= 0x40));
    return {whole ? kPlain : kNone, 16, false};
  }
  if (n.map != 1) return {kNone, 0, false};
  const uint8_t by_row[4] = {16, 16, 4, 8};
  if (among(o, {0x51, 0x58, 0x59, 0x5c, 0x5d, 0x5e, 0x5f})) return {kFloat, by_row[row], false};
  if (o == 0xc2) return {kFloat, by_row[row], true};
  if (among(o, {0x2e, 0x2f}) && row < 2) return {kCompare, uint8_t(row ? 8 : 4), false};
  if (among(o, {0x14, 0x15, 0x54, 0x55, 0x56, 0x57}) && row < 2) return {kPlain, 16, false};
  if (o == 0xc6 && row < 2) return {kPlain, 16, true};
  switch (row) {
    case 0:
      if (o == 0x5b || o == 0x52 || o == 0x53) return {kFloat, 16, false};
      if (o == 0x5a) return {kFloat, 8, false};
      break;
    case 1:
      if (among(o, {0x5a, 0x5b, 0x7c, 0x7d, 0xd0, 0xe6})) return {kFloat, 16, false};
      if (o == 0x70) return {kPlain, 16, true};
      if ((o >= 0x60 && o <= 0x6d) || (o >= 0x74 && o <= 0x76) || (o >= 0xd1 && o <= 0xd5) || (o >= 0xd8 && o <= 0xe5) ||
          (o >= 0xe8 && o <= 0xef) || (o >= 0xf1 && o <= 0xf6) || (o >= 0xf8 && o <= 0xfe))
        return {kPlain, 16, false};
      break;
    case 2:
      if (o == 0x52 || o == 0x53 || o == 0x5a) return {kFloat, 4, false};
      if (o == 0x5b) return {kFloat, 16, false};
      if (o == 0xe6) return {kPlain, 8, false};
      if (o == 0x12 || o == 0x16) return {kPlain, 16, false};
      if (o == 0x70) return {kPlain, 16, true};
      break;
    default:
      if (o == 0x5a) return {kFloat, 8, false};
      if (among(o, {0x7c, 0x7d, 0xd0, 0xe6})) return {kFloat, 16, false};
      if (o == 0x12) return {kPlain, 8, false};
      if (o == 0x70) return {kPlain, 16, true};
      break;
  }
  return {kNone, 0, false};
}

constexpr unsigned kPrefix[4] = {0, 0x66, 0xf3, 0xf2};

Rm xmm_field(unsigned r) { return cpu_field(offsetof(Cpu, fx) + kFxXmm + 16 * r); }

}  // namespace

void Translation::load_xmm(unsigned r) { ins(4, 0x0f28, int(r), xmm_field(r)); }

// The guest's XMM register in the host's of the same number.
int Translation::xmm(unsigned r) {
  if (!(xmm_cached_ >> r & 1)) {
    load_xmm(r);
    xmm_cached_ |= uint16_t(1u << r);
  }
  return int(r);
}

// Host register r was written.
void Translation::xmm_changed(unsigned r) {
  ins(4, 0x0f29, int(r), xmm_field(r));
  xmm_cached_ |= uint16_t(1u << r);
}

// CR0.EM, CR0.TS and CR4.OSFXSR can change between two blocks, or by an instruction that is interpreted.
void Translation::need_sse() {
  if (sse_checked_) return;
  if (!in_mem_) save_flags();
  ins(1, 0xf6, 0, cpu_field(offsetof(Cpu, cr0)), 1);
  byte(kCr0EM | kCr0TS);
  bail(jcc(ccNE));
  ins(1, 0xf6, 0, cpu_field(offsetof(Cpu, cr4) + 1), 1);
  byte(kCr4OSFXSR >> 8);
  bail(jcc(ccE));
  in_host_ = false;
  sse_checked_ = true;
}

// The guest's MXCSR is the host's, with all exceptions masked in both.
void Translation::need_mxcsr() {
  static_assert(offsetof(Cpu, fp_unmasked) == offsetof(Cpu, fp_live) + 1);
  if (!in_mem_) save_flags();
  ins(2, 0x81, 7, cpu_field(offsetof(Cpu, fp_live)), 2);
  word(1);
  bail(jcc(ccNE));
  in_host_ = false;
}

// RAX: host address. 16 bytes must be aligned where the instruction demands it.
void Translation::vector_operand(unsigned bytes, bool write, bool aligned) {
  before_access();
  address();
  if (aligned && bytes == 16) {
    byte(0xa8), byte(15);  // test al, 15
    bail(jcc(ccNE));
  }
  translate_address(bytes, write);
}

bool Translation::simd_move(const OpName& n) {
  const Insn& i = *i_;
  const unsigned o = n.opcode, row = n.row;
  const auto load = [&](unsigned bytes, bool aligned, unsigned prefix, unsigned opcode) {
    need_sse();
    vector_operand(bytes, false, aligned);
    ins(4, opcode, i.reg, mem(hAX), 0, prefix);
    xmm_changed(i.reg);
    return true;
  };
  const auto store = [&](unsigned bytes, bool aligned, unsigned prefix, unsigned opcode) {
    need_sse();
    vector_operand(bytes, true, aligned);
    ins(4, opcode, xmm(i.reg), mem(hAX), 0, prefix);
    return true;
  };
  const auto copy = [&](unsigned to, unsigned from, unsigned prefix, unsigned opcode, bool keeps) {
    need_sse();
    xmm(from);
    if (keeps) xmm(to);
    ins(4, opcode, int(to), reg(int(from)), 0, prefix);
    xmm_changed(to);
    return true;
  };
  // Handlers are known by the first of their opcodes in map, row, opcode order.
  if (row == 0) {
    switch (o) {
      case 0x10: return n.memory ? load(16, false, 0, 0x0f10) : copy(i.reg, i.rm, 0, 0x0f28, false);
      case 0x11: return n.memory ? store(16, false, 0, 0x0f11) : copy(i.rm, i.reg, 0, 0x0f28, false);
      case 0x28: return n.memory && load(16, true, 0, 0x0f28);
      case 0x29: case 0x2b: return n.memory && store(16, true, 0, 0x0f29);
      case 0x12: case 0x16:
        if (!n.memory) return copy(i.reg, i.rm, 0, 0x0f00 | o, true);
        need_sse();
        vector_operand(8, false, false);
        ins(4, 0x0f00 | o, xmm(i.reg), mem(hAX));
        xmm_changed(i.reg);
        return true;
      case 0x13: case 0x17: return n.memory && store(8, false, 0, 0x0f00 | o);
      default: return false;
    }
  }
  if (row == 1 && (o == 0x6e || o == 0x7e)) {
    // In memory these stand for MOVSS and MOVSD, too: the handler says how wide they are.
    const unsigned bytes = n.memory ? (n.size == 3 ? 8 : 4) : i.opsize == 8 ? 8 : 4;
    const unsigned prefix = bytes == 8 ? 0xf2 : 0xf3;
    if (n.memory) return o == 0x6e ? load(bytes, false, prefix, 0x0f10) : store(bytes, false, prefix, 0x0f11);
    need_sse();
    const int h = kHost[i.rm];
    if (o == 0x6e) {
      ins(bytes, 0x0f6e, i.reg, guest(i.rm, bytes), 0, 0x66);
      xmm_changed(i.reg);
    } else {
      const int to = h >= 0 ? h : int(hCX);
      ins(bytes, 0x0f7e, xmm(i.reg), reg(to), 0, 0x66);
      if (h < 0) this->store(gpr_field(i.rm), to);
    }
    return true;
  }
  if (row == 1 && o == 0xd6 && !n.memory) return copy(i.rm, i.reg, 0xf3, 0x0f7e, false);
  if (row == 2 && o == 0x7e && !n.memory) return copy(i.reg, i.rm, 0xf3, 0x0f7e, false);
  if (row >= 2 && o == 0x10 && !n.memory) return copy(i.reg, i.rm, kPrefix[row], 0x0f10, true);
  if (row >= 2 && o == 0x11 && !n.memory) return copy(i.rm, i.reg, kPrefix[row], 0x0f10, true);
  if (row == 1 && o >= 0x71 && o <= 0x73 && !n.memory && (n.n == 2 || n.n == 4 || n.n == 6 || (o == 0x73 && (n.n & 3) == 3))) {
    need_sse();  // shifts by an immediate
    ins(4, 0x0f00 | o, n.n, reg(xmm(i.rm)), 1, 0x66);
    byte(unsigned(i.imm));
    xmm_changed(i.rm);
    return true;
  }
  if (row == 1 && o == 0xd7 && !n.memory) {  // PMOVMSKB
    need_sse();
    const int h = kHost[i.reg], to = h >= 0 ? h : int(hCX);
    ins(4, 0x0fd7, to, reg(xmm(i.rm)), 0, 0x66);
    if (h < 0) this->store(gpr_field(i.reg), to);
    return true;
  }
  return false;
}

// CVTSI2SS, CVTSI2SD; CVT(T)SS2SI, CVT(T)SD2SI.
bool Translation::simd_convert(const OpName& n) {
  const Insn& i = *i_;
  const unsigned size = i.opsize == 8 ? 8 : 4, prefix = kPrefix[n.row];
  const bool from_int = n.opcode == 0x2a;
  need_sse();
  need_mxcsr();
  if (n.memory) vector_operand(from_int ? size : n.row == 2 ? 4 : 8, false, false);
  if (from_int) {
    ins(size, 0x0f2a, xmm(i.reg), n.memory ? mem(hAX) : guest(i.rm, size), 0, prefix);
    xmm_changed(i.reg);
    return true;
  }
  const int h = kHost[i.reg], to = h >= 0 ? h : int(hCX);
  ins(size, 0x0f00u | n.opcode, to, n.memory ? mem(hAX) : reg(xmm(i.rm)), 0, prefix);
  if (h < 0) store(gpr_field(i.reg), to);
  return true;
}

bool Translation::simd(const OpName& n) {
  const Insn& i = *i_;
  if (n.map != 1 && n.map != 2) return false;
  if (n.map == 1 && n.row >= 2 && among(n.opcode, {0x2a, 0x2c, 0x2d})) return simd_convert(n);
  const Class k = classify(n);
  if (k.kind == kNone) return n.map == 1 && simd_move(n);
  const unsigned opcode = (n.map == 2 ? 0x0f3800u : 0x0f00u) | n.opcode, prefix = kPrefix[n.row];
  need_sse();
  if (k.kind != kPlain) need_mxcsr();
  Rm src = mem(hAX);
  if (n.memory) vector_operand(k.bytes, false, true);
  else src = reg(xmm(i.rm));
  ins(4, opcode, xmm(i.reg), src, k.imm, prefix);
  if (k.imm) byte(unsigned(i.imm));
  if (k.kind == kCompare) killed();
  else xmm_changed(i.reg);
  return true;
}

}  // namespace nyx::soft
