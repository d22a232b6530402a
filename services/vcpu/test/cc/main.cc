#include <cstring>

#include "check.h"

int main(int argc, char** argv) {
  const bool list = argc > 1 && strcmp(argv[1], "--list") == 0;
  int ran = 0;
  for (const auto& c : nyx::test::Cases()) {
    if (list) {
      puts(c.name);
    } else if (argc < 2 || strcmp(argv[1], c.name) == 0) {
      c.run();
      ran++;
    }
  }
  return list || ran ? 0 : 2;
}
