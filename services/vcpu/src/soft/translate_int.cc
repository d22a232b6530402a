// Integer instructions, translated: ADD .. CMP, TEST, INC, NEG, moves, shifts, multiplication, conditional moves.
#include <cstddef>

#include "soft/translation.h"

namespace nyx::soft {
namespace {

enum : int { kAdd, kOr, kAdc, kSbb, kAnd, kSub, kXor, kCmp };

bool reads_carry(int n) { return n == kAdc || n == kSbb; }

}  // namespace

// Operation n with a guest register on the left. `src` null: the immediate.
void Translation::alu(int n, unsigned size, uint8_t dst, const Rm* src, int32_t v) {
  const unsigned wide = size == 1 ? 0 : 1;
  const Rm d = guest(dst, size);
  if (d.kind == Rm::kReg) {
    if (src) ins(size, unsigned(n) << 3 | 2 | wide, d.base, *src);
    else alu_imm(size, n, d, v);
  } else if (size == 4 && n != kCmp) {
    load(h10, d, 4);
    if (src) ins(4, unsigned(n) << 3 | 3, h10, *src);
    else alu_imm(4, n, reg(h10), v);
    store(d, h10, 8);
  } else if (src) {
    int from = src->base;
    if (src->kind != Rm::kReg) load(from = hCX, *src, size);
    ins(size, unsigned(n) << 3 | wide, from, d);
  } else {
    alu_imm(size, n, d, v);
  }
  killed();
}

bool Translation::alu_form(const OpName& n) {
  const Insn& i = *i_;
  const unsigned size = i.opsize, wide = size == 1 ? 0 : 1;
  const bool test = n.opcode >= 0x84 && n.opcode != 0xa8 && n.opcode != 0xa9 ? n.opcode <= 0x85 || n.opcode >= 0xf6 : n.opcode >= 0xa8;
  const int op = test ? kAnd : n.opcode < 0x40 ? n.opcode >> 3 : n.n;
  const bool has_imm = n.opcode >= 0x40 ? n.opcode != 0x84 && n.opcode != 0x85 : (n.opcode & 7) >= 4;
  const bool to_reg = n.opcode < 0x40 && (n.opcode & 6) == 2;
  const int32_t v = int32_t(i.imm);
  if (size == 1 && !n.memory && has_imm && high_byte(i.rm)) {
    // AH .. BH: CH of the host's RCX stands in, which a MOV brings and takes away without touching flags.
    if (reads_carry(op) && !test) need_host_flags();
    const int h = kHost[i.rm >> 3];
    mov(hCX, h);
    byte(test ? 0xf6 : 0x80), byte(0xc5 | (test ? 0 : op) << 3), byte(unsigned(v));
    if (!test && op != kCmp) mov(h, hCX);
    killed();
    return true;
  }
  if (!bytes_ok(!has_imm, !n.memory)) return false;
  if (!n.memory) {
    if (reads_carry(op)) need_host_flags();
    if (test) {
      if (has_imm) {
        ins(size, 0xf6 | wide, 0, guest(i.rm, size), size == 1 ? 1 : size == 2 ? 2 : 4);
        size == 1 ? byte(unsigned(v)) : size == 2 ? word(unsigned(v)) : dword(uint32_t(v));
      } else {
        ins(size, 0x84 | wide, value(i.reg, size, hCX), guest(i.rm, size));
      }
      killed();
      return true;
    }
    const uint8_t dst = to_reg ? i.reg : i.rm;
    if (has_imm) {
      alu(op, size, dst, nullptr, v);
    } else {
      const Rm src = guest(to_reg ? i.rm : i.reg, size);
      alu(op, size, dst, &src, 0);
    }
    return true;
  }
  const bool writes = !test && op != kCmp && !to_reg;
  memory_operand(size, writes);
  if (reads_carry(op)) need_host_carry();
  const Rm m = mem(hAX);
  if (to_reg) {
    alu(op, size, i.reg, &m, 0);
    return true;
  }
  if (i.bits & kLock) {
    if (!has_imm) {
      const int from = value(i.reg, size, hCX);
      byte(0xf0);
      ins(size, unsigned(op) << 3 | wide, from, m);
    } else {
      byte(0xf0);
      alu_imm(size, op, m, v);
    }
  } else if (test && has_imm) {
    ins(size, 0xf6 | wide, 0, m, size == 1 ? 1 : size == 2 ? 2 : 4);
    size == 1 ? byte(unsigned(v)) : size == 2 ? word(unsigned(v)) : dword(uint32_t(v));
  } else if (test) {
    ins(size, 0x84 | wide, value(i.reg, size, hCX), m);
  } else if (has_imm) {
    alu_imm(size, op, m, v);
  } else {
    ins(size, unsigned(op) << 3 | wide, value(i.reg, size, hCX), m);
  }
  killed();
  return true;
}

// NOT NEG INC DEC. On registers `n` may be that of opcodes 40 .. 4F, which is how they are first met.
bool Translation::unary(const OpName& name) {
  const Insn& i = *i_;
  const unsigned size = i.opsize, wide = size == 1 ? 0 : 1;
  const bool step = name.opcode < 0x50 || name.opcode >= 0xfe;
  const int n = name.opcode < 0x48 ? 0 : name.opcode < 0x50 ? 1 : name.n;
  const unsigned opcode = (step ? 0xfe : 0xf6) | wide;
  const bool flags = step || n == 3;
  if (!bytes_ok(false, !name.memory)) return false;
  if (name.memory) {
    memory_operand(size, true);
    if (step) need_host_carry();
    if (i.bits & kLock) byte(0xf0);
    ins(size, opcode, n, mem(hAX));
    if (flags) killed();
    return true;
  }
  if (step && !in_host_) need_host_carry();
  const Rm d = guest(i.rm, size);
  if (d.kind == Rm::kMem && size == 4) {
    load(hCX, d, 4);
    rr(4, opcode, n, hCX);
    store(d, hCX, 8);
  } else {
    ins(size, opcode, n, d);
  }
  if (flags) killed();
  return true;
}

// MOVZX, MOVSX, MOVSXD from `from` bytes.
bool Translation::widen(unsigned from, bool sign, bool memory) {
  const Insn& i = *i_;
  const unsigned size = i.opsize;
  if (!memory && from == 1 && high_byte(i.rm)) return false;
  Rm src = mem(hAX);
  if (memory) memory_operand(from, false);
  else src = guest(i.rm, from);
  const unsigned opcode = from == 4 ? 0x63 : (sign ? 0x0fbe : 0x0fb6) | (from == 2);
  const int h = kHost[i.reg];
  const int to = h >= 0 ? h : int(hCX);
  ins(size, opcode, to, src, 0, 0, from == 1);
  if (h < 0) store(gpr_field(i.reg), to, size == 4 ? 8 : size);
  return true;
}

bool Translation::move(const OpName& n) {
  const Insn& i = *i_;
  const unsigned size = i.opsize;
  switch (n.opcode) {
    case 0x63:
      if (size == 8) return widen(4, true, n.memory);
      [[fallthrough]];  // a MOV, and the first opcode in the tables of its handlers
    case 0x88: case 0x89: case 0x8a: case 0x8b: {
      if (!bytes_ok(true, !n.memory)) return false;
      const bool to_reg = n.opcode >= 0x8a || n.opcode == 0x63;
      if (!n.memory) {
        const uint8_t to = to_reg ? i.reg : i.rm, from = to_reg ? i.rm : i.reg;
        const Rm d = guest(to, size);
        if (d.kind == Rm::kReg) load(d.base, guest(from, size), size);
        else set(to, value(from, size, hCX), size);
        return true;
      }
      memory_operand(size, !to_reg);
      if (!to_reg) {
        store(mem(hAX), value(i.reg, size, hCX), size);
      } else if (const Rm d = guest(i.reg, size); d.kind == Rm::kReg) {
        load(d.base, mem(hAX), size);
      } else {
        load(hCX, mem(hAX), size);
        store(d, hCX, size == 4 ? 8 : size);
      }
      return true;
    }
    case 0x8d: {
      const int h = kHost[i.reg];
      if (!(i.ea & kEa32) && size == 8 && h >= 0 && i.base < 16 && kHost[i.base] >= 0 && (i.index == kRegZero || kHost[i.index] >= 0)) {
        lea(h, i.index == kRegZero ? mem(kHost[i.base], i.disp) : mem(kHost[i.base], kHost[i.index], i.shift, i.disp));
        return true;
      }
      Insn plain = i;  // the offset alone
      plain.ea &= kEa32;
      i_ = &plain;
      address();
      i_ = &i;
      set(i.reg, hAX, size);
      return true;
    }
    case 0xb0: case 0xb8: case 0xc6: case 0xc7: {
      if (!n.memory) {
        if (size == 1 && high_byte(i.rm)) return false;
        const Rm d = guest(i.rm, size);
        if (size == 8 || size == 4) {
          const uint64_t v = size == 4 ? uint32_t(i.imm) : i.imm;
          if (d.kind == Rm::kReg) {
            imm(d.base, v);
          } else {
            imm(hCX, v);
            store(d, hCX);
          }
          return true;
        }
        ins(size, size == 1 ? 0xc6 : 0xc7, 0, d, size);
        size == 1 ? byte(unsigned(i.imm)) : word(unsigned(i.imm));
        return true;
      }
      memory_operand(size, true);
      ins(size, size == 1 ? 0xc6 : 0xc7, 0, mem(hAX), size == 8 ? 4 : size);
      size == 1 ? byte(unsigned(i.imm)) : size == 2 ? word(unsigned(i.imm)) : dword(uint32_t(i.imm));
      return true;
    }
    default: break;
  }
  return false;
}

// Shifts and rotates of a register, or of memory by an immediate.
bool Translation::shift(const OpName& name) {
  const Insn& i = *i_;
  const unsigned size = i.opsize, wide = size == 1 ? 0 : 1;
  if (!bytes_ok(false, !name.memory)) return false;
  const bool by_imm = (name.opcode & 0xfe) == 0xc0, by_cl = (name.opcode & 0xfe) == 0xd2;
  const unsigned count = by_imm ? unsigned(i.imm) & (size == 8 ? 63 : 31) : 1;
  if (name.memory && by_cl) return false;
  const int n = name.n == 6 ? 4 : name.n;
  Rm m = mem(h10);
  if (name.memory) {
    memory_operand(size, true);
    mov(h10, hAX);
  }
  // By a count that is not 0 the plain shifts set all flags.
  if (n == 2 || n == 3) need_host_flags();  // through CF
  else if (by_cl || n < 4 || count == 0) keep_flags();
  if (by_cl) mov(hCX, kHost[RCX], 4);
  if (!name.memory) {
    m = guest(i.rm, size);
    if (m.kind == Rm::kMem && size == 4) {
      load(h10, m, 4);
      m = reg(h10);
    }
  }
  if (by_imm) {
    ins(size, 0xc0 | wide, n, m, 1);
    byte(unsigned(i.imm));
  } else {
    ins(size, (by_cl ? 0xd2 : 0xd0) | wide, n, m);
  }
  if (!name.memory && guest(i.rm, size).kind == Rm::kMem && size == 4) store(gpr_field(i.rm), h10);
  killed();
  return true;
}

// IMUL with two or three operands; MUL and IMUL of the accumulator for 32 and 64 bits.
bool Translation::multiply(const OpName& name) {
  const Insn& i = *i_;
  const unsigned size = i.opsize;
  if (size < 4) return false;
  Rm src = mem(h10);
  if (name.memory) {
    memory_operand(size, false);
    mov(h10, hAX);
  } else {
    src = guest(i.rm, size);
  }
  keep_flags();  // those that are undefined after it stay
  if (name.opcode == 0xf6 || name.opcode == 0xf7) {
    mov(hAX, kHost[RAX]);
    ins(size, 0xf7, name.n, src);
    mov(kHost[RAX], hAX);
    killed();
    return true;
  }
  const bool three = name.map == 0;
  const int h = kHost[i.reg], to = h >= 0 ? h : int(hCX);
  if (three) {
    ins(size, 0x69, to, src, 4);
    dword(uint32_t(i.imm));
  } else {
    if (h < 0) load(hCX, gpr_field(i.reg));
    ins(size, 0x0faf, to, src);
  }
  if (h < 0) store(gpr_field(i.reg), hCX);
  killed();
  return true;
}

// DIV and IDIV of 32 and 64 bits where the quotient fits for certain.
bool Translation::divide(const OpName& name) {
  const Insn& i = *i_;
  const unsigned size = i.opsize;
  if (size < 4) return false;
  if (name.memory) memory_operand(size, false), load(h10, mem(hAX), size);
  else before_access(), load(h10, guest(i.rm, size), size);
  mov(hAX, kHost[RAX], size);
  if (name.n == 6) {
    rr(size, 0x3b, hDX, h10);
    bail(jcc(ccAE));
  } else {
    // RDX only extends the sign of RAX, and the divisor is neither 0 nor -1.
    ins(size, 0xc1, 7, reg(hAX), 1), byte(size * 8 - 1);
    rr(size, 0x3b, hAX, hDX);
    bail(jcc(ccNE));
    lea(hCX, mem(h10, 1), size);
    alu_imm(size, 7, reg(hCX), 1);
    bail(jcc(ccBE));
  }
  in_host_ = false;
  need_host_flags();  // those that are undefined after it stay
  mov(hAX, kHost[RAX], size);
  ins(size, 0xf7, name.n, reg(h10));
  mov(kHost[RAX], hAX);
  killed();
  return true;
}

// Changes a bit of Cpu::eflags that only CPL 0 may change without another look.
bool Translation::eflag(uint32_t bit, bool set) {
  if (b_->mode & kModeUser) return false;
  need_cpl0();
  alu_imm(4, set ? 1 : 4, cpu_field(offsetof(Cpu, eflags)), int32_t(set ? bit : ~bit));
  return true;
}

bool Translation::integer(const OpName& n) {
  if (n.map == 1) return two_byte(n);
  if (n.map != 0) return false;
  const unsigned o = n.opcode;
  if (o < 0x40 && (o & 7) < 6) return alu_form(n);
  if (o >= 0x40 && o < 0x50) return unary(n);
  switch (o) {
    case 0x80: case 0x81: case 0x83: case 0x84: case 0x85: case 0xa8: case 0xa9: return alu_form(n);
    case 0xf6: case 0xf7:
      if (n.n < 2) return alu_form(n);
      if (n.n < 4) return unary(n);
      return n.n < 6 ? multiply(n) : divide(n);
    case 0x9e: {  // SAHF
      before_access();
      mov(hAX, kHost[RAX], 4);
      ins(4, 0xc1, 5, reg(hAX), 1), byte(8);
      alu_imm(4, 4, reg(hAX), 0xd5);
      alu_imm(4, 1, reg(hAX), 2);
      store(cpu_field(offsetof(Cpu, flags) + 1), hAX, 1);
      in_host_ = false;
      return true;
    }
    case 0x9f: {  // LAHF
      before_access();
      mov(hCX, kHost[RAX]);
      byte(0x8a), byte(0xad), dword(offsetof(Cpu, flags) + 1);  // mov ch, [rbp + flags + 1]
      mov(kHost[RAX], hCX);
      return true;
    }
    case 0xf5: case 0xf8: case 0xf9:  // CMC, CLC, STC
      need_host_flags();
      byte(o);
      killed();
      return true;
    case 0xfc: case 0xfd:  // CLD, STD
      ins(1, 0xc6, 0, cpu_field(offsetof(Cpu, df)), 1), byte(o & 1);
      return true;
    case 0xfa: return eflag(kIF, false);
    case 0xfb: return sti();
    case 0xfe: case 0xff: return n.n < 2 && unary(n);
    case 0x69: case 0x6b: return multiply(n);
    case 0x86: case 0x87: return exchange(n);
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3: return shift(n);
    case 0x98:
      if (i_->opsize == 8) rr(8, 0x63, kHost[RAX], kHost[RAX]);
      else if (i_->opsize == 4) rr(4, 0x0fbf, kHost[RAX], kHost[RAX]);
      else return false;
      return true;
    case 0x99: {
      const unsigned size = i_->opsize;
      if (size < 4) return false;
      mov(hAX, kHost[RAX]);
      if (size == 8) byte(0x48);
      byte(0x99);  // to RDX, which is the guest's
      return true;
    }
    default: break;
  }
  if (o >= 0x90 && o < 0x98) return exchange(n);
  return move(n);
}

}  // namespace nyx::soft
