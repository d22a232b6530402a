// The virtual machine: everything that the description names, the vCPU threads, and what stops and starts them.
//
//   paused --Resume--> running --Stop(reason)--> stopping --last vCPU parked--> paused
//
// A vCPU is parked at the top of its loop, or (pause only) inside a wait for a device, which it goes on with later.
// Reset and quit make it give such a wait up. Commands come from the control thread only.
#pragma once
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "accel.h"
#include "bus.h"
#include "control.h"
#include "description.h"
#include "fabric.h"
#include "lapic.h"
#include "map.h"
#include "ring.h"
#include "saved_ram.h"

namespace nyx {

class Machine : public HostEvents {
 public:
  // Null and `error` when the description, a descriptor or the accelerator is wrong. Takes the descriptors over.
  static std::unique_ptr<Machine> Create(Description description, std::vector<int> fds, Control* control, std::string* error);
  ~Machine() override;

  // Readable when Service() has something to do.
  int event_fd() const { return event_fd_; }
  // Control thread: reports stops that are complete, and carries on with a reset.
  void Service();

  // Control thread. Each is answered by its event.
  void Resume(bool first);
  void Pause();
  void Reset();
  void Isolate(uint64_t process);
  void Replaced(uint64_t process);
  void Nmi(uint64_t cpu);
  void Look();
  void Registers(uint64_t cpu);
  // For a checkpoint and the way back (machine_state.cc). Descriptors stay the caller's.
  void Quieten(bool abandon);
  void SaveState(const std::vector<int>& fds, bool sum);
  void LoadState(const std::vector<int>& fds);
  // The checkpoint is not wanted any more.
  void Release();
  // Service is to be called soon, whether or not event_fd is readable.
  bool Impatient() const { return quiet_ == Quiet::kWanted; }
  // Stops all threads. False: a vCPU did not come back within 2 s; the caller ends the process.
  bool Quit();

  uint32_t engine() const { return accel_->kind(); }
  // KVM's instructions per second when `auto` measured it, else 0.
  uint64_t measured() const { return measured_; }

  // HostEvents, any thread.
  void OnViolation(unsigned process, uint32_t error) override;
  void OnWaiting(unsigned process, uint64_t ns) override;
  void OnAnswered(unsigned process, uint64_t ns) override;
  void OnMachineEvent(uint32_t event, unsigned cpu) override;
  void OnMapChanged() override;

 private:
  // One vCPU: its thread and what waits in its name.
  struct Cpu : Waiter {
    Machine* machine = nullptr;
    unsigned index = 0;
    std::unique_ptr<Lapic> lapic;
    std::unique_ptr<VcpuBus> bus;
    std::atomic<uint32_t>* attention = nullptr;
    std::thread thread;
    bool parked = false;    // under mutex_
    bool at_top = false;    // parked, and not inside a wait
    bool finished = false;  // its thread has ended

    bool StopAsked() const override { return attention->load(std::memory_order_relaxed) & wire::Attention::kStop; }
    bool GiveUp() override { return machine->WaitInside(*this); }
  };
  struct Report {
    uint32_t event;
    uint64_t a, b;
    std::string text;
    uint64_t c = 0;
  };

  Machine(Description description, std::vector<int> fds, Control* control);
  bool Build(std::string* error);
  bool MapMemory(std::string* error);
  bool MapPages(std::string* error);
  bool BuildDevices(std::string* error);
  bool BuildEngine(std::string* error);
  void BootState();
  bool deterministic() const { return description_.header.flags & 4; }

  void Run(Cpu& cpu);
  bool WaitInside(Cpu& cpu);
  void Park(std::unique_lock<std::mutex>& lock, Cpu& cpu, bool at_top);
  // Under mutex_: everybody stops; `report` is sent when all have.
  void Stop(Report report, bool abandon);
  bool AllParked() const;  // under mutex_
  void Interrupt(Cpu& cpu);
  void NotQuiet();
  void AwaitQuiet(std::unique_lock<std::mutex>& lock);
  std::string CheckStill(const std::vector<int>& fds);
  std::string CheckState(const StateReader& reader);
  std::string SaveRamTo(int copy_fd, uint64_t* bytes);
  std::string LoadRamFrom(int copy_fd, uint64_t* bytes);
  uint64_t RamBytes() const;
  uint64_t RamSum() const;
  void Signal();

  const Description description_;
  const std::vector<int> fds_;
  Control* const control_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
  MemoryMap memory_;
  std::unique_ptr<Clock> clock_;
  wire::VmPage* vm_page_ = nullptr;
  std::vector<wire::AttentionLine> own_attention_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::unique_ptr<AddressMap> map_;
  ApicBus apics_;
  std::vector<std::unique_ptr<Cpu>> cpus_;
  std::vector<VcpuContext> contexts_;
  std::unique_ptr<Accel> accel_;
  std::unique_ptr<Fabric> fabric_;
  uint64_t measured_ = 0;
  uint8_t* code_bitmap_ = nullptr;
  uint8_t* dirty_bitmap_ = nullptr;
  uint64_t pages_ = 0;
  // Null without a page store.
  std::unique_ptr<SavedRam> saved_;
  // Of guest RAM at the checkpoint; 0: nobody wanted it.
  uint64_t ram_sum_ = 0;
  int ram_fd_ = -1;
  int event_fd_ = -1;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool running_ = false;
  bool abandon_ = false;
  bool quit_ = false;
  bool started_ = false;
  // Wanted: no vCPU parks inside of a wait. Quiet: as Quieten promises.
  enum class Quiet { kNo, kWanted, kQuiet };
  std::atomic<Quiet> quiet_{Quiet::kNo};
  uint64_t quiet_by_ = 0;  // CLOCK_MONOTONIC ns
  bool resetting_ = false;
  bool reset_done_ = false;
  bool resume_later_ = false;
  bool resume_first_ = false;
  std::vector<Report> reports_;  // sent when all vCPUs are parked
  std::thread reset_thread_;
};

// Instructions per second of a tiny guest under KVM, measured for a few ms; 0: no KVM.
uint64_t MeasureKvm();

}  // namespace nyx
