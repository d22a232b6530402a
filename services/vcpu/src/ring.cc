#include "ring.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "clock.h"

namespace nyx {
namespace {

constexpr uint64_t kLongWaitNs = 1'000'000'000;
constexpr uint32_t kStatusBits = 0xff | wire::StatusFlag::kMapChanged | 0xffu << wire::StatusFlag::kEventShift;

bool SingleCpu() {
  // Not sysconf, which would open files.
  static const bool single = [] {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) < 2;
  }();
  return single;
}

}  // namespace

const char* Channel::Attach(unsigned index, uint8_t* data, uint64_t size, unsigned rings, int kick_fd, HostEvents* events) {
  if (size < wire::kRingBase + uint64_t{rings} * wire::kRingStride) return "ring memory is too small for its rings";
  index_ = index;
  data_ = data;
  rings_ = rings;
  kick_fd_ = kick_fd;
  events_ = events;
  if (Load(control()->magic) != wire::kRingMagic) return "ring memory has the wrong magic";
  if (Load(control()->version) != wire::kVersion) return "ring memory has another version";
  if (Load(control()->rings) != rings) return "ring memory is made for another number of vCPUs";
  for (unsigned r = 0; r < rings; r++) {
    const auto* h = reinterpret_cast<wire::RingHeader*>(ring(r));
    const uint64_t head = Load(h->head), tail = Load(h->tail);
    if (tail > head || head - tail > wire::kRingSlots) return "a ring's head and tail contradict each other";
  }
  // A full counter must not block a vCPU.
  fcntl(kick_fd, F_SETFL, fcntl(kick_fd, F_GETFL) | O_NONBLOCK);
  return nullptr;
}

void Channel::Isolate() {
  isolated_.store(true);
  Store(control()->isolated, 1u);
  for (unsigned r = 0; r < rings_; r++) {
    auto* h = reinterpret_cast<wire::RingHeader*>(ring(r));
    syscall(SYS_futex, &h->producer_waiting, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  }
}

void Channel::Violation(uint32_t error) {
  Store(control()->violations, Load(control()->violations) + 1);
  if (isolated_.exchange(true)) return;
  Isolate();
  events_->OnViolation(index_, error);
}

void Channel::Replaced() {
  Store(control()->isolated, 0u);
  replacements_.fetch_add(1, std::memory_order_release);
  isolated_.store(false);
  Kick();
}

bool Channel::OthersIdle(unsigned ring) const {
  for (unsigned r = 0; r + 1 < rings_; r++) {
    if (r == ring) continue;
    const auto* h = reinterpret_cast<const wire::RingHeader*>(this->ring(r));
    if (Load(h->head, std::memory_order_acquire) != Load(h->tail, std::memory_order_acquire)) return false;
  }
  return true;
}

void Channel::Kick() {
  // The other side may fill the counter and clear O_NONBLOCK: never write to a descriptor that would block.
  pollfd room{kick_fd_, POLLOUT, 0};
  if (poll(&room, 1, 0) <= 0) return;
  const uint64_t one = 1;
  if (write(kick_fd_, &one, sizeof one) < 0 && errno == EINTR) {
    // Once more; whoever waits kicks again every 20 ms anyway.
    if (write(kick_fd_, &one, sizeof one) < 0) return;
  }
}

void Channel::KickIfAsleep() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (Load(control()->consumer_asleep)) Kick();
}

void SpinBudget::Paid() {
  failures_ = 0;
  limit_ = std::min(limit_ * 2, kMost);
}

void SpinBudget::Failed() {
  limit_ = std::max(limit_ / 2, kLeast);
  // Look now and then whether times have changed.
  if (++failures_ % 64 == 0) limit_ = kMost;
}

void Producer::Attach(Channel* channel, unsigned ring, unsigned cpu, Waiter* waiter, wire::VcpuStats* stats) {
  channel_ = channel;
  ring_ = channel->ring(ring);
  ring_index_ = ring;
  cpu_ = cpu;
  waiter_ = waiter;
  stats_ = stats;
  seq_ = Load(header()->head);
  // Requests of a predecessor are not ours to wait for.
  completed_ = seq_;
}

void Producer::WriteSlot(uint64_t seq) {
  const Open& o = open_[(seq - 1) & (wire::kRingSlots - 1)];
  wire::ExitSlot* s = slot(seq);
  Store(s->kind, o.request.kind);
  Store(s->width, o.request.width);
  Store(s->device, o.request.device);
  Store(s->region, o.request.region);
  Store(s->flags, o.flags);
  Store(s->count, o.request.count);
  Store(s->offset, o.request.offset);
  Store(s->data, o.request.data);
  Store(s->seq_lo, static_cast<uint32_t>(seq), std::memory_order_release);
}

void Producer::Publish(const Request& request, uint16_t flags) {
  if (replacements_ != channel_->replacements()) Republish();
  const uint64_t seq = ++seq_;
  open_[(seq - 1) & (wire::kRingSlots - 1)] = {request, flags};
  WriteSlot(seq);
  Store(header()->head, seq, std::memory_order_release);
  channel_->KickIfAsleep();
}

void Producer::Republish() {
  replacements_ = channel_->replacements();
  for (uint64_t s = completed_ + 1; s <= seq_; s++) {
    if (!Replied(s)) WriteSlot(s);
  }
  const uint64_t tail = Load(header()->tail);
  if (tail > seq_ || seq_ - tail > wire::kRingSlots) Store(header()->tail, completed_);
  Store(header()->head, seq_, std::memory_order_release);
  channel_->Kick();
}

CallResult Producer::MakeRoom() {
  if (channel_->isolated()) return CallResult::kIsolated;
  // The reply that the next slot holds must have been looked at.
  if (seq_ - completed_ < wire::kRingSlots) return CallResult::kOk;
  return WaitFor(seq_ + 1 - wire::kRingSlots);
}

CallResult Producer::Call(const Request& request, Reply* reply) {
  if (const CallResult r = MakeRoom(); r != CallResult::kOk) return r;
  Publish(request, 0);
  const uint64_t seq = seq_;
  if (const CallResult r = WaitFor(seq); r != CallResult::kOk) return r;
  reply->value = Load(slot(seq)->reply);
  reply->status = Load(slot(seq)->status) & kStatusBits;
  return CallResult::kOk;
}

CallResult Producer::Post(const Request& request) {
  if (const CallResult r = MakeRoom(); r != CallResult::kOk) return r;
  Publish(request, wire::kSlotPosted);
  return CallResult::kOk;
}

bool Producer::TryPost(const Request& request) {
  // A dropped request is done, as far as the caller is concerned.
  if (channel_->isolated()) return true;
  if (seq_ - completed_ >= wire::kRingSlots) {
    const uint64_t oldest = seq_ + 1 - wire::kRingSlots;
    if (!Replied(oldest)) {
      if (replacements_ != channel_->replacements()) Republish();
      return false;
    }
    if (Complete(oldest) != CallResult::kOk) return true;
  }
  Publish(request, wire::kSlotPosted);
  return true;
}

bool Producer::Idle() {
  if (seq_ == completed_) return true;
  return Replied(seq_) && Complete(seq_) == CallResult::kOk;
}

void Producer::Discard() {
  for (uint64_t i = 0; i < wire::kRingSlots; i++) {
    wire::ExitSlot* s = slot(i + 1);
    Store(s->reply_seq_lo, Load(s->seq_lo));
  }
  completed_ = seq_;
  Store(header()->head, seq_);
  Store(header()->tail, seq_, std::memory_order_release);
}

CallResult Producer::Complete(uint64_t seq) {
  bool map_changed = false;
  for (uint64_t s = completed_ + 1; s <= seq; s++) {
    const uint32_t status = Load(slot(s)->status);
    const uint32_t event = (status >> wire::StatusFlag::kEventShift) & 0xff;
    if ((status & ~kStatusBits) || (status & 0xff) > wire::Status::kUnclaimed || event > wire::MachineEvent::kCrashLoaded) {
      completed_ = seq;
      channel_->Violation(machine::VcpuError::kBadStatus);
      return CallResult::kIsolated;
    }
    if (status & wire::StatusFlag::kMapChanged) map_changed = true;
    if (event) channel_->events()->OnMachineEvent(event, cpu_);
  }
  completed_ = std::max(completed_, seq);
  if (map_changed) channel_->events()->OnMapChanged();
  return CallResult::kOk;
}

CallResult Producer::WaitFor(uint64_t seq) {
  if (seq <= completed_) return CallResult::kOk;
  if (!Replied(seq) && !Spin(seq)) {
    if (const CallResult r = Sleep(seq); r != CallResult::kOk) return r;
  }
  return Complete(seq);
}

// Only while the consumer's CPU is another one: with both on one, spinning keeps the answer from being made.
bool Producer::Spin(uint64_t seq) {
  if (SingleCpu()) return false;
  const uint32_t self = static_cast<uint32_t>(sched_getcpu());
  Store(header()->producer_cpu, self);
  const wire::ProcessControl* control = channel_->control();
  if (Load(control->consumer_cpu) == self) return false;
  SpinBudget& budget = Load(control->consumer_asleep) ? waking_ : awake_;
  const uint64_t start = __rdtsc();
  const uint64_t limit = budget.cycles();
  for (;;) {
    for (int i = 0; i < 16; i++) {
      if (Replied(seq)) {
        budget.Paid();
        return true;
      }
      _mm_pause();
    }
    if (__rdtsc() - start > limit) break;
    if (Load(control->consumer_cpu) == self || waiter_->StopAsked()) return false;
  }
  budget.Failed();
  return false;
}

CallResult Producer::Sleep(uint64_t seq) {
  uint32_t& word = header()->producer_waiting;
  const uint64_t start = MonotonicNs();
  uint64_t looked = start;
  bool reported = false;
  unsigned again = 0;
  const timespec look{0, look_ns};
  CallResult result = CallResult::kOk;
  const uint32_t state = stats_->state;
  stats_->waits_for = channel_->index();
  Store(stats_->state, 3u);
  for (;;) {
    Store(word, 1u, std::memory_order_seq_cst);
    if (Replied(seq)) break;
    const long woken = syscall(SYS_futex, &word, FUTEX_WAIT, 1, &look, nullptr, 0);
    const int why = woken < 0 ? errno : 0;
    if (Replied(seq)) break;
    // The word is the consumer's to ruin as well: never turn that into a busy loop.
    if (why == EAGAIN && ++again > 8) {
      const timespec nap{0, 200'000};
      nanosleep(&nap, nullptr);
      if (Replied(seq)) break;
    }
    if (waiter_->StopAsked() && waiter_->GiveUp()) {
      result = CallResult::kAbandoned;
      break;
    }
    if (channel_->isolated()) {
      result = CallResult::kIsolated;
      break;
    }
    if (replacements_ != channel_->replacements()) Republish();
    // By the clock: signals end waits, too.
    const uint64_t now = MonotonicNs();
    if (now - looked < static_cast<uint64_t>(look_ns)) continue;
    looked = now;
    const uint64_t tail = Load(header()->tail);
    if (tail > seq_) {
      channel_->Violation(machine::VcpuError::kBadTail);
      result = CallResult::kIsolated;
      break;
    }
    if (!reported && now - start > kLongWaitNs) {
      reported = true;
      channel_->events()->OnWaiting(channel_->index(), now - start);
    }
    channel_->KickIfAsleep();
  }
  Store(word, 0u);
  const uint64_t waited = MonotonicNs() - start;
  stats_->wait_ns += waited;
  stats_->max_wait_ns = std::max(stats_->max_wait_ns, waited);
  Store(stats_->state, state);
  if (reported) channel_->events()->OnAnswered(channel_->index(), waited);
  return result;
}

}  // namespace nyx
