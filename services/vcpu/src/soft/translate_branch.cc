// Stack and near branches, translated.
#include <cstddef>

#include "soft/translation.h"

namespace nyx::soft {

void Translation::push_check() {
  before_access();
  lea(hAX, mem(kHost[RSP], -int(word_)), word_);
  translate_address(word_, true);
}

bool Translation::stack(const OpName& n) {
  const Insn& i = *i_;
  if (n.map != 0 || i.opsize != word_) return false;
  const int sp = kHost[RSP], w = int(word_);
  if ((n.opcode >= 0x50 && n.opcode < 0x58) || (n.opcode == 0xff && n.n == 6 && !n.memory)) {
    push_check();
    store(mem(hAX), value(i.rm, word_, hCX), word_);
    lea(sp, mem(sp, -w), word_);
    return true;
  }
  if (n.opcode == 0xff && n.n == 6) {
    const Rm scratch = cpu_field(offsetof(Cpu, scratch));
    memory_operand(word_, false);
    load(hCX, mem(hAX), word_);
    store(scratch, hCX);
    push_check();
    load(hCX, scratch);
    store(mem(hAX), hCX, word_);
    lea(sp, mem(sp, -w), word_);
    return true;
  }
  if (n.opcode == 0x9c) return push_flags();
  if (n.opcode == 0x9d) return pop_flags();
  if (n.opcode == 0x68 || n.opcode == 0x6a) {
    push_check();
    ins(word_, 0xc7, 0, mem(hAX), 4);
    dword(uint32_t(i.imm));
    lea(sp, mem(sp, -w), word_);
    return true;
  }
  if (n.opcode >= 0x58 && n.opcode < 0x60) {
    before_access();
    mov(hAX, sp);
    translate_address(word_, false);
    load(hCX, mem(hAX), word_);
    lea(sp, mem(sp, w), word_);
    set(i.rm, hCX, word_);
    return true;
  }
  if (n.opcode == 0xc9) {  // LEAVE
    before_access();
    mov(hAX, kHost[RBP]);
    translate_address(word_, false);
    lea(sp, mem(kHost[RBP], w), word_);
    load(kHost[RBP], mem(hAX), word_);
    return true;
  }
  return false;
}

void Translation::lookup() {
  static_assert(sizeof(JumpEntry) == 32);
  static_assert(sizeof(CodeEntry) == 16);
  const int64_t code = int64_t(tlb_ + offsetof(Tlb, code)), table = b_->mode & kModeUser ? int64_t(sizeof(JumpEntry)) << kJumpBits : 0;
  // The host's address of the target, by the TLB.
  mov(h10, hAX, 4);
  ins(4, 0xc1, 5, reg(h10), 1), byte(8);
  alu_imm(4, 4, reg(h10), (kCodeEntries - 1) << 4);
  mov(hCX, hAX);
  alu_imm(8, 4, reg(hCX), -4096);
  ins(8, 0x3b, hCX, mem(hBP, h10, 0, code + int64_t(offsetof(CodeEntry, page))));
  bail(jcc(ccNE));
  load(hCX, mem(hBP, h10, 0, code + int64_t(offsetof(CodeEntry, addend))));
  ins(8, 0x03, hCX, reg(hAX));
  // Its entry in the jump cache.
  mov(h10, hAX);
  ins(8, 0xc1, 5, reg(h10), 1), byte(kJumpBits);
  ins(4, 0x33, h10, reg(hAX));
  alu_imm(4, 4, reg(h10), (1 << kJumpBits) - 1);
  ins(4, 0xc1, 4, reg(h10), 1), byte(5);
  ins(8, 0x03, h10, cpu_field(offsetof(Cpu, jumps)));
  if (const uint64_t bit = jump_key(b_->mode, 0)) {
    ins(8, 0x0fba, 5, reg(hAX), 1);  // bts
    byte(unsigned(__builtin_ctzll(bit)));
  }
  ins(8, 0x39, hAX, mem(h10, table + int64_t(offsetof(JumpEntry, key))));
  bail(jcc(ccNE));
  ins(8, 0x39, hCX, mem(h10, table + int64_t(offsetof(JumpEntry, host))));
  bail(jcc(ccNE));
  in_host_ = false;
}

// Translated code's stack is one of (key, return address) pairs, so that the host predicts the guest's returns: a call
// pushes where the guest wants to return to and calls, a return that finds that on the top, or one below, returns.
void Translation::remember_return() {
  const uint64_t back = rip_after();
  // At its end the stack starts anew.
  ins(4, 0xf7, 0, reg(hSP), 4);  // test esp, size - 1
  dword(Returns::kBytes - 1);
  uint8_t* const room = jmp8(0x75);
  load(hSP, cpu_field(offsetof(Cpu, returns) + offsetof(Returns, bottom)));
  bind8(room);
  if (int64_t(back) == int32_t(back)) {
    byte(0x68), dword(uint32_t(back));  // push imm32
  } else {
    imm(hAX, back);
    byte(0x50);  // push rax
  }
  in_host_ = false;
}

// After the call instruction that `called` is the end of: where the return lands.
void Translation::land(uint8_t* called) {
  lea(hSP, mem(hSP, 8));
  in_host_ = false, in_mem_ = true;
  edge(1, true);
  bind(called);
}

uint8_t* Translation::call_here() {
  byte(0xe8), dword(0);
  return at;
}

void Translation::return_known(int64_t pop) {
  const int sp = kHost[RSP];
  ins(8, 0x3b, hAX, mem(hSP, 8));
  uint8_t* const other = jmp8(0x75);
  lea(sp, mem(sp, pop), word_);
  byte(0xc3);
  bind8(other);
  ins(8, 0x3b, hAX, mem(hSP, 24));
  uint8_t* const unknown = jmp8(0x75);
  lea(hSP, mem(hSP, 16));
  lea(sp, mem(sp, pop), word_);
  byte(0xc3);
  bind8(unknown);
  in_host_ = false;
}

bool Translation::branch(const OpName& n) {
  const Insn& i = *i_;
  const int sp = kHost[RSP], w = int(word_);
  const auto go = [&] {
    const int64_t table = b_->mode & kModeUser ? int64_t(sizeof(JumpEntry)) << kJumpBits : 0;
    load(hCX, mem(h10, table + int64_t(offsetof(JumpEntry, block))));
    ins(4, 0xff, 4, mem(h10, table + int64_t(offsetof(JumpEntry, hot))));
    ended_ = true;
    return true;
  };
  const bool jcc_short = n.map == 0 && (n.opcode & 0xf0) == 0x70, jcc_near = n.map == 1 && (n.opcode & 0xf0) == 0x80;
  if (jcc_short || jcc_near) {
    if (i.opsize != word_) return false;
    if (i.reg) {  // the block goes on behind it
      uint8_t* const jump = jcc(condition(n.opcode & 15));
      sides_[side_count_++] = {jump, uint8_t(k_), noted_, in_host_, in_mem_, interpreted_};
      return true;
    }
    const bool same_page = b_->phys2 == ~0ull && !interpreted_;
    // Edges to another page save the flags, and that before the jump, once.
    const uint64_t there = taken(), falls = rip_after();
    if (!in_mem_ && (!same_page || (b_->rip ^ there) >> 12 || (b_->rip ^ falls) >> 12)) save_flags();
    const bool was_in_mem = in_mem_;
    const int cc = condition(n.opcode & 15);
    uint8_t* const jump = jcc(cc);
    edge(1);
    in_mem_ = was_in_mem;
    bind(jump);
    edge(0);
    ended_ = true;
    return true;
  }
  if (n.map != 0) return false;
  if (i.opsize != word_) return false;
  if (n.opcode == 0xe9 || n.opcode == 0xeb) {
    edge(0);
    ended_ = true;
    return true;
  }
  const uint64_t back = rip_after();
  const auto put_return = [&] {
    imm(hCX, back);
    store(mem(hAX), hCX, word_);
    lea(sp, mem(sp, -w), word_);
  };
  if (n.opcode == 0xe8) {
    push_check();
    put_return();
    remember_return();
    land(call_here());
    edge(0);
    ended_ = true;
    return true;
  }
  if (n.opcode == 0xc3 || n.opcode == 0xc2) {
    before_access();
    mov(hAX, sp);
    translate_address(word_, false);
    load(hAX, mem(hAX), word_);
    return_known(w + int64_t(i.imm));
    lookup();
    lea(sp, mem(sp, w + int64_t(i.imm)), word_);
    return go();
  }
  if (n.opcode == 0xff && (n.n == 2 || n.n == 4)) {
    if (n.memory) {
      memory_operand(word_, false);
      load(hAX, mem(hAX), word_);
    } else {
      before_access();
      load(hAX, guest(i.rm, word_), word_);
    }
    lookup();
    if (n.n == 2) {
      store(cpu_field(offsetof(Cpu, scratch)), h10);
      push_check();
      put_return();
      remember_return();
      land(call_here());
      load(h10, cpu_field(offsetof(Cpu, scratch)));
    }
    return go();
  }
  return false;
}

}  // namespace nyx::soft
