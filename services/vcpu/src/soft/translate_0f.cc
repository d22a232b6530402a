// Exchanges, and the integer instructions of the two-byte map, translated: CMOVcc, SETcc, MOVZX, BT, BSF and others.
#include "soft/translation.h"

namespace nyx::soft {

// XCHG, XADD and CMPXCHG.
bool Translation::exchange(const OpName& n) {
  const Insn& i = *i_;
  const unsigned size = i.opsize, wide = size == 1 ? 0 : 1;
  if (n.map == 0 && n.opcode >= 0x90 && n.opcode < 0x98) {  // with the accumulator
    if (i.rm == RAX) return true;
    if (size < 4) return false;
    mov(hCX, kHost[RAX], size);
    load(kHost[RAX], guest(i.rm, size), size);
    set(i.rm, hCX, size);
    return true;
  }
  if (!bytes_ok(true, !n.memory)) return false;
  if (n.map == 0) {
    if (!n.memory) {
      if (size < 4) return false;
      load(hCX, guest(i.rm, size), size);
      load(h10, guest(i.reg, size), size);
      set(i.rm, h10, size);
      set(i.reg, hCX, size);
      return true;
    }
    memory_operand(size, true);
    const int from = value(i.reg, size, hCX);
    ins(size, 0x86 | wide, from, mem(hAX));
    if (from == hCX) set(i.reg, hCX, size);
    return true;
  }
  if (!n.memory) return false;
  memory_operand(size, true);
  if (n.opcode < 0xc0) {
    mov(h10, hAX);
    mov(hAX, kHost[RAX]);
    const int from = value(i.reg, size, hCX);
    if (i.bits & kLock) byte(0xf0);
    ins(size, 0x0fb0 | wide, from, mem(h10));
    // When it failed the accumulator is what was there; a 32-bit one that succeeded keeps its upper half.
    if (size == 8 || size < 4) {
      size == 8 ? mov(kHost[RAX], hAX) : set(RAX * (size == 1 ? 8 : 1), hAX, size);
    } else {
      uint8_t* const same = jmp8(0x74);
      mov(kHost[RAX], hAX, 4);
      bind8(same);
    }
    killed();
    return true;
  }
  const int from = value(i.reg, size, hCX);
  if (i.bits & kLock) byte(0xf0);
  ins(size, 0x0fc0 | wide, from, mem(hAX));
  if (from == hCX) set(i.reg, hCX, size);
  killed();
  return true;
}

bool Translation::two_byte(const OpName& n) {
  const Insn& i = *i_;
  const unsigned size = i.opsize;
  if (n.opcode == 0x0d || (n.opcode >= 0x18 && n.opcode <= 0x1f)) return true;  // NOPs
  if ((n.opcode & 0xf0) == 0x40) {  // CMOVcc
    Rm src = mem(hAX);
    if (n.memory) {
      memory_operand(size, false);
      // Conditions of flags in memory may need RAX.
      mov(h10, hAX);
      src = mem(h10);
    } else {
      src = guest(i.rm, size);
    }
    const int cc = condition(n.opcode & 15);
    const int h = kHost[i.reg], to = h >= 0 ? h : int(hCX);
    if (h < 0) load(hCX, gpr_field(i.reg));
    ins(size, 0x0f40u | unsigned(cc), to, src);
    if (h < 0) store(gpr_field(i.reg), hCX);
    return true;
  }
  if ((n.opcode & 0xf0) == 0x90) {  // SETcc
    if (n.memory) {
      memory_operand(1, true);
      mov(h10, hAX);
      ins(1, 0x0f90u | unsigned(condition(n.opcode & 15)), 0, mem(h10));
      return true;
    }
    if (high_byte(i.rm)) return false;
    ins(1, 0x0f90u | unsigned(condition(n.opcode & 15)), 0, guest(i.rm, 1));
    return true;
  }
  switch (n.opcode) {
    case 0x01:
      if (uint8_t(n.n) == 0xf8) return swapgs();
      return (uint8_t(n.n) == 0xca || uint8_t(n.n) == 0xcb) && eflag(kAC, n.n & 1);  // CLAC, STAC
    case 0xa4: case 0xa5: case 0xac: case 0xad: {  // SHLD, SHRD
      if (n.memory || size < 4 || kHost[i.rm] < 0) return false;
      keep_flags();
      const bool by_imm = !(n.opcode & 1);
      if (!by_imm) mov(hCX, kHost[RCX], 4);
      ins(size, 0x0f00u | n.opcode, value(i.reg, size, by_imm ? hCX : h10), guest(i.rm, size), by_imm);
      if (by_imm) byte(unsigned(i.imm));
      killed();
      return true;
    }
    case 0xb6: return widen(1, false, n.memory);
    case 0xb7: return widen(2, false, n.memory);
    case 0xbe: return widen(1, true, n.memory);
    case 0xbf: return widen(2, true, n.memory);
    case 0xaf: return multiply(n);
    case 0xb0: case 0xb1: case 0xc0: case 0xc1: return exchange(n);
    case 0xba: case 0xa3: case 0xab: case 0xb3: case 0xbb: {  // BT and its like on registers; BT of memory by an immediate
      const bool by_imm = n.opcode == 0xba;
      const int op = by_imm ? n.n : n.opcode >> 3 & 7;
      if (n.memory && !by_imm) return false;
      if (size < 4 || (!n.memory && kHost[i.rm] < 0)) return false;
      Rm m = mem(h10);
      if (n.memory) {
        memory_operand(size, op != 4);
        mov(h10, hAX);
      } else {
        m = guest(i.rm, size);
      }
      keep_flags();
      if (by_imm) {
        if (i.bits & kLock) byte(0xf0);
        ins(size, 0x0fba, op, m, 1);
        byte(unsigned(i.imm));
      } else {
        ins(size, 0x0f83u | unsigned(op) << 3, value(i.reg, size, hCX), m);
      }
      killed();
      return true;
    }
    case 0xbc: case 0xbd: case 0xb8: {  // BSF BSR POPCNT
      if (size < 4) return false;
      Rm src = mem(h10);
      if (n.memory) {
        memory_operand(size, false);
        mov(h10, hAX);
      } else {
        src = guest(i.rm, size);
      }
      keep_flags();
      const int h = kHost[i.reg], to = h >= 0 ? h : int(hCX);
      if (h < 0) load(hCX, gpr_field(i.reg));
      ins(size, 0x0f00u | n.opcode, to, src, 0, n.opcode == 0xb8 ? 0xf3 : 0);
      if (h < 0) store(gpr_field(i.reg), hCX);
      killed();
      return true;
    }
    default: break;
  }
  if (n.opcode >= 0xc8 && n.opcode <= 0xcf) {  // BSWAP
    if (size < 4) return false;
    const int h = kHost[i.rm] >= 0 ? kHost[i.rm] : int(hCX);
    if (kHost[i.rm] < 0) load(hCX, gpr_field(i.rm), size);
    byte(0x40 | (size == 8 ? 8 : 0) | (h >> 3 & 1));
    byte(0x0f);
    byte(0xc8 | (h & 7));
    if (kHost[i.rm] < 0) store(gpr_field(i.rm), hCX);
    return true;
  }
  return false;
}

}  // namespace nyx::soft
