// SOCK_SEQPACKET in the event loop: whole messages with descriptors beside them, bounded on both sides.
#include "seq_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>

#include "call.h"
#include "loop.h"

namespace nyx {
namespace {

constexpr size_t kMaxFds = 253;             // SCM_MAX_FD of Linux
constexpr size_t kMaxQueued = 4u << 20;     // a peer that does not read may cost us this much
constexpr double kMaxMessage = 1u << 20;
constexpr int kMessagesPerTurn = 64;        // so that one talkative peer does not starve the event loop

napi_value Socketpair(napi_env env, napi_callback_info) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) return ThrowErrno(env, "socketpair", errno);
  napi_value out;
  napi_create_array_with_length(env, 2, &out);
  napi_set_element(env, out, 0, FromInt(env, fds[0]));
  napi_set_element(env, out, 1, FromInt(env, fds[1]));
  return out;
}

struct Message {
  std::vector<uint8_t> bytes;
  std::vector<int> fds;
};

// 0, or errno. EAGAIN: try again when the socket is writable.
int SendNow(int socket, const uint8_t* data, size_t length, const std::vector<int>& fds) {
  iovec iov = {const_cast<uint8_t*>(data), length};
  msghdr header = {};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFds * sizeof(int))];
  if (!fds.empty()) {
    const size_t bytes = fds.size() * sizeof(int);
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(bytes);
    memset(control, 0, header.msg_controllen);
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(c), fds.data(), bytes);
  }
  while (sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
    if (errno != EINTR) return errno;
  return 0;
}

class SeqSocket : public LoopObject {
 public:
  static napi_value Create(napi_env env, napi_callback_info info) {
    Call call(env, info);
    int fd;
    double max_bytes = 65536, max_fds = 64;
    if (!call.Fd(0, &fd) || !call.OptionNumber(1, "maxBytes", 1, kMaxMessage, &max_bytes) ||
        !call.OptionNumber(1, "maxFds", 0, kMaxFds, &max_fds))
      return nullptr;
    const napi_value on_message = call.Option(1, "onMessage");
    const napi_value on_close = call.Option(1, "onClose");
    const napi_value on_drain = call.Option(1, "onDrain");
    if (on_message == nullptr || !IsFunction(env, on_message)) return call.Fail("onMessage", "a function"), nullptr;
    if (on_close != nullptr && !IsFunction(env, on_close)) return call.Fail("onClose", "a function"), nullptr;
    if (on_drain != nullptr && !IsFunction(env, on_drain)) return call.Fail("onDrain", "a function"), nullptr;
    int type = 0;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0) return ThrowErrno(env, "getsockopt", errno);
    if (type != SOCK_SEQPACKET) return Throw(env, "EINVAL", "fd is not a SOCK_SEQPACKET socket");
    auto* self = new SeqSocket(env, fd, static_cast<size_t>(max_bytes), static_cast<size_t>(max_fds));
    const int error = uv_poll_init(self->loop(), &self->poll_, fd);
    if (error != 0) {
      self->fd_ = -1;  // the caller keeps it
      self->Abandon();
      return ThrowErrno(env, "epoll_ctl", -error);
    }
    self->Adopt(&self->poll_);
    self->on_message_.Set(env, on_message, "nyx:socket");
    if (on_close != nullptr) self->on_close_.Set(env, on_close, "nyx:socket");
    if (on_drain != nullptr) self->on_drain_.Set(env, on_drain, "nyx:socket");
    self->Poll();
    napi_value object;
    napi_create_object(env, &object);
    self->SetLifecycle(object);
    SetMethod(env, object, "send", self, Member<SeqSocket, &SeqSocket::Send>);
    SetGetter(env, object, "queued", self, Member<SeqSocket, &SeqSocket::Queued>);
    return object;
  }

 private:
  SeqSocket(napi_env env, int fd, size_t max_bytes, size_t max_fds)
      : LoopObject(env), fd_(fd), max_bytes_(max_bytes), max_fds_(max_fds), buffer_(max_bytes + 1) {}
  ~SeqSocket() override {
    for (const Message& m : queue_)
      for (int fd : m.fds) close(fd);
    if (fd_ >= 0) close(fd_);
  }

  void Poll() {
    uv_poll_start(&poll_, UV_READABLE | UV_DISCONNECT | (queue_.empty() ? 0 : UV_WRITABLE),
                  [](uv_poll_t* h, int, int events) { Owner<SeqSocket>(h)->OnEvents(events); });
  }

  void OnEvents(int events) {
    if ((events & UV_WRITABLE) != 0) Flush();
    if (!closed() && (events & (UV_READABLE | UV_DISCONNECT)) != 0) Receive();
  }

  void Flush() {
    while (!queue_.empty()) {
      const Message& m = queue_.front();
      const int error = SendNow(fd_, m.bytes.data(), m.bytes.size(), m.fds);
      if (error == EAGAIN) return;
      if (error != 0) return Fail("sendmsg", error);
      queued_ -= m.bytes.size();
      for (int fd : m.fds) close(fd);
      queue_.pop_front();
    }
    Poll();
    on_drain_.Invoke();
  }

  void Receive() {
    for (int i = 0; i < kMessagesPerTurn && !closed(); i++)
      if (!ReceiveOne()) return;
  }

  bool ReceiveOne() {
    iovec iov = {buffer_.data(), buffer_.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxFds * sizeof(int))];
    msghdr header = {};
    header.msg_iov = &iov;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    ssize_t n;
    do n = recvmsg(fd_, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) return false;
    if (n < 0) return Fail("recvmsg", errno), false;
    int fds[kMaxFds];
    size_t count = 0;
    for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      memcpy(fds, CMSG_DATA(c), count * sizeof(int));
    }
    // An end of file and an empty message look the same; we never send empty ones.
    if (n == 0 && count == 0) return Finish(nullptr), false;
    if (static_cast<size_t>(n) > max_bytes_ || count > max_fds_ || (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
      for (size_t i = 0; i < count; i++) close(fds[i]);
      return Fail("recvmsg", EMSGSIZE), false;
    }
    Scope scope(env());
    napi_value argv[2];
    void* copy;
    napi_value bytes;
    napi_create_arraybuffer(env(), static_cast<size_t>(n), &copy, &bytes);
    memcpy(copy, buffer_.data(), static_cast<size_t>(n));
    napi_create_typedarray(env(), napi_uint8_array, static_cast<size_t>(n), bytes, 0, &argv[0]);
    napi_create_array_with_length(env(), count, &argv[1]);
    for (size_t i = 0; i < count; i++)
      napi_set_element(env(), argv[1], static_cast<uint32_t>(i), FromInt(env(), fds[i]));
    on_message_.Invoke(2, argv);
    return true;
  }

  napi_value Send(Call& call) {
    if (closed()) return ThrowErrno(call.env(), "sendmsg", EPIPE);
    bool is = false;
    if (call.arg(0) != nullptr) napi_is_typedarray(call.env(), call.arg(0), &is);
    napi_typedarray_type type = napi_int8_array;
    size_t length = 0;
    void* data = nullptr;
    if (is) napi_get_typedarray_info(call.env(), call.arg(0), &type, &length, &data, nullptr, nullptr);
    if (type != napi_uint8_array) return call.Fail("bytes", "a Uint8Array"), nullptr;
    if (length == 0 || length > kMaxMessage) return ThrowErrno(call.env(), "sendmsg", EMSGSIZE);
    std::vector<int> fds;
    if (call.Has(1) && !Fds(call, &fds)) return nullptr;
    const auto* bytes = static_cast<const uint8_t*>(data);
    const int error = queue_.empty() ? SendNow(fd_, bytes, length, fds) : EAGAIN;
    if (error == 0) return FromBool(call.env(), true);
    if (error != EAGAIN) return ThrowErrno(call.env(), "sendmsg", error);
    if (queued_ + length > kMaxQueued) return ThrowErrno(call.env(), "sendmsg", ENOBUFS);
    Message message{std::vector<uint8_t>(bytes, bytes + length), {}};
    for (int fd : fds) {
      const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
      if (copy < 0) {
        const int failed = errno;
        for (int made : message.fds) close(made);
        return ThrowErrno(call.env(), "fcntl(F_DUPFD_CLOEXEC)", failed);
      }
      message.fds.push_back(copy);
    }
    queued_ += length;
    queue_.push_back(std::move(message));
    Poll();
    return FromBool(call.env(), false);
  }

  static bool Fds(const Call& call, std::vector<int>* out) {
    bool is = false;
    napi_is_array(call.env(), call.arg(1), &is);
    uint32_t count = 0;
    if (is) napi_get_array_length(call.env(), call.arg(1), &count);
    if (!is || count > kMaxFds) return call.Fail("fds", "an array of at most 253 descriptors");
    for (uint32_t i = 0; i < count; i++) {
      napi_value item;
      int32_t fd = -1;
      napi_get_element(call.env(), call.arg(1), i, &item);
      if (napi_get_value_int32(call.env(), item, &fd) != napi_ok || fd < 0)
        return call.Fail("fds", "an array of at most 253 descriptors");
      out->push_back(fd);
    }
    return true;
  }

  napi_value Queued(Call& call) { return FromNumber(call.env(), static_cast<double>(queued_)); }

  void Fail(const char* syscall, int error) {
    if (error == ECONNRESET || error == EPIPE) return Finish(nullptr);
    Scope scope(env());
    Finish(MakeErrno(env(), syscall, error));
  }

  void Finish(napi_value error) {
    if (closed()) return;
    Close();
    on_close_.Invoke(error != nullptr ? 1 : 0, &error);
  }

  void OnClosed() override {
    on_message_.Clear();
    on_close_.Clear();
    on_drain_.Clear();
    close(fd_);
    fd_ = -1;
  }

  int fd_;
  size_t max_bytes_, max_fds_, queued_ = 0;
  std::vector<uint8_t> buffer_;
  std::deque<Message> queue_;
  uv_poll_t poll_;
  Callback on_message_, on_close_, on_drain_;
};

}  // namespace

void ExportSeqSocket(napi_env env, napi_value exports) {
  SetFunction(env, exports, "socketpair", Socketpair);
  SetFunction(env, exports, "openSeqSocket", SeqSocket::Create);
}

}  // namespace nyx
