// Test mode: blocks run by the interpreter and translated, one after the other on the same state, and what they did is
// compared: registers, flags, instruction count, exceptions, and memory by a log of the interpreter's stores.
#pragma once
#include <cstdint>
#include <memory>

#include "soft/block.h"

namespace nyx::soft {

// Old contents of memory that an instruction is about to change (mmu.cc tells), for going back.
struct StoreLog {
  static constexpr unsigned kMax = 4096;
  struct Entry {
    uint8_t* at;
    uint8_t size;
    uint8_t before[64], after[64];
  };
  bool impure = false;  // a device was accessed, or too much was stored: cannot go back
  unsigned count = 0;
  Entry entries[kMax];
  void Add(uint8_t* at, unsigned size);
};

class Lockstep {
 public:
  explicit Lockstep(Cpu& c);
  // Runs the block at c.rip. Exceptions leave by longjmp as usual. Ends the program when the two differ.
  void Step(Cpu& c);
  uint64_t compared() const { return compared_; }

 private:
  struct Outcome;
  static int Execute(Cpu& c, Block* b);
  void Compare(const Cpu& c, const Block* b, int a_end, int b_end);

  BlockCache interpreted_;
  StoreLog log_;
  std::unique_ptr<uint8_t[]> before_, after_;
  uint64_t compared_ = 0, skipped_ = 0;
};

}  // namespace nyx::soft
