// The stack of translated code: where calls will return to, so that the host's own prediction of returns serves the
// guest's. What is on it is a guess that every return checks: it may be lost, stale or of another task.
#pragma once
#include <sys/auxv.h>

#include <cstdint>
#include <cstring>
#include <utility>

namespace nyx::soft {

// A call pushes the guest's return address and calls; [RSP] is then the host's.
struct Returns {
  // A stack is aligned to its size, so that its end is known by RSP alone. Signal handlers run below it.
  static constexpr unsigned kBytes = 16 << 10, kBelow = 64 << 10;
  uint64_t top;     // RSP of translated code while something else runs
  uint64_t bottom;  // RSP of an empty stack
  uint32_t mode;    // Cpu::mode of what is on it
  uint64_t other_top, other_bottom;  // user and supervisor mode have a stack each
  uint32_t other_mode;

  // Two stacks in [memory, memory + 2 * (kBelow + kBytes) + kBytes). At their bottom are returns that no guest makes: to an
  // address that is not canonical and that it cannot know. `nobody` is host code that would stop it there.
  void Start(uint8_t* memory, const uint8_t* nobody) {
    uint64_t key;
    std::memcpy(&key, reinterpret_cast<const uint8_t*>(getauxval(AT_RANDOM)) + 8, sizeof key);
    key = (key | 1ull << 63) & ~(1ull << 62);
    const auto make = [&](uint64_t at) {
      at = (at + kBelow + kBytes - 1) & ~uint64_t{kBytes - 1};
      auto* const entries = reinterpret_cast<uint64_t*>(at + kBytes - 32);
      for (unsigned k = 0; k < 4; k += 2) {
        entries[k] = reinterpret_cast<uint64_t>(nobody);
        entries[k + 1] = key;
      }
      return at + kBytes - 32;
    };
    bottom = make(reinterpret_cast<uint64_t>(memory));
    other_bottom = make(bottom + 32);
    Forget();
  }
  void Forget() {
    top = bottom;
    other_top = other_bottom;
  }
  // Cpu::mode is `now`; `other`: user instead of supervisor mode, or the reverse.
  void Enter(uint32_t now, bool other) {
    if (other) {
      std::swap(top, other_top);
      std::swap(bottom, other_bottom);
      std::swap(mode, other_mode);
    }
    if (mode == now) return;
    mode = now;
    top = bottom;
  }
};

}  // namespace nyx::soft
