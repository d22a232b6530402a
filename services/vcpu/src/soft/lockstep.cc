#include "soft/lockstep.h"

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "soft/mmu.h"
#include "soft/run.h"
#include "soft/simd.h"
#include "soft/tables.h"

extern "C" void nyx_soft_call(nyx::soft::Cpu& c, const nyx::soft::Insn* i, nyx::soft::Handler code);

namespace nyx::soft {
namespace {

// How often a block is compared; after that it only runs translated.
constexpr uint32_t kTimes = 100;
constexpr size_t kState = offsetof(Cpu, tlbs);  // all but the TLBs, which are no state of the guest's

// Not instructions that do something outside of Cpu and RAM, that give another result the second time, or (strings) that
// stop where they like when asked to.
bool pure(const Block* b) {
  for (unsigned k = 0; k < b->count; k++) {
    const OpName* const n = op_name(b->insns[k].fn);
    if (!n) return false;
    const unsigned o = n->opcode;
    if (n->map == 0 && ((o >= 0xe4 && o <= 0xe7) || (o >= 0xec && o <= 0xef) || (o >= 0x6c && o <= 0x6f) || (o >= 0xa4 && o <= 0xaf && o != 0xa8 && o != 0xa9) || o == 0xf4 ||
                        (o >= 0xca && o <= 0xcf) || o == 0x9a || o == 0xea || o == 0x8e))
      return false;
    if (n->map == 1 && (o < 0x0d || (o >= 0x20 && o <= 0x23) || (o >= 0x30 && o <= 0x37) || o == 0xa2 || o == 0xae || o == 0xc7))
      return false;
  }
  return true;
}

// What blocks read in place of the attention word: it says leave after each.
constexpr uint32_t kLeave = 1u << 31;
std::atomic<uint32_t> always{kLeave};

// The CPU's own attention word again, with what the block asked for.
void end_of_step(Cpu& c, std::atomic<uint32_t>* attention) {
  c.attention = attention;
  if (const uint32_t asked = always.exchange(kLeave, std::memory_order_relaxed) & ~kLeave) attention->fetch_or(asked);
}

}  // namespace

void StoreLog::Add(uint8_t* at, unsigned size) {
  if (count == kMax || size > 64) {
    impure = true;
    return;
  }
  Entry& e = entries[count++];
  e.at = at;
  e.size = uint8_t(size);
  std::memcpy(e.before, at, size);
}

Lockstep::Lockstep(Cpu& c) : interpreted_(op_tables()), before_(new uint8_t[kState]), after_(new uint8_t[kState]) {
  c.blocks->set_twin(&interpreted_);
}

// The block, and none after it. What ended it: 0 its end, or the longjmp's value.
int Lockstep::Execute(Cpu& c, Block* b) {
  const int how = setjmp(c.unwind);
  if (how != 0) return how;
  c.gpr[kRegBlock] = b->rip;
  c.block = b;
  c.icount += b->count;
  nyx_soft_call(c, b->insns, b->code);
  return 0;
}

void Lockstep::Compare(const Cpu& c, const Block* b, int a_end, int b_end) {
  const Cpu& a = *reinterpret_cast<const Cpu*>(after_.get());
  const char* what = nullptr;
  if (a_end != b_end) what = "end";
  else if (std::memcmp(a.gpr, c.gpr, 16 * 8) != 0) what = "registers";
  else if (a.rip != c.rip) what = "rip";
  else if (a.flags != c.flags || a.df != c.df || a.eflags != c.eflags) what = "flags";
  else if (a.icount != c.icount) what = "instruction count";
  else if (std::memcmp(&a.fx, &c.fx, sizeof a.fx) != 0 || a.mxcsr != c.mxcsr) what = "x87 or SSE state";
  else if (std::memcmp(a.seg, c.seg, sizeof a.seg) != 0 || a.cpl != c.cpl) what = "segments";
  else if (a_end == kUnwindException && (a.exception != c.exception || a.error_code != c.error_code || a.cr2 != c.cr2)) what = "exception";
  for (unsigned k = 0; k < log_.count && !what; k++) {
    // A later store to the same place counts.
    if (std::memcmp(log_.entries[k].after, log_.entries[k].at, log_.entries[k].size) != 0) what = "memory";
  }
  if (!what) return;
  std::fprintf(stderr, "lockstep: %s differ after %llu blocks; block at %llx, %u instructions, end %d %d\n", what,
               (unsigned long long)compared_, (unsigned long long)b->rip, b->count, a_end, b_end);
  std::fprintf(stderr, "  rip %llx %llx flags %04x %04x icount %llu %llu exception %d %d\n  bytes", (unsigned long long)a.rip,
               (unsigned long long)c.rip, a.flags, c.flags, (unsigned long long)a.icount, (unsigned long long)c.icount, a.exception, c.exception);
  for (unsigned k = 0; k < b->bytes; k++) std::fprintf(stderr, " %02x", b->host[k]);
  const Cpu& before = *reinterpret_cast<const Cpu*>(before_.get());
  for (unsigned r = 0; r < 16; r++)
    std::fprintf(stderr, "\n  r%-2u %016llx -> %016llx %016llx", r, (unsigned long long)before.gpr[r], (unsigned long long)a.gpr[r],
                 (unsigned long long)c.gpr[r]);
  std::fprintf(stderr, "\n");
  std::abort();
}

void Lockstep::Step(Cpu& c) {
  BlockCache* const translated = c.blocks;
  std::atomic<uint32_t>* const attention = c.attention;
  std::jmp_buf unwind;
  std::memcpy(&unwind, &c.unwind, sizeof unwind);
  Block* b = find_block(c);
  if (translates(b->mode) && !b->hot_flags) {
    translated->Extend(c, b, kMaxBlockInsns);
    if (!translated->translator()->Translate(c, b)) {
      translated->Flush(c);
      c.block = nullptr;
      return;
    }
    b->heat = 0;
  }
  const unsigned count = b->count;
  bool compare = b->hot_flags && b->heat < kTimes;
  int first = 0;
  if (compare) {
    c.blocks = &interpreted_;
    c.jumps = &interpreted_.jumps[0][0];
    Block* const reference = find_block(c);
    if (reference->count < count) interpreted_.Extend(c, reference, count);
    compare = pure(reference) && reference->count == count;
    if (compare) {
      b->heat++;
      fp_leave(c);
      x87_spill(c);
      c.attention = &always;
      std::memcpy(before_.get(), &c, kState);
      Tlb* const tlb = c.tlb;
      c.tlb = &c.tlbs[2];  // every access comes by the slow path, which logs
      log_.count = 0;
      log_.impure = false;
      c.log = &log_;
      first = Execute(c, reference);
      c.log = nullptr;
      c.tlb = tlb;
      fp_leave(c);
      x87_spill(c);
      if (log_.impure) compare = false;
    }
    if (compare) {
      std::memcpy(after_.get(), &c, kState);
      for (unsigned k = 0; k < log_.count; k++) std::memcpy(log_.entries[k].after, log_.entries[k].at, log_.entries[k].size);
      for (unsigned k = log_.count; k-- > 0;) std::memcpy(log_.entries[k].at, log_.entries[k].before, log_.entries[k].size);
      std::memcpy(static_cast<void*>(&c), before_.get(), kState);
    }
    c.blocks = translated;
    c.jumps = &translated->jumps[0][0];
  }
  if (!compare && c.attention == &always) {  // the interpreter did it, and it cannot be done again
    skipped_++;
    end_of_step(c, attention);
    std::memcpy(&c.unwind, &unwind, sizeof unwind);
    c.block = nullptr;
    if (first) std::longjmp(c.unwind, first);
    return;
  }
  if (!b->valid) {  // its page was written
    b = find_block(c);
    translated->Extend(c, b, count);
  }
  c.attention = &always;
  const int second = Execute(c, b);
  end_of_step(c, attention);
  std::memcpy(&c.unwind, &unwind, sizeof unwind);
  if (compare) {
    fp_leave(c);
    x87_spill(c);
    compared_++;
    Compare(c, b, first, second);
    if (compared_ % 1000000 == 0)
      std::fprintf(stderr, "lockstep: %llu blocks are the same, %llu left out\n", (unsigned long long)compared_, (unsigned long long)skipped_);
  }
  if (second) std::longjmp(c.unwind, second);
}

}  // namespace nyx::soft
