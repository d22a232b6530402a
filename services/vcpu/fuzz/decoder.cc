// libFuzzer target: any bytes, in any mode. The decoder reads nothing behind what it is given (AddressSanitizer), its
// instruction has at most 15 bytes and a handler, and names only registers that exist; and what it says does not depend on
// bytes behind the instruction.
//
//     node services/vcpu/fuzz/run.mjs [seconds] decoder
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>

#include "soft/decode.h"
#include "soft/tables.h"

using namespace nyx::soft;

namespace {

constexpr uint32_t kModes[] = {
    0,                                                            // real mode
    kModePE | kModeVM86,
    kModePE,                                                      // 16-bit protected
    kModePE | kModeD32 | kModeSs32,
    kModePE | kModeD32 | kModeSs32 | kModeFlat,
    kModePE | kModeD32 | kModeSs32 | kModeFlat | kModeLMA | kModeUser,
    kModePE | kMode64 | kModeLMA,
    kModePE | kMode64 | kModeLMA | kModeUser,
};

void require(bool condition) {
  if (!condition) std::abort();
}

Decoded decode_copy(uint32_t mode, const uint8_t* bytes, unsigned size, uint16_t off, Insn* out, uint32_t* bits) {
  // Exactly `size` bytes on the heap, so that reading one more is found.
  const std::unique_ptr<uint8_t[]> copy(new uint8_t[size ? size : 1]);
  std::memcpy(copy.get(), bytes, size);
  return decode(op_tables(), mode, copy.get(), size, off, out, bits);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const uint32_t mode = kModes[data[0] % std::size(kModes)];
  const uint16_t off = uint16_t(data[1] * 16);
  data += 2;
  size -= 2;
  // As blocks are decoded: one after the other.
  while (size > 0) {
    const unsigned avail = unsigned(size);
    Insn i{};
    uint32_t bits = 0;
    const Decoded d = decode_copy(mode, data, avail, off, &i, &bits);
    if (d != Decoded::kOk) {
      require(d != Decoded::kNeedMore || avail < kMaxInsnBytes);
      require(d != Decoded::kTooLong || avail >= kMaxInsnBytes);
      return 0;
    }
    require(i.fn != nullptr && i.len >= 1 && i.len <= kMaxInsnBytes && i.len <= avail && i.off == off);
    require(i.base < kRegs && i.index <= kRegZero && i.shift < 4 && i.seg < kSegs);
    require(i.opsize == 1 || i.opsize == 2 || i.opsize == 4 || i.opsize == 8);
    // 8-bit registers are byte offsets: AL 0 .. R15B 120, AH 1 .. BH 25.
    const auto byte = [](uint8_t r) { return r < 128 && (r % 8 == 0 || (r % 8 == 1 && r < 32)); };
    require(bits & kByte ? byte(i.reg) : i.reg < 16);
    require(bits & (kByte | kByteRm) ? byte(i.rm) : i.rm < 16);
    require(i.opsize < 8 || (mode & kMode64) || !(i.bits & kRexW));
    Insn shorter{};
    uint32_t shorter_bits = 0;
    require(decode_copy(mode, data, i.len, off, &shorter, &shorter_bits) == Decoded::kOk);
    require(std::memcmp(&i, &shorter, sizeof(Insn)) == 0 && bits == shorter_bits);
    require(decode_copy(mode, data, i.len - 1u, off, &shorter, &shorter_bits) == Decoded::kNeedMore);
    data += i.len;
    size -= i.len;
  }
  return 0;
}
