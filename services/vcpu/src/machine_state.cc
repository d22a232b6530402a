// A machine standing still: all vCPUs where no instruction is half done, rings empty, interrupts of devices not taken. Its state out
// and in (libs/protocol/src/machine-state.ts), and guest memory: as a copy, or page by page before somebody writes to it (saved_ram.h).
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "machine.h"
#include "ram_copy.h"
#include "state.h"

namespace nyx {

using machine::ControlEvent;
using machine::kNone;

namespace {
// How long devices have to answer what the guest asked.
constexpr uint64_t kQuietNs = 3'000'000'000;
}  // namespace

void Machine::Quieten(bool abandon) {
  std::lock_guard lock(mutex_);
  if (resetting_ || quit_) {
    control_->Send(ControlEvent::kQuiet, 0, 0, 0, "the machine is being reset");
    return;
  }
  resume_later_ = false;
  quiet_ = Quiet::kWanted;
  quiet_by_ = MonotonicNs() + kQuietNs;
  Stop({}, abandon);
}

// All vCPUs are parked; the caller holds mutex_, which devices' events need: it is let go meanwhile.
void Machine::AwaitQuiet(std::unique_lock<std::mutex>& lock) {
  bool top = true;
  for (const auto& c : cpus_) top &= c->at_top;
  const bool abandoned = abandon_;
  lock.unlock();
  fabric_->Freeze();
  bool idle = abandoned;
  if (!abandoned) {
    idle = fabric_->Idle();
    for (auto& c : cpus_) idle &= c->bus->Idle();
  }
  lock.lock();
  if (quiet_ != Quiet::kWanted) return;
  if (top && idle) {
    quiet_ = Quiet::kQuiet;
    control_->Send(ControlEvent::kQuiet);
  } else if (MonotonicNs() > quiet_by_) {
    NotQuiet();
  }
}

// Waits that last park where they are.
void Machine::NotQuiet() {
  quiet_ = Quiet::kNo;
  control_->Send(ControlEvent::kQuiet, 0, 0, 0, "a device process does not answer what it was asked");
}

uint64_t Machine::RamBytes() const {
  uint64_t bytes = 0;
  for (const auto& m : description_.memories) {
    if (!(m.flags & 1)) bytes = std::max(bytes, m.fd_offset + m.size);
  }
  return bytes;
}

std::string Machine::CheckStill(const std::vector<int>& fds) {
  if (quiet_ != Quiet::kQuiet) return "the machine does not stand still";
  if (deterministic()) return "a deterministic machine has no checkpoints";
  if (fds.empty() || fds.size() > 2) return "one or two descriptors are needed";
  std::string error;
  const int64_t state = SealedSize(fds[0], &error);
  if (state < 0) return error;
  if (static_cast<uint64_t>(state) < state::kMaxBytes) return "the memory for the state is too small";
  if (fds.size() == 1) {
    const bool can = saved_ && accel_->kind() == machine::Accel::kSoft && RamBytes() == pages_ * PageStore::kPage;
    return can ? "" : "this machine's memory can only be copied: a second descriptor is needed";
  }
  const int64_t ram = SealedSize(fds[1], &error);
  if (ram < 0) return error;
  if (static_cast<uint64_t>(ram) < RamBytes()) return "the memory for the copy is smaller than guest memory";
  return {};
}

uint64_t Machine::RamSum() const {
  uint64_t sum = 0;
  for (const auto& m : description_.memories) {
    if (!(m.flags & 1)) sum += SumRam(fds_[m.fd], memory_.Host(m.gpa, m.size, true), m.fd_offset, m.size);
  }
  // 0 stands for none.
  return sum | 1;
}

std::string Machine::SaveRamTo(int copy_fd, uint64_t* bytes) {
  for (const auto& m : description_.memories) {
    if (m.flags & 1) continue;
    const RamCopied done = SaveRam(fds_[m.fd], memory_.Host(m.gpa, m.size, true), m.fd_offset, m.size, copy_fd);
    if (!done.error.empty()) return done.error;
    *bytes += done.bytes;
  }
  return {};
}

std::string Machine::LoadRamFrom(int copy_fd, uint64_t* bytes) {
  for (const auto& m : description_.memories) {
    if (m.flags & 1) continue;
    const RamCopied done = LoadRam(fds_[m.fd], memory_.Host(m.gpa, m.size, true), m.fd_offset, m.size, copy_fd);
    if (!done.error.empty()) return done.error;
    *bytes += done.bytes;
  }
  return {};
}

void Machine::Release() {
  std::lock_guard lock(mutex_);
  if (saved_) saved_->End();
}

void Machine::SaveState(const std::vector<int>& fds, bool sum) {
  const uint64_t start = MonotonicNs();
  std::lock_guard lock(mutex_);
  const auto fail = [&](const std::string& text) { control_->Send(ControlEvent::kSaved, 0, 0, 0, text); };
  if (auto text = CheckStill(fds); !text.empty()) return fail(text);
  StateWriter writer;
  for (auto& c : cpus_) accel_->vcpu(c->index).Save(&writer);
  accel_->Save(&writer);
  fabric_->SaveState(&writer);
  state::StateHeader header{};
  header.engine = static_cast<uint8_t>(accel_->kind());
  header.cpus = static_cast<uint16_t>(cpus_.size());
  header.config_address = map_->config_address.load();
  header.tsc_khz = clock_->tsc_khz();
  header.guest_ns = clock_->paused_ns();
  header.guest_tsc = clock_->paused_tsc();
  const std::vector<uint8_t> bytes = writer.Finish(header);
  if (bytes.size() > state::kMaxBytes || pwrite(fds[0], bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return fail(std::string("the state cannot be written: ") + strerror(errno));
  }
  uint64_t copied = 0;
  if (fds.size() == 2) {
    if (saved_) saved_->End();
    if (auto text = SaveRamTo(fds[1], &copied); !text.empty()) return fail(text);
  } else {
    if (!saved_->Begin()) return fail(std::string("memory of the last checkpoint cannot be given back: ") + strerror(errno));
    accel_->ProtectRam();
  }
  const uint64_t took = MonotonicNs() - start;
  ram_sum_ = sum ? RamSum() : 0;
  control_->Send(ControlEvent::kSaved, bytes.size(), copied, took);
}

std::string Machine::CheckState(const StateReader& reader) {
  const state::StateHeader& h = reader.header();
  if (h.engine != accel_->kind()) return "machine state: of another engine";
  if (h.cpus != cpus_.size()) return "machine state: " + std::to_string(h.cpus) + " vCPUs, not " + std::to_string(cpus_.size());
  if (h.tsc_khz != clock_->tsc_khz()) return "machine state: the TSC has another rate";
  for (auto& c : cpus_) {
    if (auto text = accel_->vcpu(c->index).Check(reader); !text.empty()) return text;
  }
  if (auto text = accel_->Check(reader); !text.empty()) return text;
  if (auto text = fabric_->CheckState(reader); !text.empty()) return text;
  if (const auto* s = reader.Unknown()) {
    return "machine state: part " + std::to_string(s->part) + " of " + std::to_string(s->cpu) + " is not known here";
  }
  return {};
}

void Machine::LoadState(const std::vector<int>& fds) {
  const uint64_t start = MonotonicNs();
  std::lock_guard lock(mutex_);
  const auto fail = [&](const std::string& text) { control_->Send(ControlEvent::kLoaded, 0, 0, 0, text); };
  if (auto text = CheckStill(fds); !text.empty()) return fail(text);
  std::vector<uint8_t> bytes(state::kMaxBytes);
  const ssize_t n = pread(fds[0], bytes.data(), bytes.size(), 0);
  if (n < 0) return fail(std::string("the state cannot be read: ") + strerror(errno));
  StateReader reader;
  std::string error;
  if (!reader.Parse(std::move(bytes), &error)) return fail(error);
  if (error = CheckState(reader); !error.empty()) return fail(error);
  if (fds.size() == 1 && !saved_->whole()) return fail("the checkpoint is not whole: a page could not be saved");

  for (auto& c : cpus_) c->bus->Discard();
  fabric_->Discard();
  uint64_t copied = 0;
  if (fds.size() == 2) {
    if (error = LoadRamFrom(fds[1], &copied); !error.empty()) return fail(error);
  } else {
    const RamCopied done = saved_->Restore(memory_, ram_fd_);
    if (!done.error.empty()) return fail(done.error);
    copied = done.bytes;
    // What was saved is not needed any more: memory is what it was. If it cannot be given back, it is kept.
    saved_->Begin();
  }
  if (ram_sum_ != 0 && ram_sum_ != RamSum()) return fail("guest memory is not what it was at the checkpoint");
  clock_->Load(reader.header().guest_ns, reader.header().guest_tsc);
  accel_->Load(reader);
  for (auto& c : cpus_) {
    c->attention->fetch_and(static_cast<uint32_t>(wire::Attention::kStop));
    if (auto text = accel_->vcpu(c->index).Load(reader); !text.empty()) return fail(text);
  }
  fabric_->LoadState(reader);
  map_->config_address.store(reader.header().config_address);
  reports_.clear();
  control_->Send(ControlEvent::kLoaded, reader.header().bytes, copied, MonotonicNs() - start);
}

}  // namespace nyx
