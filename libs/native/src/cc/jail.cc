// Primitives by which a process takes rights from itself. Policy (which, in what order) is the caller's.
#include "jail.h"

#include <grp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>

#include "denied_calls.h"
#include "landlock.h"
#include "loop.h"
#include "seccomp_filter.h"

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

napi_value LandlockAbi(napi_env env, napi_callback_info) { return FromInt(env, landlock::Abi()); }

uint64_t AccessBits(const std::vector<std::string>& names, const landlock::Ruleset& rules, bool* known) {
  uint64_t bits = 0;
  for (const std::string& name : names) {
    if (name == "read") bits |= landlock::kRead;
    else if (name == "execute") bits |= landlock::kExecute;
    else if (name == "write") bits |= rules.write();
    else *known = false;
  }
  return bits;
}

napi_value Landlock(napi_env env, napi_callback_info info) {
  Call call(env, info);
  bool is = false;
  if (call.arg(0) != nullptr) napi_is_array(env, call.arg(0), &is);
  if (!is) return call.Fail("rules", "an array"), nullptr;
  landlock::Ruleset rules;
  if (const char* failed = rules.Create()) return ThrowErrno(env, failed, errno);
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
      bool pending = false;
      napi_is_exception_pending(env, &pending);
      return pending ? nullptr : (call.Fail("rules", "{path, access}"), nullptr);
    }
    const uint64_t bits = AccessBits(names, rules, &known);
    if (!known) return call.Fail("access", "'read', 'write' or 'execute'"), nullptr;
    if (const char* failed = rules.Allow(paths[0].c_str(), bits)) return ThrowErrno(env, failed, errno);
  }
  if (const char* failed = rules.Restrict()) return ThrowErrno(env, failed, errno);
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
    const auto* found = std::find_if(std::begin(denied::kNames), std::end(denied::kNames),
                                     [&](const denied::Name& n) { return name[0] == n.text; });
    if (found == std::end(denied::kNames)) return Throw(env, "EINVAL", "allow: there is no system call " + name[0]);
    numbers.push_back(found->number);
  }
  std::vector<std::string> otherwise = {"EPERM"};
  const napi_value option = call.Option(0, "otherwise");
  if (option != nullptr) {
    napi_value list;
    napi_create_array_with_length(env, 1, &list);
    napi_set_element(env, list, 0, option);
    otherwise.clear();
    if (!call.TextList(list, "otherwise", &otherwise)) return nullptr;
  }
  uint32_t answer;
  if (otherwise[0] == "EPERM") answer = SECCOMP_RET_ERRNO | EPERM;
  else if (otherwise[0] == "kill") answer = SECCOMP_RET_KILL_PROCESS;
  else if (otherwise[0] == "log") answer = SECCOMP_RET_TRAP;
  else return call.Fail("otherwise", "'EPERM', 'log' or 'kill'"), nullptr;
  if (answer == SECCOMP_RET_TRAP)
    if (const int error = denied::Handle()) return ThrowErrno(env, "sigaction", error);
  std::vector<sock_filter> program = seccomp::Program(std::move(numbers), answer);
  if (program.size() > BPF_MAXINSNS) return Throw(env, "EINVAL", "allow: the list is too long");
  const int error = seccomp::Install(program);
  return error == 0 ? nullptr : ThrowErrno(env, "seccomp", error);
}

// Calls that were denied since the last look, as [name, count, name, count ...].
class DeniedCalls : public LoopObject {
 public:
  static napi_value Create(napi_env env, napi_callback_info info) {
    Call call(env, info);
    if (!call.Function(0, "denied")) return nullptr;
    auto* self = new DeniedCalls(env);
    const int error = uv_async_init(self->loop(), &self->async_, [](uv_async_t* h) { Owner<DeniedCalls>(h)->Tell(); });
    if (error != 0) {
      self->Abandon();
      return ThrowErrno(env, "eventfd", -error);
    }
    self->Adopt(&self->async_);
    uv_unref(reinterpret_cast<uv_handle_t*>(&self->async_));
    self->callback_.Set(env, call.arg(0), "nyx:denied");
    instance_ = self;
    // uv_async_send is safe in a signal handler.
    denied::notify = [] { uv_async_send(&instance_->async_); };
    napi_value object;
    napi_create_object(env, &object);
    self->SetLifecycle(object);
    return object;
  }

 private:
  explicit DeniedCalls(napi_env env) : LoopObject(env) {}
  void Tell() {
    Scope scope(env());
    napi_value list;
    napi_create_array(env(), &list);
    uint32_t n = 0;
    for (uint32_t number = 0; number < denied::kNumbers; number++) {
      const uint32_t count = denied::counts[number].load(std::memory_order_relaxed);
      if (count == told_[number]) continue;
      napi_set_element(env(), list, n++, FromText(env(), denied::NameOf(number)));
      napi_set_element(env(), list, n++, FromNumber(env(), count - told_[number]));
      told_[number] = count;
    }
    if (n > 0) callback_.Invoke(1, &list);
  }
  void OnClosed() override { callback_.Clear(); }

  static DeniedCalls* instance_;
  uv_async_t async_;
  Callback callback_;
  uint32_t told_[denied::kNumbers] = {};
};
DeniedCalls* DeniedCalls::instance_ = nullptr;

// Tells nyx-jail's helper, on that socket, that nothing of the file system is needed any more; waits until the root is empty.
napi_value LeaveFiles(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  if (!call.Fd(0, &fd)) return nullptr;
  char byte = 1;
  ssize_t n = write(fd, &byte, 1) == 1 ? read(fd, &byte, 1) : -1;
  const int error = n < 0 ? errno : ECHILD;
  close(fd);
  waitpid(-1, nullptr, __WALL);
  return n == 1 && byte == 0 ? nullptr : ThrowErrno(env, "umount", n == 1 ? byte : error);
}

napi_value Unshare(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int flags = 0;
  if (!NamespaceFlags(call, 0, &flags)) return nullptr;
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

bool NamespaceFlags(const Call& call, size_t argument, int* flags) {
  std::vector<std::string> names;
  if (!call.TextList(call.arg(argument), "namespaces", &names)) return false;
  for (const std::string& name : names) {
    const Named* found = Find(kNamespaces, name);
    if (found == nullptr) return call.Fail("namespaces", "user, net, ipc, uts, mount or pid");
    *flags |= static_cast<int>(found->value);
  }
  return true;
}

void ExportJail(napi_env env, napi_value exports) {
  SetFunction(env, exports, "setNoNewPrivs", SetNoNewPrivs);
  SetFunction(env, exports, "setRlimit", SetRlimit);
  SetFunction(env, exports, "landlockAbi", LandlockAbi);
  SetFunction(env, exports, "landlock", Landlock);
  SetFunction(env, exports, "seccomp", Seccomp);
  SetFunction(env, exports, "onDenied", DeniedCalls::Create);
  SetFunction(env, exports, "leaveFiles", LeaveFiles);
  SetFunction(env, exports, "unshare", Unshare);
  SetFunction(env, exports, "setPdeathsig", SetPdeathsig);
  SetFunction(env, exports, "chroot", Chroot);
  SetFunction(env, exports, "dropUser", DropUser);
}

}  // namespace nyx
