// The producing side of exit rings (ARCHITECTURE.md, "Exit ring"). A Channel is one device process, a Producer one
// ring of it, used by one thread. Nothing that a device process writes is trusted: sequences, heads and requests are
// kept here; of the shared memory only reply, status and sequence are read, once, and checked.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>

#include "gen/machine.h"
#include "gen/wire.h"
#include "shm.h"

namespace nyx {

// What the machine is told. Any thread.
class HostEvents {
 public:
  virtual ~HostEvents() = default;
  // A device process broke the protocol: the caller has isolated it. `error` is a machine::VcpuError.
  virtual void OnViolation(unsigned process, uint32_t error) = 0;
  virtual void OnWaiting(unsigned process, uint64_t ns) = 0;
  virtual void OnAnswered(unsigned process, uint64_t ns) = 0;
  virtual void OnMachineEvent(uint32_t event, unsigned cpu) = 0;
  virtual void OnMapChanged() = 0;
};

// Who waits on a ring: a vCPU or the fabric.
class Waiter {
 public:
  virtual ~Waiter() = default;
  // Called now and then while a reply is awaited. It may block (pause). True: give the wait up (reset, quit).
  virtual bool GiveUp() = 0;
  // Cheap: GiveUp wants to be called.
  virtual bool StopAsked() const = 0;
};

class Channel {
 public:
  // `data` is the ring memfd, `rings` as many as it must hold. Returns null or what is wrong with it.
  const char* Attach(unsigned index, uint8_t* data, uint64_t size, unsigned rings, int kick_fd, HostEvents* events);

  unsigned index() const { return index_; }
  bool isolated() const { return isolated_.load(std::memory_order_relaxed); }
  // Any thread. Sleeping producers learn of it at their next look (20 ms at most).
  void Isolate();
  void Violation(uint32_t error);
  // Another process serves it now: producers write head and open requests again, in case the old one ruined them.
  void Replaced();
  uint32_t replacements() const { return replacements_.load(std::memory_order_acquire); }
  wire::ProcessControl* control() const { return reinterpret_cast<wire::ProcessControl*>(data_); }
  uint8_t* ring(unsigned r) const { return data_ + wire::kRingBase + uint64_t{r} * wire::kRingStride; }
  unsigned rings() const { return rings_; }
  HostEvents* events() const { return events_; }
  // Nothing that another vCPU has asked of the process is under way (`ring` is the caller's own). A device that ruins
  // these words only makes a read of its own registers slower or older.
  bool OthersIdle(unsigned ring) const;
  // Wakes the process if it says that it sleeps. Full fence.
  void KickIfAsleep();
  void Kick();

 private:
  unsigned index_ = 0;
  unsigned rings_ = 0;
  uint8_t* data_ = nullptr;
  int kick_fd_ = -1;
  HostEvents* events_ = nullptr;
  std::atomic<bool> isolated_{false};
  std::atomic<uint32_t> replacements_{0};
};

struct Request {
  uint8_t kind;  // wire::ExitKind
  uint8_t width;
  uint16_t device;  // index within the process
  uint16_t region;
  uint32_t count;
  uint64_t offset;
  uint64_t data;
};

struct Reply {
  uint64_t value;
  uint32_t status;
};

enum class CallResult {
  kOk,
  kIsolated,   // nobody answers: all ones, dropped
  kAbandoned,  // the waiter gave up; the request stays in the ring and will be executed
};

// How long to spin before sleeping. A reply that takes longer than usual (the device process turned its event loop, or
// collected garbage) comes still much sooner than a sleep and its wake-up would end: so as long as these cost, unless
// spinning did not pay lately.
class SpinBudget {
 public:
  uint64_t cycles() const { return limit_; }
  void Paid();
  void Failed();

 private:
  uint64_t limit_ = kMost;
  uint32_t failures_ = 0;
  // About 50 us and 2 us at 2 to 3 GHz; exactness is of no use here.
  static constexpr uint64_t kMost = 120'000;
  static constexpr uint64_t kLeast = 4'000;
};

class Producer {
 public:
  // `cpu` is told in machine events; the ring's position is taken from its header.
  void Attach(Channel* channel, unsigned ring, unsigned cpu, Waiter* waiter, wire::VcpuStats* stats);

  // Publishes and waits for the reply.
  CallResult Call(const Request& request, Reply* reply);
  // Publishes without waiting (waits for room if the ring is full).
  CallResult Post(const Request& request);
  // False: the ring is full. Never waits.
  bool TryPost(const Request& request);
  // Bytes of a burst, valid for the next or after the last Call. Empty() first: see PrepareBurst.
  uint8_t* burst() const { return ring_ + wire::kBurstAt; }
  // An abandoned burst may still be in the burst area: waits until every request is done.
  CallResult PrepareBurst() { return seq_ == completed_ ? CallResult::kOk : WaitFor(seq_); }
  // No posted request is under way, so that state blocks show all that this thread did.
  bool Idle();
  // No process lives on the other side: whatever is in the ring is done.
  void Discard();
  Channel* channel() const { return channel_; }
  unsigned ring() const { return ring_index_; }

  // How often a sleeping producer looks around. Tests and fuzzers shorten it.
  static inline long look_ns = 20'000'000;

 private:
  wire::RingHeader* header() const { return reinterpret_cast<wire::RingHeader*>(ring_); }
  wire::ExitSlot* slot(uint64_t seq) const {
    return reinterpret_cast<wire::ExitSlot*>(ring_ + wire::kSlotsAt) + ((seq - 1) & (wire::kRingSlots - 1));
  }
  bool Replied(uint64_t seq) const {
    return Load(slot(seq)->reply_seq_lo, std::memory_order_acquire) == static_cast<uint32_t>(seq);
  }
  CallResult WaitFor(uint64_t seq);
  bool Spin(uint64_t seq);
  CallResult Sleep(uint64_t seq);
  // Checks the replies up to `seq` that were not looked at yet and acts on their status.
  CallResult Complete(uint64_t seq);
  CallResult MakeRoom();
  void Publish(const Request& request, uint16_t flags);
  void WriteSlot(uint64_t seq);
  void Republish();

  Channel* channel_ = nullptr;
  uint8_t* ring_ = nullptr;
  Waiter* waiter_ = nullptr;
  wire::VcpuStats* stats_ = nullptr;
  unsigned cpu_ = 0;
  unsigned ring_index_ = 0;
  uint64_t seq_ = 0;        // last published
  uint64_t completed_ = 0;  // replies up to here were seen
  uint32_t replacements_ = 0;
  SpinBudget awake_, waking_;
  struct Open {
    Request request;
    uint16_t flags;
  };
  std::array<Open, wire::kRingSlots> open_{};
};

}  // namespace nyx
