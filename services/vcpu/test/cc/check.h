// A few macros for unit tests. Each TEST is run by name: `vcpu-tests NAME`, all names by `vcpu-tests --list`.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace nyx::test {

struct Case {
  const char* name;
  void (*run)();
};
inline std::vector<Case>& Cases() {
  static std::vector<Case> cases;
  return cases;
}
struct Register {
  Register(const char* name, void (*run)()) { Cases().push_back({name, run}); }
};

inline void Equal(uint64_t got, uint64_t want, const char* text, const char* file, int line) {
  if (got == want) return;
  fprintf(stderr, "%s:%d: %s is 0x%llx, expected 0x%llx\n", file, line, text, static_cast<unsigned long long>(got),
          static_cast<unsigned long long>(want));
  exit(1);
}

}  // namespace nyx::test

#define NYX_JOIN2(a, b) a##b
#define NYX_JOIN(a, b) NYX_JOIN2(a, b)
#define TEST(name)                                                                                     \
  static void NYX_JOIN(Test, __LINE__)();                                                              \
  static nyx::test::Register NYX_JOIN(register_, __LINE__)(name, NYX_JOIN(Test, __LINE__));            \
  static void NYX_JOIN(Test, __LINE__)()
#define EQ(got, want) nyx::test::Equal(static_cast<uint64_t>(got), static_cast<uint64_t>(want), #got, __FILE__, __LINE__)
#define OK(condition) EQ(!!(condition), 1)
