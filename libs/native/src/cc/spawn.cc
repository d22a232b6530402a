// Child processes for a parent that has gigabytes mapped: it shares its memory with the child until exec
// (CLONE_VM | CLONE_VFORK), where libuv's fork copies page tables, tens of milliseconds of a supervisor's time. Not
// by posix_spawn, which has no namespaces.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "call.h"
#include "jail.h"
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

struct Order {
  const char* program;
  char* const* argv;
  char* const* env;
  const std::vector<int>* fds;
  // Of the only user and group of a new user namespace: its root, who is whom we are outside. Empty: no such namespace.
  const char* uid_map;
  const char* gid_map;
  int error;  // of the step that failed in the child
};

void CloseFrom(int first) {
  if (syscall(SYS_close_range, first, ~0u, 0) == 0) return;
  for (int fd = first; fd < 1024; fd++) close(fd);
}

bool Put(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const auto length = static_cast<ssize_t>(strlen(text));
  const bool good = write(fd, text, static_cast<size_t>(length)) == length;
  close(fd);
  return good;
}

// Before exec: a user without a name loses its capabilities there.
bool MapUser(const Order& order) {
  return *order.uid_map == '\0' || (Put("/proc/self/setgroups", "deny") && Put("/proc/self/uid_map", order.uid_map) &&
                                    Put("/proc/self/gid_map", order.gid_map));
}

// In the child, in the parent's memory: system calls only. The child has a session of its own, no signal blocked or ignored,
// and "/" as its directory.
int InChild(void* argument) {
  auto* order = static_cast<Order*>(argument);
  struct sigaction usual = {};
  usual.sa_handler = SIG_DFL;
  for (int n = 1; n < NSIG; n++) sigaction(n, &usual, nullptr);
  const auto count = static_cast<int>(order->fds->size());
  for (int i = 0; i < count; i++)
    if (dup2((*order->fds)[static_cast<size_t>(i)], i) < 0) order->error = errno;
  // What we ourselves inherited without close-on-exec is not the child's either.
  CloseFrom(count);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (MapUser(*order) && setsid() >= 0 && chdir("/") == 0 && order->error == 0) execve(order->program, order->argv, order->env);
  if (order->error == 0) order->error = errno;
  _exit(127);
}

// clone as posix_spawn does it, and into namespaces of its own. 0 or errno.
int Start(const std::string& program, std::vector<std::string>& args, std::vector<std::string>& env,
          const std::vector<int>& fds, int namespaces, pid_t* pid) {
  constexpr size_t kStack = 64 * 1024;
  const std::vector<char*> argv = Pointers(args), envp = Pointers(env);
  const std::unique_ptr<char[]> stack(new char[kStack]);
  const bool mapped = namespaces & CLONE_NEWUSER;
  const std::string uid = mapped ? "0 " + std::to_string(geteuid()) + " 1" : "";
  const std::string gid = mapped ? "0 " + std::to_string(getegid()) + " 1" : "";
  Order order = {program.c_str(), argv.data(), envp.data(), &fds, uid.c_str(), gid.c_str(), 0};
  // A handler of ours must not run in the child, whose memory is ours.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  *pid = clone(InChild, stack.get() + kStack, CLONE_VM | CLONE_VFORK | SIGCHLD | namespaces, &order);
  const int error = *pid < 0 ? errno : order.error;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (*pid > 0 && error != 0) waitpid(*pid, nullptr, 0);
  return error;
}

napi_value SpawnProcess(napi_env env, napi_callback_info info) {
  Call call(env, info);
  std::string program;
  std::vector<std::string> args, variables;
  int namespaces = 0;
  if (call.Has(4) && !NamespaceFlags(call, 4, &namespaces)) return nullptr;
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
  const int error = Start(program, args, variables, fds, namespaces, &pid);
  return error == 0 ? FromInt(env, pid) : ThrowErrno(env, "spawn", error);
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
