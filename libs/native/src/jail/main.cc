// nyx-jail: becomes another program, after it has taken from itself what that program shall not have.
//
//   nyx-jail --mode user|root|none [--why TEXT] --read PATH ... [--limit NAME=N] ... [--cgroup PATH] [--leave FD] -- PROGRAM ARGUMENT ...
//
// The mode tells how the caller started us: in namespaces of our own together with a user namespace, whose root we are; without one, by root;
// or in none, because of TEXT.
// Descriptor 3 is the program's control socket: one JSON message there says which layers hold and which do not, and why. A
// layer that the kernel refuses is left out and reported, never silently.
// With --leave, a helper stays behind that empties the root directory when a byte comes on descriptor FD's other end.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "landlock.h"
#include "root.h"

namespace nyx {
namespace {

constexpr int kControl = 3;
constexpr uid_t kNobody = 65534;

struct Options {
  std::string mode;
  std::string why;
  std::vector<std::string> read;
  std::vector<std::string> limits;
  std::string cgroup;
  int leave = -1;
  uint64_t slice = 0;  // ns; 0: the scheduler's own
  char** program = nullptr;
};

struct Report {
  std::vector<std::string> layers;
  std::vector<std::string> missing;
  // A reference: `why` is written by what `good` comes from, in either order of evaluation.
  bool Step(bool good, const std::string& name, const std::string& why) {
    if (good) layers.push_back(name);
    else missing.push_back(name + ": " + why);
    return good;
  }
  bool Errno(bool good, const std::string& name) { return Step(good, name, strerror(errno)); }
};

[[noreturn]] void Die(const std::string& text) {
  dprintf(2, "{\"level\":\"error\",\"device\":\"jail\",\"message\":\"nyx-jail: %s\"}\n", text.c_str());
  _exit(126);
}

Options Parse(char** argv) {
  Options o;
  for (char** a = argv + 1; *a != nullptr; a++) {
    const std::string name = *a;
    if (name == "--") {
      o.program = a + 1;
      break;
    }
    if (a[1] == nullptr) break;
    const std::string value = *++a;
    if (name == "--mode") o.mode = value;
    else if (name == "--why") o.why = value;
    else if (name == "--read") o.read.push_back(value);
    else if (name == "--limit") o.limits.push_back(value);
    else if (name == "--cgroup") o.cgroup = value;
    else if (name == "--slice") o.slice = strtoull(value.c_str(), nullptr, 10);
    else if (name == "--leave") o.leave = atoi(value.c_str());
    else Die("unknown option " + name);
  }
  if (o.program == nullptr || *o.program == nullptr || o.mode.empty())
    Die("usage: nyx-jail --mode user|root|none --read PATH ... -- PROGRAM ARGUMENT ...");
  return o;
}

// Stays behind with the right to change mounts, and nothing open but its socket.
void LeaveHelper(int fd, const std::vector<std::string>& paths) {
  if (fork() != 0) return;
  prctl(PR_SET_NAME, "nyx-jail-helper");
  dup2(fd, 0);
  if (syscall(SYS_close_range, 1, ~0u, 0) != 0)
    for (int i = 1; i < 64; i++) close(i);
  char byte = 0;
  if (read(0, &byte, 1) == 1) {
    byte = static_cast<char>(EmptyRoot(paths));
    if (write(0, &byte, 1) != 1) _exit(1);
  }
  _exit(0);
}

// For good: exec gives nothing to root either.
bool DropCapabilities() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  // Locked bits need a right that we may not have; without it exec has nothing to give.
  prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED);
  return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0 && syscall(SYS_capset, &header, none) == 0;
}

// Groups of device nodes that are there for such a group (/dev/kvm), and are not root's.
std::vector<gid_t> DeviceGroups(const std::vector<std::string>& paths) {
  std::vector<gid_t> groups;
  for (const std::string& path : paths) {
    struct stat st;
    if (stat(path.c_str(), &st) == 0 && S_ISCHR(st.st_mode) && (st.st_mode & 0060) == 0060 && st.st_gid != 0)
      groups.push_back(st.st_gid);
  }
  return groups;
}

bool NobodyCanRead(const std::vector<std::string>& paths, std::string* why) {
  setfsgid(kNobody);
  setfsuid(kNobody);
  bool good = true;
  for (const std::string& path : paths) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd >= 0) close(fd);
    else if (errno == EACCES) {
      *why = "started by root, and others may not read " + path;
      good = false;
    }
  }
  setfsuid(0);
  setfsgid(0);
  return good;
}

// Root becomes nobody where nobody can read the program.
bool BecomeNobody(const Options& o, std::string* why) {
  const std::vector<gid_t> groups = DeviceGroups(o.read);
  if (setgroups(groups.size(), groups.data()) != 0) {
    *why = strerror(errno);
    return false;
  }
  if (!NobodyCanRead(o.read, why)) return false;
  if ( setresgid(kNobody, kNobody, kNobody) == 0 &&
      setresuid(kNobody, kNobody, kNobody) == 0)
    return true;
  *why = strerror(errno);
  return false;
}

// The scheduler's time slice of the program and what it starts: short ones are run sooner when they wake, since they are
// done sooner. Linux 6.12 and later; others do not look at it, and it costs nothing to ask.
void SetSlice(uint64_t ns) {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attributes{48, SCHED_OTHER, 0, getpriority(PRIO_PROCESS, 0), 0, ns, 0, 0};
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

bool SetLimits(const std::vector<std::string>& limits, std::string* why) {
  struct {
    const char* name;
    int resource;
  } const names[] = {{"CORE", RLIMIT_CORE}, {"NOFILE", RLIMIT_NOFILE}, {"DATA", RLIMIT_DATA}, {"NPROC", RLIMIT_NPROC}};
  for (const std::string& limit : limits)
    for (const auto& n : names) {
      const size_t equal = limit.find('=');
      if (equal == std::string::npos || limit.compare(0, equal, n.name) != 0) continue;
      rlimit now;
      getrlimit(static_cast<__rlimit_resource>(n.resource), &now);
      const rlim_t value = std::min<rlim_t>(strtoull(limit.c_str() + equal + 1, nullptr, 10), now.rlim_max);
      const rlimit both = {value, value};
      if (setrlimit(static_cast<__rlimit_resource>(n.resource), &both) != 0) {
        *why = limit + ": " + strerror(errno);
        return false;
      }
    }
  return true;
}

// Writing 0 moves the writer (cgroup v2, "cgroup.procs").
bool EnterCgroup(const std::string& path) {
  const int fd = open((path + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool good = write(fd, "0", 1) == 1;
  const int error = errno;
  close(fd);
  errno = error;
  return good;
}

bool Landlock(const Options& o, std::string* why) {
  landlock::Ruleset rules;
  const char* failed = rules.Create();
  for (const std::string& path : o.read) {
    if (failed) break;
    const bool device = path.starts_with("/dev/");
    failed = rules.Allow(path.c_str(), device ? rules.handled() : landlock::kRead | landlock::kExecute);
    // One that does not exist needs no rule.
    if (failed && errno == ENOENT) failed = nullptr;
  }
  if (!failed) failed = rules.Restrict();
  if (failed) *why = std::string(failed) + ": " + strerror(errno);
  return failed == nullptr;
}

std::string Json(const std::vector<std::string>& list) {
  std::string out = "[";
  for (const std::string& text : list) {
    out += out.size() > 1 ? ",\"" : "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    out += '"';
  }
  return out + "]";
}

int Main(char** argv) {
  const Options o = Parse(argv);
  Report report;
  std::string why;
  const bool own = o.mode != "none";
  // While the folder is to be seen, and before there is a helper.
  if (!o.cgroup.empty()) report.Errno(EnterCgroup(o.cgroup), "cgroup");
  if (!own) {
    report.Step(false, "namespaces", o.why);
  } else {
    if (o.mode == "user") report.layers.push_back("user");
    for (const char* name : {"pid", "net", "ipc", "uts"}) report.layers.push_back(name);
    if (report.Step(EnterRoot(o.read, &why), "root", why) && o.leave >= 0) LeaveHelper(o.leave, o.read);
  }
  // Without a helper the program finds its end closed.
  if (o.leave >= 0) close(o.leave);
  if (geteuid() == 0 && o.mode != "user" && report.Step(BecomeNobody(o, &why), "nobody", why) && own)
    report.Errno(unshare(CLONE_NEWUSER) == 0, "user");
  report.Step(SetLimits(o.limits, &why), "limits", why);
  if (o.slice != 0) SetSlice(o.slice);
  report.Errno(DropCapabilities(), "capabilities");
  report.Step(Landlock(o, &why), "landlock", why);
  report.Errno(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  const std::string text =
      "{\"type\":\"jail\",\"layers\":" + Json(report.layers) + ",\"missing\":" + Json(report.missing) + "}";
  send(kControl, text.data(), text.size(), MSG_NOSIGNAL);
  execv(o.program[0], o.program);
  Die(std::string(o.program[0]) + ": " + strerror(errno));
}

}  // namespace
}  // namespace nyx

int main(int, char** argv) { return nyx::Main(argv); }
