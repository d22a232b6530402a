// Guest RAM as it was at the last checkpoint, in this process: pages that somebody has written to since are in the page store
// (page_store.h), all others are what they were. Software CPU only: what a guest writes under KVM, nobody here sees.
#pragma once
#include <atomic>
#include <string>
#include <thread>

#include "accel.h"
#include "page_store.h"
#include "ram_copy.h"

namespace nyx {

class SavedRam {
 public:
  ~SavedRam();

  // The store is at `offset` of the memfd `fd`, mapped at `area`; `header` is in the page map. False: it is too small.
  bool Open(wire::PageStore* header, uint8_t* area, uint64_t bytes, int fd, uint64_t offset, uint64_t pages);

  // ---- vCPU threads. What others write to the header does not make us save anything.

  bool armed() const { return armed_.load(std::memory_order_relaxed); }
  bool Saved(uint64_t page) const { return store_.Saved(page); }
  // The page may be written when it returns. If it cannot be saved, there is no checkpoint any more.
  void Save(uint64_t page, const uint8_t* content, PageStore::Spare* spare) {
    if (!store_.Save(page, content, spare)) armed_.store(false, std::memory_order_relaxed);
  }

  // ---- control thread; all vCPUs stand still

  // False: the last one's memory cannot be given back.
  bool Begin();
  // There is a checkpoint, and it is whole.
  bool whole() const { return armed() && store_.saving() && !store_.lost(); }
  uint64_t bytes() const { return store_.taken() * PageStore::kPage; }
  // Puts back what was saved; the checkpoint stays. No other process may write guest RAM.
  RamCopied Restore(const MemoryMap& memory, int ram_fd);

  // ---- control thread, at any time

  // There is no checkpoint any more.
  void End();
  // Gives the memory of slots back that no checkpoint needs, in a thread of its own.
  void Sweep();

 private:
  // Waits for the sweeper, and does what it could not. False: nor can we.
  bool Join();
  bool Punch(uint64_t first, uint64_t count) const;

  PageStore store_;
  int fd_ = -1;
  uint64_t offset_ = 0;  // of the first slot in the file
  std::atomic<bool> armed_{false};
  bool unswept_ = false;
  std::thread sweeper_;
  uint64_t sweep_first_ = 0, sweep_count_ = 0;
  std::atomic<bool> sweep_failed_{false};
};

}  // namespace nyx
