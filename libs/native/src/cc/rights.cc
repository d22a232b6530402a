// Unix stream sockets whose protocol has no frames that MessageSocket could cut: reading with descriptors, and reading and
// writing without any cost but the system call's.
#include "rights.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "call.h"

namespace nyx {
namespace {

constexpr double kMaxBytes = 1u << 20;
constexpr size_t kMaxFds = 253;  // SCM_MAX_FD of Linux: none is lost for lack of room

napi_value ReceiveRights(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  double max_bytes;
  if (!call.Fd(0, &fd) || !call.Number(1, "maxBytes", 1, kMaxBytes, &max_bytes)) return nullptr;
  std::vector<uint8_t> buffer(static_cast<size_t>(max_bytes));
  iovec iov = {buffer.data(), buffer.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFds * sizeof(int))];
  msghdr header = {};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t n;
  do n = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0) return errno == EAGAIN ? Undefined(env) : ThrowErrno(env, "recvmsg", errno);

  napi_value fds, bytes, data, out;
  void* copy;
  napi_create_array(env, &fds);
  uint32_t count = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
      int received;
      memcpy(&received, CMSG_DATA(c) + i * sizeof(int), sizeof received);
      napi_set_element(env, fds, count++, FromInt(env, received));
    }
  }
  napi_create_arraybuffer(env, static_cast<size_t>(n), &copy, &data);
  memcpy(copy, buffer.data(), static_cast<size_t>(n));
  napi_create_typedarray(env, napi_uint8_array, static_cast<size_t>(n), data, 0, &bytes);
  napi_create_object(env, &out);
  napi_set_named_property(env, out, "bytes", bytes);
  napi_set_named_property(env, out, "fds", fds);
  return out;
}

// (fd, buffer, offset, length): bytes, 0 at the end of the stream, -1 when it would block.
template <bool kSend>
napi_value Transfer(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  uint8_t* data;
  size_t length;
  if (!call.Fd(0, &fd) || !call.Range(1, "buffer", &data, &length)) return nullptr;
  ssize_t n;
  do n = kSend ? send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL) : recv(fd, data, length, MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno != EAGAIN) return ThrowErrno(env, kSend ? "send" : "recv", errno);
  return FromInt(env, static_cast<int32_t>(n));
}

// (fd, milliseconds): whether it is readable. False as soon as the event loop has something to do.
napi_value WaitReadable(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  int64_t ms;
  if (!call.Fd(0, &fd) || !call.Int(1, "milliseconds", 0, 1000, &ms)) return nullptr;
  uv_loop_t* loop;
  napi_get_uv_event_loop(env, &loop);
  const int due = uv_backend_timeout(loop);
  if (due >= 0 && due < ms) ms = due;
  pollfd fds[] = {{fd, POLLIN, 0}, {uv_backend_fd(loop), POLLIN, 0}};
  const int n = poll(fds, 2, static_cast<int>(ms));
  return FromBool(env, n > 0 && fds[0].revents != 0);
}

}  // namespace

void ExportRights(napi_env env, napi_value exports) {
  SetFunction(env, exports, "receiveRights", ReceiveRights);
  SetFunction(env, exports, "receive", Transfer<false>);
  SetFunction(env, exports, "transmit", Transfer<true>);
  SetFunction(env, exports, "waitReadable", WaitReadable);
}

}  // namespace nyx
