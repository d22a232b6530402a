// Descriptors and synchronous file access into mapped memory.
#include "files.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "call.h"

namespace nyx {
namespace {

napi_value Close(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  if (!call.Fd(0, &fd)) return nullptr;
  return close(fd) == 0 ? nullptr : ThrowErrno(env, "close", errno);
}

napi_value Dup(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  if (!call.Fd(0, &fd)) return nullptr;
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return copy >= 0 ? FromInt(env, copy) : ThrowErrno(env, "fcntl(F_DUPFD_CLOEXEC)", errno);
}

// For descriptors of a peer, which may be such that a read or write would wait for ever.
napi_value SetNonblock(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  if (!call.Fd(0, &fd)) return nullptr;
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return ThrowErrno(env, "fcntl(F_SETFL)", errno);
  return nullptr;
}

napi_value FileSize(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  struct stat st;
  if (!call.Fd(0, &fd)) return nullptr;
  if (fstat(fd, &st) != 0) return ThrowErrno(env, "fstat", errno);
  if (!S_ISBLK(st.st_mode)) return FromNumber(env, static_cast<double>(st.st_size));
  uint64_t bytes;
  if (ioctl(fd, BLKGETSIZE64, &bytes) != 0) return ThrowErrno(env, "ioctl(BLKGETSIZE64)", errno);
  return FromNumber(env, static_cast<double>(bytes));
}

template <bool kWrite>
napi_value Transfer(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  uint8_t* data;
  size_t length;
  int64_t position;
  if (!call.Fd(0, &fd) || !call.Range(1, "buffer", &data, &length) ||
      !call.Int(4, "position", 0, 0x1p53, &position))
    return nullptr;
  ssize_t n;
  do n = kWrite ? pwrite(fd, data, length, position) : pread(fd, data, length, position);
  while (n < 0 && errno == EINTR);
  return n >= 0 ? FromNumber(env, static_cast<double>(n)) : ThrowErrno(env, kWrite ? "pwrite" : "pread", errno);
}

napi_value Fsync(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  bool data_only = false;
  if (!call.Fd(0, &fd)) return nullptr;
  if (call.Has(1) && napi_get_value_bool(env, call.arg(1), &data_only) != napi_ok) {
    call.Fail("dataOnly", "a boolean");
    return nullptr;
  }
  return (data_only ? fdatasync(fd) : fsync(fd)) == 0 ? nullptr : ThrowErrno(env, "fsync", errno);
}

napi_value Fallocate(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  std::string mode;
  int64_t offset, length;
  if (!call.Fd(0, &fd) || !call.Text(1, "mode", &mode) || !call.Int(2, "offset", 0, 0x1p53, &offset) ||
      !call.Int(3, "length", 1, 0x1p53, &length))
    return nullptr;
  int flags = FALLOC_FL_KEEP_SIZE;
  if (mode == "punchHole") flags |= FALLOC_FL_PUNCH_HOLE;
  else if (mode == "zeroRange") flags |= FALLOC_FL_ZERO_RANGE;
  else return call.Fail("mode", "'punchHole' or 'zeroRange'"), nullptr;
  return fallocate(fd, flags, offset, length) == 0 ? nullptr : ThrowErrno(env, "fallocate", errno);
}

// Arguments (fd, kind, offset, length) of a lock that belongs to the open file description.
bool LockOf(Call& call, int* fd, struct flock* lock, bool may_unlock) {
  std::string kind;
  int64_t offset, length;
  if (!call.Fd(0, fd) || !call.Text(1, "kind", &kind) || !call.Int(2, "offset", 0, 0x1p53, &offset) ||
      !call.Int(3, "length", 1, 0x1p53, &length))
    return false;
  *lock = {};
  if (kind == "read") lock->l_type = F_RDLCK;
  else if (kind == "write") lock->l_type = F_WRLCK;
  else if (kind == "none" && may_unlock) lock->l_type = F_UNLCK;
  else return call.Fail("kind", may_unlock ? "'read', 'write' or 'none'" : "'read' or 'write'"), false;
  lock->l_whence = SEEK_SET;
  lock->l_start = offset;
  lock->l_len = length;
  return true;
}

napi_value OfdLock(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  struct flock lock;
  if (!LockOf(call, &fd, &lock, true)) return nullptr;
  int result;
  do result = fcntl(fd, F_OFD_SETLK, &lock);
  while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EAGAIN && errno != EACCES) return ThrowErrno(env, "fcntl(F_OFD_SETLK)", errno);
  return FromBool(env, result == 0);
}

napi_value OfdTest(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  struct flock lock;
  if (!LockOf(call, &fd, &lock, false)) return nullptr;
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return ThrowErrno(env, "fcntl(F_OFD_GETLK)", errno);
  return FromBool(env, lock.l_type == F_UNLCK);
}

}  // namespace

void ExportFiles(napi_env env, napi_value exports) {
  SetFunction(env, exports, "close", Close);
  SetFunction(env, exports, "dup", Dup);
  SetFunction(env, exports, "setNonblock", SetNonblock);
  SetFunction(env, exports, "fileSize", FileSize);
  SetFunction(env, exports, "pread", Transfer<false>);
  SetFunction(env, exports, "pwrite", Transfer<true>);
  SetFunction(env, exports, "fsync", Fsync);
  SetFunction(env, exports, "fallocate", Fallocate);
  SetFunction(env, exports, "ofdLock", OfdLock);
  SetFunction(env, exports, "ofdTest", OfdTest);
}

}  // namespace nyx
