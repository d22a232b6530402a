// One block while it is translated (translate*.cc).
#pragma once
#include "soft/emit.h"
#include "soft/mem.h"
#include "soft/translate.h"
#include "soft/block.h"

namespace nyx::soft {

// Where guest registers live while translated code runs: a host register, or (-1) Cpu::gpr. RBP points to Cpu; RAX, RCX
// and R10 are scratch, RSP is the host's.
inline constexpr int kHost[16] = {h14, h11, hDX, hBX, h15, h13, hSI, hDI, h8, h9, -1, -1, h12, -1, -1, -1};

inline Rm cpu_field(size_t offset) { return mem(hBP, int64_t(offset)); }
inline Rm gpr_field(unsigned g) { return cpu_field(g * 8); }

class Translation : public Emit {
 public:
  Translation(Translator& t, Cpu& c, Block* b);
  void Run();

 private:
  // ---- translate.cc
  bool one();                  // the current instruction; false: it has no translation
  void interpret();            // leaves to its handler
  void entries();              // in front of the body
  void out_of_line();          // behind it
  bool flags_dead(unsigned k) const;  // instructions from k on overwrite all flags before anything can look at them
  void edge(int k, bool returns = false);  // goes on at link k; `returns`: other code has run since the block began
  // A conditional jump in the middle of the block, and what is true there.
  struct Side {
    uint8_t* jump;
    uint8_t k;
    int8_t noted;
    bool in_host, in_mem, interpreted;
  };
  void side_exit(const Side& side);
  void check_code_page(uint64_t linear);
  Rm code_field(uint64_t linear, size_t at) const {
    return cpu_field(tlb_ + offsetof(Tlb, code) + (linear >> 12 & (kCodeEntries - 1)) * sizeof(CodeEntry) + at);
  }
  uint64_t target(uint64_t rip) const { return wide_ ? rip : uint32_t(rip); }
  uint64_t rip_after() const { return target(b_->rip + i_->off + i_->len); }
  uint64_t taken() const { return target(b_->rip + i_->imm); }

  // ---- flags. They are in the host's flags, in Cpu::flags, or both.
  void save_flags();           // to Cpu::flags. Clobbers RAX; the host's flags stay
  void need_host_flags();      // clobbers RAX
  // For an instruction that leaves some flags as they are: nothing, where nobody can see them after it.
  void keep_flags() { if (!flags_dead(k_ + 1)) need_host_flags(); }
  void need_host_carry();      // CF alone; clobbers the others
  void killed() { in_host_ = true, in_mem_ = false; }  // the instruction just written set all flags
  int condition(int cc);       // condition code to test now

  // ---- operands
  static bool high_byte(uint8_t r) { return r & 7; }
  static Rm guest(uint8_t r, unsigned size) {
    const int h = kHost[size == 1 ? r >> 3 : r];
    return h >= 0 ? reg(h) : gpr_field(size == 1 ? r >> 3 : r);
  }
  int value(uint8_t r, unsigned size, int scratch);   // host register that holds it
  void set(uint8_t r, int from, unsigned size);       // guest register from a host register
  // Whether the registers among an 8-bit instruction's operands are none of AH .. BH.
  bool bytes_ok(bool has_reg, bool has_rm) const;
  void address();              // linear address of the memory operand to RAX, without changing flags (segment bases do)
  // RAX: linear address -> host address; else the instruction is interpreted. Flags are saved first.
  // `x87`: the linear address is an x87 instruction's FDP.
  void translate_address(unsigned size, bool write, bool x87 = false);
  void memory_operand(unsigned size, bool write) {
    before_access();
    address();
    translate_address(size, write);
  }
  void before_access() { if (!in_mem_) save_flags(); }
  void bail(uint8_t* jump) { slow_[slows_++] = {jump, uint8_t(k_), noted_}; }

  // ---- translate_int.cc
  bool integer(const OpName& n);
  void alu(int n, unsigned size, uint8_t dst, const Rm* src, int32_t imm);
  bool alu_form(const OpName& n);
  bool unary(const OpName& n);
  bool move(const OpName& n);
  bool two_byte(const OpName& n);
  bool shift(const OpName& n);
  bool multiply(const OpName& n);
  bool divide(const OpName& n);
  bool eflag(uint32_t bit, bool set);
  bool widen(unsigned from, bool sign, bool memory);
  bool exchange(const OpName& n);

  // ---- translate_branch.cc
  bool branch(const OpName& n);
  bool stack(const OpName& n);
  void remember_return();      // for a call, before call_here; clobbers RAX
  uint8_t* call_here();        // a CALL whose target land() sets
  void land(uint8_t* called);
  void return_known(int64_t pop);  // RAX: target. Goes there if the return stack knows it; else on
  void push_check();           // RAX: host address of the new top of the stack
  void lookup();               // RAX: target. R10: its JumpEntry; else bail

  // ---- translate_string.cc
  bool string(const OpName& n);
  bool push_flags();
  bool pop_flags();
  bool sti();
  bool swapgs();
  void need_cpl0();
  void need_no_irq();

  // ---- translate_simd.cc
  bool simd(const OpName& n);
  bool simd_move(const OpName& n);
  bool simd_convert(const OpName& n);
  void need_sse();
  void need_mxcsr();
  void load_xmm(unsigned r);
  int xmm(unsigned r);
  void xmm_changed(unsigned r);
  void vector_operand(unsigned bytes, bool write, bool aligned);

  // ---- translate_x87.cc
  bool x87(const OpName& n);
  bool mmx(const OpName& n);
  void need_x87();
  uint8_t* x87_check();
  uint8_t* x87_bring(const uint8_t* again, unsigned xmms);
  void put_note(int k);
  void flush_note() { put_note(noted_), noted_ = -1; }

  Translator& t_;
  Block* const b_;
  const bool paced_;           // deterministic mode
  const bool wide_;            // 64-bit mode; else 32-bit, flat
  const unsigned word_;        // bytes of a stack slot and of an address
  unsigned k_ = 0;
  const Insn* i_ = nullptr;
  bool in_host_ = false, in_mem_ = true;
  bool interpreted_ = false;   // some instruction has no translation
  bool sse_checked_ = false;
  bool x87_checked_ = false;
  int8_t noted_ = -1;          // x87 instruction whose FIP and FOP are not in Cpu yet
  uint16_t xmm_cached_ = 0;    // guest XMM registers that are in the host's, too
  bool ended_ = false;         // the last instruction was a branch
  size_t tlb_;                 // offset of the TLB in Cpu
  struct Slow {
    uint8_t* jump;
    uint8_t k;
    int8_t noted;
  };
  unsigned slows_ = 0;
  Slow slow_[kMaxBlockInsns * 8];
  struct X87Load {
    uint8_t* jump;
    const uint8_t* again;
    uint8_t k;
    int8_t noted;
    uint16_t xmms;
  };
  unsigned x87_load_count_ = 0;
  X87Load x87_loads_[kMaxBlockInsns];
  // By instruction: where its code is, which flags it starts with, whether it has code of its own.
  uint8_t* body_[kMaxBlockInsns];
  bool host_flags_[kMaxBlockInsns], translated_[kMaxBlockInsns], x87s_[kMaxBlockInsns];
  uint16_t xmms_[kMaxBlockInsns];
  // Jumps to the pieces behind the body.
  unsigned tails_ = 0, exits_ = 0;
  uint8_t* tail_[kMaxBlockInsns * 3 + 4 + kMaxSides];
  uint8_t* exit_[6];
  uint8_t* body_entry_ = nullptr;
  const uint8_t *hot_ = nullptr, *hot_flags_ = nullptr;
  bool early_;
  // By link.
  struct Edge {
    const Insn* insn;   // null: it has no code
    bool pending;
    uint8_t* slow[2];
  };
  Edge edges_[2 + kMaxSides] = {};
  unsigned side_count_ = 0;
  Side sides_[kMaxSides];
};

}  // namespace nyx::soft
