// Translates hot blocks to host code. docs/software-cpu.md tells how it works.
//
// Translated code does what is common about an instruction: its TLB check hits, its jump is linked. For everything else
// it puts the guest's registers back into Cpu and jumps to the interpreter's handler of that same instruction, which
// does it from scratch. The handler goes on at the next Insn's `fn`, which leads back into translated code. So faults,
// devices, changed code and every rare case are the interpreter's, with the state as it is between two instructions.
#pragma once
#include <cstddef>
#include <cstdint>

#include "soft/insn.h"

namespace nyx::soft {

// How often a block is executed until it is translated.
inline constexpr uint32_t kHotCount = 24;

class Translator {
 public:
  // Code is written at `write` and runs at `code` (the same pages), within 2 GiB of blocks and instructions.
  Translator(uint8_t* write, const uint8_t* code, size_t bytes);

  // False: the code cache is full; everything must be dropped before more is translated.
  bool Translate(Cpu& c, Block* b);
  // Forgets all translations.
  void Reset() {
    used_ = start_;
    cold_used_ = bytes_ / 2;
  }
  // Whether a host instruction is translated code.
  bool holds(uint64_t rip) const { return rip - reinterpret_cast<uintptr_t>(code_) < bytes_; }

  // Where a return goes that the return stack does not know (returns.h).
  const uint8_t* no_return() const { return no_return_; }
  // Entries that every block has before it is translated.
  const uint8_t* enter_thunk() const { return enter_; }

 private:
  friend class Translation;
  uint8_t* const write_;
  const uint8_t* const code_;
  const size_t bytes_;
  // The first half holds what is executed often, after the thunks; the second what leaves it and comes back.
  size_t start_ = 0, used_ = 0, cold_used_ = 0;
  // Shared pieces of code.
  const uint8_t *spill_, *reload_, *interpret_, *exit_, *enter_, *no_return_, *x87_load_;
};

// Whether blocks of this Cpu::mode are translated.
bool translates(uint32_t mode);
// Counts a block's executions, then translates it: Block::code of a block that may become hot.
void count_heat(Cpu& c, const Insn* i);
// Lets translated code jump along the link to `b`, if both blocks are translated.
void connect(Link& link, Block* b);
// `b` was dropped: nothing jumps to it any more, and it is in no list.
void disconnect(Block* b);

// What an interpreter handler is the handler of, as ModRM and opcode say it. Null: not in the tables.
struct OpName {
  uint8_t map, row, opcode;
  int8_t n;      // ModRM.reg of a group, or the ModRM byte (negative), else -1
  uint8_t size;  // first operand size with it: 0 .. 3 for 8 .. 64 bits
  bool memory;   // the form with a memory operand
};
const OpName* op_name(Handler fn);

}  // namespace nyx::soft
