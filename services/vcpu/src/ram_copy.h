// Guest memory into a file and back, while nobody writes it. Both are sparse memfds of the same size; what is a hole in the one
// becomes a hole in the other.
#pragma once
#include <cstdint>
#include <string>

namespace nyx {

struct RamCopied {
  uint64_t bytes = 0;
  std::string error;
};

// From the memory `ram` (mapped from `ram_fd`, `size` bytes at offset `offset` of both files) to `copy_fd`.
RamCopied SaveRam(int ram_fd, const uint8_t* ram, uint64_t offset, uint64_t size, int copy_fd);
RamCopied LoadRam(int ram_fd, uint8_t* ram, uint64_t offset, uint64_t size, int copy_fd);

// A sum over what is in the memory, whatever of it is a hole: of equal contents the same, of others hardly ever. Adds up.
uint64_t SumRam(int ram_fd, const uint8_t* ram, uint64_t offset, uint64_t size);

}  // namespace nyx
