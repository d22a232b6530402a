// What runs file requests: io_uring, or threads where the kernel refuses it.
#pragma once
#include <sys/uio.h>

#include <cstdint>
#include <memory>

namespace nyx {

enum IoOp : uint32_t { kIoRead, kIoWrite, kIoFsync, kIoFdatasync, kIoPunchHole, kIoZeroRange, kIoOps };
constexpr uint32_t kMaxSegments = 256;

struct IoRequest {
  uint32_t op;
  uint32_t id;
  int fd;
  uint64_t offset;
  uint64_t length;      // of punchHole and zeroRange
  const iovec* iov;     // copied by Queue
  uint32_t segments;
};

class IoEngine {
 public:
  virtual ~IoEngine() = default;
  virtual const char* name() const = 0;
  // Readable when completions came after Submit returned.
  virtual int event_fd() const = 0;
  // At most `entries` requests are queued or in flight, the caller sees to that.
  virtual void Queue(const IoRequest& request) = 0;
  // Starts what is queued. event_fd does not tell of requests that complete while Submit runs: ask Ready.
  virtual void Submit() = 0;
  virtual bool Ready() = 0;
  // Up to `max` pairs (id, result).
  virtual uint32_t Harvest(int32_t* pairs, uint32_t max) = 0;
  // Blocks until a completion is there. For closing.
  virtual void WaitOne() = 0;
};

// nullptr and errno when the kernel refuses.
std::unique_ptr<IoEngine> MakeIoUring(uint32_t entries);
std::unique_ptr<IoEngine> MakeIoThreads(uint32_t entries);

// The mode of fallocate(2) for an operation.
int FallocateMode(uint32_t op);

}  // namespace nyx
