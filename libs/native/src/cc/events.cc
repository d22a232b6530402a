// eventfds, watched descriptors and timers in the event loop.
#include "events.h"

#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>

#include "call.h"
#include "futex.h"
#include "loop.h"

namespace nyx {
namespace {

napi_value Eventfd(napi_env env, napi_callback_info info) {
  Call call(env, info);
  double initial;
  if (!call.NumberOr(0, "initial", 0, UINT32_MAX, 0, &initial)) return nullptr;
  const int fd = eventfd(static_cast<unsigned>(initial), EFD_CLOEXEC | EFD_NONBLOCK);
  return fd >= 0 ? FromInt(env, fd) : ThrowErrno(env, "eventfd", errno);
}

napi_value EventfdWrite(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  double count;
  if (!call.Fd(0, &fd) || !call.NumberOr(1, "count", 1, 0x1p53, 1, &count)) return nullptr;
  const auto value = static_cast<uint64_t>(count);
  // EAGAIN: the counter is full, so whoever waits is woken anyhow.
  if (write(fd, &value, 8) == 8 || errno == EAGAIN) return nullptr;
  return ThrowErrno(env, "write", errno);
}

napi_value EventfdRead(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  uint64_t value = 0;
  if (!call.Fd(0, &fd)) return nullptr;
  if (read(fd, &value, 8) != 8 && errno != EAGAIN) return ThrowErrno(env, "read", errno);
  return FromNumber(env, static_cast<double>(value));
}

class Watch : public LoopObject {
 public:
  static napi_value Create(napi_env env, napi_callback_info info) {
    Call call(env, info);
    int fd;
    bool drain = false;
    if (!call.Fd(0, &fd) || !call.Function(1, "readable") || !call.OptionBool(2, "drain", &drain)) return nullptr;
    auto* self = new Watch(env, fd, drain);
    const int error = uv_poll_init(self->loop(), &self->poll_, fd);
    if (error != 0) {
      self->Abandon();
      return ThrowErrno(env, "epoll_ctl", -error);
    }
    self->Adopt(&self->poll_);
    self->callback_.Set(env, call.arg(1), "nyx:watch");
    uv_poll_start(&self->poll_, UV_READABLE, [](uv_poll_t* h, int, int) { Owner<Watch>(h)->OnReadable(); });
    napi_value object;
    napi_create_object(env, &object);
    self->SetLifecycle(object);
    return object;
  }

 private:
  Watch(napi_env env, int fd, bool drain) : LoopObject(env), fd_(fd), drain_(drain) {}
  void OnReadable() {
    uint64_t count = 0;
    if (drain_ && read(fd_, &count, 8) != 8) return;
    Scope scope(env());
    const napi_value argument = FromNumber(env(), static_cast<double>(count));
    callback_.Invoke(1, &argument);
  }
  void OnClosed() override { callback_.Clear(); }

  int fd_;
  bool drain_;
  uv_poll_t poll_;
  Callback callback_;
};

class Timer : public LoopObject {
 public:
  static napi_value Create(napi_env env, napi_callback_info info) {
    Call call(env, info);
    if (!call.Function(0, "fired")) return nullptr;
    const int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0) return ThrowErrno(env, "timerfd_create", errno);
    auto* self = new Timer(env, fd);
    const int error = uv_poll_init(self->loop(), &self->poll_, fd);
    if (error != 0) {
      self->Abandon();
      return ThrowErrno(env, "epoll_ctl", -error);
    }
    self->Adopt(&self->poll_);
    self->callback_.Set(env, call.arg(0), "nyx:timer");
    uv_poll_start(&self->poll_, UV_READABLE, [](uv_poll_t* h, int, int) { Owner<Timer>(h)->OnFired(); });
    napi_value object;
    napi_create_object(env, &object);
    self->SetLifecycle(object);
    SetMethod(env, object, "armAt", self, Member<Timer, &Timer::ArmAt>);
    SetMethod(env, object, "disarm", self, Member<Timer, &Timer::Disarm>);
    return object;
  }

 private:
  Timer(napi_env env, int fd) : LoopObject(env), fd_(fd) {}
  ~Timer() override { close(fd_); }

  napi_value ArmAt(Call& call) {
    double ns;
    if (!call.Number(0, "ns", -INFINITY, INFINITY, &ns)) return nullptr;
    return Set(call.env(), ns);
  }
  napi_value Disarm(Call& call) { return Set(call.env(), INFINITY); }

  napi_value Set(napi_env env, double ns) {
    if (closed()) return Throw(env, "EBADF", "timer is closed");
    itimerspec spec = {};
    // A value of 0 would disarm; beyond 2^53 ns (104 days of uptime and more) nothing is exact, and nothing is that far.
    if (ns < 0x1p62) {
      const auto at = static_cast<uint64_t>(ns < 1 ? 1 : ns);
      spec.it_value.tv_sec = static_cast<time_t>(at / 1'000'000'000u);
      spec.it_value.tv_nsec = static_cast<long>(at % 1'000'000'000u);
    }
    if (timerfd_settime(fd_, TFD_TIMER_ABSTIME, &spec, nullptr) != 0) return ThrowErrno(env, "timerfd_settime", errno);
    return nullptr;
  }
  void OnFired() {
    uint64_t count;
    // Armed anew between expiry and now: not due yet.
    if (read(fd_, &count, 8) == 8) callback_.Invoke();
  }
  void OnClosed() override { callback_.Clear(); }

  int fd_;
  uv_poll_t poll_;
  Callback callback_;
};

napi_value Monotonic(napi_env env, napi_callback_info) { return FromNumber(env, static_cast<double>(MonotonicNs())); }

}  // namespace

void ExportEvents(napi_env env, napi_value exports) {
  SetFunction(env, exports, "eventfd", Eventfd);
  SetFunction(env, exports, "eventfdWrite", EventfdWrite);
  SetFunction(env, exports, "eventfdRead", EventfdRead);
  SetFunction(env, exports, "watch", Watch::Create);
  SetFunction(env, exports, "createTimer", Timer::Create);
  SetFunction(env, exports, "monotonicNs", Monotonic);
}

}  // namespace nyx
