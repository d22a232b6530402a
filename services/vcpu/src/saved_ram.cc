#include "saved_ram.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "in_parallel.h"

namespace nyx {
namespace {

constexpr uint64_t kPage = PageStore::kPage;
// Slots that one thread puts back at a time.
constexpr uint64_t kPiece = 1024;

bool PunchHole(int fd, uint64_t at, uint64_t bytes) {
  return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at), static_cast<off_t>(bytes)) == 0;
}

uint8_t* HostOf(const MemoryMap& memory, uint64_t page) {
  for (unsigned i = 0; i < memory.count(); i++) {
    const MemoryMap::Region& r = memory.regions()[i];
    if (r.first_page != MemoryMap::kNoPage && page - r.first_page < r.size / kPage) return r.host + (page - r.first_page) * kPage;
  }
  return nullptr;
}

// Which bytes of a file are data: asked once for each run of them.
class Runs {
 public:
  explicit Runs(int fd) : fd_(fd) {}

  bool IsData(uint64_t at) {
    if (at < begin_ || at >= end_) Find(static_cast<off_t>(at));
    return data_;
  }

 private:
  void Find(off_t at) {
    const off_t data = lseek(fd_, at, SEEK_DATA);
    data_ = data == at;
    const off_t end = data_ ? lseek(fd_, at, SEEK_HOLE) : data;
    begin_ = static_cast<uint64_t>(at);
    // Beyond the last data there is no end to be found.
    end_ = end < 0 ? ~uint64_t{0} : static_cast<uint64_t>(end);
  }

  const int fd_;
  uint64_t begin_ = 0, end_ = 0;
  bool data_ = false;
};

}  // namespace

SavedRam::~SavedRam() { Join(); }

// Places from `first` on, which go round.
bool SavedRam::Punch(uint64_t first, uint64_t count) const {
  const uint64_t once = std::min(count, store_.places() - first);
  return PunchHole(fd_, offset_ + first * kPage, once * kPage) &&
         (count == once || PunchHole(fd_, offset_, (count - once) * kPage));
}

bool SavedRam::Join() {
  if (sweeper_.joinable()) sweeper_.join();
  if (sweep_failed_.load()) sweep_failed_.store(!Punch(sweep_first_, sweep_count_));
  return !sweep_failed_.load();
}

bool SavedRam::Open(wire::PageStore* header, uint8_t* area, uint64_t bytes, int fd, uint64_t offset, uint64_t pages) {
  if (!store_.Open(header, area, bytes, pages)) return false;
  fd_ = fd;
  offset_ = offset + store_.SlotsAt();
  return true;
}

bool SavedRam::Begin() {
  // It must not sweep what is about to be filled; and what is to be filled must be holes.
  if (!Join()) return false;
  store_.Begin();
  unswept_ = true;
  armed_.store(true);
  return true;
}

void SavedRam::End() {
  if (!armed() && !unswept_) return;
  armed_.store(false);
  store_.End();
  unswept_ = true;
  Sweep();
}

void SavedRam::Sweep() {
  if (!unswept_) return;
  unswept_ = false;
  Join();
  // With a checkpoint, the half that it cannot come to.
  sweep_first_ = armed() ? store_.PlaceOf(store_.limit()) : 0;
  sweep_count_ = armed() ? store_.limit() : store_.places();
  sweeper_ = std::thread([this] { sweep_failed_.store(!Punch(sweep_first_, sweep_count_)); });
}

RamCopied SavedRam::Restore(const MemoryMap& memory, int ram_fd) {
  const uint64_t taken = store_.taken();
  std::atomic<uint64_t> bytes{0};
  std::atomic<int> failed{0};
  InParallel((taken + kPiece - 1) / kPiece, [&](size_t piece) {
    Runs runs(fd_);
    uint64_t done = 0;
    // Pages of zeros: neighbours go together.
    uint64_t hole = 0, holes = 0;
    const auto punch = [&] {
      if (holes && !PunchHole(ram_fd, hole * kPage, holes * kPage)) failed.store(errno);
      holes = 0;
    };
    for (uint64_t n = piece * kPiece; n < std::min(taken, (piece + 1) * kPiece); n++) {
      const uint64_t page = store_.PageOf(n);
      uint8_t* const host = page == ~uint64_t{0} ? nullptr : HostOf(memory, page);
      if (!host) continue;
      done += kPage;
      const uint64_t place = store_.PlaceOf(n);
      if (runs.IsData(offset_ + place * kPage)) {
        memcpy(host, store_.Content(place), kPage);
        continue;
      }
      if (holes == 0 || page != hole + holes) {
        punch();
        hole = page;
      }
      holes++;
    }
    punch();
    bytes += done;
  });
  RamCopied result{bytes.load(), {}};
  if (const int error = failed.load()) result.error = std::string("guest memory cannot be put back: ") + strerror(error);
  return result;
}

}  // namespace nyx
