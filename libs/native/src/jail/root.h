// A root directory of a process's own: empty but for what it reads while it starts, and after that quite empty.
#pragma once
#include <string>
#include <vector>

namespace nyx {

// Makes `/` a tmpfs with these paths bound into it, read-only (missing ones are left out). Needs a mount namespace and the
// right to change it. False with `*why`; the old root is still there then.
bool EnterRoot(const std::vector<std::string>& paths, std::string* why);

// In a process that shares the mount namespace, and has the right to change it: takes the paths away again, also
// while they are in use. 0 or errno.
int EmptyRoot(const std::vector<std::string>& paths);

}  // namespace nyx
