// File requests on a few threads, for kernels that refuse io_uring.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "io_engine.h"

namespace nyx {

int FallocateMode(uint32_t op) {
  return FALLOC_FL_KEEP_SIZE | (op == kIoPunchHole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

namespace {

constexpr int kThreads = 4;

struct Job {
  IoRequest request;
  std::vector<iovec> iov;
};

int32_t Run(Job& job) {
  const IoRequest& r = job.request;
  const auto offset = static_cast<off_t>(r.offset);
  const auto count = static_cast<int>(r.segments);
  ssize_t n;
  do {
    switch (r.op) {
      case kIoRead: n = preadv(r.fd, job.iov.data(), count, offset); break;
      case kIoWrite: n = pwritev(r.fd, job.iov.data(), count, offset); break;
      case kIoFsync: n = fsync(r.fd); break;
      case kIoFdatasync: n = fdatasync(r.fd); break;
      default: n = fallocate(r.fd, FallocateMode(r.op), offset, static_cast<off_t>(r.length));
    }
  } while (n < 0 && errno == EINTR);
  return static_cast<int32_t>(n < 0 ? -errno : n);
}

class IoThreads : public IoEngine {
 public:
  IoThreads() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    for (auto& thread : threads_) thread = std::thread([this] { Serve(); });
  }
  ~IoThreads() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    work_.notify_all();
    for (auto& thread : threads_) thread.join();
    close(event_);
  }
  const char* name() const override { return "threads"; }
  int event_fd() const override { return event_; }
  void Queue(const IoRequest& r) override { queued_.push_back({r, std::vector<iovec>(r.iov, r.iov + r.segments)}); }
  void Submit() override {
    {
      std::lock_guard lock(mutex_);
      for (Job& job : queued_) jobs_.push_back(std::move(job));
    }
    queued_.clear();
    work_.notify_all();
  }
  // Every completion is told by the eventfd.
  bool Ready() override { return false; }
  uint32_t Harvest(int32_t* pairs, uint32_t max) override {
    std::lock_guard lock(mutex_);
    uint32_t n = 0;
    for (; n < max && !done_.empty(); n++, done_.pop_front()) {
      pairs[2 * n] = done_.front().first;
      pairs[2 * n + 1] = done_.front().second;
    }
    return n;
  }
  void WaitOne() override {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [this] { return !done_.empty(); });
  }

 private:
  void Serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      const int32_t result = Run(job);
      lock.lock();
      done_.emplace_back(static_cast<int32_t>(job.request.id), result);
      finished_.notify_all();
      const uint64_t one = 1;
      (void)!write(event_, &one, 8);
    }
  }

  int event_;
  std::thread threads_[kThreads];
  std::mutex mutex_;
  std::condition_variable work_, finished_;
  std::vector<Job> queued_;
  std::deque<Job> jobs_;
  std::deque<std::pair<int32_t, int32_t>> done_;
  bool stop_ = false;
};

}  // namespace

std::unique_ptr<IoEngine> MakeIoThreads(uint32_t) { return std::make_unique<IoThreads>(); }

}  // namespace nyx
