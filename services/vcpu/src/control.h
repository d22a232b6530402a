// The control socket (SOCK_SEQPACKET, descriptor 3): ControlMessage with payload and descriptors both ways.
#pragma once
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "gen/machine.h"

namespace nyx {

struct ControlInput {
  machine::ControlMessage message;
  std::vector<uint8_t> payload;
  std::vector<int> fds;  // the receiver's to close
};

class Control {
 public:
  explicit Control(int fd);
  int fd() const { return fd_; }
  enum class Received { kMessage, kNothing, kBad, kClosed };
  // Does not block. kBad: a message that is shorter or longer than it says; its descriptors are closed.
  Received Receive(ControlInput* out);
  // Any thread, never blocks: what the socket does not take now waits (the newest 1024) for Flush.
  void Send(uint32_t event, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, const std::string& text = {});
  // True when nothing waits to be sent.
  bool Flush();

 private:
  bool TrySend(const std::vector<uint8_t>& bytes);

  const int fd_;
  std::vector<uint8_t> buffer_;
  std::mutex mutex_;
  std::deque<std::vector<uint8_t>> waiting_;
};

}  // namespace nyx
