// Registers as people read them: names and hexadecimal values, some to a line.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <string>

namespace nyx {

inline constexpr const char* kGprNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                              "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

[[gnu::format(printf, 2, 3)]] inline void Append(std::string* text, const char* format, ...) {
  char line[160];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  *text += line;
}

// `gpr` in the order of kGprNames.
inline void AppendGeneral(std::string* text, uint64_t rip, uint64_t rflags, const uint64_t (&gpr)[16]) {
  Append(text, "rip %016lx  rflags %08lx%s\n", rip, rflags, rflags & 0x200 ? "" : " (interrupts off)");
  for (unsigned i = 0; i < 16; i++) Append(text, "%-3s %016lx%s", kGprNames[i], gpr[i], i % 4 == 3 ? "\n" : "  ");
}

inline void AppendControl(std::string* text, uint64_t cr0, uint64_t cr2, uint64_t cr3, uint64_t cr4, uint64_t efer) {
  Append(text, "cr0 %08lx  cr2 %016lx  cr3 %016lx  cr4 %08lx  efer %04lx\n", cr0, cr2, cr3, cr4, efer);
}

inline void AppendSegment(std::string* text, const char* name, unsigned selector, uint64_t base, uint64_t limit) {
  Append(text, "%-4s %04x  base %016lx  limit %08lx\n", name, selector, base, limit);
}

}  // namespace nyx
