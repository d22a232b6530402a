// A message of a unix socket with the descriptors beside it (SCM_RIGHTS).
#pragma once
#include <sys/socket.h>
#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace nyx {

inline constexpr size_t kMaxRights = 253;  // SCM_MAX_FD of Linux: none is lost for lack of room

struct Received {
  ssize_t bytes;  // -1: errno says why
  int flags;      // MSG_TRUNC, MSG_CTRUNC
  size_t count = 0;
  int fds[kMaxRights];  // the caller's from now on, closed on exec
};

// Never waits: EAGAIN.
inline void Receive(int fd, void* to, size_t length, Received* r) {
  iovec iov = {to, length};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxRights * sizeof(int))];
  msghdr header = {};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  do r->bytes = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (r->bytes < 0 && errno == EINTR);
  r->count = 0;
  r->flags = header.msg_flags;
  if (r->bytes < 0) return;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(r->fds + r->count, CMSG_DATA(c), count * sizeof(int));
    r->count += count;
  }
}

}  // namespace nyx
