// CRC-32C (Castagnoli, reflected, as in iSCSI RFC 3720 B.4) by the SSE4.2 instruction.
#pragma once
#include <nmmintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace nyx {

inline uint32_t Crc32c(const void* data, size_t length, uint32_t seed = 0) {
  const auto* p = static_cast<const uint8_t*>(data);
  uint64_t crc = ~seed;
  for (; length >= 8; p += 8, length -= 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    crc = _mm_crc32_u64(crc, word);
  }
  auto low = static_cast<uint32_t>(crc);
  for (; length > 0; p++, length--) low = _mm_crc32_u8(low, *p);
  return ~low;
}

}  // namespace nyx
