// The vCPU's side of a ring, for tests and benchmarks of the consumer: the same protocol, driven from JavaScript.
#include "test_producer.h"

#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <thread>

#include "wire.h"
#include "call.h"
#include "futex.h"
#include "shared.h"

namespace nyx {
namespace {

constexpr uint64_t kSpinNs = 50'000;

class TestProducer : public Object {
 public:
  static napi_value Create(napi_env env, napi_callback_info info) {
    Call call(env, info);
    Span span;
    int64_t ring;
    int64_t kick;
    if (!call.Buffer(0, "rings", &span) || !call.Int(1, "ring", 0, 64, &ring) || !call.Int(2, "kick", 0, INT32_MAX, &kick))
      return nullptr;
    const double at = wire::kRingBase + static_cast<double>(ring) * wire::kRingStride;
    if (!span.Holds(at, wire::kRingStride)) return Throw(env, "EINVAL", "ring lies outside the ring memfd");
    auto* self = new TestProducer();
    self->hold_ = HoldMemory(call.arg(0));
    self->control_ = reinterpret_cast<wire::ProcessControl*>(span.data);
    self->ring_ = reinterpret_cast<wire::RingHeader*>(span.data + static_cast<size_t>(at));
    self->slots_ = reinterpret_cast<wire::ExitSlot*>(span.data + static_cast<size_t>(at) + wire::kSlotsAt);
    self->kick_ = static_cast<int>(kick);
    self->head_ = LoadRelaxed(self->ring_->head);
    cpu_set_t set;
    self->many_cpus_ = sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 1;
    napi_value object, buffer, words;
    napi_create_object(env, &object);
    void* data;
    napi_create_arraybuffer(env, 12, &data, &buffer);
    napi_create_typedarray(env, napi_uint32_array, 3, buffer, 0, &words);
    napi_set_named_property(env, object, "result", words);
    napi_create_reference(env, buffer, 1, &self->result_ref_);
    self->result_ = static_cast<uint32_t*>(data);
    SetMethod(env, object, "sync", self, Member<TestProducer, &TestProducer::Sync>);
    SetMethod(env, object, "publish", self, Member<TestProducer, &TestProducer::PublishMethod>);
    SetMethod(env, object, "await", self, Member<TestProducer, &TestProducer::Await>);
    SetMethod(env, object, "bench", self, Member<TestProducer, &TestProducer::Bench>);
    SetMethod(env, object, "benchPosted", self, Member<TestProducer, &TestProducer::BenchPosted>);
    SetGetter(env, object, "head", self, Member<TestProducer, &TestProducer::Head>);
    return object;
  }

 private:
  struct Access {
    uint32_t kind, device, region, width, count, flags;
    uint64_t offset, data;
  };

  bool Full() const { return head_ - LoadAcquire(ring_->tail) >= wire::kRingSlots; }

  void Publish(const Access& a) {
    const uint64_t n = head_ + 1;
    wire::ExitSlot& s = slots_[(n - 1) % wire::kRingSlots];
    StoreRelaxed(s.kind, static_cast<uint8_t>(a.kind));
    StoreRelaxed(s.width, static_cast<uint8_t>(a.width));
    StoreRelaxed(s.device, static_cast<uint16_t>(a.device));
    StoreRelaxed(s.region, static_cast<uint16_t>(a.region));
    StoreRelaxed(s.flags, static_cast<uint16_t>(a.flags));
    StoreRelaxed(s.count, a.count);
    StoreRelaxed(s.offset, a.offset);
    StoreRelaxed(s.data, a.data);
    StoreRelease(s.seq_lo, static_cast<uint32_t>(n));
    StoreRelease(ring_->head, n);
    head_ = n;
    FullFence();
    if (LoadRelaxed(control_->consumer_asleep) != 0 && Swap(control_->consumer_asleep, 0u) != 0) {
      const uint64_t one = 1;
      (void)!write(kick_, &one, 8);
    }
  }

  bool MaySpin() {
    const auto cpu = static_cast<uint32_t>(sched_getcpu());
    StoreRelaxed(ring_->producer_cpu, cpu);
    return many_cpus_ && LoadRelaxed(control_->consumer_cpu) != cpu && LoadRelaxed(control_->consumer_asleep) == 0;
  }

  // Until `tail` has reached n (the last step of a reply), or the reply of request n is there.
  bool WaitFor(uint64_t n, double timeout_ns) {
    const wire::ExitSlot& s = slots_[(n - 1) % wire::kRingSlots];
    const auto done = [&] { return LoadAcquire(s.reply_seq_lo) == static_cast<uint32_t>(n); };
    const uint64_t began = MonotonicNs();
    while (!done()) {
      const uint64_t elapsed = MonotonicNs() - began;
      if (static_cast<double>(elapsed) >= timeout_ns) return false;
      if (elapsed < kSpinNs && MaySpin()) {
        for (int i = 0; i < 64 && !done(); i++) __builtin_ia32_pause();
        continue;
      }
      Swap(ring_->producer_waiting, 1u);
      if (!done()) FutexWait(&ring_->producer_waiting, 1, timeout_ns - static_cast<double>(elapsed));
      StoreRelaxed(ring_->producer_waiting, 0u);
    }
    return true;
  }

  bool WaitForSpace(double timeout_ns) { return !Full() || WaitFor(head_ + 1 - wire::kRingSlots, timeout_ns); }

  double Exchange(const Access& a, double timeout_ns) {
    if (!WaitForSpace(timeout_ns)) return -1;
    while (Full()) __builtin_ia32_pause();  // the reply is there, the tail follows
    MaySpin();
    const uint64_t began = MonotonicNs();
    Publish(a);
    if (!WaitFor(head_, timeout_ns)) return -1;
    const auto took = static_cast<double>(MonotonicNs() - began);
    const wire::ExitSlot& s = slots_[(head_ - 1) % wire::kRingSlots];
    const uint64_t reply = LoadRelaxed(s.reply);
    result_[0] = static_cast<uint32_t>(reply);
    result_[1] = static_cast<uint32_t>(reply >> 32);
    result_[2] = LoadRelaxed(s.status);
    return took;
  }

  // kind, device, region, offset, width, dataLo, dataHi, then count. Any value that fits its field: tests send nonsense.
  static bool ReadAccess(const Call& call, Access* a) {
    double v[7], count;
    static constexpr double kMax[7] = {255, 65535, 65535, 0x1p53, 255, UINT32_MAX, UINT32_MAX};
    for (size_t i = 0; i < 7; i++)
      if (!call.Number(i, "access", 0, kMax[i], &v[i])) return false;
    if (!call.NumberOr(7, "count", 0, UINT32_MAX, 1, &count)) return false;
    *a = {static_cast<uint32_t>(v[0]), static_cast<uint32_t>(v[1]), static_cast<uint32_t>(v[2]),
          static_cast<uint32_t>(v[4]), static_cast<uint32_t>(count), 0, static_cast<uint64_t>(v[3]),
          static_cast<uint64_t>(v[6]) << 32 | static_cast<uint32_t>(v[5])};
    return true;
  }

  napi_value Sync(Call& call) {
    Access a;
    double timeout;
    if (!ReadAccess(call, &a) || !call.NumberOr(8, "timeoutNs", 0, INFINITY, INFINITY, &timeout)) return nullptr;
    return FromNumber(call.env(), Exchange(a, timeout));
  }

  napi_value PublishMethod(Call& call) {
    Access a;
    double flags;
    if (!ReadAccess(call, &a) || !call.NumberOr(8, "flags", 0, 65535, 0, &flags)) return nullptr;
    a.flags = static_cast<uint32_t>(flags);
    if (Full()) return FromBool(call.env(), false);
    MaySpin();
    Publish(a);
    return FromBool(call.env(), true);
  }

  napi_value Await(Call& call) {
    double timeout;
    if (!call.Number(0, "timeoutNs", 0, INFINITY, &timeout)) return nullptr;
    return FromBool(call.env(), head_ == 0 || WaitFor(head_, timeout));
  }

  static bool BenchArguments(const Call& call, size_t first, size_t fields, double* v, double** out, double* n) {
    size_t length;
    if (!call.Number(0, "n", 1, 1e9, n)) return false;
    for (size_t i = 0; i < fields; i++)
      if (!call.Number(first + i, "access", 0, 65535, &v[i])) return false;
    if (!call.Float64(first + fields, "out", out, &length)) return false;
    return static_cast<double>(length) >= *n || call.Fail("out", "as long as n");
  }

  napi_value Bench(Call& call) {
    double v[5], n;
    double* out;
    if (!BenchArguments(call, 1, 5, v, &out, &n)) return nullptr;
    const uint64_t began = MonotonicNs();
    for (size_t i = 0; i < static_cast<size_t>(n); i++) {
      out[i] = Exchange({static_cast<uint32_t>(v[0]), static_cast<uint32_t>(v[1]), static_cast<uint32_t>(v[2]),
                         static_cast<uint32_t>(v[4]), 1, 0, static_cast<uint64_t>(v[3]), i},
                        10e9);
      if (out[i] < 0) return Throw(call.env(), "ETIMEDOUT", "bench: no reply within 10 s");
    }
    return FromNumber(call.env(), static_cast<double>(MonotonicNs() - began));
  }

  napi_value BenchPosted(Call& call) {
    double v[4], n;
    double* out;
    if (!BenchArguments(call, 1, 4, v, &out, &n)) return nullptr;
    const uint64_t began = MonotonicNs();
    for (size_t i = 0; i < static_cast<size_t>(n); i++) {
      MaySpin();
      const uint64_t t = MonotonicNs();
      while (Full()) __builtin_ia32_pause();
      Publish({wire::ExitKind::kWrite, static_cast<uint32_t>(v[0]), static_cast<uint32_t>(v[1]),
               static_cast<uint32_t>(v[3]), 1, wire::kSlotPosted, static_cast<uint64_t>(v[2]), i});
      out[i] = static_cast<double>(MonotonicNs() - t);
    }
    return FromNumber(call.env(), static_cast<double>(MonotonicNs() - began));
  }

  napi_value Head(Call& call) { return FromNumber(call.env(), static_cast<double>(head_)); }

  std::shared_ptr<void> hold_;
  wire::ProcessControl* control_ = nullptr;
  wire::RingHeader* ring_ = nullptr;
  wire::ExitSlot* slots_ = nullptr;
  napi_ref result_ref_ = nullptr;
  uint32_t* result_ = nullptr;
  int kick_ = -1;
  bool many_cpus_ = false;
  uint64_t head_ = 0;
};

struct alignas(64) Line {
  uint32_t word = 0;
};

void SpinUntil(const uint32_t& word, uint32_t value) {
  while (LoadAcquire(word) != value) __builtin_ia32_pause();
}
void SleepUntil(uint32_t& word, uint32_t value) {
  for (uint32_t now; (now = LoadAcquire(word)) != value;) FutexWait(&word, now, INFINITY);
}

napi_value PingPong(napi_env env, napi_callback_info info) {
  Call call(env, info);
  std::string mode;
  double n;
  double* out;
  size_t length;
  if (!call.Text(0, "mode", &mode) || !call.Number(1, "n", 1, 1e9, &n) || !call.Float64(2, "out", &out, &length))
    return nullptr;
  if (mode != "spin" && mode != "futex") return call.Fail("mode", "'spin' or 'futex'"), nullptr;
  if (static_cast<double>(length) < n) return call.Fail("out", "as long as n"), nullptr;
  Line ping, pong;
  const bool spin = mode == "spin";
  const auto rounds = static_cast<uint32_t>(n);
  std::thread peer([&] {
    for (uint32_t i = 1; i <= rounds; i++) {
      spin ? SpinUntil(ping.word, i) : SleepUntil(ping.word, i);
      StoreRelease(pong.word, i);
      if (!spin) FutexWake(&pong.word, 1);
    }
  });
  for (uint32_t i = 1; i <= rounds; i++) {
    const uint64_t began = MonotonicNs();
    StoreRelease(ping.word, i);
    if (!spin) FutexWake(&ping.word, 1);
    spin ? SpinUntil(pong.word, i) : SleepUntil(pong.word, i);
    out[i - 1] = static_cast<double>(MonotonicNs() - began);
  }
  peer.join();
  return nullptr;
}

}  // namespace

void ExportTestProducer(napi_env env, napi_value exports) {
  SetFunction(env, exports, "createTestProducer", TestProducer::Create);
  SetFunction(env, exports, "benchPingPong", PingPong);
}

}  // namespace nyx
