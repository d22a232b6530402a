#include "exit_rings.h"

#include "futex.h"
#include "shared.h"

namespace nyx {
namespace {

constexpr uint32_t kMaxRings = 65;

bool WellFormed(const Request& r) {
  switch (r.kind) {
    case wire::ExitKind::kRead:
    case wire::ExitKind::kWrite:
    case wire::ExitKind::kConfigRead:
    case wire::ExitKind::kConfigWrite:
      return r.width == 1 || r.width == 2 || r.width == 4 || r.width == 8;
    case wire::ExitKind::kReadBurst:
    case wire::ExitKind::kWriteBurst:
      return (r.width == 1 || r.width == 2 || r.width == 4) && r.count >= 1 && r.count <= kMaxBurst / r.width &&
             (r.flags & wire::kSlotPosted) == 0;
    case wire::ExitKind::kIntAck:
    case wire::ExitKind::kEoi:
    case wire::ExitKind::kLine:
    case wire::ExitKind::kReset:
    case wire::ExitKind::kTime:
      return true;
    default:
      return false;
  }
}

}  // namespace

bool ExitRings::Open(uint8_t* base, size_t size) {
  if (size < wire::kRingBase + wire::kRingStride) return false;
  control_ = reinterpret_cast<wire::ProcessControl*>(base);
  const uint32_t rings = LoadRelaxed(control_->rings);
  if (control_->magic != wire::kRingMagic || control_->version != wire::kVersion || rings < 1 || rings > kMaxRings ||
      size < wire::kRingBase + static_cast<size_t>(rings) * wire::kRingStride)
    return false;
  for (uint32_t i = 0; i < rings; i++) {
    uint8_t* at = base + wire::kRingBase + static_cast<size_t>(i) * wire::kRingStride;
    rings_.push_back({reinterpret_cast<wire::RingHeader*>(at),
                      reinterpret_cast<wire::ExitSlot*>(at + wire::kSlotsAt), 1, 0});
  }
  return true;
}

wire::ExitSlot& ExitRings::Slot(uint32_t ring) {
  return rings_[ring].slots[(rings_[ring].next - 1) % wire::kRingSlots];
}

bool ExitRings::Take(uint32_t ring) {
  Ring& r = rings_[ring];
  uint64_t tail = LoadAcquire(r.header->tail);
  const uint64_t head = LoadAcquire(r.header->head);
  // -1: the producer had stored the slot's sequence, we had answered, and it had not yet moved `head`.
  const auto waiting = static_cast<int64_t>(head - tail);
  if (waiting < -1 || waiting > wire::kRingSlots) {
    if (!FindTail(r, head, &tail)) return false;
    StoreRelease(r.header->tail, tail);
  }
  r.next = tail + 1;
  return true;
}

bool ExitRings::FindTail(const Ring& r, uint64_t head, uint64_t* tail) {
  const auto slot = [&](uint64_t n) -> const wire::ExitSlot& { return r.slots[(n - 1) % wire::kRingSlots]; };
  if (head != 0 && LoadRelaxed(slot(head).seq_lo) != static_cast<uint32_t>(head)) return false;
  *tail = head > wire::kRingSlots ? head - wire::kRingSlots : 0;
  while (*tail < head && LoadRelaxed(slot(*tail + 1).reply_seq_lo) == static_cast<uint32_t>(*tail + 1)) ++*tail;
  return true;
}

bool ExitRings::Ready(uint32_t ring) { return LoadAcquire(Slot(ring).seq_lo) == static_cast<uint32_t>(rings_[ring].next); }

bool ExitRings::AnsweredAlready(uint32_t ring) {
  return Ready(ring) && LoadAcquire(Slot(ring).reply_seq_lo) == static_cast<uint32_t>(rings_[ring].next);
}

void ExitRings::SkipAnswered(uint32_t ring) { Advance(ring); }

uint32_t ExitRings::Poll() {
  const uint32_t n = count();
  uint32_t ring = last_;
  for (uint32_t i = 0; i < n; i++) {
    if (++ring >= n) ring = 0;
    if (Ready(ring)) {
      last_ = n > 1 ? PostedBefore(ring) : ring;
      return last_;
    }
  }
  return kNoRing;
}

uint32_t ExitRings::PostedBefore(uint32_t ring) {
  const auto posted = [&](uint32_t r) { return (LoadRelaxed(Slot(r).flags) & wire::kSlotPosted) != 0; };
  if (posted(ring)) return ring;
  if (barrier_ring_ != ring || barrier_seq_ != rings_[ring].next) {
    barrier_ring_ = ring;
    barrier_seq_ = rings_[ring].next;
    for (Ring& r : rings_) r.barrier = LoadAcquire(r.header->head);
  }
  for (uint32_t r = 0; r < count(); r++)
    if (r != ring && rings_[r].next <= rings_[r].barrier && Ready(r) && posted(r)) return r;
  return ring;
}

bool ExitRings::Read(uint32_t ring, Request* out) {
  const wire::ExitSlot& s = Slot(ring);
  const uint64_t seq = rings_[ring].next;
  const uint64_t offset = LoadRelaxed(s.offset), data = LoadRelaxed(s.data);
  *out = {ring,
          LoadRelaxed(s.kind),
          LoadRelaxed(s.width),
          LoadRelaxed(s.device),
          LoadRelaxed(s.region),
          LoadRelaxed(s.flags),
          LoadRelaxed(s.count),
          static_cast<uint32_t>(offset),
          static_cast<uint32_t>(offset >> 32),
          static_cast<uint32_t>(data),
          static_cast<uint32_t>(data >> 32),
          static_cast<uint32_t>(seq),
          static_cast<uint32_t>(seq >> 32)};
  return WellFormed(*out);
}

void ExitRings::StoreReply(uint32_t ring, uint64_t reply, uint32_t status) {
  wire::ExitSlot& s = Slot(ring);
  StoreRelaxed(s.reply, reply);
  StoreRelaxed(s.status, status);
  StoreRelease(s.reply_seq_lo, static_cast<uint32_t>(rings_[ring].next));
}

void ExitRings::Advance(uint32_t ring) {
  Ring& r = rings_[ring];
  StoreRelease(r.header->tail, r.next);
  r.next++;
  FullFence();
  if (LoadRelaxed(r.header->producer_waiting) != 0 && Swap(r.header->producer_waiting, 0u) != 0)
    FutexWake(&r.header->producer_waiting, 1);
}

void ExitRings::WakeProducer(uint32_t ring) {
  Swap(rings_[ring].header->producer_waiting, 0u);
  FutexWake(&rings_[ring].header->producer_waiting, INT32_MAX);
}

void ExitRings::WakeWithReply(uint32_t ring) { Swap(rings_[ring].header->producer_waiting, 1u); }

uint32_t ExitRings::ProducerCpu() { return LoadRelaxed(rings_[last_].header->producer_cpu); }

}  // namespace nyx
