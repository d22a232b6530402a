#include "control.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace nyx {
namespace {
// Kernel limit of descriptors in one message.
constexpr size_t kMaxFds = 253;
constexpr size_t kMaxMessage = 256 * 1024;
constexpr size_t kMaxText = 4096;
}  // namespace

Control::Control(int fd) : fd_(fd), buffer_(kMaxMessage) {}

Control::Received Control::Receive(ControlInput* out) {
  iovec io{buffer_.data(), buffer_.size()};
  alignas(cmsghdr) uint8_t ancillary[CMSG_SPACE(kMaxFds * sizeof(int))];
  msghdr m{};
  m.msg_iov = &io;
  m.msg_iovlen = 1;
  m.msg_control = ancillary;
  m.msg_controllen = sizeof ancillary;
  const ssize_t n = recvmsg(fd_, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? Received::kNothing : Received::kClosed;
  out->fds.clear();
  for (cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const size_t had = out->fds.size();
    out->fds.resize(had + count);
    memcpy(out->fds.data() + had, CMSG_DATA(c), count * sizeof(int));
  }
  if (n == 0 && out->fds.empty()) return Received::kClosed;
  const size_t size = static_cast<size_t>(n);
  if (size >= sizeof out->message) memcpy(&out->message, buffer_.data(), sizeof out->message);
  if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || size < sizeof out->message ||
      out->message.length != size - sizeof out->message) {
    for (const int fd : out->fds) close(fd);
    out->fds.clear();
    return Received::kBad;
  }
  out->payload.assign(buffer_.begin() + sizeof out->message, buffer_.begin() + static_cast<ptrdiff_t>(size));
  return Received::kMessage;
}

bool Control::TrySend(const std::vector<uint8_t>& bytes) {
  // Anything but a full socket means that nobody listens: the guest goes on, the message is lost.
  return send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 || (errno != EAGAIN && errno != EINTR);
}

void Control::Send(uint32_t event, uint64_t a, uint64_t b, uint64_t c, const std::string& text) {
  machine::ControlMessage m{};
  m.op = event;
  m.length = static_cast<uint32_t>(text.size() < kMaxText ? text.size() : kMaxText);
  m.a = a;
  m.b = b;
  m.c = c;
  std::vector<uint8_t> bytes(sizeof m + m.length);
  memcpy(bytes.data(), &m, sizeof m);
  memcpy(bytes.data() + sizeof m, text.data(), m.length);
  std::lock_guard lock(mutex_);
  if (waiting_.empty() && TrySend(bytes)) return;
  if (waiting_.size() >= 1024) waiting_.pop_front();
  waiting_.push_back(std::move(bytes));
}

bool Control::Flush() {
  std::lock_guard lock(mutex_);
  while (!waiting_.empty() && TrySend(waiting_.front())) waiting_.pop_front();
  return waiting_.empty();
}

}  // namespace nyx
