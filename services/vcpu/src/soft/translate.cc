// Translated blocks from outside: entries, exits, the pieces of code that they share.
#include "soft/translate.h"

#include <cstddef>

#include "soft/run.h"
#include "soft/sampler.h"
#include "soft/translation.h"
#include "soft/x87.h"

namespace nyx::soft {
namespace {

constexpr size_t kMaxCode = 24 << 10;  // of one block

// Enters `b` from translated code whose registers are back in Cpu.
void enter_from_code(Cpu& c, Block* b) {
  if (!leads_to(c, b)) [[unlikely]] {
    c.rip = b->rip;
    return;
  }
  return enter(c, b);
}

// The end of a block whose link k is not connected.
template <int K>
void follow_edge(Cpu& c, const Insn* i) {
  uint64_t rip = K == 1 ? next_rip(c, i) : c.gpr[kRegBlock] + i->imm;
  if (!c.code64()) rip = uint32_t(rip);
  const int k = K < 2 ? K : i->reg;
  Block* const a = c.block;
  Block* const b = a->links[k].block;
  if (b && a->valid && leads_to(c, b)) [[likely]] {
    connect(a->links[k], b);
    return enter(c, b);
  }
  return follow_slow(c, i, k, rip);
}

// At the start of the current block.
void translate_now(Cpu& c, const Insn* i) {
  Block* const b = c.block;
  const uint64_t before = c.icount - b->count;
  if (!c.blocks->Extend(c, b)) return i->fn(c, i);  // the next time, then
  if (!c.blocks->translator()->Translate(c, b)) {
    c.icount = before;
    c.rip = b->rip;
    c.blocks->Flush(c);
    c.block = nullptr;
    return;
  }
  c.icount = before + b->count;
  return b->code(c, b->insns);
}

}  // namespace

bool translates(uint32_t mode) {
  if (mode & (kModeChecked | kModeStep)) return false;
  constexpr uint32_t kFlat32 = kModePE | kModeD32 | kModeSs32 | kModeFlat;
  return (mode & kMode64) || (mode & (kFlat32 | kModeVM86)) == kFlat32;
}

void count_heat(Cpu& c, const Insn* i) {
  if (++c.block->heat >= c.hot_count) [[unlikely]]
    return translate_now(c, i);
  return i->fn(c, i);
}

// ---- shared code

Translator::Translator(uint8_t* write, const uint8_t* code, size_t bytes) : write_(write), code_(code), bytes_(bytes) {
  Emit e;
  e.at = write;
  e.delta = intptr_t(code) - intptr_t(write);
  // Registers to Cpu. Called; changes nothing else.
  spill_ = e.here();
  for (unsigned g = 0; g < 16; g++)
    if (kHost[g] >= 0) e.store(gpr_field(g), kHost[g]);
  e.byte(0xc3);
  const auto to_host_stack = [&] {
    e.store(cpu_field(offsetof(Cpu, returns) + offsetof(Returns, top)), hSP);
    e.load(hSP, cpu_field(offsetof(Cpu, host_stack)));
  };
  // And back, to RAX. RDI is Cpu. Translated code has the return stack for its own.
  reload_ = e.here();
  e.mov(hBP, hDI);
  e.store(cpu_field(offsetof(Cpu, host_stack)), hSP);
  e.load(hSP, cpu_field(offsetof(Cpu, returns) + offsetof(Returns, top)));
  for (unsigned g = 0; g < 16; g++)
    if (kHost[g] >= 0) e.load(kHost[g], gpr_field(g));
  e.byte(0xff), e.byte(0xe0);  // jmp rax
  // To the handler RAX of instruction RCX in block R10.
  interpret_ = e.here();
  e.call_to(spill_);
  to_host_stack();
  e.store(cpu_field(offsetof(Cpu, block)), h10);
  e.load(h10, mem(h10, offsetof(Block, rip)));
  e.store(gpr_field(kRegBlock), h10);
  e.mov(hDI, hBP);
  e.mov(hSI, hCX);
  e.byte(0xff), e.byte(0xe0);  // jmp rax
  // To the run loop in front of block R10.
  exit_ = e.here();
  e.call_to(spill_);
  to_host_stack();
  e.store(cpu_field(offsetof(Cpu, block)), h10);
  e.load(h10, mem(h10, offsetof(Block, rip)));
  e.store(gpr_field(kRegBlock), h10);
  e.store(cpu_field(offsetof(Cpu, rip)), h10);
  e.byte(0xc3);
  // Into block RCX, which is not translated or not there any more.
  enter_ = e.here();
  e.call_to(spill_);
  to_host_stack();
  e.mov(hDI, hBP);
  e.mov(hSI, hCX);
  e.imm(hAX, reinterpret_cast<uintptr_t>(&enter_from_code));
  e.byte(0xff), e.byte(0xe0);
  // To the run loop at RAX: what the bottom of the return stack leads to.
  no_return_ = e.here();
  e.store(cpu_field(offsetof(Cpu, rip)), hAX);
  e.call_to(spill_);
  to_host_stack();
  e.byte(0xc3);
  // x87 state to the host's registers. Called; the host's flags and XMM registers are lost.
  x87_load_ = e.here();
  e.call_to(spill_);
  to_host_stack();
  e.lea(hSP, mem(hSP, -8));
  e.mov(hDI, hBP);
  e.imm(hAX, reinterpret_cast<uintptr_t>(&x87_load));
  e.byte(0xff), e.byte(0xd0);  // call rax
  e.load(hSP, cpu_field(offsetof(Cpu, returns) + offsetof(Returns, top)));
  for (unsigned g = 0; g < 16; g++)
    if (kHost[g] >= 0) e.load(kHost[g], gpr_field(g));
  e.byte(0xc3);
  start_ = (size_t(e.at - write) + 63) & ~size_t{63};
  Reset();
}

bool Translator::Translate(Cpu& c, Block* b) {
  const In in(c, kInTranslator);
  if (bytes_ / 2 - used_ < kMaxCode || bytes_ - cold_used_ < kMaxCode) return false;
  Translation t(*this, c, b);
  t.Run();
  if (c.blocks->jump_entry(b->mode, b->rip).block == b) c.blocks->RememberJump(b);
  c.stat_translated++;
  return true;
}

// ---- one block

Translation::Translation(Translator& t, Cpu& c, Block* b)
    : t_(t), b_(b), paced_(c.pacer != nullptr), wide_(b->mode & kMode64), word_(wide_ ? 8 : 4), tlb_(offsetof(Cpu, tlbs) + (b->mode & kModeUser ? sizeof(Tlb) : 0)) {
  at = t.write_ + t.used_;
  delta = intptr_t(t.code_) - intptr_t(t.write_);
}

void Translation::Run() {
  // Whether the block is entered is then decided last, with the flags in their place.
  early_ = !paced_ && flags_dead(0);
  entries();
  for (k_ = 0; k_ < b_->count; k_++) {
    i_ = &b_->insns[k_];
    if (k_ + 1u == b_->count) flush_note();  // who comes back behind it has stored it
    body_[k_] = at;
    host_flags_[k_] = in_host_;
    xmms_[k_] = xmm_cached_;
    x87s_[k_] = x87_checked_;
    const unsigned slows = slows_, x87_loads = x87_load_count_;
    const bool in_host = in_host_, in_mem = in_mem_;
    translated_[k_] = one();
    if (translated_[k_]) continue;
    at = body_[k_];
    slows_ = slows;
    in_host_ = in_host;
    in_mem_ = in_mem;
    xmm_cached_ = xmms_[k_];
    x87_load_count_ = x87_loads;
    interpret();
  }
  if (!ended_ && translated_[b_->count - 1]) {
    k_ = b_->count;
    i_ = &b_->insns[k_];
    flush_note();
    edge(1);
  }
  for (unsigned n = 0; n < side_count_; n++) side_exit(sides_[n]);
  t_.used_ = (size_t(at - t_.write_) + 15) & ~size_t{15};
  at = t_.write_ + t_.cold_used_;
  out_of_line();
  t_.cold_used_ = size_t(at - t_.write_);
}

void Translation::interpret() {
  if (!in_mem_) save_flags();
  flush_note();
  lea(hCX, near(i_));
  imm(hAX, reinterpret_cast<uintptr_t>(i_->fn));
  tail_[tails_++] = jmp();
  in_host_ = false;
  in_mem_ = true;
  interpreted_ = true;
  sse_checked_ = x87_checked_ = false;
  xmm_cached_ = 0;
}

// At the start of a block: then who jumps here need not save them.
bool Translation::flags_dead(unsigned k) const {
  for (; k < b_->count; k++) {
    const Insn& i = b_->insns[k];
    const OpName* const n = op_name(i.fn);
    if (!n || n->map != 0 || (n->memory && n->opcode != 0x8d)) return false;
    const bool move = n->opcode == 0x88 || n->opcode == 0x89 || n->opcode == 0x8a || n->opcode == 0x8b || (n->opcode == 0x63 && i.opsize == 4) || n->opcode == 0xb8 ||
                      n->opcode == 0xb0 || n->opcode == 0x8d;
    const unsigned group = n->opcode >> 3;
    const bool kills = (n->opcode < 0x40 && (n->opcode & 7) < 6 && group != 2 && group != 3) || n->opcode == 0x84 ||
                       n->opcode == 0x85 || n->opcode == 0xa8 || n->opcode == 0xa9;
    if (!move && !kills) return false;
    const bool byte = i.opsize == 1;
    if (byte && ((i.reg | i.rm) & 7)) return false;  // AH .. BH have no translation
    if (kills) return true;
  }
  return false;
}

void Translation::entries() {
  const Rm attention = cpu_field(offsetof(Cpu, attention));
  uint8_t* count = nullptr;
  early_ = early_ && b_->phys2 == ~0ull;
  hot_flags_ = here();
  if (early_) {
    load(hCX, attention);
    load(hCX, mem(hCX), 4);
    count = jmp8(0xe3);  // jrcxz
    save_flags();
    exit_[exits_++] = jmp();
  } else {
    save_flags();
  }
  in_host_ = false;
  in_mem_ = true;
  hot_ = here();
  if (b_->phys2 != ~0ull) {  // who comes here has looked at the first page
    const uint64_t second = target((b_->rip | 0xfff) + 1);
    check_code_page(second);
    exit_[exits_++] = jcc(ccNE);
    imm(hAX, uint64_t(b_->host2) - second);
    ins(8, 0x3b, hAX, code_field(second, offsetof(CodeEntry, addend)));
    exit_[exits_++] = jcc(ccNE);
  }
  load(hAX, attention);
  alu_imm(4, 7, mem(hAX), 0);
  exit_[exits_++] = jcc(ccNE);
  if (count) bind8(count);
  if (paced_) {
    load(hAX, cpu_field(offsetof(Cpu, icount)));
    alu_imm(8, 0, reg(hAX), b_->count);
    ins(8, 0x3b, hAX, cpu_field(offsetof(Cpu, deadline)));
    exit_[exits_++] = jcc(ccA);
    store(cpu_field(offsetof(Cpu, icount)), hAX);
  } else {
    alu_imm(8, 0, cpu_field(offsetof(Cpu, icount)), b_->count);
  }
  body_entry_ = at;
}

// Compares the tag of the TLB's entry for code at `linear`. Clobbers RAX and the host's flags.
void Translation::check_code_page(uint64_t linear) {
  const uint64_t page = linear & ~0xfffull;
  const Rm at = code_field(linear, offsetof(CodeEntry, page));
  if (int64_t(page) == int32_t(page)) return alu_imm(8, 7, at, int32_t(page));
  imm(hAX, page);
  ins(8, 0x3b, hAX, at);
}

// Where a conditional jump in the middle of the block is taken.
void Translation::side_exit(const Side& side) {
  bind(side.jump);
  k_ = side.k;
  i_ = &b_->insns[k_];
  in_host_ = side.in_host;
  in_mem_ = side.in_mem;
  interpreted_ = side.interpreted;
  // The count of what does not come, without changing flags.
  const Rm count = cpu_field(offsetof(Cpu, icount));
  load(hAX, count);
  lea(hAX, mem(hAX, int(k_) + 1 - int(b_->count)));
  store(count, hAX);
  put_note(side.noted);
  edge(i_->reg);
}

void Translation::edge(int k, bool returns) {
  const uint64_t target = k == 1 ? rip_after() : taken();
  Edge& e = edges_[k];
  e.insn = i_;
  e.pending = !in_mem_;
  // Within its page a block may go on while it runs itself; beyond, the TLB must say that the target is where it was.
  const bool same_page = (b_->rip ^ target) >> 12 == 0 && b_->phys2 == ~0ull && !interpreted_ && !returns;
  if (same_page && target == b_->rip) {
    jmp_to(in_mem_ ? hot_ : hot_flags_);
    return;
  }
  if (!same_page) {
    if (!in_mem_) save_flags();
    e.pending = false;
    check_code_page(target);
    e.slow[0] = jcc(ccNE);
    load(hAX, code_field(target, offsetof(CodeEntry, addend)));
    ins(8, 0x3b, hAX, near(&b_->links[k].exit->addend));
    e.slow[1] = jcc(ccNE);
  }
  ins(4, 0xff, 4, near(&b_->links[k].exit->jump));
}

void Translation::out_of_line() {
  constexpr size_t kLeaNear = 7, kJmp = 5;  // bytes
  for (unsigned n = 0; n < x87_load_count_; n++) {
    const X87Load& l = x87_loads_[n];
    bind(l.jump);
    slow_[slows_++] = {x87_bring(l.again, l.xmms), l.k, l.noted};
  }
  // Instructions that are to be interpreted after all.
  const auto to_handler = [&](unsigned k) {
    lea(hCX, near(&b_->insns[k]));
    imm(hAX, reinterpret_cast<uintptr_t>(b_->insns[k].fn));
  };
  for (unsigned n = 0; n < slows_;) {
    const unsigned k = slow_[n].k;
    const int noted = slow_[n].noted;
    for (; n < slows_ && slow_[n].k == k; n++) bind(slow_[n].jump);
    put_note(noted);
    to_handler(k);
    tail_[tails_++] = jmp();
  }
  for (unsigned k = 0; k < 2u + b_->sides; k++) {
    const Edge& e = edges_[k];
    if (!e.insn) continue;
    const uint8_t* const stub = here();
    if (e.slow[0]) bind(e.slow[0]), bind(e.slow[1]);
    if (e.pending) save_flags();
    lea(hCX, near(e.insn));
    imm(hAX, reinterpret_cast<uintptr_t>(k == 0 ? &follow_edge<0> : k == 1 ? &follow_edge<1> : &follow_edge<2>));
    tail_[tails_++] = jmp();
    Link& link = b_->links[k];
    link.stub = link.exit->jump = stub;
    link.pending = e.pending;
  }
  for (unsigned n = 0; n < tails_; n++) bind(tail_[n]);
  const uint8_t* const tail = here();
  lea(h10, near(b_));
  jmp_to(t_.interpret_);
  for (unsigned n = 0; n < exits_; n++) bind(exit_[n]);
  lea(h10, near(b_));
  jmp_to(t_.exit_);
  // Handlers come back through Insn::fn of the next instruction.
  bool came[kMaxBlockInsns] = {};
  for (unsigned n = 0; n < slows_; n++)
    if (slow_[n].k + 1u < b_->count) came[slow_[n].k + 1] = true;
  for (unsigned k = 1; k < b_->count; k++)
    if (!translated_[k - 1]) came[k] = true;
  const auto resume = [&](uint8_t* body, bool flags, unsigned xmms, int x87 = -1) {
    lea(hAX, near(here() + kLeaNear + kJmp));
    jmp_to(t_.reload_);
    const uint8_t* const again = here();
    uint8_t* const not_ready = x87 >= 0 ? x87_check() : nullptr;
    for (unsigned r = 0; r < 16; r++)
      if (xmms >> r & 1) load_xmm(r);
    if (flags) {
      in_host_ = false;
      need_host_flags();
    }
    jmp_to(body + delta);
    if (!not_ready) return;
    bind(not_ready);
    uint8_t* const unmasked = x87_bring(again, 0);
    bind(unmasked);
    to_handler(unsigned(x87));
    jmp_to(tail);
  };
  Handler back[kMaxBlockInsns];
  for (unsigned k = 1; k < b_->count; k++) {
    if (!translated_[k] || !came[k]) {
      back[k] = b_->insns[k].fn;
      continue;
    }
    back[k] = reinterpret_cast<Handler>(const_cast<uint8_t*>(here()));
    resume(body_[k], host_flags_[k], xmms_[k], x87s_[k] ? int(k) : -1);
  }
  for (unsigned k = 1; k < b_->count; k++) b_->insns[k].fn = back[k];
  b_->code = reinterpret_cast<Handler>(const_cast<uint8_t*>(here()));
  resume(body_entry_, false, 0);
  b_->hot = hot_;
  b_->hot_flags = hot_flags_;
}

bool Translation::one() {
  const OpName* const n = op_name(i_->fn);
  if (!n) return false;
  if (i_->ea & (wide_ ? ~(kEaSegBase | kEa32) : ~(kEa32 | kEaLegacy | kEaCheck))) return false;
  if (i_->ea & kEaCheck && i_->seg != FS && i_->seg != GS) return false;
  return branch(*n) || stack(*n) || string(*n) || integer(*n) || x87(*n) || mmx(*n) || simd(*n);
}

}  // namespace nyx::soft
