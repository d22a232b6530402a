// Unix stream sockets whose protocol has no frames that MessageSocket could cut: reading with descriptors, and
// requests answered one after the other without any cost but that of two system calls.
#include "rights.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <uv.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "call.h"
#include "futex.h"
#include "received.h"
#include "spin_policy.h"

namespace nyx {
namespace {

constexpr double kMaxBytes = 1u << 20;
constexpr uint64_t kMaxSpinNs = 50'000;
constexpr uint64_t kLongYieldNs = 200'000;   // somebody else had the CPU
constexpr uint64_t kForgetNs = 1'000'000'000;
constexpr uint32_t kFewWaits = 64, kManyWaits = 1u << 16;

napi_value ReceiveRights(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  double max_bytes;
  if (!call.Fd(0, &fd) || !call.Number(1, "maxBytes", 1, kMaxBytes, &max_bytes)) return nullptr;
  std::vector<uint8_t> buffer(static_cast<size_t>(max_bytes));
  Received r;
  Receive(fd, buffer.data(), buffer.size(), &r);
  if (r.bytes < 0) return errno == EAGAIN ? Undefined(env) : ThrowErrno(env, "recvmsg", errno);

  const auto n = static_cast<size_t>(r.bytes);
  napi_value fds, bytes, data, out;
  void* copy;
  napi_create_array(env, &fds);
  for (size_t i = 0; i < r.count; i++) napi_set_element(env, fds, static_cast<uint32_t>(i), FromInt(env, r.fds[i]));
  napi_create_arraybuffer(env, n, &copy, &data);
  memcpy(copy, buffer.data(), n);
  napi_create_typedarray(env, napi_uint8_array, n, data, 0, &bytes);
  napi_create_object(env, &out);
  napi_set_named_property(env, out, "bytes", bytes);
  napi_set_named_property(env, out, "fds", fds);
  return out;
}

// A stream socket whose peer waits for each answer before it asks again. Answer and next request are one call: who sends requests
// one after the other has the next one soon, and the way through the event loop costs several times as much.
class Exchange : public Object {
 public:
  static napi_value Create(napi_env env, napi_callback_info info) {
    Call call(env, info);
    int fd;
    double wait_ms;
    Span in, out;
    if (!call.Fd(0, &fd) || !call.Buffer(1, "input", &in) || !call.Buffer(2, "output", &out) ||
        !call.Number(3, "waitMs", 1, 1000, &wait_ms)) {
      return nullptr;
    }
    timeval wait = {};
    wait.tv_usec = static_cast<suseconds_t>(wait_ms * 1000);
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0) return ThrowErrno(env, "fcntl", errno);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) != 0) return ThrowErrno(env, "setsockopt", errno);
    auto* self = new Exchange(env, fd, in, out, HoldMemory(call[1]), HoldMemory(call[2]));
    napi_value object;
    napi_create_object(env, &object);
    SetMethod(env, object, "next", self, Next);
    return object;
  }

 private:
  enum { kEnded = 0, kNothing = -1 };

  Exchange(napi_env env, int fd, Span in, Span out, std::shared_ptr<void> hold_in, std::shared_ptr<void> hold_out)
      : fd_(fd), in_(in), out_(out), hold_in_(std::move(hold_in)), hold_out_(std::move(hold_out)) {
    napi_get_uv_event_loop(env, &loop_);
  }

  // (answer, have, mayWait): sends that many octets of the output, and receives behind so many of the input.
  static napi_value Next(napi_env env, napi_callback_info info) {
    napi_value args[3];
    size_t argc = 3;
    void* data;
    napi_get_cb_info(env, info, &argc, args, nullptr, &data);
    auto* self = static_cast<Exchange*>(static_cast<Object*>(data));
    uint32_t answer = 0, have = 0;
    bool may_wait = false;
    napi_get_value_uint32(env, args[0], &answer);
    napi_get_value_uint32(env, args[1], &have);
    napi_get_value_bool(env, args[2], &may_wait);
    if (answer > self->out_.size || have > self->in_.size) return Throw(env, "ERR_INVALID_ARG_VALUE", "beyond the buffer");
    return FromInt(env, self->Do(answer, have, may_wait));
  }
  int32_t Do(uint32_t answer, uint32_t have, bool may_wait) {
    ssize_t n;
    if (answer > 0) {
      do n = send(fd_, out_.data, answer, MSG_DONTWAIT | MSG_NOSIGNAL);
      while (n < 0 && errno == EINTR);
      // A peer that does not read its answers (a socket holds more than 200 KiB) is not waited for.
      if (n != static_cast<ssize_t>(answer)) return kEnded;
    }
    if (have == in_.size) return kNothing;
    const bool wait = may_wait && uv_backend_timeout(loop_) != 0;
    n = Receive(have, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN && wait) n = Wait(have);
    if (n >= 0) return static_cast<int32_t>(n);
    // A signal ends the wait: the event loop handles it.
    return errno == EAGAIN || errno == EINTR ? kNothing : kEnded;
  }
  ssize_t Receive(uint32_t have, int flags) { return recv(fd_, in_.data + have, in_.size - have, flags); }

  // Looks again and again while requests keep coming that soon: a sleep and a wake-up on another CPU cost more than the whole
  // exchange. The CPU is offered to others in between; on this one may be the peer. When it does not come back soon, others need it,
  // and for a number of waits, more each time, it is left to them.
  ssize_t Wait(uint32_t have) {
    const uint64_t began = MonotonicNs(), limit = hold_off_ > 0 ? 0 : policy_.Next();
    if (hold_off_ > 0) hold_off_--;
    ssize_t n;
    bool slept = false;
    for (uint64_t now = began;;) {
      if (now - began >= limit) {
        slept = true;
        n = Receive(have, 0);
        break;
      }
      sched_yield();
      n = Receive(have, MSG_DONTWAIT);
      const uint64_t before = now;
      now = MonotonicNs();
      if (now - before > kLongYieldNs) {
        waits_ = before - long_yield_ > kForgetNs ? kFewWaits : std::min(2 * waits_, kManyWaits);
        hold_off_ = waits_;
        long_yield_ = now;
      }
      if (n >= 0 || errno != EAGAIN) break;
    }
    const int error = errno;
    policy_.Arrived(MonotonicNs() - began, slept);
    errno = error;
    return n;
  }

  int fd_;
  Span in_, out_;
  std::shared_ptr<void> hold_in_, hold_out_;
  uv_loop_t* loop_ = nullptr;
  SpinPolicy policy_{kMaxSpinNs};
  // Waits to come without a look in between; how many it were the last time, and when.
  uint32_t hold_off_ = 0, waits_ = kFewWaits;
  uint64_t long_yield_ = 0;
};

}  // namespace

void ExportRights(napi_env env, napi_value exports) {
  SetFunction(env, exports, "receiveRights", ReceiveRights);
  SetFunction(env, exports, "createExchange", Exchange::Create);
}

}  // namespace nyx
