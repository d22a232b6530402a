// A state block as the committing process sees it (ARCHITECTURE.md, "State block and the commit point").
#pragma once
#include <cstring>
#include <memory>

#include "wire.h"
#include "crc32c.h"
#include "shared.h"

namespace nyx {

class StateBlock {
 public:
  // `size` bytes at `base`, kept mapped by `hold`. False when the header does not fit the size.
  bool Open(uint8_t* base, size_t size, std::shared_ptr<void> hold) {
    if (size < wire::kHalvesAt) return false;
    header_ = reinterpret_cast<wire::BlockHeader*>(base);
    bytes_ = LoadRelaxed(header_->half_bytes);
    if (header_->magic != wire::kBlockMagic || bytes_ < sizeof(wire::HalfHeader) || bytes_ % 64 != 0 ||
        size < wire::kHalvesAt + 2 * static_cast<size_t>(bytes_))
      return false;
    hold_ = std::move(hold);
    crc_ = Crc32cOf(bytes_ - 4);
    halves_[0] = base + wire::kHalvesAt;
    halves_[1] = halves_[0] + bytes_;
    generation_ = LoadRelaxed(header_->generation);
    Prepare();
    return true;
  }

  // The commit record of the active half.
  const wire::HalfHeader& record() const { return *reinterpret_cast<wire::HalfHeader*>(halves_[generation_ & 1]); }

  // Makes the half that was changed the truth. One store is the commit point.
  void Commit(uint32_t ring, uint64_t seq, uint64_t reply, uint32_t status) {
    uint8_t* half = halves_[(generation_ + 1) & 1];
    auto* record = reinterpret_cast<wire::HalfHeader*>(half);
    record->ring = ring;
    record->seq = seq;
    record->reply = reply;
    record->status = status;
    record->crc = crc_(half + 4);
    StoreRelease(header_->generation, ++generation_);
  }

  // Makes the inactive half a copy of the truth: the next change can begin.
  void Prepare() { memcpy(halves_[(generation_ + 1) & 1], halves_[generation_ & 1], bytes_); }

 private:
  wire::BlockHeader* header_ = nullptr;
  uint8_t* halves_[2] = {};
  uint32_t bytes_ = 0;
  uint32_t generation_ = 0;
  Crc32cOf crc_;
  std::shared_ptr<void> hold_;
};

}  // namespace nyx
