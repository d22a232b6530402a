// A driver of one split virtqueue of a block device (VIRTIO 1.2 sections 2.7 and 5.2.6), for benchmarks: it stands for a guest,
// and costs little beside what it measures.
#include "ring_driver.h"

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "call.h"
#include "futex.h"
#include "shared.h"

namespace nyx {
namespace {

struct Desc {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};
struct Header {
  uint32_t type, reserved;
  uint64_t sector;
};
constexpr uint16_t kNext = 1, kWrite = 2;
constexpr uint64_t kPatienceNs = 10'000'000'000;

// Guest addresses are offsets in the memory. Each of `depth` requests has descriptors 3i .. 3i + 2, a header and a status byte
// at `headers` + 32 i, and `bytes` of data at `data` + bytes * i.
struct Options {
  double size, desc, avail, used, headers, data, depth, count, bytes, type, span, sequential, polling, kick, call, seed;
};

class Driver {
 public:
  Driver(uint8_t* memory, const Options& o)
      : memory_(memory),
        o_(o),
        size_(static_cast<uint16_t>(o.size)),
        desc_(reinterpret_cast<Desc*>(memory + static_cast<size_t>(o.desc))),
        avail_(reinterpret_cast<uint16_t*>(memory + static_cast<size_t>(o.avail))),
        used_(reinterpret_cast<uint16_t*>(memory + static_cast<size_t>(o.used))),
        state_(static_cast<uint64_t>(o.seed) | 1) {}

  // nullptr, or what went wrong.
  const char* Run(double* latencies, uint64_t* ns) {
    const auto depth = static_cast<uint32_t>(o_.depth);
    const auto count = static_cast<uint64_t>(o_.count);
    avail_idx_ = LoadAcquire(avail_[1]);
    seen_ = LoadAcquire(used_[1]);
    for (uint32_t i = 0; i < depth; i++) Prepare(i);
    const uint64_t began = MonotonicNs();
    for (uint32_t i = 0; i < depth && started_ < count; i++) Start(i);
    Kick();
    uint64_t done = 0;
    while (done < count) {
      if (LoadAcquire(used_[1]) == seen_ && !Wait()) return "no used element for 10 s";
      const uint64_t now = MonotonicNs();
      while (seen_ != LoadAcquire(used_[1])) {
        uint32_t id;
        memcpy(&id, used_ + 2 + 4 * (seen_ & (size_ - 1)), sizeof id);
        seen_++;
        if (id % 3 != 0 || id / 3 >= depth) return "a used element that was not in flight";
        const uint32_t i = id / 3;
        if (*Status(i) != 0) return "the device reported an error";
        latencies[done++] = static_cast<double>(now - at_[i]);
        if (started_ < count) Start(i);
      }
      Kick();
    }
    *ns = MonotonicNs() - began;
    return nullptr;
  }

 private:
  Header* HeaderOf(uint32_t i) { return reinterpret_cast<Header*>(memory_ + static_cast<size_t>(o_.headers) + 32 * i); }
  volatile uint8_t* Status(uint32_t i) { return memory_ + static_cast<size_t>(o_.headers) + 32 * i + 16; }

  void Prepare(uint32_t i) {
    const auto headers = static_cast<uint64_t>(o_.headers) + 32 * i;
    const auto bytes = static_cast<uint32_t>(o_.bytes);
    const auto next = static_cast<uint16_t>(3 * i);
    const bool read = o_.type == 0;
    desc_[3 * i] = {headers, 16, kNext, static_cast<uint16_t>(next + 1)};
    desc_[3 * i + 1] = {static_cast<uint64_t>(o_.data) + uint64_t{bytes} * i, bytes,
                        static_cast<uint16_t>(kNext | (read ? kWrite : 0)), static_cast<uint16_t>(next + 2)};
    desc_[3 * i + 2] = {headers + 16, 1, kWrite, 0};
  }

  uint64_t Random() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

  void Start(uint32_t i) {
    const auto bytes = static_cast<uint64_t>(o_.bytes);
    const uint64_t blocks = static_cast<uint64_t>(o_.span) / bytes;
    const uint64_t block = (o_.sequential != 0 ? started_ : Random()) % blocks;
    *HeaderOf(i) = {static_cast<uint32_t>(o_.type), 0, block * bytes / 512};
    *Status(i) = 0xff;
    avail_[2 + (avail_idx_ & (size_ - 1))] = static_cast<uint16_t>(3 * i);
    avail_idx_++;
    at_[i] = MonotonicNs();
    started_++;
  }

  // Shows what was started, and rings when the device asked for it (event index).
  void Kick() {
    const uint16_t old = avail_[1];
    if (old == avail_idx_) return;
    StoreRelease(avail_[1], avail_idx_);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint16_t event = LoadAcquire(used_[2 + 4 * size_]);
    if (static_cast<uint16_t>(avail_idx_ - event - 1) < static_cast<uint16_t>(avail_idx_ - old)) {
      const uint64_t one = 1;
      while (write(static_cast<int>(o_.kick), &one, 8) < 0 && errno == EINTR) {
      }
    }
  }

  bool Wait() {
    const uint64_t end = MonotonicNs() + kPatienceNs;
    uint16_t& event = avail_[2 + size_];
    if (o_.polling != 0) {
      // No interrupt before the index has gone all around.
      StoreRelease(event, static_cast<uint16_t>(seen_ - 1));
      for (uint32_t n = 1; LoadAcquire(used_[1]) == seen_; n++) {
        __builtin_ia32_pause();
        if (n % 4096 == 0 && MonotonicNs() > end) return false;
      }
      return true;
    }
    StoreRelease(event, seen_);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    while (LoadAcquire(used_[1]) == seen_) {
      pollfd p = {static_cast<int>(o_.call), POLLIN, 0};
      if (poll(&p, 1, 1000) > 0) {
        uint64_t n;
        while (read(p.fd, &n, 8) < 0 && errno == EINTR) {
        }
      }
      if (MonotonicNs() > end) return false;
    }
    return true;
  }

  uint8_t* memory_;
  const Options& o_;
  uint16_t size_;
  Desc* desc_;
  uint16_t *avail_, *used_;
  uint64_t state_, started_ = 0;
  uint16_t avail_idx_ = 0, seen_ = 0;
  uint64_t at_[512];
};

napi_value Run(napi_env env, napi_callback_info info) {
  Call call(env, info);
  Span memory;
  double* latencies;
  size_t room;
  Options o = {};
  if (!call.Buffer(0, "memory", &memory) || !call.Float64(2, "latencies", &latencies, &room)) return nullptr;
  constexpr double kMany = 0x1p52;
  const struct {
    const char* name;
    double *value, low, high;
  } fields[] = {
      {"size", &o.size, 4, 1024},      {"desc", &o.desc, 0, kMany},   {"avail", &o.avail, 0, kMany},
      {"used", &o.used, 0, kMany},     {"headers", &o.headers, 0, kMany}, {"data", &o.data, 0, kMany},
      {"depth", &o.depth, 1, 340},     {"count", &o.count, 1, kMany}, {"bytes", &o.bytes, 512, 1 << 22},
      {"type", &o.type, 0, 1},         {"span", &o.span, 512, kMany}, {"sequential", &o.sequential, 0, 1},
      {"polling", &o.polling, 0, 1},   {"kick", &o.kick, 0, 1 << 20}, {"call", &o.call, 0, 1 << 20},
      {"seed", &o.seed, 0, kMany},
  };
  for (const auto& f : fields)
    if (!call.OptionNumber(1, f.name, f.low, f.high, f.value)) return nullptr;
  const auto size = static_cast<uint32_t>(o.size);
  if ((size & (size - 1)) != 0 || o.depth * 3 > o.size || o.span < o.bytes || o.count > static_cast<double>(room) ||
      !memory.Holds(o.desc, 16 * o.size) || !memory.Holds(o.avail, 6 + 2 * o.size) ||
      !memory.Holds(o.used, 6 + 8 * o.size) || !memory.Holds(o.headers, 32 * o.depth) ||
      !memory.Holds(o.data, o.bytes * o.depth))
    return Throw(env, "EINVAL", "benchRing: size, depth, count or a place does not fit");
  uint64_t ns = 0;
  const char* wrong = Driver(memory.data, o).Run(latencies, &ns);
  if (wrong != nullptr) return Throw(env, "EIO", wrong);
  return FromNumber(env, static_cast<double>(ns));
}

}  // namespace

void ExportRingDriver(napi_env env, napi_value exports) { SetFunction(env, exports, "benchRing", Run); }

}  // namespace nyx
