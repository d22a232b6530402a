#include "io_inline.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>

#include "futex.h"

namespace nyx {
namespace {

constexpr uint32_t kMostMisses = 10;
constexpr int kMostFds = 4096;
// A second or two.
constexpr uint64_t kAlertTicks = uint64_t{1} << 32;

long WaitsOfThread() {
  rusage usage;
  return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nvcsw : 0;
}

uint64_t BytesOf(const IoRequest& r) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < r.segments; i++) bytes += r.iov[i].iov_len;
  return bytes;
}

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
  if (r.op == kIoRead && file.mapped != nullptr && Patient()) {
    const uint64_t bytes = BytesOf(r);
    const uint64_t began = Ticks();
    if (file.mapped->Read(r, bytes)) {
      mapped_++;
      *result = static_cast<int32_t>(bytes);
      Account(began, bytes);
      if (stalled_) file.mapped->Forget(r.offset, bytes);
      return true;
    }
  }
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

// Who waited too much must not, until it is earned again.
bool IoInline::Patient() {
  if (stalled_ && !budget_.Allows(MonotonicNs())) return false;
  stalled_ = false;
  if (!counted_ && Ticks() < alert_until_) {
    waits_ = WaitsOfThread();
    counted_ = true;
  }
  return true;
}

void IoInline::Account(uint64_t began, uint64_t bytes) {
  const uint64_t ended = Ticks();
  if (!LooksStalled(began, ended, bytes)) return;
  alert_until_ = ended + kAlertTicks;
  const long before = waits_;
  const bool known = counted_;
  waits_ = WaitsOfThread();
  counted_ = true;
  if (known && waits_ == before) return;
  const uint64_t now = MonotonicNs();
  budget_.Spent(now - clock_.ToNs(ended - began), now, bytes);
  stalled_ = true;
}

bool IoInline::Blocking(File& file, const IoRequest& r, int32_t* result) {
  if (mode_ != Mode::kAll || !Patient()) return false;
  const uint64_t began = Ticks();
  const auto count = static_cast<int>(r.segments);
  const auto offset = static_cast<off_t>(r.offset);
  const iovec& one = r.iov[0];
  ssize_t n;
  // The kernel takes longer to read a list, if it is a list of one.
  if (r.op == kIoRead)
    n = count == 1 ? pread(r.fd, one.iov_base, one.iov_len, offset) : preadv(r.fd, r.iov, count, offset);
  else
    n = count == 1 ? pwrite(r.fd, one.iov_base, one.iov_len, offset) : pwritev(r.fd, r.iov, count, offset);
  *result = static_cast<int32_t>(n < 0 ? -errno : n);
  if (r.op == kIoRead && n > 0 && file.mapped != nullptr) file.mapped->Cached(r.offset, static_cast<uint64_t>(n));
  Account(began, n < 0 ? 0 : static_cast<uint64_t>(n));
  return true;
}

}  // namespace nyx
