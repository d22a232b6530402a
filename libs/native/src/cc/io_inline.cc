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
IoInline::File& IoInline::FileOf(int fd) {
  static File none{Kind::kQueued, nullptr};
  if (fd >= kMostFds) return none;
  if (static_cast<size_t>(fd) >= files_.size()) files_.resize(static_cast<size_t>(fd) + 1);
  File& f = files_[static_cast<size_t>(fd)];
  if (f.kind == Kind::kUnknown) {
    struct stat s;
    const int flags = fcntl(fd, F_GETFL);
    const bool file = flags >= 0 && fstat(fd, &s) == 0 && (S_ISREG(s.st_mode) || S_ISBLK(s.st_mode));
    f.kind = file && (flags & O_DIRECT) == 0 ? Kind::kPolite : Kind::kQueued;
    if (f.kind == Kind::kPolite && mode_ == Mode::kAll) f.mapped = MappedFile::Make(fd);
  }
  return f;
}

bool IoInline::Try(const IoRequest& r, int32_t* result) {
  if (r.op > kIoWrite || mode_ == Mode::kNone || (r.op == kIoWrite && mode_ != Mode::kAll)) return false;
  File& file = FileOf(r.fd);
  if (file.kind == Kind::kQueued) return false;
  if (r.op == kIoRead && file.mapped != nullptr && Mapped(*file.mapped, r, result)) return true;
  if (r.op == kIoWrite || file.kind == Kind::kBlocking) return Blocking(file, r, result);
  if (skip_ > 0) {
    skip_--;
    return false;
  }
  const ssize_t n = preadv2(r.fd, r.iov, static_cast<int>(r.segments), static_cast<off_t>(r.offset), RWF_NOWAIT);
  if (n >= 0) {
    misses_ = 0;
    if (file.mapped != nullptr) file.mapped->Cached(r.offset, static_cast<uint64_t>(n));
    *result = static_cast<int32_t>(n);
    return true;
  }
  if (errno == EOPNOTSUPP) {
    // A file system that cannot say whether it would wait; tmpfs never does.
    file.kind = Kind::kBlocking;
    return Blocking(file, r, result);
  }
  if (errno == EAGAIN) {
    if (misses_ < kMostMisses) misses_++;
    skip_ = (1u << misses_) - 1;
  }
  // Whatever else it is, who asks again in the usual way hears of it.
  return false;
}

bool IoInline::Mapped(MappedFile& file, const IoRequest& r, int32_t* result) {
  if (stalled_ && !budget_.Allows(MonotonicNs())) return false;
  stalled_ = false;
  uint64_t stall = 0;
  const auto done = file.Try(r, &stall);
  if (done == MappedFile::Read::kNot) return false;
  mapped_++;
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < r.segments; i++) bytes += r.iov[i].iov_len;
  *result = static_cast<int32_t>(bytes);
  if (done == MappedFile::Read::kSlow) {
    const uint64_t now = MonotonicNs();
    budget_.Spent(now - stall, now, bytes);
    stalled_ = true;
  }
  return true;
}

bool IoInline::Blocking(File& file, const IoRequest& r, int32_t* result) {
  if (mode_ != Mode::kAll) return false;
  const uint64_t began = MonotonicNs();
  if (!budget_.Allows(began)) return false;
  const auto count = static_cast<int>(r.segments);
  const auto offset = static_cast<off_t>(r.offset);
  const ssize_t n = r.op == kIoRead ? preadv(r.fd, r.iov, count, offset) : pwritev(r.fd, r.iov, count, offset);
  *result = static_cast<int32_t>(n < 0 ? -errno : n);
  if (r.op == kIoRead && n > 0 && file.mapped != nullptr) file.mapped->Cached(r.offset, static_cast<uint64_t>(n));
  budget_.Spent(began, MonotonicNs(), n < 0 ? 0 : static_cast<uint64_t>(n));
  return true;
}

}  // namespace nyx
