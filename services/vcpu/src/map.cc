#include "map.h"

#include <algorithm>

namespace nyx {

const Target* Snapshot::Mmio(uint64_t gpa, unsigned* hint) const {
  if (*hint < mmio_.size()) {
    const Span& s = mmio_[*hint];
    if (gpa >= s.begin && gpa <= s.last) return &targets_[s.target];
  }
  const auto it = std::upper_bound(mmio_.begin(), mmio_.end(), gpa, [](uint64_t a, const Span& s) { return a < s.begin; });
  if (it == mmio_.begin()) return nullptr;
  const Span& s = *(it - 1);
  if (gpa > s.last) return nullptr;
  *hint = static_cast<unsigned>(it - 1 - mmio_.begin());
  return &targets_[s.target];
}

// Takes what is still free of the range: who claims first keeps it.
void Snapshot::Claim(const Target& target) {
  const uint16_t index = static_cast<uint16_t>(targets_.size());
  targets_.push_back(target);
  const uint64_t last = target.base + (target.length - 1);
  if (target.space == wire::Space::kPio) {
    for (uint64_t p = target.base; p <= last; p++) {
      if (pio_[p] == 0) pio_[p] = static_cast<uint16_t>(index + 1);
    }
    return;
  }
  std::vector<Span> free;
  uint64_t at = target.base;
  bool done = false;
  for (const Span& s : mmio_) {
    if (s.last < at) continue;
    if (s.begin > last) break;
    if (s.begin > at) free.push_back({at, s.begin - 1, index});
    if (s.last >= last) {
      done = true;
      break;
    }
    at = s.last + 1;
  }
  if (!done) free.push_back({at, last, index});
  mmio_.insert(mmio_.end(), free.begin(), free.end());
  std::sort(mmio_.begin(), mmio_.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
}

AddressMap::AddressMap(std::vector<std::unique_ptr<Device>>* devices, const std::vector<machine::MachineRange>& ranges,
                       const std::vector<machine::MachineFunction>& functions)
    : devices_(devices), fixed_(ranges), functions_(65536, Function{machine::kNone, 0}) {
  for (const auto& f : functions) functions_[f.bdf] = {f.device, f.region};
  snapshot_ = std::make_shared<Snapshot>();
}

std::shared_ptr<const Snapshot> AddressMap::snapshot() {
  std::lock_guard lock(mutex_);
  return snapshot_;
}

void AddressMap::Rebuild() {
  std::lock_guard lock(mutex_);
  auto next = std::make_shared<Snapshot>();
  next->classes_.resize(devices_->size());
  for (const auto& r : fixed_) next->Claim({r.device, r.region, r.space, r.base, r.length});
  for (size_t i = 0; i < devices_->size(); i++) {
    Device& d = *(*devices_)[i];
    switch (d.block.Refresh(&next->classes_[i])) {
      case StateBlock::Refreshed::kNotYet: continue;
      case StateBlock::Refreshed::kBad: d.channel->Violation(machine::VcpuError::kBadBlock); continue;
      case StateBlock::Refreshed::kOk: break;
    }
    wire::Range ranges[wire::kMaxRanges];
    const unsigned count = d.block.Ranges(ranges);
    for (unsigned k = 0; k < count; k++) {
      const wire::Range& r = ranges[k];
      if (r.space == wire::Space::kNone) continue;
      // A port range that a BAR shows is whatever the guest programmed: cut to 16 bits, not an error.
      const uint64_t end = r.space == wire::Space::kPio ? 0xffff : ~uint64_t{0};
      if (r.space > wire::Space::kEcam || r.length == 0 || r.length - 1 > ~uint64_t{0} - r.base) {
        d.channel->Violation(machine::VcpuError::kBadRange);
        break;
      }
      if (r.base > end) continue;
      next->Claim({static_cast<uint16_t>(i), r.region, r.space, r.base, std::min(r.length - 1, end - r.base) + 1});
    }
  }
  snapshot_ = std::move(next);
  version_.fetch_add(1, std::memory_order_release);
}

}  // namespace nyx
