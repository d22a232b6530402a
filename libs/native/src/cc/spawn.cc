// Child processes for a parent that has gigabytes mapped: posix_spawn shares its memory with the child until exec
// (CLONE_VM | CLONE_VFORK), where libuv's fork copies page tables, tens of milliseconds of a supervisor's time.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "call.h"
#include "process.h"

namespace nyx {
namespace {

constexpr size_t kMaxStdio = 16;
// P_PIDFD of the kernel; glibc 2.36 declares it as an enumerator.
constexpr auto kPidfd = static_cast<idtype_t>(3);

// Copies of descriptors above those that the child gets, so that no copy overwrites a source. Closed at the end.
class Copies {
 public:
  ~Copies() {
    for (const int fd : fds_) close(fd);
  }
  int Add(int fd) {
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, static_cast<int>(kMaxStdio));
    if (copy >= 0) fds_.push_back(copy);
    return copy;
  }

 private:
  std::vector<int> fds_;
};

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

// The child has a session of its own, no signal blocked or ignored, and "/" as its directory.
int Start(const std::string& program, std::vector<std::string>& args, std::vector<std::string>& env, const std::vector<int>& fds,
          pid_t* pid) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  for (size_t i = 0; i < fds.size(); i++) posix_spawn_file_actions_adddup2(&actions, fds[i], static_cast<int>(i));
#if __GLIBC_PREREQ(2, 34)
  // What we ourselves inherited without close-on-exec is not the child's either.
  posix_spawn_file_actions_addclosefrom_np(&actions, static_cast<int>(fds.size()));
#endif
  posix_spawn_file_actions_addchdir_np(&actions, "/");
  std::vector<char*> argv = Pointers(args), envp = Pointers(env);
  const int error = posix_spawn(pid, program.c_str(), &actions, &attributes, argv.data(), envp.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

napi_value SpawnProcess(napi_env env, napi_callback_info info) {
  Call call(env, info);
  std::string program;
  std::vector<std::string> args, variables;
  if (!call.Text(0, "program", &program) || !call.TextList(call.arg(1), "args", &args) ||
      !call.TextList(call.arg(2), "env", &variables))
    return nullptr;
  bool is_array = false;
  uint32_t count = 0;
  if (call.arg(3) != nullptr) napi_is_array(env, call.arg(3), &is_array);
  if (is_array) napi_get_array_length(env, call.arg(3), &count);
  if (count < 3 || count > kMaxStdio) return call.Fail("fds", "an array of 3 to 16 descriptors"), nullptr;
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return ThrowErrno(env, "open", errno);
  Copies copies;
  std::vector<int> fds;
  for (uint32_t i = 0; i < count; i++) {
    napi_value element;
    int32_t fd = -2;
    napi_get_element(env, call.arg(3), i, &element);
    if (napi_get_value_int32(env, element, &fd) != napi_ok || fd < -1) {
      close(null);
      return call.Fail("fds", "descriptors, or -1 for /dev/null"), nullptr;
    }
    fds.push_back(copies.Add(fd == -1 ? null : fd));
    if (fds.back() < 0) {
      const int error = errno;
      close(null);
      return ThrowErrno(env, "fcntl", error);
    }
  }
  close(null);
  args.insert(args.begin(), program);
  pid_t pid = 0;
  const int error = Start(program, args, variables, fds, &pid);
  return error == 0 ? FromInt(env, pid) : ThrowErrno(env, "posix_spawn", error);
}

napi_value WaitProcess(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  if (!call.Fd(0, &fd)) return nullptr;
  siginfo_t how = {};
  int result;
  do {
    result = waitid(kPidfd, static_cast<id_t>(fd), &how, WEXITED | WNOHANG);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return ThrowErrno(env, "waitid", errno);
  if (how.si_pid == 0) return Undefined(env);
  return FromInt(env, how.si_code == CLD_EXITED ? how.si_status : -how.si_status);
}

}  // namespace

void ExportSpawn(napi_env env, napi_value exports) {
  SetFunction(env, exports, "spawnProcess", SpawnProcess);
  SetFunction(env, exports, "waitProcess", WaitProcess);
}

}  // namespace nyx
