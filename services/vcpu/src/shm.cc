#include "shm.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace nyx {

Mapping::~Mapping() {
  if (data_) munmap(data_, size_);
}

int64_t SealedSize(int fd, std::string* error) {
  struct stat st;
  // Not libc's: it asks by newfstatat, which could open files, and is not allowed any more once the machine runs.
  if (syscall(SYS_fstat, fd, &st) != 0) {
    *error = std::string("descriptor is not open: ") + strerror(errno);
    return -1;
  }
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || !(seals & F_SEAL_SHRINK)) {
    *error = "descriptor is no memfd sealed with F_SEAL_SHRINK";
    return -1;
  }
  return st.st_size;
}

bool Mapping::Map(int fd, uint64_t offset, uint64_t bytes, bool writable, std::string* error) {
  const int64_t size = SealedSize(fd, error);
  if (size < 0) return false;
  if (bytes == 0 || offset > static_cast<uint64_t>(size) || bytes > static_cast<uint64_t>(size) - offset) {
    *error = "memfd has " + std::to_string(size) + " bytes, needed are " + std::to_string(bytes) + " at " + std::to_string(offset);
    return false;
  }
  void* at = mmap(nullptr, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED | MAP_NORESERVE, fd,
                  static_cast<off_t>(offset));
  if (at == MAP_FAILED) {
    *error = std::string("mmap: ") + strerror(errno);
    return false;
  }
  data_ = static_cast<uint8_t*>(at);
  size_ = bytes;
  return true;
}

bool Mapping::MapAll(int fd, bool writable, std::string* error) {
  const int64_t size = SealedSize(fd, error);
  return size >= 0 && Map(fd, 0, static_cast<uint64_t>(size), writable, error);
}

}  // namespace nyx
