// Reads of what the page cache holds, by a mapping of the file: half of what a system call takes for 4 KiB is finding the page and
// accounting, and here the page tables remember where it is.
//
// A page that is not there would stop the caller, so only pages are read of which the kernel said shortly before that it has
// them (mincore). When it has taken one back since, the read waits for the disk: that is seen by the time it took, and the
// caller has a budget for it. A page that cannot be had (SIGBUS: the file was cut, its disk failed, or the front-end cut the memory
// that is read to) ends the copy and not the process; who asks the kernel in the usual way then hears what is wrong.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "io_engine.h"

namespace nyx {

class MappedFile {
 public:
  // nullptr: a file that cannot be mapped, or one of which this process is not told what is cached (mincore(2), "permission").
  static std::unique_ptr<MappedFile> Make(int fd);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Reads the `bytes` of a request. False: somebody else has to.
  bool Read(const IoRequest& request, uint64_t bytes);
  // What was known of these bytes does not hold: reading them took long.
  void Forget(uint64_t offset, uint64_t bytes);
  // The kernel had these bytes: where that is so often, it is asked for all that it has.
  void Cached(uint64_t offset, uint64_t bytes);

 private:
  static constexpr uint64_t kPage = 4096, kWindowPages = 512, kWindow = kPage * kWindowPages;
  struct Window {
    uint64_t resident[kWindowPages / 64];
    // What is known holds until then (time stamp counter).
    uint64_t until;
    uint32_t hits;
  };
  struct Free {
    void operator()(Window* p) const { free(p); }
  };

  MappedFile() = default;
  void Look(uint64_t index);
  bool Resident(uint64_t offset, uint64_t bytes, uint64_t now) const;

  int fd_ = -1;
  const uint8_t* base_ = nullptr;
  // Of the mapping; the file may end before, or grow into it.
  uint64_t length_ = 0;
  std::unique_ptr<Window[], Free> windows_;
};

}  // namespace nyx
