// Landlock: which files, sockets and signals a process may still reach. Shared by the addon and nyx-jail.
#pragma once
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace nyx::landlock {

// Newer than the kernel headers that we may be compiled with.
struct Attributes {
  uint64_t handled_access_fs;
  uint64_t handled_access_net;
  uint64_t scoped;
};
constexpr uint64_t kTruncate = 1ull << 14;  // ABI 3
constexpr uint64_t kNetTcp = 3;             // ABI 4: bind and connect
constexpr uint64_t kIoctlDev = 1ull << 15;  // ABI 5
constexpr uint64_t kScopes = 3;             // ABI 6: abstract unix sockets, signals

constexpr uint64_t kRead = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr uint64_t kExecute = LANDLOCK_ACCESS_FS_EXECUTE;
constexpr uint64_t kFile =
    LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | kTruncate | kIoctlDev;

// ABI of the kernel, 0 when it has no Landlock.
inline int Abi() {
  const long abi = syscall(__NR_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return abi < 0 ? 0 : static_cast<int>(abi);
}

// A set of rules under way. Each step returns nullptr, or the system call that failed (errno tells why).
class Ruleset {
 public:
  Ruleset() = default;
  Ruleset(const Ruleset&) = delete;
  Ruleset& operator=(const Ruleset&) = delete;
  ~Ruleset() {
    const int error = errno;
    if (fd_ >= 0) close(fd_);
    errno = error;
  }

  // Handles everything that the kernel knows of: what no rule allows is denied.
  const char* Create() {
    const int abi = Abi();
    Attributes attributes = {};
    attributes.handled_access_fs = (1ull << 13) - 1;
    if (abi >= 2) attributes.handled_access_fs |= LANDLOCK_ACCESS_FS_REFER;
    if (abi >= 3) attributes.handled_access_fs |= kTruncate;
    if (abi >= 4) attributes.handled_access_net = kNetTcp;
    if (abi >= 5) attributes.handled_access_fs |= kIoctlDev;
    if (abi >= 6) attributes.scoped = kScopes;
    handled_ = attributes.handled_access_fs;
    if (abi == 0) {
      errno = EOPNOTSUPP;
      return "landlock_create_ruleset";
    }
    const size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
    fd_ = static_cast<int>(syscall(__NR_landlock_create_ruleset, &attributes, size, 0));
    return fd_ < 0 ? "landlock_create_ruleset" : nullptr;
  }

  uint64_t handled() const { return handled_; }
  // All that is neither reading nor executing.
  uint64_t write() const { return handled_ & ~(kRead | kExecute); }

  const char* Allow(const char* path, uint64_t access) {
    const int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) return "open";
    const bool is_directory = faccessat(fd, ".", F_OK, 0) == 0;
    landlock_path_beneath_attr rule = {};
    rule.allowed_access = (is_directory ? access : access & kFile) & handled_;
    rule.parent_fd = fd;
    const long result = syscall(__NR_landlock_add_rule, fd_, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    const int error = errno;
    close(fd);
    errno = error;
    return result == 0 ? nullptr : "landlock_add_rule";
  }

  // From here on, for the calling thread and those that it starts. Implies no_new_privs.
  const char* Restrict() {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return "prctl(PR_SET_NO_NEW_PRIVS)";
    return syscall(__NR_landlock_restrict_self, fd_, 0) == 0 ? nullptr : "landlock_restrict_self";
  }

 private:
  int fd_ = -1;
  uint64_t handled_ = 0;
};

}  // namespace nyx::landlock
