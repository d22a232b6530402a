// Unix sockets in the event loop: whole messages with descriptors beside them, bounded on both sides. SOCK_SEQPACKET keeps
// messages apart itself; on SOCK_STREAM each begins with a header that tells how long the rest is.
#include "seq_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <utility>

#include "call.h"
#include "loop.h"
#include "received.h"

namespace nyx {
namespace {

constexpr size_t kMaxQueued = 4u << 20;     // a peer that does not read may cost us this much
constexpr double kMaxMessage = 1u << 20;
constexpr double kMaxHeader = 64;
constexpr int kMessagesPerTurn = 64;        // so that one talkative peer does not starve the event loop

template <int kPairType>
napi_value Pair(napi_env env, napi_callback_info) {
  int fds[2];
  if (socketpair(AF_UNIX, kPairType | SOCK_CLOEXEC, 0, fds) != 0) return ThrowErrno(env, "socketpair", errno);
  napi_value out;
  napi_create_array_with_length(env, 2, &out);
  napi_set_element(env, out, 0, FromInt(env, fds[0]));
  napi_set_element(env, out, 1, FromInt(env, fds[1]));
  return out;
}

struct Message {
  std::vector<uint8_t> bytes;
  std::vector<int> fds;
  size_t sent = 0;
};

// 0, or errno. EAGAIN: try again with the rest when the socket is writable; `sent` bytes, and with them all descriptors,
// are on their way.
int SendNow(int socket, const uint8_t* data, size_t length, const std::vector<int>& fds, size_t* sent) {
  iovec iov = {const_cast<uint8_t*>(data), length};
  msghdr header = {};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxRights * sizeof(int))];
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
  for (;;) {
    const ssize_t n = sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    *sent += static_cast<size_t>(n);
    if (static_cast<size_t>(n) == iov.iov_len) return 0;
    // Only a stream takes a part.
    iov = {static_cast<uint8_t*>(iov.iov_base) + n, iov.iov_len - static_cast<size_t>(n)};
    header.msg_control = nullptr;
    header.msg_controllen = 0;
  }
}

// The address of a path; false and a thrown error when it is too long.
bool Address(const Call& call, sockaddr_un* address) {
  std::string path;
  if (!call.Text(0, "path", &path)) return false;
  *address = {};
  address->sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address->sun_path) {
    Throw(call.env(), "ENAMETOOLONG",
          "the path of a socket must have 1 to " + std::to_string(sizeof address->sun_path - 1) + " bytes");
    return false;
  }
  memcpy(address->sun_path, path.data(), path.size());
  return true;
}

napi_value ListenUnix(napi_env env, napi_callback_info info) {
  Call call(env, info);
  sockaddr_un address;
  if (!Address(call, &address)) return nullptr;
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ThrowErrno(env, "socket", errno);
  const char* failed = nullptr;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) failed = "bind";
  else if (listen(fd, 16) != 0) failed = "listen";
  if (failed == nullptr) return FromInt(env, fd);
  const int error = errno;
  close(fd);
  return ThrowErrno(env, failed, error);
}

template <int kType>
napi_value ConnectUnix(napi_env env, napi_callback_info info) {
  Call call(env, info);
  sockaddr_un address;
  if (!Address(call, &address)) return nullptr;
  // Not blocking: EAGAIN when the peer's queue of connections is full.
  const int fd = socket(AF_UNIX, kType | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ThrowErrno(env, "socket", errno);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return FromInt(env, fd);
  const int error = errno;
  close(fd);
  return ThrowErrno(env, "connect", error);
}

napi_value Accept(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  if (!call.Fd(0, &fd)) return nullptr;
  const int peer = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (peer >= 0) return FromInt(env, peer);
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return FromInt(env, -1);
  return ThrowErrno(env, "accept4", errno);
}

class MessageSocket : public LoopObject {
 public:
  template <int kType>
  static napi_value Create(napi_env env, napi_callback_info info) {
    Call call(env, info);
    int fd;
    double max_bytes = 65536, max_fds = 64, header = 0, length_at = 0;
    if (!call.Fd(0, &fd) || !call.OptionNumber(1, "maxBytes", 1, kMaxMessage, &max_bytes) ||
        !call.OptionNumber(1, "maxFds", 0, kMaxRights, &max_fds) ||
        !call.OptionNumber(1, "headerBytes", 4, kMaxHeader, &header) ||
        !call.OptionNumber(1, "lengthAt", 0, kMaxHeader - 4, &length_at))
      return nullptr;
    if (kType == SOCK_STREAM && (header == 0 || length_at + 4 > header || max_bytes < header))
      return Throw(env, "EINVAL", "headerBytes and lengthAt must say where a message tells its length");
    const napi_value on_message = call.Option(1, "onMessage");
    const napi_value on_close = call.Option(1, "onClose");
    const napi_value on_drain = call.Option(1, "onDrain");
    if (on_message == nullptr || !IsFunction(env, on_message)) return call.Fail("onMessage", "a function"), nullptr;
    if (on_close != nullptr && !IsFunction(env, on_close)) return call.Fail("onClose", "a function"), nullptr;
    if (on_drain != nullptr && !IsFunction(env, on_drain)) return call.Fail("onDrain", "a function"), nullptr;
    int type = 0;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0) return ThrowErrno(env, "getsockopt", errno);
    if (type != kType)
      return Throw(env, "EINVAL", kType == SOCK_STREAM ? "fd is not a SOCK_STREAM socket" : "fd is not a SOCK_SEQPACKET socket");
    auto* self = new MessageSocket(env, fd, static_cast<size_t>(max_bytes), static_cast<size_t>(max_fds));
    if (kType == SOCK_STREAM) {
      self->header_ = static_cast<size_t>(header);
      self->length_at_ = static_cast<size_t>(length_at);
    }
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
    SetMethod(env, object, "send", self, Member<MessageSocket, &MessageSocket::Send>);
    SetGetter(env, object, "queued", self, Member<MessageSocket, &MessageSocket::Queued>);
    return object;
  }

 private:
  MessageSocket(napi_env env, int fd, size_t max_bytes, size_t max_fds)
      : LoopObject(env), fd_(fd), max_bytes_(max_bytes), max_fds_(max_fds), buffer_(max_bytes + 1) {}
  ~MessageSocket() override {
    DropFds();
    for (const Message& m : queue_)
      for (int fd : m.fds) close(fd);
    if (fd_ >= 0) close(fd_);
  }

  void Poll() {
    uv_poll_start(&poll_, UV_READABLE | UV_DISCONNECT | (queue_.empty() ? 0 : UV_WRITABLE),
                  [](uv_poll_t* h, int status, int events) {
                    status < 0 ? Owner<MessageSocket>(h)->OnError() : Owner<MessageSocket>(h)->OnEvents(events);
                  });
  }

  void OnEvents(int events) {
    if ((events & UV_WRITABLE) != 0) Flush();
    if (!closed() && (events & (UV_READABLE | UV_DISCONNECT)) != 0) Receive();
  }

  // A peer that ended with messages unread leaves an error on the socket (ECONNRESET), and libuv stops looking at it. What the
  // peer had sent is still there.
  void OnError() {
    Receive();
    if (!closed()) Poll();
  }

  void Flush() {
    while (!queue_.empty()) {
      Message& m = queue_.front();
      const size_t before = m.sent;
      const int error = SendNow(fd_, m.bytes.data() + before, m.bytes.size() - before, m.sent == 0 ? m.fds : kNoFds, &m.sent);
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

  void DropFds() {
    for (size_t i = 0; i < fd_count_; i++) close(fds_[i]);
    fd_count_ = 0;
  }

  // Up to `length` more bytes behind the `have_` that are there, and descriptors. 0: nothing now, or the socket has ended.
  size_t Read(size_t length) {
    Received r;
    // The error comes before what the peer had sent, and once.
    do nyx::Receive(fd_, buffer_.data() + have_, length, &r);
    while (r.bytes < 0 && errno == ECONNRESET && !std::exchange(was_reset_, true));
    if (r.bytes < 0) {
      if (errno != EAGAIN) Fail("recvmsg", errno);
      return 0;
    }
    bool many = false;
    for (size_t i = 0; i < r.count; i++) {
      if (fd_count_ < max_fds_) fds_[fd_count_++] = r.fds[i];
      else many = true, close(r.fds[i]);
    }
    // An end of file and an empty message look the same; nobody sends empty ones.
    if (r.bytes == 0 && fd_count_ == 0 && have_ == 0) return Finish(nullptr), 0;
    if (r.bytes == 0 || many || (r.flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) return Fail("recvmsg", r.bytes == 0 ? EPROTO : EMSGSIZE), 0;
    return static_cast<size_t>(r.bytes);
  }

  bool ReceiveOne() {
    if (header_ == 0) {
      have_ = Read(buffer_.size());
      if (have_ == 0) return false;
      if (have_ > max_bytes_) return Fail("recvmsg", EMSGSIZE), false;
    } else {
      // Never beyond the message: descriptors that come with the next one are not this one's.
      while (have_ < header_ + (have_ < header_ ? 0 : Rest())) {
        const size_t n = Read(header_ + (have_ < header_ ? 0 : Rest()) - have_);
        if (n == 0) return false;
        have_ += n;
        if (have_ >= header_ && header_ + Rest() > max_bytes_) return Fail("recvmsg", EMSGSIZE), false;
      }
    }
    Tell();
    return true;
  }

  // Bytes after the header, as it says.
  size_t Rest() const {
    uint32_t length;
    memcpy(&length, buffer_.data() + length_at_, sizeof length);
    return length;
  }

  void Tell() {
    Scope scope(env());
    napi_value argv[2];
    void* copy;
    napi_value bytes;
    const size_t n = have_, count = fd_count_;
    napi_create_arraybuffer(env(), n, &copy, &bytes);
    memcpy(copy, buffer_.data(), n);
    napi_create_typedarray(env(), napi_uint8_array, n, bytes, 0, &argv[0]);
    napi_create_array_with_length(env(), count, &argv[1]);
    for (size_t i = 0; i < count; i++)
      napi_set_element(env(), argv[1], static_cast<uint32_t>(i), FromInt(env(), fds_[i]));
    // From here on they are the receiver's.
    have_ = 0;
    fd_count_ = 0;
    on_message_.Invoke(2, argv);
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
    size_t sent = 0;
    const int error = queue_.empty() ? SendNow(fd_, bytes, length, fds, &sent) : EAGAIN;
    if (error == 0) return FromBool(call.env(), true);
    if (error != EAGAIN) return ThrowErrno(call.env(), "sendmsg", error);
    if (queued_ + length > kMaxQueued) return ThrowErrno(call.env(), "sendmsg", ENOBUFS);
    Message message{std::vector<uint8_t>(bytes, bytes + length), {}, sent};
    if (sent > 0) fds.clear();
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
    if (!is || count > kMaxRights) return call.Fail("fds", "an array of at most 253 descriptors");
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
    DropFds();
    close(fd_);
    fd_ = -1;
  }

  static inline const std::vector<int> kNoFds;
  int fd_;
  size_t max_bytes_, max_fds_, queued_ = 0;
  // Of a stream; 0: messages are kept apart by the socket.
  size_t header_ = 0, length_at_ = 0;
  bool was_reset_ = false;
  std::vector<uint8_t> buffer_;
  // Of the message that is coming: bytes in the buffer, and descriptors.
  size_t have_ = 0, fd_count_ = 0;
  int fds_[kMaxRights];
  std::deque<Message> queue_;
  uv_poll_t poll_;
  Callback on_message_, on_close_, on_drain_;
};

}  // namespace

void ExportSeqSocket(napi_env env, napi_value exports) {
  SetFunction(env, exports, "socketpair", Pair<SOCK_SEQPACKET>);
  SetFunction(env, exports, "streamPair", Pair<SOCK_STREAM>);
  SetFunction(env, exports, "openSeqSocket", MessageSocket::Create<SOCK_SEQPACKET>);
  SetFunction(env, exports, "openFrameSocket", MessageSocket::Create<SOCK_STREAM>);
  SetFunction(env, exports, "listenUnix", ListenUnix);
  SetFunction(env, exports, "connectUnix", ConnectUnix<SOCK_STREAM>);
  SetFunction(env, exports, "connectSeq", ConnectUnix<SOCK_SEQPACKET>);
  SetFunction(env, exports, "acceptUnix", Accept);
}

}  // namespace nyx
