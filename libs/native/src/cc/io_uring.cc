// io_uring by its raw system calls (io_uring_setup(2), io_uring_enter(2), linux/io_uring.h).
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "io_engine.h"
#include "shared.h"

namespace nyx {
namespace {

class IoUring : public IoEngine {
 public:
  bool Open(uint32_t entries);
  ~IoUring() override;
  const char* name() const override { return "io_uring"; }
  int event_fd() const override { return event_; }
  void Queue(const IoRequest& request) override;
  void Submit() override {
    if (queued_ != 0) Enter(queued_, 0);
  }
  bool Ready() override { return LoadAcquire(*cq_tail_) != *cq_head_; }
  uint32_t Harvest(int32_t* pairs, uint32_t max) override;
  void WaitOne() override { Enter(0, 1); }

 private:
  bool Restrict();
  void Enter(uint32_t submit, uint32_t wait);
  uint32_t* At(uint32_t offset) { return reinterpret_cast<uint32_t*>(rings_ + offset); }

  int fd_ = -1;
  int event_ = -1;
  uint8_t* rings_ = static_cast<uint8_t*>(MAP_FAILED);
  size_t rings_bytes_ = 0;
  io_uring_sqe* sqes_ = static_cast<io_uring_sqe*>(MAP_FAILED);
  size_t sqes_bytes_ = 0;
  uint32_t *sq_head_ = nullptr, *sq_tail_ = nullptr, *cq_head_ = nullptr, *cq_tail_ = nullptr;
  uint32_t* cq_flags_ = nullptr;
  uint32_t sq_mask_ = 0, cq_mask_ = 0;
  io_uring_cqe* cqes_ = nullptr;
  uint32_t queued_ = 0;
  // The kernel copies segment lists while io_uring_enter runs (IORING_FEAT_SUBMIT_STABLE): until then they stay here.
  std::vector<iovec> arena_;
};

bool IoUring::Open(uint32_t entries) {
  io_uring_params p = {};
  // Disabled until Restrict has said what it may ever do: seccomp does not look into a ring.
  p.flags = IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
  fd_ = static_cast<int>(syscall(__NR_io_uring_setup, entries, &p));
  if (fd_ < 0) return false;
  constexpr uint32_t kNeeded = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_NODROP;
  if ((p.features & kNeeded) != kNeeded || p.sq_entries < entries) {
    errno = ENOSYS;
    return false;
  }
  const size_t sq = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
  const size_t cq = p.cq_off.cqes + p.cq_entries * sizeof(io_uring_cqe);
  rings_bytes_ = sq > cq ? sq : cq;
  rings_ = static_cast<uint8_t*>(
      mmap(nullptr, rings_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, IORING_OFF_SQ_RING));
  sqes_bytes_ = p.sq_entries * sizeof(io_uring_sqe);
  sqes_ = static_cast<io_uring_sqe*>(
      mmap(nullptr, sqes_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, IORING_OFF_SQES));
  event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (rings_ == MAP_FAILED || sqes_ == MAP_FAILED || event_ < 0) return false;
  // Not IORING_REGISTER_EVENTFD_ASYNC: that is silent about what completes in this thread when its data arrive.
  if (syscall(__NR_io_uring_register, fd_, IORING_REGISTER_EVENTFD, &event_, 1) != 0 || !Restrict()) return false;
  sq_head_ = At(p.sq_off.head);
  sq_tail_ = At(p.sq_off.tail);
  sq_mask_ = *At(p.sq_off.ring_mask);
  cq_head_ = At(p.cq_off.head);
  cq_tail_ = At(p.cq_off.tail);
  cq_mask_ = *At(p.cq_off.ring_mask);
  cq_flags_ = At(p.cq_off.flags);
  cqes_ = reinterpret_cast<io_uring_cqe*>(rings_ + p.cq_off.cqes);
  // Entry i of the queue is always sqe i.
  for (uint32_t i = 0; i < p.sq_entries; i++) At(p.sq_off.array)[i] = i;
  arena_.reserve(8 * kMaxSegments);
  return true;
}

// Reads, writes and what belongs to them, on files that are open; and nothing can be registered any more.
bool IoUring::Restrict() {
  constexpr uint8_t kOps[] = {IORING_OP_READ,   IORING_OP_WRITE, IORING_OP_READV,
                              IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
  io_uring_restriction rules[sizeof kOps] = {};
  for (size_t i = 0; i < sizeof kOps; i++) {
    rules[i].opcode = IORING_RESTRICTION_SQE_OP;
    rules[i].sqe_op = kOps[i];
  }
  return syscall(__NR_io_uring_register, fd_, IORING_REGISTER_RESTRICTIONS, rules, sizeof kOps) == 0 &&
         syscall(__NR_io_uring_register, fd_, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) == 0;
}

IoUring::~IoUring() {
  if (rings_ != MAP_FAILED) munmap(rings_, rings_bytes_);
  if (sqes_ != MAP_FAILED) munmap(sqes_, sqes_bytes_);
  if (fd_ >= 0) close(fd_);
  if (event_ >= 0) close(event_);
}

void IoUring::Queue(const IoRequest& r) {
  // The arena must not move under lists that the kernel has not seen, nor the queue overflow.
  if (arena_.size() + r.segments > arena_.capacity() || queued_ > sq_mask_) Enter(queued_, 0);
  const uint32_t tail = *sq_tail_;
  io_uring_sqe& s = sqes_[tail & sq_mask_];
  memset(&s, 0, sizeof s);
  s.fd = r.fd;
  s.user_data = r.id;
  switch (r.op) {
    case kIoRead:
    case kIoWrite:
      s.off = r.offset;
      if (r.segments == 1) {
        s.opcode = r.op == kIoRead ? IORING_OP_READ : IORING_OP_WRITE;
        s.addr = reinterpret_cast<uintptr_t>(r.iov[0].iov_base);
        s.len = static_cast<uint32_t>(r.iov[0].iov_len);
      } else {
        s.opcode = r.op == kIoRead ? IORING_OP_READV : IORING_OP_WRITEV;
        s.addr = reinterpret_cast<uintptr_t>(arena_.data() + arena_.size());
        s.len = r.segments;
        arena_.insert(arena_.end(), r.iov, r.iov + r.segments);
      }
      break;
    case kIoFsync:
    case kIoFdatasync:
      s.opcode = IORING_OP_FSYNC;
      s.fsync_flags = r.op == kIoFdatasync ? IORING_FSYNC_DATASYNC : 0;
      break;
    default:
      s.opcode = IORING_OP_FALLOCATE;
      s.off = r.offset;
      s.addr = r.length;
      s.len = static_cast<uint32_t>(FallocateMode(r.op));
  }
  StoreRelease(*sq_tail_, tail + 1);
  queued_++;
}

void IoUring::Enter(uint32_t submit, uint32_t wait) {
  // What completes meanwhile needs no event, Ready tells; a write of the eventfd for each would cost half as much as the
  // request.
  StoreRelease(*cq_flags_, uint32_t{IORING_CQ_EVENTFD_DISABLED});
  do {
    const long done = syscall(__NR_io_uring_enter, fd_, submit, wait, wait != 0 ? IORING_ENTER_GETEVENTS : 0, nullptr, 0);
    if (done < 0) {
      // EAGAIN, EBUSY: the kernel is short of memory or has completions for us to take; both pass.
      if (errno == EINTR || errno == EAGAIN || errno == EBUSY) continue;
      break;
    }
    submit -= static_cast<uint32_t>(done);
    queued_ -= static_cast<uint32_t>(done);
    wait = 0;
  } while (submit != 0);
  StoreRelease(*cq_flags_, uint32_t{0});
  // Before Ready looks: what came in between is told by one of the two.
  FullFence();
  arena_.clear();
}

uint32_t IoUring::Harvest(int32_t* pairs, uint32_t max) {
  uint32_t head = *cq_head_;
  const uint32_t tail = LoadAcquire(*cq_tail_);
  uint32_t n = 0;
  for (; head != tail && n < max; head++, n++) {
    const io_uring_cqe& c = cqes_[head & cq_mask_];
    pairs[2 * n] = static_cast<int32_t>(c.user_data);
    pairs[2 * n + 1] = c.res;
  }
  StoreRelease(*cq_head_, head);
  return n;
}

}  // namespace

std::unique_ptr<IoEngine> MakeIoUring(uint32_t entries) {
  auto ring = std::make_unique<IoUring>();
  if (!ring->Open(entries)) return nullptr;
  return ring;
}

}  // namespace nyx
