#include "state_block.h"

#include <cstring>

namespace nyx {

void ClassTable::Add(uint64_t key, uint8_t kind, uint32_t source, uint32_t mask) {
  unsigned i = Hash(key);
  while (entries_[i].key != 0 && entries_[i].key != key) i = (i + 1) & (kSlots - 1);
  if (entries_[i].key == 0) count_++;
  entries_[i] = {key, kind, source, mask};
}

StateBlock::Refreshed StateBlock::Refresh(ClassTable* classes) {
  classes->Clear();
  ranges_ = 0;
  if (mapping_.size() < wire::kHalvesAt) return Refreshed::kBad;
  const wire::BlockHeader* h = header();
  if (Load(h->initialized, std::memory_order_acquire) == 0) return Refreshed::kNotYet;
  const uint32_t half = Load(h->half_bytes), ranges = Load(h->ranges), count = Load(h->classes);
  if (Load(h->magic) != wire::kBlockMagic || Load(h->version) != wire::kVersion || half % 64 != 0 ||
      ranges > wire::kMaxRanges || count > wire::kMaxClasses ||
      half < sizeof(wire::HalfHeader) + ranges * sizeof(wire::Range) ||
      half > (mapping_.size() - wire::kHalvesAt) / 2) {
    return Refreshed::kBad;
  }
  for (uint32_t i = 0; i < count; i++) {
    const wire::ClassEntry& e = h->class_table[i];
    const uint8_t kind = Load(e.kind), region = Load(e.region), width = Load(e.width);
    const uint32_t source = Load(e.source);
    if (kind == wire::ClassKind::kNone) continue;
    const bool reads = kind == wire::ClassKind::kShadow || kind == wire::ClassKind::kCounter;
    const uint32_t bytes = kind == wire::ClassKind::kCounter ? sizeof(wire::Counter) : width;
    if (kind > wire::ClassKind::kNotify || (width != 1 && width != 2 && width != 4 && width != 8) ||
        (reads && (bytes > half || source > half - bytes))) {
      classes->Clear();
      return Refreshed::kBad;
    }
    classes->Add(ClassTable::Key(region, Load(e.offset), width), kind, source, Load(e.mask));
  }
  ranges_ = ranges;
  // Other vCPUs may read meanwhile with classes of the block as it was: half and source are each within half of the
  // mapping, so even a mixture stays inside.
  Store(half_bytes_, half);
  return Refreshed::kOk;
}

bool StateBlock::Read(uint32_t at, void* to, uint32_t bytes) const {
  const uint32_t half = Load(half_bytes_);
  if (half == 0) return false;
  const uint32_t& generation = header()->generation;
  for (int attempt = 0; attempt < 4; attempt++) {
    const uint32_t before = Load(generation, std::memory_order_acquire);
    const uint8_t* from = mapping_.data() + wire::kHalvesAt + uint64_t{before & 1} * half + at;
    memcpy(to, from, bytes);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (Load(generation) == before) return true;
  }
  return false;
}

unsigned StateBlock::Ranges(wire::Range* out) const {
  if (ranges_ == 0 || !Read(sizeof(wire::HalfHeader), out, ranges_ * sizeof(wire::Range))) return 0;
  return ranges_;
}

bool StateBlock::Shadow(uint32_t source, unsigned width, uint64_t* value) const {
  uint64_t v = 0;
  if (!Read(source, &v, width)) return false;
  *value = v;
  return true;
}

bool StateBlock::CounterAt(uint32_t source, uint64_t now, uint64_t* value) const {
  wire::Counter c;
  if (!Read(source, &c, sizeof c)) return false;
  const uint64_t ns = now > c.base ? now - c.base : 0;
  const uint64_t v = ns / 1'000'000'000u * c.hz + ns % 1'000'000'000u * c.hz / 1'000'000'000u;
  *value = c.bits == 0 || c.bits >= 64 ? v : v & ((uint64_t{1} << c.bits) - 1);
  return true;
}

}  // namespace nyx
