// Requests that are done at once, in the calling thread, because that costs less than to have them done: reads that the page
// cache answers (from a mapping of the file where the same places are read again: mapped_file.h), and writes into it where
// the file system takes them only from somebody who may wait (ext4: io_uring hands each to a kernel thread, which costs more
// than the write).
//
// What may wait, may wait long (a cold page, throttled writers, a server that is far away). So only who may stand still gets
// it (a device process that is watched for its heartbeat may not), and waiting has a budget: beyond a burst, at most kShare of
// the time; when that is spent, requests are queued until it is earned again. Who only had to leave the CPU to somebody else
// did not wait: the kernel counts the one and the other (getrusage(2), ru_nvcsw). Asking costs as much as a tenth of a write, so
// it is asked only for a while after a call that took long.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "io_engine.h"
#include "mapped_file.h"
#include "ticks.h"

namespace nyx {

// How much of the time may be spent in calls that waited; pure.
class StallBudget {
 public:
  bool Allows(uint64_t now_ns) const { return repaid_ns_ <= now_ns + kBurstNs * kShare; }
  // A call that took from `began` to `ended` moved `bytes`. What moving them takes is no waiting.
  void Spent(uint64_t began_ns, uint64_t ended_ns, uint64_t bytes) {
    const uint64_t stall = ended_ns - began_ns;
    if (stall <= kFreeNs + bytes) return;
    repaid_ns_ = (repaid_ns_ > ended_ns ? repaid_ns_ : ended_ns) + kShare * stall;
  }

 private:
  // One part in so many.
  static constexpr uint64_t kShare = 50;
  static constexpr uint64_t kBurstNs = 20'000'000;
  // A call that takes no longer did not wait; a byte is a nanosecond, slowly copied.
  static constexpr uint64_t kFreeNs = 200'000;
  uint64_t repaid_ns_ = 0;
};

class IoInline {
 public:
  enum class Mode { kNone, kCached, kAll };
  void set_mode(Mode mode) { mode_ = mode; }
  // True: done, with `*result` bytes or -errno. False: it has to be queued.
  bool Try(const IoRequest& request, int32_t* result);
  // The caller turns to something else, and may sleep.
  void Turn() { counted_ = false; }
  // Reads that came from a mapping.
  uint64_t mapped() const { return mapped_; }

 private:
  enum class Kind : uint8_t { kUnknown, kQueued, kPolite, kBlocking };
  struct File {
    Kind kind = Kind::kUnknown;
    // Of who may stand still only.
    std::unique_ptr<MappedFile> mapped;
  };
  File& FileOf(int fd);
  // Around a call of which nobody knows whether it will wait. False: it must not, queue it.
  bool Patient();
  void Account(uint64_t began, uint64_t bytes);
  bool Blocking(File& file, const IoRequest& request, int32_t* result);

  // By descriptor: those of a queue stay open as long as it does.
  std::vector<File> files_;
  StallBudget budget_;
  Mode mode_ = Mode::kCached;
  // Reads that are queued without a try, after so many in a row that the page cache did not have.
  uint32_t skip_ = 0, misses_ = 0;
  uint64_t mapped_ = 0;
  TickClock clock_;
  // Something has waited: the budget is asked before the next call that may.
  bool stalled_ = false;
  // Until then a long call is to be told from a preemption (ticks).
  uint64_t alert_until_ = 0;
  // How often this thread has waited, and whether that is so still.
  long waits_ = 0;
  bool counted_ = false;
};

}  // namespace nyx
