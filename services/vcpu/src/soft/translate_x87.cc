// x87 and MMX, translated: the same instructions, on the host's x87 registers, which hold the guest's while Cpu::x87_live.
//
// A block's first such instruction looks whether they do and whether the guest masks all exceptions, as the host does. What
// brings the registers here is called from translated code; a guest that unmasks something is the interpreter's.
// Where the last instruction was (FIP, FOP) is stored late: before the block is left.
#include <cstddef>

#include "soft/translation.h"
#include "soft/x87.h"

namespace nyx::soft {

// Jumps (the result) when an x87 instruction cannot be executed as it is. Clobbers RAX and the host's flags.
uint8_t* Translation::x87_check() {
  static_assert(offsetof(Cpu, x87_live) == offsetof(Cpu, x87_cw) + 2);
  load(hAX, cpu_field(offsetof(Cpu, x87_cw)), 4);
  ins(4, 0xf7, 2, reg(hAX));              // not eax
  byte(0xa9), dword(1u << 16 | 0x3f);     // test eax, live and all masks
  return jcc(ccNE);
}

void Translation::need_x87() {
  if (x87_checked_) return;
  if (!in_mem_) save_flags();
  ins(1, 0xf6, 0, cpu_field(offsetof(Cpu, cr0)), 1);
  byte(kCr0EM | kCr0TS);
  bail(jcc(ccNE));
  const uint8_t* const again = here();
  uint8_t* const jump = x87_check();
  x87_loads_[x87_load_count_++] = {jump, again, uint8_t(k_), noted_, xmm_cached_};
  in_host_ = false;
  x87_checked_ = true;
}

// Where x87_check jumps to: makes the state live and goes back to `again`. The result: a jump for when it is already.
uint8_t* Translation::x87_bring(const uint8_t* again, unsigned xmms) {
  ins(1, 0xf6, 0, cpu_field(offsetof(Cpu, x87_live)), 1);
  byte(1);
  uint8_t* const unmasked = jcc(ccNE);
  call_to(t_.x87_load_);
  for (unsigned r = 0; r < 16; r++)
    if (xmms >> r & 1) load_xmm(r);
  jmp_to(again);
  return unmasked;
}

// FIP and FOP as instruction k leaves them. Clobbers nothing.
void Translation::put_note(int k) {
  if (k < 0) return;
  const Insn& i = b_->insns[k];
  const uint64_t rip = b_->rip + i.off;
  const auto put = [&](size_t at, unsigned size, uint32_t v) {
    ins(size, 0xc7, 0, cpu_field(at), size == 2 ? 2 : 4);
    size == 2 ? word(v) : dword(v);
  };
  if (int64_t(rip) == int32_t(rip)) {
    put(offsetof(Cpu, x87_ip), 8, uint32_t(rip));
  } else {
    put(offsetof(Cpu, x87_ip), 4, uint32_t(rip));
    put(offsetof(Cpu, x87_ip) + 4, 4, uint32_t(rip >> 32));
  }
  put(offsetof(Cpu, x87_op), 2, x87_opcode(i));
}

bool Translation::x87(const OpName& n) {
  if (n.map != 0 || (n.opcode != 0x9b && (n.opcode < 0xd8 || n.opcode > 0xdf))) return false;
  if (n.opcode == 0x9b) {  // FWAIT
    need_x87();
    return true;
  }
  const Insn& i = *i_;
  const int op = n.opcode & 7;
  if (!n.memory) {
    const int rm = int(i.imm & 0x3f);
    const X87Form form = x87_form(op, rm);
    if (form == kX87Bad || (op == 3 && rm >> 3 == 4)) return false;  // FNCLEX, FNINIT
    need_x87();
    if (op == 7 && rm == 0x20) {  // FNSTSW AX
      byte(0xdf), byte(0xe0);
      set(RAX, hAX, 2);
      return true;
    }
    if (form == kX87Cmov) need_host_flags();
    byte(n.opcode), byte(0xc0u | unsigned(rm));
    if (form == kX87Compare) killed();
    noted_ = int8_t(k_);
    return true;
  }
  const int n_reg = int(i.imm >> 3 & 7);
  const X87Memory m = kX87Memory[op][n_reg];
  if (m.bytes) {
    need_x87();
    before_access();
    address();
    translate_address(m.bytes, m.store, true);
    ins(4, n.opcode, n_reg, mem(hAX));
    noted_ = int8_t(k_);
    return true;
  }
  const Rm control = cpu_field(offsetof(Cpu, x87_cw));
  if (op == 1 && n_reg == 5) {  // FLDCW
    need_x87();
    memory_operand(2, false);
    ins(4, 0x0fb7, hCX, mem(hAX));
    alu_imm(4, 4, reg(hCX), 0x1f3f);
    alu_imm(4, 1, reg(hCX), 0x40);
    mov(hAX, hCX, 4);
    ins(4, 0xf7, 2, reg(hAX));
    byte(0xa8), byte(0x3f);  // test al, 3f
    bail(jcc(ccNE));
    store(control, hCX, 2);
    ins(4, 0xd9, 5, control);
    return true;
  }
  if (op == 1 && n_reg == 7) {  // FNSTCW
    need_x87();
    memory_operand(2, true);
    ins(4, 0x0fb7, hCX, control);
    store(mem(hAX), hCX, 2);
    return true;
  }
  if (op == 5 && n_reg == 7) {  // FNSTSW
    need_x87();
    memory_operand(2, true);
    ins(4, 0xdd, 7, mem(hAX));
    return true;
  }
  return false;
}

// Rows of map 1: 0 plain MMX; 2 and 3 MOVQ2DQ and MOVDQ2Q. Handlers are known by the first of their opcodes.
bool Translation::mmx(const OpName& n) {
  const Insn& i = *i_;
  const unsigned o = n.opcode;
  const auto memory = [&](unsigned bytes, bool write) {
    memory_operand(bytes, write);
    return mem(hAX);
  };
  if (n.map == 1 && n.row >= 2 && o == 0xd6) {
    need_sse();
    need_x87();
    const bool to_xmm = n.row == 2;
    ins(4, 0x0fd6, to_xmm ? i.reg : i.reg & 7, reg(to_xmm ? i.rm & 7 : xmm(i.rm)), 0, to_xmm ? 0xf3 : 0xf2);
    if (to_xmm) xmm_changed(i.reg);
    return true;
  }
  if (n.row != 0 || n.map == 0) return false;
  const int r = i.reg & 7;
  const Rm rm = reg(i.rm & 7);
  if (n.map == 1) {
    const bool packed = (o >= 0x60 && o <= 0x6b) || (o >= 0x74 && o <= 0x76) || (o >= 0xd1 && o <= 0xd5) || (o >= 0xd8 && o <= 0xe5) ||
                        (o >= 0xe8 && o <= 0xef) || (o >= 0xf1 && o <= 0xf6) || (o >= 0xf8 && o <= 0xfe);
    if (packed) {
      need_x87();
      if (n.memory && o <= 0x62) {  // unpacks 32 bits, and no more are to be read
        load(hCX, memory(4, false), 4);
        store(cpu_field(offsetof(Cpu, scratch)), hCX);
        ins(4, 0x0f00 | o, r, cpu_field(offsetof(Cpu, scratch)));
      } else {
        ins(4, 0x0f00 | o, r, n.memory ? memory(8, false) : rm);
      }
      return true;
    }
    switch (o) {
      case 0x6e: case 0x7e: {  // in memory these stand for MOVQ, too
        const unsigned bytes = (n.memory ? n.size == 3 : i.opsize == 8) ? 8 : 4;
        need_x87();
        if (n.memory) {
          ins(4, bytes == 4 ? 0x0f00 | o : o == 0x6e ? 0x0f6f : 0x0f7f, r, memory(bytes, o == 0x7e));
        } else if (o == 0x6e) {
          ins(bytes, 0x0f6e, r, guest(i.rm, bytes));
        } else {
          const int h = kHost[i.rm], to = h >= 0 ? h : int(hCX);
          ins(bytes, 0x0f7e, r, reg(to));
          if (h < 0) store(gpr_field(i.rm), to);
        }
        return true;
      }
      case 0x6f: case 0x7f:
        if (n.memory) return false;
        need_x87();
        ins(4, 0x0f00 | o, r, rm);
        return true;
      case 0x70:  // PSHUFW
        need_x87();
        ins(4, 0x0f70, r, n.memory ? memory(8, false) : rm, 1);
        byte(unsigned(i.imm));
        return true;
      case 0xc4:  // PINSRW
        need_x87();
        ins(4, 0x0fc4, r, n.memory ? memory(2, false) : reg(value(i.rm, 4, hCX)), 1);
        byte(unsigned(i.imm));
        return true;
      case 0xc5: case 0xd7: {  // PEXTRW, PMOVMSKB
        if (n.memory) return false;
        need_x87();
        const int h = kHost[i.reg], to = h >= 0 ? h : int(hCX);
        ins(4, 0x0f00 | o, to, rm, o == 0xc5);
        if (o == 0xc5) byte(unsigned(i.imm));
        if (h < 0) store(gpr_field(i.reg), to);
        return true;
      }
      case 0x71: case 0x72: case 0x73:  // shifts by an immediate
        if (n.memory || (n.n != 2 && n.n != 6 && (n.n != 4 || o == 0x73))) return false;
        need_x87();
        ins(4, 0x0f00 | o, n.n, rm, 1);
        byte(unsigned(i.imm));
        return true;
      case 0x77:  // EMMS
        need_x87();
        byte(0x0f), byte(0x77);
        return true;
      default: return false;
    }
  }
  if (n.map == 2 && (o <= 0x0b || (o >= 0x1c && o <= 0x1e))) {
    need_x87();
    ins(4, 0x0f3800 | o, r, n.memory ? memory(8, false) : rm);
    return true;
  }
  if (n.map == 3 && o == 0x0f) {  // PALIGNR
    need_x87();
    ins(4, 0x0f3a0f, r, n.memory ? memory(8, false) : rm, 1);
    byte(unsigned(i.imm));
    return true;
  }
  return false;
}

}  // namespace nyx::soft
