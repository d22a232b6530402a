// Any bytes as a guest: a small machine in one of the CPU's modes, run by the interpreter and as translated code. All that
// the guest can see must come out the same. Used by the libFuzzer target (fuzz/translator.cc) and by soft-differ.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace differ {

// What an input was good for.
struct Ran {
  uint64_t instructions;  // of the interpreter
  bool ended;             // the guest halted or shut down by itself, before the limit
};

// Input: mode, three bytes of options, 4 bytes that seed registers and memory, then code. "" when nothing differs, else what.
std::string run(const uint8_t* data, size_t size, Ran* ran);

}  // namespace differ
