// String instructions that are not repeated, translated, and others that use the flags register as a whole: PUSHF, POPF, STI;
// SWAPGS. Repeated ones are runs of the host's own REP in their handlers (int_string.cc).
#include <cstddef>

#include "soft/run.h"
#include "soft/translation.h"

namespace nyx::soft {

// MOVS CMPS STOS LODS SCAS, forward.
bool Translation::string(const OpName& n) {
  const Insn& i = *i_;
  if (n.map != 0 || n.opcode < 0xa4 || n.opcode > 0xaf || n.opcode == 0xa8 || n.opcode == 0xa9) return false;
  if ((i.bits & (kRep | kRepne)) || (wide_ ? i.ea != 0 : (i.ea & kEaCheck) || !(i.ea & kEa32))) return false;
  const unsigned size = i.opsize, op = n.opcode & 0xfe, wide = size > 1;
  const int step = int(size);
  const bool from = op == 0xa4 || op == 0xa6 || op == 0xac, to = op != 0xac;
  const Rm scratch = cpu_field(offsetof(Cpu, scratch));
  before_access();
  alu_imm(1, 7, cpu_field(offsetof(Cpu, df)), 0);
  bail(jcc(ccNE));
  if (from) {
    mov(hAX, kHost[RSI], word_);
    translate_address(size, false);
    load(hCX, mem(hAX), size);
    if (to) store(scratch, hCX);
  }
  if (to) {
    mov(hAX, kHost[RDI], word_);
    translate_address(size, op == 0xa4 || op == 0xaa);
  }
  if (op == 0xa4 || op == 0xa6) load(hCX, scratch);
  switch (op) {
    case 0xa4: store(mem(hAX), hCX, size); break;
    case 0xaa: store(mem(hAX), kHost[RAX], size); break;
    case 0xac: set(RAX, hCX, size); break;
    default:
      ins(size, 0x3a | wide, op == 0xa6 ? int(hCX) : kHost[RAX], mem(hAX));
      killed();
  }
  if (from) lea(kHost[RSI], mem(kHost[RSI], step), word_);
  if (to) lea(kHost[RDI], mem(kHost[RDI], step), word_);
  return true;
}

// For CPL 0 alone. A mode is not enough for that.
void Translation::need_cpl0() {
  before_access();
  alu_imm(1, 7, cpu_field(offsetof(Cpu, cpl)), 0);
  bail(jcc(ccNE));
  in_host_ = false;
}

// No interrupt waits for IF; else the handler asks for it to be delivered.
void Translation::need_no_irq() {
  alu_imm(1, 7, cpu_field(offsetof(Cpu, irq_pending)), 0);
  bail(jcc(ccNE));
}

bool Translation::push_flags() {
  push_check();
  ins(4, 0x0fb7, hCX, cpu_field(offsetof(Cpu, flags)));
  mov(h10, hCX, 4);
  ins(4, 0xc1, 5, reg(h10), 1), byte(8);  // shr: SF ZF AF PF 1 CF
  alu_imm(4, 4, reg(hCX), 1);
  ins(4, 0xc1, 4, reg(hCX), 1), byte(11);  // shl: OF
  ins(4, 0x0b, h10, reg(hCX));
  ins(4, 0x0fb6, hCX, cpu_field(offsetof(Cpu, df)));
  ins(4, 0xc1, 4, reg(hCX), 1), byte(10);
  ins(4, 0x0b, h10, reg(hCX));
  ins(4, 0x0b, h10, cpu_field(offsetof(Cpu, eflags)));
  alu_imm(4, 4, reg(h10), int32_t(~(kRF | kVM)));
  store(mem(hAX), h10, word_);
  lea(kHost[RSP], mem(kHost[RSP], -int(word_)), word_);
  return true;
}

// Of the supervisor, where IF alone changes of what is not arithmetic.
bool Translation::pop_flags() {
  if (b_->mode & kModeUser) return false;
  need_cpl0();
  mov(hAX, kHost[RSP]);
  translate_address(word_, false);
  load(hCX, mem(hAX), 4);
  mov(hAX, hCX, 4);
  ins(4, 0x33, hAX, cpu_field(offsetof(Cpu, eflags)));
  byte(0xa9), dword(kTF | kIOPL | kNT | kRF | kAC | kID);  // test eax
  bail(jcc(ccNE));
  alu_imm(4, 4, reg(hAX), int32_t(kIF));
  uint8_t* const same = jmp8(0x74);
  need_no_irq();
  ins(4, 0x31, hAX, cpu_field(offsetof(Cpu, eflags)));
  bind8(same);
  mov(hAX, hCX, 4);
  alu_imm(4, 4, reg(hAX), 0xd5);
  ins(4, 0xc1, 4, reg(hAX), 1), byte(8);
  mov(h10, hCX, 4);
  ins(4, 0xc1, 5, reg(h10), 1), byte(11);
  alu_imm(4, 4, reg(h10), 1);
  ins(4, 0x0b, hAX, reg(h10));
  alu_imm(4, 1, reg(hAX), 0x200);
  store(cpu_field(offsetof(Cpu, flags)), hAX, 2);
  ins(4, 0xc1, 5, reg(hCX), 1), byte(10);
  alu_imm(4, 4, reg(hCX), 1);
  store(cpu_field(offsetof(Cpu, df)), hCX, 1);
  lea(kHost[RSP], mem(kHost[RSP], int(word_)), word_);
  in_host_ = false;
  return true;
}

bool Translation::sti() {
  if (b_->mode & kModeUser) return false;
  need_cpl0();
  need_no_irq();
  ins(4, 0x0fba, 5, cpu_field(offsetof(Cpu, eflags)), 1), byte(9);  // bts: IF
  uint8_t* const was_set = jmp8(0x72);
  ins(1, 0xc6, 0, cpu_field(offsetof(Cpu, inhibit)), 1), byte(kInhibitSti);
  load(hAX, cpu_field(offsetof(Cpu, icount)));
  if (const int ahead = int(b_->count - k_ - 1)) alu_imm(8, 5, reg(hAX), ahead);
  store(cpu_field(offsetof(Cpu, inhibit_at)), hAX);
  bind8(was_set);
  return true;
}

bool Translation::swapgs() {
  if (!wide_ || (b_->mode & kModeUser)) return false;
  need_cpl0();
  const Rm base = cpu_field(offsetof(Cpu, seg) + GS * sizeof(Segment) + offsetof(Segment, base)), other = cpu_field(offsetof(Cpu, kernel_gs_base));
  load(hAX, base);
  load(hCX, other);
  store(other, hAX);
  store(base, hCX);
  return true;
}

}  // namespace nyx::soft
