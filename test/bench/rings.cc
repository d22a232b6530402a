// What a request costs in the rings alone, split against packed (VIRTIO 1.2 sections 2.7 and 2.8): a driver and a device, each a
// thread that polls, with 32 chains of three descriptors under way, as of a block device. `rings WORK`: with WORK bytes copied
// by the device for each request. Prints nanoseconds per request, split and packed.
#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

namespace {

constexpr uint16_t kSize = 128, kDepth = 32, kChain = 3, kBatch = 8;
constexpr uint64_t kCount = 3'000'000;
constexpr uint16_t kNext = 1, kAvail = 1 << 7, kUsed = 1 << 15;

struct Desc {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};
struct PackedDesc {
  uint64_t address;
  uint32_t length;
  uint16_t id, flags;
};
struct Used {
  uint32_t id, length;
};

template <class T>
T Acquire(const T& field) {
  return std::atomic_ref<T>(const_cast<T&>(field)).load(std::memory_order_acquire);
}
template <class T>
void Release(T& field, T value) {
  std::atomic_ref<T>(field).store(value, std::memory_order_release);
}
double Now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

size_t work;
std::vector<char> disk(256 << 20), data(kDepth * 65536);
uint64_t seed = 1;

// What the device does for a request whose descriptors it read.
void Serve(const uint64_t* addresses, uint32_t sum) {
  seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
  if (work > 0) memcpy(&data[addresses[1] % data.size() / 65536 * 65536], &disk[seed % (disk.size() / 4096) * 4096], work);
  static std::atomic<uint32_t> sink;
  sink.store(sum, std::memory_order_relaxed);
}

struct alignas(64) Split {
  alignas(4096) Desc desc[kSize];
  alignas(64) uint16_t avail_idx;
  alignas(64) uint16_t avail[kSize];
  alignas(64) uint16_t used_idx;
  alignas(64) Used used[kSize];

  void Device() {
    uint16_t seen = 0, done = 0;
    for (uint64_t n = 0; n < kCount;) {
      const uint16_t there = Acquire(avail_idx);
      if (there == seen) {
        __builtin_ia32_pause();
        continue;
      }
      for (int batch = 0; seen != there && batch < kBatch; batch++, seen++, n++) {
        const uint16_t head = avail[seen % kSize];
        uint64_t addresses[kChain];
        uint32_t sum = 0;
        uint16_t at = head;
        for (int i = 0; i < kChain; i++) {
          const Desc d = desc[at];
          addresses[i] = d.address;
          sum += d.length;
          at = d.next;
        }
        Serve(addresses, sum);
        used[done++ % kSize] = {head, sum};
      }
      Release(used_idx, done);
    }
  }
  void Driver() {
    uint16_t made = 0, seen = 0;
    for (uint16_t i = 0; i < kDepth; i++)
      for (uint16_t k = 0; k < kChain; k++) {
        const auto at = static_cast<uint16_t>(kChain * i + k);
        desc[at] = {uint64_t{i} * 65536, 16, static_cast<uint16_t>(k + 1 < kChain ? kNext : 0), static_cast<uint16_t>(at + 1)};
      }
    for (uint16_t i = 0; i < kDepth; i++) avail[made++ % kSize] = static_cast<uint16_t>(kChain * i);
    Release(avail_idx, made);
    for (uint64_t n = 0; n < kCount;) {
      const uint16_t there = Acquire(used_idx);
      if (there == seen) {
        __builtin_ia32_pause();
        continue;
      }
      for (; seen != there; seen++, n++) {
        const auto head = static_cast<uint16_t>(used[seen % kSize].id);
        // A new request in the place of the old one.
        desc[head + 1].length = 4096;
        avail[made++ % kSize] = head;
      }
      Release(avail_idx, made);
    }
  }
};

struct alignas(64) Packed {
  alignas(4096) PackedDesc ring[kSize];

  void Device() {
    uint16_t at = 0, out = 0;
    bool wrap = true, out_wrap = true;
    for (uint64_t n = 0; n < kCount;) {
      const uint16_t flags = Acquire(ring[at].flags);
      if (((flags & kAvail) != 0) != wrap || ((flags & kUsed) != 0) == wrap) {
        __builtin_ia32_pause();
        continue;
      }
      uint64_t addresses[kChain];
      uint32_t sum = 0;
      uint16_t id = 0;
      for (int i = 0; i < kChain; i++) {
        const PackedDesc d = ring[at];
        addresses[i] = d.address;
        sum += d.length;
        id = d.id;
        if (++at == kSize) at = 0, wrap = !wrap;
      }
      Serve(addresses, sum);
      ring[out].length = sum;
      ring[out].id = id;
      Release(ring[out].flags, static_cast<uint16_t>(out_wrap ? kAvail | kUsed : 0));
      out = static_cast<uint16_t>(out + kChain);
      if (out >= kSize) out = static_cast<uint16_t>(out - kSize), out_wrap = !out_wrap;
      n++;
    }
  }
  void Driver() {
    uint16_t at = 0, seen = 0;
    bool wrap = true, seen_wrap = true;
    const auto offer = [&](uint16_t id) {
      const uint16_t first = at;
      uint16_t first_flags = 0;
      for (uint16_t k = 0; k < kChain; k++) {
        const auto flags = static_cast<uint16_t>((k + 1 < kChain ? kNext : 0) | (wrap ? kAvail : kUsed));
        ring[at].address = uint64_t{id} * 65536;
        ring[at].length = 4096;
        ring[at].id = id;
        if (k == 0) first_flags = flags;
        else ring[at].flags = flags;
        if (++at == kSize) at = 0, wrap = !wrap;
      }
      Release(ring[first].flags, first_flags);
    };
    for (uint16_t i = 0; i < kDepth; i++) offer(i);
    for (uint64_t n = 0; n < kCount;) {
      const uint16_t flags = Acquire(ring[seen].flags);
      if (((flags & kAvail) != 0) != seen_wrap || ((flags & kUsed) != 0) != seen_wrap) {
        __builtin_ia32_pause();
        continue;
      }
      const uint16_t id = ring[seen].id;
      seen = static_cast<uint16_t>(seen + kChain);
      if (seen >= kSize) seen = static_cast<uint16_t>(seen - kSize), seen_wrap = !seen_wrap;
      offer(id);
      n++;
    }
  }
};

template <class Ring>
double Run() {
  auto* ring = static_cast<Ring*>(aligned_alloc(4096, sizeof(Ring)));
  memset(static_cast<void*>(ring), 0, sizeof(Ring));
  const double began = Now();
  std::thread device([&] { ring->Device(); });
  ring->Driver();
  device.join();
  const double ns = (Now() - began) / kCount;
  free(ring);
  return ns;
}

}  // namespace

int main(int argc, char** argv) {
  work = argc > 1 ? strtoul(argv[1], nullptr, 10) : 0;
  memset(disk.data(), 1, disk.size());
  const double split = Run<Split>();
  printf("%.1f %.1f\n", split, Run<Packed>());
}
