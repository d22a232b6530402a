#include "ram_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nyx {
namespace {

// What one thread copies at a time, and threads at most: memory is not faster than a few of them.
constexpr uint64_t kPiece = 4 << 20;
constexpr unsigned kThreads = 4;

struct Piece {
  uint64_t at;
  uint64_t bytes;
};

// Data of `from_fd` in the range; the rest becomes holes in `to_fd`.
bool Pieces(int from_fd, int to_fd, uint64_t offset, uint64_t size, std::vector<Piece>* out) {
  const uint64_t end = offset + size;
  for (uint64_t at = offset; at < end;) {
    off_t data = lseek(from_fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno != ENXIO) return false;
    const uint64_t begin = data < 0 ? end : std::min(static_cast<uint64_t>(data), end);
    if (begin > at && fallocate(to_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at), static_cast<off_t>(begin - at)) != 0) {
      return false;
    }
    if (begin == end) return true;
    const off_t hole = lseek(from_fd, static_cast<off_t>(begin), SEEK_HOLE);
    if (hole < 0) return false;
    const uint64_t stop = std::min(static_cast<uint64_t>(hole), end);
    for (at = begin; at < stop; at += kPiece) out->push_back({at, std::min(kPiece, stop - at)});
    at = stop;
  }
  return true;
}

unsigned Cpus() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? static_cast<unsigned>(CPU_COUNT(&set)) : 1;
}

RamCopied Copy(int from_fd, int to_fd, uint64_t offset, uint64_t size, const std::function<ssize_t(const Piece&)>& move) {
  RamCopied result;
  std::vector<Piece> pieces;
  if (!Pieces(from_fd, to_fd, offset, size, &pieces)) {
    result.error = std::string("guest memory cannot be looked through: ") + strerror(errno);
    return result;
  }
  std::atomic<size_t> next{0};
  std::atomic<int> failed{0};
  const auto work = [&] {
    for (size_t i; !failed.load() && (i = next.fetch_add(1)) < pieces.size();) {
      for (Piece p = pieces[i]; p.bytes > 0;) {
        const ssize_t n = move(p);
        if (n <= 0) {
          if (n < 0 && errno == EINTR) continue;
          failed.store(n < 0 ? errno : EIO);
          return;
        }
        p.at += static_cast<uint64_t>(n);
        p.bytes -= static_cast<uint64_t>(n);
      }
    }
  };
  std::vector<std::thread> helpers;
  const unsigned count = std::min({kThreads, Cpus(), static_cast<unsigned>(pieces.size())});
  for (unsigned i = 1; i < count; i++) helpers.emplace_back(work);
  work();
  for (std::thread& t : helpers) t.join();
  for (const Piece& p : pieces) result.bytes += p.bytes;
  if (const int error = failed.load()) result.error = std::string("guest memory cannot be copied: ") + strerror(error);
  return result;
}

}  // namespace

RamCopied SaveRam(int ram_fd, const uint8_t* ram, uint64_t offset, uint64_t size, int copy_fd) {
  return Copy(ram_fd, copy_fd, offset, size,
              [=](const Piece& p) { return pwrite(copy_fd, ram + (p.at - offset), p.bytes, static_cast<off_t>(p.at)); });
}

RamCopied LoadRam(int ram_fd, uint8_t* ram, uint64_t offset, uint64_t size, int copy_fd) {
  return Copy(copy_fd, ram_fd, offset, size,
              [=](const Piece& p) { return pread(copy_fd, ram + (p.at - offset), p.bytes, static_cast<off_t>(p.at)); });
}

}  // namespace nyx
