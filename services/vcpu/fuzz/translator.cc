// libFuzzer target: any bytes as a guest, in ten modes of the CPU, by the interpreter and as translated code (test/differ).
// Whatever differs, and whatever a sanitizer finds in the engine, ends it.
//
//     node services/vcpu/fuzz/run.mjs [seconds] translator
#include <cstdio>
#include <cstdlib>

#include "differ.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  differ::Ran ran;
  const std::string text = differ::run(data, size, &ran);
  if (text.empty()) return 0;
  std::fprintf(stderr, "%s", text.c_str());
  std::abort();
}
