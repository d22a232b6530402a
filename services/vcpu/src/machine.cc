// What happens to a machine while it lives; build.cc makes it.
#include "machine.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>

namespace nyx {

using machine::ControlEvent;

Machine::~Machine() {
  Quit();
  if (reset_thread_.joinable()) reset_thread_.join();
  fabric_.reset();
  accel_.reset();
  saved_.reset();
  for (const int fd : fds_) close(fd);
  if (event_fd_ >= 0) close(event_fd_);
}

void Machine::Signal() {
  const uint64_t one = 1;
  if (write(event_fd_, &one, sizeof one) < 0) return;
}

// ---- vCPU threads

void Machine::Park(std::unique_lock<std::mutex>& lock, Cpu& cpu, bool at_top) {
  cpu.parked = true;
  cpu.at_top = at_top;
  wire::VcpuStats& stats = *contexts_[cpu.index].stats;
  const uint32_t state = stats.state;
  stats.state = 4;
  Signal();
  changed_.notify_all();
  changed_.wait(lock, [&] { return running_ || quit_ || (!at_top && (abandon_ || quiet_ == Quiet::kWanted)); });
  stats.state = at_top ? 1 : state;
  cpu.parked = false;
  cpu.at_top = false;
}

bool Machine::WaitInside(Cpu& cpu) {
  std::unique_lock lock(mutex_);
  while (!running_ && !quit_ && !abandon_ && quiet_ != Quiet::kWanted) Park(lock, cpu, false);
  if (quit_ || abandon_) return true;
  // The wait goes on to its end; then the vCPU parks at the top.
  if (!running_) return false;
  // Resumed, or a device process set the bit: the wait goes on.
  cpu.attention->fetch_and(~static_cast<uint32_t>(wire::Attention::kStop));
  return false;
}

void Machine::Run(Cpu& cpu) {
  pthread_setname_np(pthread_self(), ("vcpu" + std::to_string(cpu.index)).c_str());
  Vcpu& vcpu = accel_->vcpu(cpu.index);
  std::unique_lock lock(mutex_);
  for (;;) {
    while (!running_ && !quit_) Park(lock, cpu, true);
    if (quit_) break;
    cpu.attention->fetch_and(~static_cast<uint32_t>(wire::Attention::kStop));
    if (cpu.index == 0 && !started_) {
      started_ = true;
      control_->Send(ControlEvent::kStarted, MonotonicNs());
    }
    lock.unlock();
    const RunResult result = vcpu.Run();
    contexts_[cpu.index].stats->last_rip = vcpu.rip();
    lock.lock();
    if (quit_) break;
    if (result == RunResult::kTripleFault) {
      Stop({ControlEvent::kTripleFault, cpu.index, vcpu.rip(), {}}, false);
    } else if (result == RunResult::kInternalError) {
      const EngineError& e = vcpu.error();
      Stop({ControlEvent::kInternalError, e.exit_code, e.rip, e.text, e.fault | cpu.index << 8}, false);
    }
  }
  cpu.parked = cpu.at_top = cpu.finished = true;
  contexts_[cpu.index].stats->state = 0;
  changed_.notify_all();
}

// ---- stopping and going on

bool Machine::AllParked() const {
  for (const auto& c : cpus_) {
    if (!c->parked) return false;
  }
  return true;
}

void Machine::Interrupt(Cpu& cpu) {
  cpu.attention->fetch_or(wire::Attention::kStop);
  // Null while a machine that could not be built is taken down.
  if (accel_) accel_->vcpu(cpu.index).Kick();
  // Ends a futex wait or a blocked write; the handler does nothing.
  if (cpu.thread.joinable()) pthread_kill(cpu.thread.native_handle(), SIGRTMIN);
}

void Machine::Stop(Report report, bool abandon) {
  running_ = false;
  abandon_ = abandon_ || abandon;
  if (report.event) reports_.push_back(std::move(report));
  for (auto& c : cpus_) Interrupt(*c);
  changed_.notify_all();
  Signal();
}

void Machine::Service() {
  uint64_t count;
  if (read(event_fd_, &count, sizeof count) < 0) count = 0;
  std::unique_lock lock(mutex_);
  if (running_) return;
  if (!AllParked()) {
    if (quiet_ == Quiet::kWanted && MonotonicNs() > quiet_by_) NotQuiet();
    return;
  }
  bool top = true;
  for (const auto& c : cpus_) top &= c->at_top;
  clock_->Pause();
  accel_->Pause();
  for (const Report& r : reports_) control_->Send(r.event, r.a, r.b, r.c, r.text);
  reports_.clear();
  if (quiet_ == Quiet::kWanted) AwaitQuiet(lock);
  if (resetting_ && reset_done_) {
    reset_thread_.join();
    resetting_ = reset_done_ = abandon_ = false;
    BootState();
    map_->config_address.store(0);
    map_->Rebuild();
    control_->Send(ControlEvent::kResetDone);
  } else if (resetting_ && top && !reset_thread_.joinable()) {
    // Devices may take long, or be dead: the control thread must stay able to isolate them.
    reset_thread_ = std::thread([this] {
      fabric_->Reset();
      std::lock_guard inner(mutex_);
      reset_done_ = true;
      Signal();
    });
  }
  if (resume_later_ && !resetting_) {
    resume_later_ = false;
    lock.unlock();
    Resume(resume_first_);
  }
}

void Machine::Resume(bool first) {
  std::lock_guard lock(mutex_);
  if (resetting_ || quit_) return;
  if (!running_ && !AllParked()) {
    // Still stopping: go on once that was reported.
    resume_later_ = true;
    resume_first_ = first;
    return;
  }
  if (!running_) {
    // Processes may have attached, been replaced or upgraded meanwhile.
    map_->Rebuild();
    running_ = true;
    abandon_ = false;
    quiet_ = Quiet::kNo;
    fabric_->Thaw();
    clock_->Resume();
    accel_->Resume();
    changed_.notify_all();
    if (saved_) saved_->Sweep();
  }
  if (!first) control_->Send(ControlEvent::kResumed);
}

void Machine::Pause() {
  std::lock_guard lock(mutex_);
  Stop({ControlEvent::kPaused, 0, 0, {}}, false);
}

void Machine::Reset() {
  std::lock_guard lock(mutex_);
  if (resetting_ || quit_) return;
  resetting_ = true;
  quiet_ = Quiet::kNo;
  Stop({}, true);
}

bool Machine::Quit() {
  std::unique_lock lock(mutex_);
  quit_ = true;
  Stop({}, true);
  if (fabric_) {
    lock.unlock();
    fabric_->Stop();
    lock.lock();
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  for (auto& c : cpus_) {
    while (c->thread.joinable() && !c->finished) {
      if (changed_.wait_until(lock, std::min(deadline, std::chrono::steady_clock::now() + std::chrono::milliseconds(50))) ==
              std::cv_status::timeout &&
          std::chrono::steady_clock::now() >= deadline) {
        return false;
      }
      if (!c->finished) Interrupt(*c);
    }
  }
  lock.unlock();
  for (auto& c : cpus_) {
    if (c->thread.joinable()) c->thread.join();
  }
  return true;
}

// ---- device processes

void Machine::Isolate(uint64_t process) {
  if (process >= channels_.size()) return;
  channels_[process]->Isolate();
}

void Machine::Replaced(uint64_t process) {
  if (process >= channels_.size()) return;
  channels_[process]->Replaced();
  map_->Rebuild();
  fabric_->Look(static_cast<unsigned>(process));
}

void Machine::Nmi(uint64_t cpu) {
  if (cpu < cpus_.size()) accel_->interrupts().Nmi(static_cast<unsigned>(cpu));
}

// One that waits for a device is not disturbed.
void Machine::Look() {
  std::lock_guard lock(mutex_);
  if (!running_) return;
  for (auto& c : cpus_) {
    if (c->parked || Load(contexts_[c->index].stats->state) == 3) continue;
    c->attention->fetch_or(wire::Attention::kInterrupt);
    accel_->vcpu(c->index).Kick();
    if (c->thread.joinable()) pthread_kill(c->thread.native_handle(), SIGRTMIN);
  }
}

void Machine::Registers(uint64_t cpu) {
  std::lock_guard lock(mutex_);
  std::string text;
  if (cpu < cpus_.size() && !running_ && AllParked()) text = accel_->vcpu(static_cast<unsigned>(cpu)).Registers();
  control_->Send(ControlEvent::kRegisters, cpu, 0, 0, text);
}

void Machine::OnViolation(unsigned process, uint32_t error) { control_->Send(ControlEvent::kViolation, process, error); }
void Machine::OnWaiting(unsigned process, uint64_t ns) { control_->Send(ControlEvent::kWaiting, process, ns); }
void Machine::OnAnswered(unsigned process, uint64_t ns) { control_->Send(ControlEvent::kAnswered, process, ns); }

void Machine::OnMachineEvent(uint32_t event, unsigned cpu) {
  std::lock_guard lock(mutex_);
  // The first one counts: what the guest does on its way to a stop is no second reason.
  for (const Report& r : reports_) {
    if (r.event == ControlEvent::kMachineEvent) return;
  }
  Stop({ControlEvent::kMachineEvent, event, cpu, {}}, false);
}

void Machine::OnMapChanged() { map_->Rebuild(); }

}  // namespace nyx
