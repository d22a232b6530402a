// The consumer's side of a ring memfd (ARCHITECTURE.md, "Exit ring"): finding requests, publishing replies, and
// taking over from a predecessor. Nothing here knows JavaScript. Everything read from shared memory is bounded.
#pragma once
#include <cstdint>
#include <vector>

#include "wire.h"

namespace nyx {

constexpr uint32_t kNoRing = 0xffffffffu;
// Elements of a burst fit this many bytes of the burst area.
constexpr uint32_t kMaxBurst = 4096;

// A request as it was when it was taken: read once, checked.
struct Request {
  uint32_t ring, kind, width, device, region, flags, count, offset_lo, offset_hi, data_lo, data_hi, seq_lo, seq_hi;
};

class ExitRings {
 public:
  // `size` bytes at `base`; false when it is not a formatted ring memfd.
  bool Open(uint8_t* base, size_t size);

  uint32_t count() const { return static_cast<uint32_t>(rings_.size()); }
  wire::ProcessControl& control() { return *control_; }

  // Where a ring stands at attach: takes its tail. A tail that contradicts the head (a predecessor ran wild) is found
  // anew from the replies in the slots, which are what the producer goes by. False when the head is wrong, too.
  bool Take(uint32_t ring);
  // Sequence of the request that is to be served next.
  uint64_t next(uint32_t ring) const { return rings_[ring].next; }
  // The request that is next was answered by a predecessor that died before it moved the tail.
  bool AnsweredAlready(uint32_t ring);
  void SkipAnswered(uint32_t ring);
  // The request that is next is there.
  bool Ready(uint32_t ring);
  // A ring with a request, or kNoRing. Begins behind the one served last.
  uint32_t Poll();
  // Reads and checks the next request of `ring`. False: it is not well formed.
  bool Read(uint32_t ring, Request* out);
  // Publishes the reply of the next request. In two steps, so that tests can stop in between.
  void StoreReply(uint32_t ring, uint64_t reply, uint32_t status);
  void Advance(uint32_t ring);
  // Wakes a producer unconditionally: a predecessor may have died just before it did.
  void WakeProducer(uint32_t ring);
  // The same with the next reply.
  void WakeWithReply(uint32_t ring);
  // CPU that the producer served last ran on.
  uint32_t ProducerCpu();

 private:
  struct Ring {
    wire::RingHeader* header;
    wire::ExitSlot* slots;
    uint64_t next;
    uint64_t barrier = 0;  // head when the request at the barrier was first seen
  };
  // A vCPU that has posted and then told another vCPU so (in memory) must find its writes done by the other's next
  // access: before a request that is waited for, the posted ones that were there come first. Gives the ring to serve.
  uint32_t PostedBefore(uint32_t ring);
  static bool FindTail(const Ring& ring, uint64_t head, uint64_t* tail);
  wire::ExitSlot& Slot(uint32_t ring);
  wire::ProcessControl* control_ = nullptr;
  std::vector<Ring> rings_;
  uint32_t last_ = 0;
  uint32_t barrier_ring_ = kNoRing;
  uint64_t barrier_seq_ = 0;
};

}  // namespace nyx
