#pragma GCC target("sse4.2")
#include "ram_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <vector>

#include "crc32c.h"
#include "in_parallel.h"

namespace nyx {
namespace {

constexpr uint64_t kPage = 4096;
// What one thread copies at a time.
constexpr uint64_t kPiece = 4 << 20;

struct Piece {
  uint64_t at;
  uint64_t bytes;
};

// Data of `from_fd` in the range; the rest becomes holes in `to_fd`, if that is one.
bool Pieces(int from_fd, int to_fd, uint64_t offset, uint64_t size, std::vector<Piece>* out) {
  const uint64_t end = offset + size;
  for (uint64_t at = offset; at < end;) {
    off_t data = lseek(from_fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno != ENXIO) return false;
    const uint64_t begin = data < 0 ? end : std::min(static_cast<uint64_t>(data), end);
    if (to_fd >= 0 && begin > at &&
        fallocate(to_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at), static_cast<off_t>(begin - at)) != 0) {
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

RamCopied Copy(int from_fd, int to_fd, uint64_t offset, uint64_t size, const std::function<ssize_t(const Piece&)>& move) {
  RamCopied result;
  std::vector<Piece> pieces;
  if (!Pieces(from_fd, to_fd, offset, size, &pieces)) {
    result.error = std::string("guest memory cannot be looked through: ") + strerror(errno);
    return result;
  }
  std::atomic<int> failed{0};
  InParallel(pieces.size(), [&](size_t i) {
    for (Piece p = pieces[i]; p.bytes > 0 && !failed.load();) {
      const ssize_t n = move(p);
      if (n <= 0) {
        if (n == 0 || errno != EINTR) failed.store(n < 0 ? errno : EIO);
        continue;
      }
      p.at += static_cast<uint64_t>(n);
      p.bytes -= static_cast<uint64_t>(n);
    }
  });
  for (const Piece& p : pieces) result.bytes += p.bytes;
  if (const int error = failed.load()) result.error = std::string("guest memory cannot be copied: ") + strerror(error);
  return result;
}

// The bits of both, well mixed (the finalizer of SplitMix64).
uint64_t Mix(uint64_t page, uint32_t crc) {
  uint64_t x = page << 32 | crc;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

}  // namespace

uint64_t SumRam(int ram_fd, const uint8_t* ram, uint64_t offset, uint64_t size) {
  std::vector<Piece> pieces;
  Pieces(ram_fd, -1, offset, size, &pieces);
  const Crc32cOf crc(kPage);
  static constexpr uint8_t kZeros[kPage] = {};
  std::atomic<uint64_t> sum{0};
  InParallel(pieces.size(), [&](size_t i) {
    uint64_t part = 0;
    for (uint64_t at = pieces[i].at; at < pieces[i].at + pieces[i].bytes; at += kPage) {
      const uint8_t* page = ram + (at - offset);
      if (memcmp(page, kZeros, kPage) != 0) part += Mix(at / kPage, crc(page));
    }
    sum += part;
  });
  return sum;
}

RamCopied SaveRam(int ram_fd, const uint8_t* ram, uint64_t offset, uint64_t size, int copy_fd) {
  return Copy(ram_fd, copy_fd, offset, size,
              [=](const Piece& p) { return pwrite(copy_fd, ram + (p.at - offset), p.bytes, static_cast<off_t>(p.at)); });
}

RamCopied LoadRam(int ram_fd, uint8_t* ram, uint64_t offset, uint64_t size, int copy_fd) {
  return Copy(copy_fd, ram_fd, offset, size,
              [=](const Piece& p) { return pread(copy_fd, ram + (p.at - offset), p.bytes, static_cast<off_t>(p.at)); });
}

}  // namespace nyx
