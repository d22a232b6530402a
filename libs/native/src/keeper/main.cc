// nyx-keeper: what outlives a supervisor. It holds copies of the descriptors that nyxd has, with a few bytes about each,
// starts another nyxd when that one dies, and hands over what it holds to whoever connects next. It understands nothing
// of what it holds, has no threads, and parses nothing but its own messages.
//
//   nyx-keeper SOCKET PROGRAM ARGUMENT...     descriptor 3: the connection of the nyxd that started it
//
// One connection at a time: whoever comes is given everything at once, and while there is one is told that it is busy. (Nobody
// has to ask: what is not read of a connection that is closed makes its peer lose our last word.) Messages, SOCK_SEQPACKET:
//   to us    'p' length key value + descriptors   keep it, instead of what was kept under that key
//            'd' length key                       forget it
//            'b'                                  the machine has ended: so do we
//   from us  'e' length key value + descriptors | 'z' | 'x' (busy) | 'f' length key (there is no room for it)
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "received.h"

extern char** environ;

namespace {

constexpr size_t kMaxMessage = 256 * 1024;
constexpr size_t kMaxEntries = 4096;
constexpr size_t kMaxHeld = 8192;
constexpr size_t kMaxBytes = 8 << 20;
// A supervisor that dies as often as that within the window does not get another one from us; a command may start one.
constexpr int kBudget = 8;
constexpr double kWindow = 60;
constexpr timeval kPatience = {10, 0};

struct Entry {
  std::string value;
  std::vector<int> fds;
};

std::map<std::string, Entry> entries;
size_t held = 0;
size_t bytes_held = 0;

double Now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

void CloseAll(const std::vector<int>& fds) {
  for (const int fd : fds) close(fd);
}

void Forget(const std::string& key) {
  const auto it = entries.find(key);
  if (it == entries.end()) return;
  held -= it->second.fds.size();
  bytes_held -= key.size() + it->second.value.size();
  CloseAll(it->second.fds);
  entries.erase(it);
}

// Blocks for kPatience at most. False: the peer is gone, or does not read.
bool Send(int peer, const std::string& text, const std::vector<int>& fds) {
  iovec iov = {const_cast<char*>(text.data()), text.size()};
  msghdr header = {};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(nyx::kMaxRights * sizeof(int))] = {};
  if (!fds.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(c), fds.data(), fds.size() * sizeof(int));
  }
  ssize_t n;
  do n = sendmsg(peer, &header, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n == static_cast<ssize_t>(text.size());
}

std::string Tagged(char op, const std::string& key) {
  return std::string(1, op) + static_cast<char>(key.size()) + key;
}

// False: the peer has not taken all of it.
bool HandOver(int peer) {
  for (const auto& [key, e] : entries) {
    if (!Send(peer, Tagged('e', key) + e.value, e.fds)) return false;
  }
  return Send(peer, "z", {});
}

// False: the connection is of no use any more.
bool Handle(int peer, const char* data, size_t length, std::vector<int>&& fds) {
  const char op = data[0];
  if (op == 'b') _exit(0);
  const size_t key_length = length > 1 ? static_cast<uint8_t>(data[1]) : 0;
  const bool good = (op == 'p' || op == 'd') && key_length > 0 && length >= 2 + key_length;
  const std::string key = good ? std::string(data + 2, key_length) : "";
  if (good) Forget(key);
  if (!good || op == 'd') {
    CloseAll(fds);
    return good;
  }
  const size_t size = length - 2;
  if (entries.size() >= kMaxEntries || held + fds.size() > kMaxHeld || bytes_held + size > kMaxBytes) {
    CloseAll(fds);
    return Send(peer, Tagged('f', key), {});
  }
  held += fds.size();
  bytes_held += size;
  entries[key] = {std::string(data + 2 + key_length, size - key_length), std::move(fds)};
  return true;
}

// False: it has closed, or broke a rule.
bool Receive(int peer) {
  static char buffer[kMaxMessage];
  nyx::Received r;
  nyx::Receive(peer, buffer, sizeof buffer, &r);
  // A peer that ended with messages unread: the error comes once, and before what it had sent.
  if (r.bytes < 0) return errno == EAGAIN || errno == ECONNRESET;
  std::vector<int> fds;
  for (size_t i = 0; i < r.count; i++) fds.push_back(r.fds[i]);
  if (r.bytes == 0 || (r.flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    CloseAll(fds);
    return false;
  }
  return Handle(peer, buffer, static_cast<size_t>(r.bytes), std::move(fds));
}

// Listens in the run directory, which is its owner's alone. -1: nobody will be able to come.
int Listen(const char* path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (strlen(path) >= sizeof address.sun_path) return -1;
  strcpy(address.sun_path, path);
  unlink(path);
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 && listen(fd, 8) == 0) return fd;
  return -1;
}

// Of the same user; -1: nobody.
int Accept(int listening) {
  const int peer = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
  if (peer < 0) return -1;
  ucred who = {};
  socklen_t size = sizeof who;
  if (getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || who.uid != getuid()) {
    close(peer);
    return -1;
  }
  setsockopt(peer, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  return peer;
}

// A supervisor that has died before it came to us has died, too.
class Successors {
 public:
  explicit Successors(char** command) : command_(command) {}

  bool starting() const { return pid_ > 0; }

  // Reaps one that has ended.
  void Look() {
    int status;
    if (pid_ > 0 && waitpid(pid_, &status, WNOHANG) != 0) pid_ = -1;
  }

  // The next may be started then; negative: none will be.
  double Due() {
    const double now = Now();
    std::erase_if(times_, [&](double t) { return t < now - kWindow; });
    const auto n = static_cast<int>(times_.size());
    if (n >= kBudget) return -1;
    return n < 2 ? 0 : times_.back() + static_cast<double>(1 << (n - 2)) / 2;
  }

  void Start() {
    times_.push_back(Now());
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t usual, none;
    sigfillset(&usual);
    sigemptyset(&none);
    posix_spawnattr_setsigdefault(&attributes, &usual);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
    if (posix_spawn(&pid_, command_[0], nullptr, &attributes, command_, environ) != 0) pid_ = -1;
    posix_spawnattr_destroy(&attributes);
  }

 private:
  char** const command_;
  pid_t pid_ = -1;
  std::vector<double> times_;
};

int Main(int argc, char** argv) {
  if (argc < 3 || fcntl(3, F_SETFD, FD_CLOEXEC) < 0) {
    fprintf(stderr, "nyx-keeper is started by nyxd: nyx-keeper SOCKET PROGRAM ARGUMENT..., connection on descriptor 3\n");
    return 64;
  }
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    const rlim_t wanted = kMaxHeld + 64;
    files.rlim_cur = files.rlim_max < wanted ? files.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  setsockopt(3, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  const int listening = Listen(argv[1]);
  Successors successors(argv + 2);
  int peer = 3;
  for (;;) {
    int timeout = -1;
    if (peer < 0) {
      successors.Look();
      const double due = successors.starting() ? -1 : successors.Due();
      if (due >= 0 && due <= Now()) successors.Start();
      // Whether it still lives is looked at again and again: without a peer there is nothing else to do.
      timeout = due > Now() ? static_cast<int>((due - Now()) * 1000) + 1 : successors.starting() ? 50 : 1000;
    }
    pollfd p[2] = {{peer, POLLIN, 0}, {listening, POLLIN, 0}};
    if (poll(p, 2, timeout) < 0 && errno != EINTR) return 71;
    if (peer >= 0 && p[0].revents != 0 && !Receive(peer)) {
      close(peer);
      peer = -1;
      // Nothing was kept: there is no machine to look after.
      if (entries.empty()) return 0;
    }
    if (p[1].revents == 0) continue;
    const int next = Accept(listening);
    if (next < 0) continue;
    if (peer < 0 && HandOver(next)) {
      peer = next;
      continue;
    }
    if (peer >= 0) Send(next, "x", {});
    close(next);
  }
}

}  // namespace

int main(int argc, char** argv) { return Main(argc, argv); }
