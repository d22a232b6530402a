// What this process takes from itself when the machine is built: from then on it opens nothing.
#pragma once
#include <string>

namespace nyx {

// Empties the root directory (with nyx-jail's helper, if there is one) and allows the system calls of a machine that runs, in all
// threads. Returns what does not hold, and why; empty: all does.
std::string LockDown();

}  // namespace nyx
