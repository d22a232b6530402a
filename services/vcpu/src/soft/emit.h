// Writes x86-64 instructions. Code is written through one mapping and runs in another, `delta` bytes away.
#pragma once
#include <cstdint>
#include <cstring>

namespace nyx::soft {

// Registers of the host.
enum HostReg : int { hAX, hCX, hDX, hBX, hSP, hBP, hSI, hDI, h8, h9, h10, h11, h12, h13, h14, h15 };

// The r/m operand: a register, [base + (index << shift) + disp], or a place within 2 GiB of the code.
struct Rm {
  enum Kind : uint8_t { kReg, kMem, kNear } kind;
  int8_t base = 0, index = -1;
  uint8_t shift = 0;
  int32_t disp = 0;
  const void* near = nullptr;
};
inline Rm reg(int r) { return {Rm::kReg, int8_t(r)}; }
inline Rm mem(int base, int64_t disp = 0) { return {Rm::kMem, int8_t(base), -1, 0, int32_t(disp)}; }
inline Rm mem(int base, int index, int shift, int64_t disp) { return {Rm::kMem, int8_t(base), int8_t(index), uint8_t(shift), int32_t(disp)}; }
inline Rm near(const void* p) { return {Rm::kNear, 0, -1, 0, 0, p}; }

// Condition codes.
enum Cc : int { ccO, ccNO, ccB, ccAE, ccE, ccNE, ccBE, ccA, ccS, ccNS, ccP, ccNP, ccL, ccGE, ccLE, ccG };

// Opcodes: 0x00..0xff, 0x0f00 | byte, 0x0f3800 | byte, 0x0f3a00 | byte.
class Emit {
 public:
  uint8_t* at = nullptr;   // next byte, in the writable mapping
  intptr_t delta = 0;      // executable address = writable address + delta

  const uint8_t* here() const { return at + delta; }

  void byte(unsigned v) { *at++ = uint8_t(v); }
  void word(unsigned v) { raw(&v, 2); }
  void dword(uint32_t v) { raw(&v, 4); }
  void qword(uint64_t v) { raw(&v, 8); }

  // size 1, 2, 4, 8. `prefix`: mandatory 66, F2 or F3. `tail`: bytes of immediate that the caller writes next.
  void ins(unsigned size, uint32_t opcode, int r, const Rm& m, unsigned tail = 0, unsigned prefix = 0, bool byte_rm = false) {
    if (size == 2) byte(0x66);
    if (prefix) byte(prefix);
    unsigned rex = size == 8 ? 8 : 0;
    if (r & 8) rex |= 4;
    if (m.kind != Rm::kNear && (m.base & 8)) rex |= 1;
    if (m.kind == Rm::kMem && m.index >= 8) rex |= 2;
    // SPL .. DIL instead of AH .. BH.
    const bool low = (size == 1 && r >= 4) || ((size == 1 || byte_rm) && m.kind == Rm::kReg && m.base >= 4);
    if (rex || low) byte(0x40 | rex);
    if (opcode > 0xffff) byte(opcode >> 16);
    if (opcode > 0xff) byte(opcode >> 8);
    byte(opcode);
    modrm(r & 7, m, tail);
  }
  void rr(unsigned size, uint32_t opcode, int r, int m) { ins(size, opcode, r, reg(m)); }

  // MOV between registers: 32 bits clear the upper half.
  void mov(int to, int from, unsigned size = 8) {
    if (to != from || size == 4) rr(size, 0x8b, to, from);
  }
  void load(int to, const Rm& m, unsigned size = 8) { ins(size, size == 1 ? 0x8a : 0x8b, to, m); }
  void store(const Rm& m, int from, unsigned size = 8) { ins(size, size == 1 ? 0x88 : 0x89, from, m); }
  void lea(int to, const Rm& m, unsigned size = 8) { ins(size, 0x8d, to, m); }
  // The shortest MOV; flags stay.
  void imm(int to, uint64_t v) {
    if (v <= 0xffffffff) {
      if (to & 8) byte(0x41);
      byte(0xb8 | (to & 7));
      dword(uint32_t(v));
    } else if (int64_t(v) == int32_t(v)) {
      ins(8, 0xc7, 0, reg(to), 4);
      dword(uint32_t(v));
    } else {
      byte(0x48 | (to >> 3 & 1));
      byte(0xb8 | (to & 7));
      qword(v);
    }
  }
  // Operation n of group 1 (ADD OR ADC SBB AND SUB XOR CMP) with an immediate.
  void alu_imm(unsigned size, int n, const Rm& m, int32_t v) {
    if (size == 1) {
      ins(1, 0x80, n, m, 1);
      byte(unsigned(v));
    } else if (v == int8_t(v)) {
      ins(size, 0x83, n, m, 1);
      byte(unsigned(v));
    } else {
      ins(size, 0x81, n, m, size == 2 ? 2 : 4);
      if (size == 2) word(unsigned(v));
      else dword(uint32_t(v));
    }
  }

  // Jumps. The 32-bit displacement of a forward jump is set by here(place).
  uint8_t* jcc(int cc) {
    byte(0x0f);
    byte(0x80 | cc);
    dword(0);
    return at;
  }
  uint8_t* jmp() {
    byte(0xe9);
    dword(0);
    return at;
  }
  uint8_t* jmp8(unsigned opcode) {
    byte(opcode);
    byte(0);
    return at;
  }
  void bind(uint8_t* jump) {
    const int32_t d = int32_t(at - jump);
    std::memcpy(jump - 4, &d, 4);
  }
  void bind8(uint8_t* jump) { jump[-1] = uint8_t(at - jump); }
  void jmp_to(const uint8_t* target) { patch(jmp(), target); }
  void jcc_to(int cc, const uint8_t* target) { patch(jcc(cc), target); }
  void call_to(const uint8_t* target) {
    byte(0xe8);
    dword(0);
    patch(at, target);
  }

 private:
  void raw(const void* p, unsigned n) {
    std::memcpy(at, p, n);
    at += n;
  }
  void patch(uint8_t* jump, const uint8_t* target) {
    const int32_t d = int32_t(target - (jump + delta));
    std::memcpy(jump - 4, &d, 4);
  }
  void modrm(unsigned r, const Rm& m, unsigned tail) {
    if (m.kind == Rm::kReg) return byte(0xc0 | r << 3 | (m.base & 7));
    if (m.kind == Rm::kNear) {
      byte(r << 3 | 5);
      return dword(uint32_t(static_cast<const uint8_t*>(m.near) - (here() + 4 + tail)));
    }
    const unsigned base = m.base & 7;
    const bool sib = m.index >= 0 || base == 4;
    const unsigned mod = m.disp == 0 && base != 5 ? 0 : m.disp == int8_t(m.disp) ? 1 : 2;
    byte(mod << 6 | r << 3 | (sib ? 4 : base));
    if (sib) byte(unsigned(m.shift) << 6 | (m.index >= 0 ? m.index & 7 : 4) << 3 | base);
    if (mod == 1) byte(unsigned(m.disp));
    if (mod == 2) dword(uint32_t(m.disp));
  }
};

}  // namespace nyx::soft
