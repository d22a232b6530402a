// Other processes and this thread's place.
#include "process.h"

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "call.h"

namespace nyx {
namespace {

napi_value PidfdOpen(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int64_t pid;
  if (!call.Int(0, "pid", 1, INT32_MAX, &pid)) return nullptr;
  const long fd = syscall(SYS_pidfd_open, pid, 0);
  return fd >= 0 ? FromInt(env, static_cast<int32_t>(fd)) : ThrowErrno(env, "pidfd_open", errno);
}

napi_value PidfdSendSignal(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  int64_t signal;
  if (!call.Fd(0, &fd) || !call.Int(1, "signal", 0, 64, &signal)) return nullptr;
  if (syscall(SYS_pidfd_send_signal, fd, signal, nullptr, 0) != 0) return ThrowErrno(env, "pidfd_send_signal", errno);
  return nullptr;
}

napi_value Getcpu(napi_env env, napi_callback_info) { return FromInt(env, sched_getcpu()); }

napi_value PinThread(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int64_t cpu;
  if (!call.Int(0, "cpu", 0, CPU_SETSIZE - 1, &cpu)) return nullptr;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  return sched_setaffinity(0, sizeof set, &set) == 0 ? nullptr : ThrowErrno(env, "sched_setaffinity", errno);
}

napi_value CpuCount(napi_env env, napi_callback_info) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return ThrowErrno(env, "sched_getaffinity", errno);
  return FromInt(env, CPU_COUNT(&set));
}

}  // namespace

void ExportProcess(napi_env env, napi_value exports) {
  SetFunction(env, exports, "pidfdOpen", PidfdOpen);
  SetFunction(env, exports, "pidfdSendSignal", PidfdSendSignal);
  SetFunction(env, exports, "getcpu", Getcpu);
  SetFunction(env, exports, "pinThread", PinThread);
  SetFunction(env, exports, "cpuCount", CpuCount);
}

}  // namespace nyx
