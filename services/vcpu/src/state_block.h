// A device's state block as the vCPU process sees it (ARCHITECTURE.md, "State block and the commit point"): classes
// and ranges, shadow reads, counters. The device process may write anything at any time; geometry is checked against
// the size of the mapping and kept here, values are read between two looks at the generation.
#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "gen/wire.h"
#include "shm.h"

namespace nyx {

// Registers that are not simply asked for, by (region, offset, width). Built once, then only read.
class ClassTable {
 public:
  struct Entry {
    uint64_t key = 0;  // 0: free
    uint8_t kind = 0;  // wire::ClassKind
    uint32_t source = 0;
    uint32_t mask = 0;
  };
  static uint64_t Key(unsigned region, uint64_t offset, unsigned width) {
    return offset << 16 | (region & 0xff) << 8 | width;
  }
  const Entry* Find(unsigned region, uint64_t offset, unsigned width) const {
    if (count_ == 0 || offset >> 32) return nullptr;
    const uint64_t key = Key(region, offset, width);
    for (unsigned i = Hash(key);; i = (i + 1) & (kSlots - 1)) {
      if (entries_[i].key == key) return &entries_[i];
      if (entries_[i].key == 0) return nullptr;
    }
  }
  void Clear() {
    entries_.fill({});
    count_ = 0;
  }
  void Add(uint64_t key, uint8_t kind, uint32_t source, uint32_t mask);

 private:
  static constexpr unsigned kSlots = 4 * wire::kMaxClasses;
  static unsigned Hash(uint64_t key) { return static_cast<unsigned>(key * 0x9e3779b97f4a7c15u >> 56) & (kSlots - 1); }
  std::array<Entry, kSlots> entries_{};
  unsigned count_ = 0;
};

class StateBlock {
 public:
  bool Attach(int fd, std::string* error) { return mapping_.MapAll(fd, false, error); }

  enum class Refreshed { kOk, kNotYet, kBad };
  // Reads the header anew (after attach, restart, upgrade). kNotYet: no device process has initialized it.
  Refreshed Refresh(ClassTable* classes);
  // Copies the ranges of the committed half; the number of them, at most wire::kMaxRanges.
  unsigned Ranges(wire::Range* out) const;
  // Bytes `source`.. of the committed half. False: the device commits too fast, or there is nothing yet.
  bool Shadow(uint32_t source, unsigned width, uint64_t* value) const;
  // Value of a counter at guest time `now`.
  bool CounterAt(uint32_t source, uint64_t now, uint64_t* value) const;

 private:
  const wire::BlockHeader* header() const { return reinterpret_cast<const wire::BlockHeader*>(mapping_.data()); }
  // Copies `bytes` at `at` of the committed half while it is committed.
  bool Read(uint32_t at, void* to, uint32_t bytes) const;

  Mapping mapping_;
  uint32_t half_bytes_ = 0;  // 0: not initialized
  uint32_t ranges_ = 0;
};

}  // namespace nyx
