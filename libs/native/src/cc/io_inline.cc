#include "io_inline.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "futex.h"

namespace nyx {
namespace {

constexpr uint32_t kMostMisses = 10;
constexpr int kMostFds = 4096;

}  // namespace

// Direct I/O waits for the disk each time; and a pipe or socket is nobody's disk.
IoInline::Kind IoInline::KindOf(int fd) {
  if (fd >= kMostFds) return Kind::kQueued;
  if (static_cast<size_t>(fd) >= kinds_.size()) kinds_.resize(static_cast<size_t>(fd) + 1, Kind::kUnknown);
  Kind& kind = kinds_[static_cast<size_t>(fd)];
  if (kind == Kind::kUnknown) {
    struct stat s;
    const int flags = fcntl(fd, F_GETFL);
    const bool file = flags >= 0 && fstat(fd, &s) == 0 && (S_ISREG(s.st_mode) || S_ISBLK(s.st_mode));
    kind = file && (flags & O_DIRECT) == 0 ? Kind::kPolite : Kind::kQueued;
  }
  return kind;
}

bool IoInline::Try(const IoRequest& r, int32_t* result) {
  if (r.op > kIoWrite || mode_ == Mode::kNone || (r.op == kIoWrite && mode_ != Mode::kAll)) return false;
  const Kind kind = KindOf(r.fd);
  if (kind == Kind::kQueued) return false;
  if (r.op == kIoWrite || kind == Kind::kBlocking) return Blocking(r, result);
  if (skip_ > 0) {
    skip_--;
    return false;
  }
  const ssize_t n = preadv2(r.fd, r.iov, static_cast<int>(r.segments), static_cast<off_t>(r.offset), RWF_NOWAIT);
  if (n >= 0) {
    misses_ = 0;
    *result = static_cast<int32_t>(n);
    return true;
  }
  if (errno == EOPNOTSUPP) {
    // A file system that cannot say whether it would wait; tmpfs never does.
    kinds_[static_cast<size_t>(r.fd)] = Kind::kBlocking;
    return Blocking(r, result);
  }
  if (errno == EAGAIN) {
    if (misses_ < kMostMisses) misses_++;
    skip_ = (1u << misses_) - 1;
  }
  // Whatever else it is, who asks again in the usual way hears of it.
  return false;
}

bool IoInline::Blocking(const IoRequest& r, int32_t* result) {
  if (mode_ != Mode::kAll) return false;
  const uint64_t began = MonotonicNs();
  if (!budget_.Allows(began)) return false;
  const auto count = static_cast<int>(r.segments);
  const auto offset = static_cast<off_t>(r.offset);
  const ssize_t n = r.op == kIoRead ? preadv(r.fd, r.iov, count, offset) : pwritev(r.fd, r.iov, count, offset);
  *result = static_cast<int32_t>(n < 0 ? -errno : n);
  budget_.Spent(began, MonotonicNs(), n < 0 ? 0 : static_cast<uint64_t>(n));
  return true;
}

}  // namespace nyx
