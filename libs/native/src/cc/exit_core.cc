// Serves the exits of a device process: waits, commits, answers. libs/ring/src/server.ts is its face.
#include "exit_core.h"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

#include "call.h"
#include "death.h"
#include "exit_rings.h"
#include "futex.h"
#include "loop.h"
#include "shared.h"
#include "spin_policy.h"
#include "state_block.h"

namespace nyx {
namespace {

// Words of the control record; src/native.ts `ctl`. A Request lies at its start.
enum Ctl : uint32_t {
  kBlock = 16,
  kReplyLo = 17,
  kReplyHi = 18,
  kStatus = 19,
  kFaultPlace = 20,
  kFaultVerb = 21,
  kFaultUs = 22,
  kCtlWords = 32,
};
static_assert(sizeof(Request) <= kBlock * sizeof(uint32_t));

constexpr int32_t kAsleep = -1;
constexpr int32_t kYield = -2;
// The clock is read once in this many exits.
constexpr uint32_t kExitsPerClock = 32;
constexpr int kPollsPerClock = 32;

// Places in the life of an exit where a fault can be made to happen (ctl word kFaultPlace); src/native.ts `place`.
enum Place : uint32_t { kNowhere, kBeforeCommit, kAfterCommit, kAfterReply, kAfterTail, kAfterSettle };
enum Verb : uint32_t { kKill, kHang, kDelay };

class ExitCore : public LoopObject {
 public:
  static napi_value Create(napi_env env, napi_callback_info info);

 private:
  explicit ExitCore(napi_env env) : LoopObject(env) {}

  napi_value AddBlock(Call& call);
  napi_value Attach(Call& call);
  napi_value Start(Call& call);
  napi_value Wait(napi_env env);
  napi_value Commit(napi_env env);
  napi_value Reply(napi_env env);
  napi_value CommitEvent(Call& call);
  napi_value Revert(Call& call);
  napi_value Malformed(Call& call);
  napi_value StrikeNow(napi_env env) { return Strike(), nullptr; }
  bool BlockArgument(const Call& call, StateBlock** block);

  int32_t Next();
  int32_t Spin();
  int32_t Sleep();
  int32_t Yield();
  // Takes the request of `ring` into the control record; false when it was malformed, and is answered.
  bool Take(uint32_t ring);
  void Finish(uint64_t reply, uint32_t status);
  void Tell();
  bool MaySpin();
  void SetBusy(bool busy);
  // What a fault plan costs while there is none: a branch, always taken the same way.
  void At(Place place) {
    if (ctl_[kFaultPlace] == place) [[unlikely]] Strike();
  }
  void Strike();
  void OnKick();
  void OnClosed() override {
    if (attached_) ForgetDeath(rings_.control());
    on_work_.Clear();
    napi_delete_reference(env(), ctl_ref_);
  }

  std::shared_ptr<void> hold_;
  ExitRings rings_;
  std::vector<StateBlock> blocks_;
  SpinPolicy policy_{0};
  uint32_t* ctl_ = nullptr;
  napi_ref ctl_ref_ = nullptr;
  Callback on_work_;
  Turns turns_;
  uv_timer_t heartbeat_;
  int kick_ = -1;
  uint64_t max_busy_ = 200'000;
  uint64_t heartbeat_ms_ = 100;
  bool many_cpus_ = false;
  bool attached_ = false;
  bool alone_ = true;
  bool busy_ = false;
  bool slept_ = false;
  uint32_t pending_ = kNoRing;
  uint32_t cpu_ = UINT32_MAX;
  uint32_t until_clock_ = 0;
  uint64_t turn_began_ = 0;   // when the event loop called us
  uint64_t idle_since_ = 0;   // when there was nothing to do first; 0: there is
  uint64_t served_ = 0;
  uint64_t malformed_ = 0;
  uint64_t kill_at_ = UINT64_MAX;
  uint32_t kill_point_ = 0;
};

napi_value ExitCore::Create(napi_env env, napi_callback_info info) {
  Call call(env, info);
  const napi_value rings = call.Option(0, "rings"), on_work = call.Option(0, "onWork");
  double kick = -1, max_spin = 50'000, max_busy = 200'000, heartbeat = 100, kill_at = -1, kill_point = 0;
  bool is_buffer = false, alone = true;
  if (rings != nullptr) napi_is_arraybuffer(env, rings, &is_buffer);
  if (!is_buffer) return call.Fail("rings", "an ArrayBuffer"), nullptr;
  if (on_work == nullptr || !IsFunction(env, on_work)) return call.Fail("onWork", "a function"), nullptr;
  if (!call.OptionNumber(0, "kick", 0, INT32_MAX, &kick) || !call.OptionNumber(0, "maxSpinNs", 0, 1e9, &max_spin) ||
      !call.OptionNumber(0, "maxBusyNs", 1000, 1e9, &max_busy) ||
      !call.OptionNumber(0, "heartbeatMs", 1, 60'000, &heartbeat) ||
      !call.OptionBool(0, "alone", &alone) ||
      !call.OptionNumber(0, "killAt", 1, 0x1p53, &kill_at) || !call.OptionNumber(0, "killPoint", 0, 3, &kill_point))
    return nullptr;
  if (kick < 0) return call.Fail("kick", "an eventfd"), nullptr;

  auto* self = new ExitCore(env);
  void* base;
  size_t size;
  napi_get_arraybuffer_info(env, rings, &base, &size);
  if (!self->rings_.Open(static_cast<uint8_t*>(base), size)) {
    self->Abandon();
    return Throw(env, "RING_FORMAT", "rings: this is not a formatted ring memfd");
  }
  self->kick_ = static_cast<int>(kick);
  self->alone_ = alone;
  if (!self->OpenTurns(&self->turns_, self->kick_)) return nullptr;
  uv_timer_init(self->loop(), &self->heartbeat_);
  self->Adopt(&self->heartbeat_);
  uv_unref(reinterpret_cast<uv_handle_t*>(&self->heartbeat_));
  self->hold_ = HoldMemory(rings);
  self->on_work_.Set(env, on_work, "nyx:exits");
  self->policy_ = SpinPolicy(static_cast<uint64_t>(max_spin));
  self->max_busy_ = static_cast<uint64_t>(max_busy);
  if (kill_at > 0) self->kill_at_ = static_cast<uint64_t>(kill_at);
  self->kill_point_ = static_cast<uint32_t>(kill_point);
  cpu_set_t set;
  self->many_cpus_ = max_spin > 0 && sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 1;
  self->heartbeat_ms_ = static_cast<uint64_t>(heartbeat);

  napi_value object, buffer, words;
  napi_create_object(env, &object);
  void* data;
  napi_create_arraybuffer(env, kCtlWords * sizeof(uint32_t), &data, &buffer);
  self->ctl_ = static_cast<uint32_t*>(data);
  napi_create_typedarray(env, napi_uint32_array, kCtlWords, buffer, 0, &words);
  napi_create_reference(env, buffer, 1, &self->ctl_ref_);
  napi_set_named_property(env, object, "ctl", words);
  self->SetLifecycle(object);
  SetMethod(env, object, "addBlock", self, Member<ExitCore, &ExitCore::AddBlock>);
  SetMethod(env, object, "attach", self, Member<ExitCore, &ExitCore::Attach>);
  SetMethod(env, object, "start", self, Member<ExitCore, &ExitCore::Start>);
  SetMethod(env, object, "wait", self, Member0<ExitCore, &ExitCore::Wait>);
  SetMethod(env, object, "commit", self, Member0<ExitCore, &ExitCore::Commit>);
  SetMethod(env, object, "reply", self, Member0<ExitCore, &ExitCore::Reply>);
  SetMethod(env, object, "commitEvent", self, Member<ExitCore, &ExitCore::CommitEvent>);
  SetMethod(env, object, "revert", self, Member<ExitCore, &ExitCore::Revert>);
  SetMethod(env, object, "strike", self, Member0<ExitCore, &ExitCore::StrikeNow>);
  SetGetter(env, object, "malformed", self, Member<ExitCore, &ExitCore::Malformed>);
  return object;
}

napi_value ExitCore::AddBlock(Call& call) {
  Span span;
  if (!call.Buffer(0, "buffer", &span)) return nullptr;
  if (attached_) return Throw(call.env(), "EINVAL", "addBlock comes before attach");
  StateBlock block;
  if (!block.Open(span.data, span.size, HoldMemory(call.arg(0))))
    return Throw(call.env(), "STATE_FORMAT", "buffer: this is not a formatted state block");
  blocks_.push_back(std::move(block));
  return FromInt(call.env(), static_cast<int32_t>(blocks_.size() - 1));
}

napi_value ExitCore::Attach(Call& call) {
  if (attached_) return Throw(call.env(), "EINVAL", "attach was called already");
  for (uint32_t ring = 0; ring < rings_.count(); ring++)
    if (!rings_.Take(ring))
      return Throw(call.env(), "RING_CORRUPT", "ring " + std::to_string(ring) + ": its head is nonsense; the vCPU process must format it anew");
  int32_t republished = 0;
  for (uint32_t ring = 0; ring < rings_.count(); ring++) {
    if (rings_.AnsweredAlready(ring)) {
      rings_.SkipAnswered(ring);
    } else if (rings_.Ready(ring)) {
      for (const StateBlock& block : blocks_) {
        const wire::HalfHeader& record = block.record();
        if (record.ring != ring || record.seq != rings_.next(ring)) continue;
        rings_.StoreReply(ring, record.reply, record.status);
        rings_.Advance(ring);
        republished++;
        break;
      }
    }
    // Who waits for an answer would only look, keep a CPU from us, and sleep again.
    if (rings_.Ready(ring)) rings_.WakeWithReply(ring);
    else rings_.WakeProducer(ring);
  }
  attached_ = true;
  wire::ProcessControl& control = rings_.control();
  StoreRelease(control.epoch, control.epoch + 1);
  if (alone_) TellDeath(control);
  return FromInt(call.env(), republished);
}

napi_value ExitCore::Start(Call& call) {
  if (!attached_ || closed()) return Throw(call.env(), "EINVAL", "start comes after attach");
  uv_poll_start(&turns_.poll, UV_READABLE, [](uv_poll_t* h, int, int) { Owner<ExitCore>(h)->OnKick(); });
  StoreRelease(rings_.control().consumer_asleep, 0u);
  StoreRelease(rings_.control().attached, rings_.control().epoch);
  uv_timer_start(&heartbeat_, [](uv_timer_t* h) { Owner<ExitCore>(h)->Tell(); }, heartbeat_ms_, heartbeat_ms_);
  Tell();
  SetBusy(true);
  turn_began_ = MonotonicNs();
  until_clock_ = kExitsPerClock;
  return nullptr;
}

// While busy, the event loop does not block and calls us each time around.
void ExitCore::SetBusy(bool busy) {
  if (busy_ == busy || closed()) return;
  busy_ = busy;
  if (busy) {
    StartTurns(&turns_, [](uv_check_t* h) {
      auto* self = Owner<ExitCore>(h);
      self->turn_began_ = MonotonicNs();
      self->until_clock_ = kExitsPerClock;
      self->on_work_.Invoke();
    });
  } else {
    StopTurns(&turns_);
  }
}

void ExitCore::OnKick() {
  uint64_t count;
  if (read(kick_, &count, 8) != 8) return;
  StoreRelaxed(rings_.control().consumer_asleep, 0u);
  MaySpin();
  turn_began_ = MonotonicNs();
  until_clock_ = kExitsPerClock;
  on_work_.Invoke();
}

void ExitCore::Tell() {
  wire::ProcessControl& control = rings_.control();
  StoreRelaxed(control.heartbeat, control.heartbeat + 1);
  StoreRelaxed(control.served_lo, static_cast<uint32_t>(served_));
  StoreRelaxed(control.served_hi, static_cast<uint32_t>(served_ >> 32));
}

bool ExitCore::MaySpin() {
  const auto cpu = static_cast<uint32_t>(sched_getcpu());
  if (cpu != cpu_) {
    cpu_ = cpu;
    StoreRelaxed(rings_.control().consumer_cpu, cpu);
  }
  return many_cpus_ && rings_.ProducerCpu() != cpu;
}

void ExitCore::Strike() {
  ctl_[kFaultPlace] = kNowhere;
  switch (ctl_[kFaultVerb]) {
    case kKill:
      raise(SIGKILL);
      __builtin_trap();  // a jail may not let us signal ourselves
    case kHang:
      for (;;) pause();
    default:
      usleep(ctl_[kFaultUs]);
  }
}

bool ExitCore::Take(uint32_t ring) {
  if (++served_ == kill_at_) [[unlikely]] {
    ctl_[kFaultPlace] = kill_point_ + kBeforeCommit;
    ctl_[kFaultVerb] = kKill;
  }
  Request request;
  const bool well_formed = rings_.Read(ring, &request);
  if (!well_formed) [[unlikely]] {
    malformed_++;
    rings_.StoreReply(ring, UINT64_MAX, wire::Status::kUnclaimed);
    rings_.Advance(ring);
    return false;
  }
  memcpy(ctl_, &request, sizeof request);
  pending_ = ring;
  if (idle_since_ != 0) {
    policy_.Arrived(MonotonicNs() - idle_since_, slept_);
    idle_since_ = 0;
    slept_ = false;
  }
  return true;
}

int32_t ExitCore::Yield() {
  Tell();
  SetBusy(true);
  return kYield;
}

int32_t ExitCore::Sleep() {
  wire::ProcessControl& control = rings_.control();
  slept_ = true;
  Swap(control.consumer_asleep, 1u);
  for (uint32_t ring; (ring = rings_.Poll()) != kNoRing;) {
    StoreRelaxed(control.consumer_asleep, 0u);
    slept_ = false;
    if (Take(ring)) return static_cast<int32_t>(ring);
    Swap(control.consumer_asleep, 1u);
  }
  Tell();
  SetBusy(false);
  return kAsleep;
}

int32_t ExitCore::Spin() {
  uint64_t now = MonotonicNs();
  if (idle_since_ == 0) idle_since_ = now;
  for (;;) {
    if (now - turn_began_ > max_busy_) return Yield();
    if (now - idle_since_ >= policy_.Next() || !MaySpin()) return Sleep();
    for (int i = 0; i < kPollsPerClock; i++) {
      const uint32_t ring = rings_.Poll();
      if (ring != kNoRing && Take(ring)) return static_cast<int32_t>(ring);
      __builtin_ia32_pause();
    }
    now = MonotonicNs();
  }
}

int32_t ExitCore::Next() {
  for (;;) {
    if (--until_clock_ == 0) {
      until_clock_ = kExitsPerClock;
      MaySpin();  // keeps telling where we are
      if (MonotonicNs() - turn_began_ > max_busy_) return Yield();
    }
    const uint32_t ring = rings_.Poll();
    if (ring == kNoRing) return Spin();
    if (Take(ring)) return static_cast<int32_t>(ring);
  }
}

napi_value ExitCore::Wait(napi_env env) {
  At(kAfterSettle);
  if (pending_ != kNoRing) [[unlikely]] return Throw(env, "EXIT_UNANSWERED", "wait: the last exit was not answered");
  if (closed() || !attached_) [[unlikely]] return FromInt(env, kAsleep);
  return FromInt(env, Next());
}

void ExitCore::Finish(uint64_t reply, uint32_t status) {
  rings_.StoreReply(pending_, reply, status);
  At(kAfterReply);
  rings_.Advance(pending_);
  pending_ = kNoRing;
  At(kAfterTail);
}

napi_value ExitCore::Commit(napi_env env) {
  if (pending_ == kNoRing || ctl_[kBlock] >= blocks_.size()) [[unlikely]]
    return Throw(env, "EINVAL", "commit: there is no exit to answer, or no such block");
  StateBlock& block = blocks_[ctl_[kBlock]];
  const uint64_t reply = static_cast<uint64_t>(ctl_[kReplyHi]) << 32 | ctl_[kReplyLo];
  const uint32_t status = ctl_[kStatus];
  At(kBeforeCommit);
  block.Commit(pending_, rings_.next(pending_), reply, status);
  At(kAfterCommit);
  Finish(reply, status);
  block.Prepare();
  return nullptr;
}

napi_value ExitCore::Reply(napi_env env) {
  if (pending_ == kNoRing) [[unlikely]] return Throw(env, "EINVAL", "reply: there is no exit to answer");
  Finish(static_cast<uint64_t>(ctl_[kReplyHi]) << 32 | ctl_[kReplyLo], ctl_[kStatus]);
  return nullptr;
}

bool ExitCore::BlockArgument(const Call& call, StateBlock** block) {
  double index;
  if (!call.Number(0, "block", 0, static_cast<double>(blocks_.size()) - 1, &index)) return false;
  *block = &blocks_[static_cast<size_t>(index)];
  return true;
}

napi_value ExitCore::CommitEvent(Call& call) {
  StateBlock* block;
  if (!BlockArgument(call, &block)) return nullptr;
  block->Commit(kNoRing, 0, 0, 0);
  block->Prepare();
  return nullptr;
}

napi_value ExitCore::Revert(Call& call) {
  StateBlock* block;
  if (BlockArgument(call, &block)) block->Prepare();
  return nullptr;
}

napi_value ExitCore::Malformed(Call& call) { return FromNumber(call.env(), static_cast<double>(malformed_)); }

// The policy alone, for its tests.
class Policy : public Object {
 public:
  static napi_value Create(napi_env env, napi_callback_info info) {
    Call call(env, info);
    double max;
    if (!call.Number(0, "maxSpinNs", 0, 1e9, &max)) return nullptr;
    auto* self = new Policy(static_cast<uint64_t>(max));
    napi_value object;
    napi_create_object(env, &object);
    SetMethod(env, object, "next", self, Member<Policy, &Policy::Next>);
    SetMethod(env, object, "arrived", self, Member<Policy, &Policy::Arrived>);
    return object;
  }

 private:
  explicit Policy(uint64_t max) : policy_(max) {}
  napi_value Next(Call& call) { return FromNumber(call.env(), static_cast<double>(policy_.Next())); }
  napi_value Arrived(Call& call) {
    double gap;
    bool slept = false;
    if (!call.Number(0, "gapNs", 0, 0x1p53, &gap)) return nullptr;
    napi_get_value_bool(call.env(), call.arg(1), &slept);
    policy_.Arrived(static_cast<uint64_t>(gap), slept);
    return nullptr;
  }
  SpinPolicy policy_;
};

}  // namespace

void ExportExitCore(napi_env env, napi_value exports) {
  SetFunction(env, exports, "createExitCore", ExitCore::Create);
  SetFunction(env, exports, "createSpinPolicy", Policy::Create);
}

}  // namespace nyx
