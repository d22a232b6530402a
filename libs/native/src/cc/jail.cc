// Primitives by which a process takes rights from itself. Policy (which, in what order) is the caller's.
#include "jail.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstddef>

#include "call.h"

namespace nyx {
namespace {

struct Named {
  const char* name;
  int64_t value;
};

template <size_t N>
const Named* Find(const Named (&table)[N], const std::string& name) {
  const auto* found = std::find_if(table, table + N, [&](const Named& n) { return name == n.name; });
  return found == table + N ? nullptr : found;
}

constexpr Named kSyscalls[] = {
#define X(name) {#name, __NR_##name},
#include "syscall_names.inc"
#undef X
};
constexpr Named kResources[] = {{"NOFILE", RLIMIT_NOFILE}, {"AS", RLIMIT_AS},       {"CORE", RLIMIT_CORE},
                                {"NPROC", RLIMIT_NPROC},   {"FSIZE", RLIMIT_FSIZE}, {"MEMLOCK", RLIMIT_MEMLOCK}};
constexpr Named kNamespaces[] = {{"user", CLONE_NEWUSER}, {"net", CLONE_NEWNET}, {"ipc", CLONE_NEWIPC},
                                 {"uts", CLONE_NEWUTS},   {"mount", CLONE_NEWNS}, {"pid", CLONE_NEWPID}};

napi_value SetNoNewPrivs(napi_env env, napi_callback_info) {
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? nullptr : ThrowErrno(env, "prctl(PR_SET_NO_NEW_PRIVS)", errno);
}

napi_value SetRlimit(napi_env env, napi_callback_info info) {
  Call call(env, info);
  std::string name;
  double soft, hard;
  if (!call.Text(0, "resource", &name) || !call.Number(1, "soft", 0, INFINITY, &soft) ||
      !call.Number(2, "hard", 0, INFINITY, &hard))
    return nullptr;
  const Named* resource = Find(kResources, name);
  if (resource == nullptr) return call.Fail("resource", "NOFILE, AS, CORE, NPROC, FSIZE or MEMLOCK"), nullptr;
  const auto limit = [](double v) { return v < 0x1p63 ? static_cast<rlim_t>(v) : RLIM_INFINITY; };
  const rlimit limits = {limit(soft), limit(hard)};
  if (setrlimit(static_cast<__rlimit_resource>(resource->value), &limits) != 0)
    return ThrowErrno(env, "setrlimit", errno);
  return nullptr;
}

// Newer than the kernel headers that we may be compiled with.
struct LandlockAttributes {
  uint64_t handled_access_fs;
  uint64_t handled_access_net;
  uint64_t scoped;
};
constexpr uint64_t kTruncate = 1ull << 14;  // ABI 3
constexpr uint64_t kNetTcp = 3;             // ABI 4: bind and connect
constexpr uint64_t kIoctlDev = 1ull << 15;  // ABI 5
constexpr uint64_t kScopes = 3;             // ABI 6: abstract unix sockets, signals

int LandlockAbiNumber() {
  const long abi = syscall(__NR_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return abi < 0 ? 0 : static_cast<int>(abi);
}

napi_value LandlockAbi(napi_env env, napi_callback_info) { return FromInt(env, LandlockAbiNumber()); }

constexpr uint64_t kReadAccess = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr uint64_t kFileAccess =
    LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | kTruncate | kIoctlDev;

uint64_t AccessBits(const std::vector<std::string>& names, uint64_t handled, bool* known) {
  uint64_t bits = 0;
  for (const std::string& name : names) {
    if (name == "read") bits |= kReadAccess;
    else if (name == "execute") bits |= LANDLOCK_ACCESS_FS_EXECUTE;
    else if (name == "write") bits |= handled & ~(kReadAccess | LANDLOCK_ACCESS_FS_EXECUTE);
    else *known = false;
  }
  return bits & handled;
}

// Adds one rule; nullptr or the system call that failed.
const char* AddRule(int ruleset, const std::string& path, uint64_t access) {
  const int fd = open(path.c_str(), O_PATH | O_CLOEXEC);
  if (fd < 0) return "open";
  const bool is_directory = faccessat(fd, ".", F_OK, 0) == 0;
  landlock_path_beneath_attr rule = {};
  rule.allowed_access = is_directory ? access : access & kFileAccess;
  rule.parent_fd = fd;
  const long result = syscall(__NR_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
  const int error = errno;
  close(fd);
  errno = error;
  return result == 0 ? nullptr : "landlock_add_rule";
}

napi_value Landlock(napi_env env, napi_callback_info info) {
  Call call(env, info);
  bool is = false;
  if (call.arg(0) != nullptr) napi_is_array(env, call.arg(0), &is);
  if (!is) return call.Fail("rules", "an array"), nullptr;
  const int abi = LandlockAbiNumber();
  if (abi == 0) return ThrowErrno(env, "landlock_create_ruleset", EOPNOTSUPP);
  LandlockAttributes attributes = {};
  attributes.handled_access_fs = (1ull << 13) - 1;
  if (abi >= 2) attributes.handled_access_fs |= LANDLOCK_ACCESS_FS_REFER;
  if (abi >= 3) attributes.handled_access_fs |= kTruncate;
  if (abi >= 4) attributes.handled_access_net = kNetTcp;
  if (abi >= 5) attributes.handled_access_fs |= kIoctlDev;
  if (abi >= 6) attributes.scoped = kScopes;
  const size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
  const long ruleset = syscall(__NR_landlock_create_ruleset, &attributes, size, 0);
  if (ruleset < 0) return ThrowErrno(env, "landlock_create_ruleset", errno);
  const int fd = static_cast<int>(ruleset);
  const auto leave = [&](const char* syscall_name) {
    const int error = errno;
    close(fd);
    return ThrowErrno(env, syscall_name, error);
  };
  uint32_t count = 0;
  napi_get_array_length(env, call.arg(0), &count);
  for (uint32_t i = 0; i < count; i++) {
    napi_value rule, path, access;
    napi_get_element(env, call.arg(0), i, &rule);
    std::vector<std::string> paths, names;
    napi_value list;
    napi_create_array_with_length(env, 1, &list);
    bool known = napi_get_named_property(env, rule, "path", &path) == napi_ok &&
                 napi_get_named_property(env, rule, "access", &access) == napi_ok;
    if (known) napi_set_element(env, list, 0, path);
    if (!known || !call.TextList(list, "path", &paths) || !call.TextList(access, "access", &names)) {
      close(fd);
      bool pending = false;
      napi_is_exception_pending(env, &pending);
      return pending ? nullptr : (call.Fail("rules", "{path, access}"), nullptr);
    }
    const uint64_t bits = AccessBits(names, attributes.handled_access_fs, &known);
    if (!known) {
      close(fd);
      return call.Fail("access", "'read', 'write' or 'execute'"), nullptr;
    }
    const char* failed = AddRule(fd, paths[0], bits);
    if (failed != nullptr) return leave(failed);
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return leave("prctl(PR_SET_NO_NEW_PRIVS)");
  if (syscall(__NR_landlock_restrict_self, fd, 0) != 0) return leave("landlock_restrict_self");
  close(fd);
  return nullptr;
}

napi_value Seccomp(napi_env env, napi_callback_info info) {
  Call call(env, info);
  const napi_value allow = call.Option(0, "allow");
  bool is = false;
  if (allow != nullptr) napi_is_array(env, allow, &is);
  if (!is) return call.Fail("allow", "an array of names or numbers"), nullptr;
  uint32_t count;
  napi_get_array_length(env, allow, &count);
  std::vector<uint32_t> numbers;
  for (uint32_t i = 0; i < count; i++) {
    napi_value item, list;
    napi_get_element(env, allow, i, &item);
    uint32_t number;
    if (napi_get_value_uint32(env, item, &number) == napi_ok) {
      numbers.push_back(number);
      continue;
    }
    napi_create_array_with_length(env, 1, &list);
    napi_set_element(env, list, 0, item);
    std::vector<std::string> name;
    if (!call.TextList(list, "allow", &name)) return nullptr;
    const Named* found = Find(kSyscalls, name[0]);
    if (found == nullptr) return Throw(env, "EINVAL", "allow: there is no system call " + name[0]);
    numbers.push_back(static_cast<uint32_t>(found->value));
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  std::vector<std::string> otherwise = {"EPERM"};
  const napi_value option = call.Option(0, "otherwise");
  if (option != nullptr) {
    napi_value list;
    napi_create_array_with_length(env, 1, &list);
    napi_set_element(env, list, 0, option);
    otherwise.clear();
    if (!call.TextList(list, "otherwise", &otherwise)) return nullptr;
  }
  if (otherwise[0] != "EPERM" && otherwise[0] != "kill") return call.Fail("otherwise", "'EPERM' or 'kill'"), nullptr;
  const uint32_t denied = otherwise[0] == "kill" ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | EPERM;

  std::vector<sock_filter> filter = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
  };
  // x32 numbers (bit 30) are in no list, so they are denied with the rest.
  for (uint32_t number : numbers) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, denied));
  if (filter.size() > BPF_MAXINSNS) return Throw(env, "EINVAL", "allow: the list is too long");
  sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ThrowErrno(env, "prctl(PR_SET_NO_NEW_PRIVS)", errno);
  const long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
  if (result == 0) return nullptr;
  // Positive: the thread that could not be synchronized.
  return ThrowErrno(env, "seccomp", result > 0 ? EBUSY : errno);
}

napi_value Unshare(napi_env env, napi_callback_info info) {
  Call call(env, info);
  std::vector<std::string> names;
  if (!call.TextList(call.arg(0), "namespaces", &names)) return nullptr;
  int flags = 0;
  for (const std::string& name : names) {
    const Named* found = Find(kNamespaces, name);
    if (found == nullptr) return call.Fail("namespaces", "user, net, ipc, uts, mount or pid"), nullptr;
    flags |= static_cast<int>(found->value);
  }
  return unshare(flags) == 0 ? nullptr : ThrowErrno(env, "unshare", errno);
}

napi_value SetPdeathsig(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int64_t signal;
  if (!call.Int(0, "signal", 0, 64, &signal)) return nullptr;
  return prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) == 0 ? nullptr : ThrowErrno(env, "prctl(PR_SET_PDEATHSIG)", errno);
}

napi_value Chroot(napi_env env, napi_callback_info info) {
  Call call(env, info);
  std::string path;
  if (!call.Text(0, "path", &path)) return nullptr;
  if (chroot(path.c_str()) != 0) return ThrowErrno(env, "chroot", errno);
  return chdir("/") == 0 ? nullptr : ThrowErrno(env, "chdir", errno);
}

napi_value DropUser(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int64_t uid, gid;
  if (!call.Int(0, "uid", 1, UINT32_MAX - 1.0, &uid) || !call.Int(1, "gid", 1, UINT32_MAX - 1.0, &gid)) return nullptr;
  // glibc applies each to all threads.
  if (setgroups(0, nullptr) != 0) return ThrowErrno(env, "setgroups", errno);
  const auto g = static_cast<gid_t>(gid);
  if (setresgid(g, g, g) != 0) return ThrowErrno(env, "setresgid", errno);
  const auto u = static_cast<uid_t>(uid);
  return setresuid(u, u, u) == 0 ? nullptr : ThrowErrno(env, "setresuid", errno);
}

}  // namespace

void ExportJail(napi_env env, napi_value exports) {
  SetFunction(env, exports, "setNoNewPrivs", SetNoNewPrivs);
  SetFunction(env, exports, "setRlimit", SetRlimit);
  SetFunction(env, exports, "landlockAbi", LandlockAbi);
  SetFunction(env, exports, "landlock", Landlock);
  SetFunction(env, exports, "seccomp", Seccomp);
  SetFunction(env, exports, "unshare", Unshare);
  SetFunction(env, exports, "setPdeathsig", SetPdeathsig);
  SetFunction(env, exports, "chroot", Chroot);
  SetFunction(env, exports, "dropUser", DropUser);
}

}  // namespace nyx
