// The interrupt fabric: one thread that compares the interrupt words of all devices with those it has delivered, and
// delivers the difference (ARCHITECTURE.md, "Interrupts"). It never waits for a device process: lines go to the
// interrupt controllers as posted requests, and only the newest word of a line counts.
#pragma once
#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "accel.h"
#include "description.h"
#include "map.h"
#include "ring.h"

namespace nyx {

class StateReader;
class StateWriter;

class Fabric : public Waiter {
 public:
  Fabric(const Description& description, std::vector<std::unique_ptr<Device>>* devices,
         std::vector<std::unique_ptr<Channel>>* channels, InterruptSink* sink);
  ~Fabric() override;
  // Maps interrupt pages and watches eventfds. `fds` are the descriptors of the machine.
  bool Attach(const std::vector<int>& fds, std::string* error);
  void Start();
  void Stop();
  // One turn of the thread: waits at most `timeout_ms` for news (-1: for ever) and delivers it. For fuzzers.
  void Turn(int timeout_ms);
  // Deterministic mode: nothing is delivered but by Settle; `changed` is told of words that changed outside of it.
  void Pace(std::function<void()> changed) { changed_ = std::move(changed); }
  // vCPU thread: delivers what devices say now, and waits until controllers have heard of it. The processes that were
  // told something, a bit each.
  uint32_t Settle();
  // Looks at a process's words again, whether or not it told. Any thread.
  void Look(unsigned process);
  // All vCPUs stopped: sends `reset` to every device and waits until each has answered (or its process is isolated).
  // False: Stop came meanwhile. Interrupts that were under way are forgotten.
  bool Reset();

  // Interrupts of devices are not looked at until Thaw. Control thread.
  void Freeze();
  void Thaw();
  // Frozen: nothing that was told to controllers is under way; it is given up.
  bool Idle();
  void Discard();
  // Frozen: what was seen and told (FabricState).
  void SaveState(StateWriter* to);
  std::string CheckState(const StateReader& from);
  void LoadState(const StateReader& from);

  bool GiveUp() override { return stopping_.load(); }
  bool StopAsked() const override { return stopping_.load(std::memory_order_relaxed); }

 private:
  static constexpr unsigned kGsis = 256;
  // One interrupt source.
  struct Source {
    uint32_t entry;  // in the page of its process
    uint8_t kind;    // machine::RouteKind
    uint32_t gsi;
    uint32_t seen;
  };
  // A controller that hears of lines, with the word it was told last of each.
  struct Controller {
    uint16_t device = machine::kNone;
    unsigned gsis = 0;
    std::array<uint32_t, kGsis> told{};
  };

  void Loop();
  void Scan(unsigned process);
  void Deliver(unsigned process, Source& source, uint32_t word);
  // Tells controllers of changed lines. False: a ring is full, try again soon.
  bool SendLines();
  const wire::IrqEntry* entries(unsigned process) const {
    return reinterpret_cast<const wire::IrqEntry*>(pages_[process]->data() + wire::kIrqEntriesAt);
  }

  const Description& description_;
  std::vector<std::unique_ptr<Device>>* const devices_;
  std::vector<std::unique_ptr<Channel>>* const channels_;
  InterruptSink* const sink_;
  std::vector<std::unique_ptr<Mapping>> pages_;   // by process
  std::vector<std::vector<Source>> sources_;      // by process
  std::vector<Producer> producers_;               // by process: the fabric ring
  std::array<Controller, 2> controllers_;         // PIC, IOAPIC
  std::array<uint32_t, kGsis> lines_{};           // word of each GSI: sum of edges << 1 | any level
  std::mutex mutex_;                              // all of the above
  wire::VcpuStats stats_{};
  int epoll_ = -1;
  int wake_ = -1;
  std::atomic<uint32_t> look_{0};  // processes to look at
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ended_{false};
  std::atomic<bool> frozen_{false};
  bool sent_ = false;  // all lines were told
  std::function<void()> changed_;
  std::thread thread_;
};

}  // namespace nyx
