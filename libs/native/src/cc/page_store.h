// Pages of guest RAM as they were at a checkpoint, saved by whoever is the first to write to one (wire.ts, PageStore): the software
// CPU, devices by DMA, the supervisor's loader. Each may be killed at any instruction, and nobody waits for anybody:
//
//     entry of the page is of this checkpoint?        -> it is saved; write
//     take a slot, copy the page into it              nobody may write the page yet, so the copy is whole ...
//     compare-and-swap the entry to the slot's number ... if the entry is still the one that was read
//     was it another's, look again                    that one's copy counts; ours may be torn, and its slot serves the next page
#pragma once
#include <cstdint>
#include <cstring>

#include "shared.h"
#include "wire.h"

namespace nyx {

class PageStore {
 public:
  static constexpr uint64_t kPage = 4096;
  // A slot that a thread took and did not need.
  using Spare = uint64_t;

  // Slots that one checkpoint can take; the area holds twice as many, so that those of the last one are not taken again while
  // they are swept, or while one who was stopped in the midst of a copy goes on with it.
  static constexpr uint64_t Limit(uint64_t pages) { return pages + wire::kSpareSlots; }
  static constexpr uint64_t Slots(uint64_t pages) { return 2 * Limit(pages); }
  static constexpr uint64_t Bytes(uint64_t pages) {
    return PageUp(8 * pages) + PageUp(4 * Slots(pages)) + kPage * Slots(pages);
  }

  // `area`: what is at store_at of a page map of `pages` pages; `bytes` of it are mapped. False: too few.
  bool Open(wire::PageStore* header, uint8_t* area, uint64_t bytes, uint64_t pages) {
    if (pages == 0 || bytes < Bytes(pages)) return false;
    header_ = header;
    pages_ = pages;
    limit_ = Limit(pages);
    entries_ = reinterpret_cast<uint64_t*>(area);
    owners_ = reinterpret_cast<uint32_t*>(area + PageUp(8 * pages));
    slots_ = area + SlotsAt();
    return true;
  }

  uint64_t pages() const { return pages_; }
  bool saving() const { return LoadAcquire(header_->saving) != 0; }
  bool lost() const { return LoadAcquire(header_->lost) != 0; }
  // Slots that were taken since the checkpoint.
  uint64_t taken() const {
    const uint64_t n = LoadRelaxed(header_->next) - LoadRelaxed(header_->base);
    return n < limit_ ? n : limit_;
  }

  bool Saved(uint64_t page) const { return OfThis(LoadAcquire(entries_[page]), LoadAcquire(header_->base)); }

  // Page `page`, whose content is at `content`, may be written when this returns. False: it could not be saved, and the checkpoint
  // is lost. Any thread of any process; `spare` is the thread's own.
  bool Save(uint64_t page, const uint8_t* content, Spare* spare) {
    // What others do to the header and the entry ends; if they are not what they should be, we do.
    for (int tries = 0; tries < kTries && page < pages_; tries++) {
      const uint64_t base = LoadAcquire(header_->base);
      uint64_t entry = LoadAcquire(entries_[page]);
      if (OfThis(entry, base)) return true;
      const bool fresh = !OfThis(*spare, base);
      const uint64_t slot = fresh ? std::atomic_ref(header_->next).fetch_add(1) : *spare;
      *spare = 0;
      if (!OfThis(slot, base)) {
        // Taken before a checkpoint that has begun meanwhile; or there are no more.
        if (LoadAcquire(header_->base) != base) continue;
        break;
      }
      const uint64_t at = slot % (2 * limit_);
      // A fresh slot is a hole: zeros need no copy.
      if (!fresh || !IsZero(content)) memcpy(slots_ + at * kPage, content, kPage);
      StoreRelaxed(owners_[at], static_cast<uint32_t>(page));
      if (std::atomic_ref(entries_[page]).compare_exchange_strong(entry, slot)) {
        // We may have been stopped while another checkpoint was begun.
        if (LoadAcquire(header_->base) == base) return true;
      } else {
        *spare = slot;
      }
    }
    StoreRelease(header_->lost, 1u);
    StoreRelease(header_->saving, 0u);
    return false;
  }

  // ---- while everything stands still

  // A checkpoint begins: no page is saved.
  void Begin() {
    StoreRelaxed(header_->lost, 0u);
    StoreRelease(header_->base, LoadRelaxed(header_->next));
    StoreRelease(header_->saving, 1u);
  }
  void End() { StoreRelease(header_->saving, 0u); }

  // The page of the n-th slot that was taken, and where its content was put (as PlaceOf); ~0: the slot has none.
  uint64_t PageOf(uint64_t n) const {
    const uint64_t slot = LoadRelaxed(header_->base) + n;
    const uint64_t page = LoadRelaxed(owners_[slot % (2 * limit_)]);
    return page < pages_ && LoadRelaxed(entries_[page]) == slot ? page : ~uint64_t{0};
  }
  uint64_t PlaceOf(uint64_t n) const { return (LoadRelaxed(header_->base) + n) % (2 * limit_); }
  const uint8_t* Content(uint64_t place) const { return slots_ + place * kPage; }
  // Of place 0, from the beginning of the area.
  uint64_t SlotsAt() const { return PageUp(8 * pages_) + PageUp(4 * 2 * limit_); }
  uint64_t places() const { return 2 * limit_; }
  uint64_t limit() const { return limit_; }

 private:
  static constexpr int kTries = 64;

  static constexpr uint64_t PageUp(uint64_t n) { return (n + kPage - 1) & ~(kPage - 1); }
  bool OfThis(uint64_t slot, uint64_t base) const { return slot != 0 && slot - base < limit_; }

  static bool IsZero(const uint8_t* page) {
    for (uint64_t at = 0; at < kPage; at += 64) {
      uint64_t words[8];
      memcpy(words, page + at, sizeof words);
      if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7]) != 0) return false;
    }
    return true;
  }

  wire::PageStore* header_ = nullptr;
  uint64_t pages_ = 0;
  uint64_t limit_ = 0;
  uint64_t* entries_ = nullptr;
  uint32_t* owners_ = nullptr;
  uint8_t* slots_ = nullptr;
};

}  // namespace nyx
