#include "vcpu.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace nyx::kvm {

std::string Ioctl(int fd, unsigned long request, const char* name, const void* argument) {
  if (ioctl(fd, request, argument) >= 0) return {};
  return std::string(name) + ": " + strerror(errno);
}

KvmVcpu::~KvmVcpu() {
  if (run_) munmap(run_, run_bytes_);
  if (fd_ >= 0) close(fd_);
}

std::string KvmVcpu::Create(int kvm, int vm) {
  fd_ = ioctl(vm, KVM_CREATE_VCPU, context_.index);
  if (fd_ < 0) return std::string("KVM_CREATE_VCPU: ") + strerror(errno);
  const int bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (bytes < static_cast<int>(sizeof(kvm_run))) return "KVM_GET_VCPU_MMAP_SIZE";
  run_bytes_ = static_cast<size_t>(bytes);
  void* at = mmap(nullptr, run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (at == MAP_FAILED) return std::string("mmap of kvm_run: ") + strerror(errno);
  run_ = static_cast<kvm_run*>(at);
  if (auto text = SetCpuid(kvm); !text.empty()) return text;
  SaveReset();
  ListMsrs(kvm, vm);
  return {};
}

void KvmVcpu::Kick() {
  // The signal that the machine sends ends KVM_RUN; this covers the moment before it is entered.
  std::atomic_ref(run_->immediate_exit).store(1);
}

void KvmVcpu::SetExtInt(bool level) {
  extint_.store(level, std::memory_order_release);
  // Told again that it is high, it fell and rose unseen: the vCPU may have found nothing to take in between, and sleep.
  if (!level) return;
  context_.attention->fetch_or(wire::Attention::kInterrupt);
  Kick();
  // A halted vCPU sleeps inside KVM_RUN. By number, not pthread_t: the thread may be gone.
  if (const pid_t thread = thread_.load(std::memory_order_acquire)) syscall(SYS_tgkill, getpid(), thread, SIGRTMIN);
}

void KvmVcpu::Nmi() { ioctl(fd_, KVM_NMI); }

void KvmVcpu::UpdateRip() {
  kvm_regs regs;
  if (ioctl(fd_, KVM_GET_REGS, &regs) == 0) rip_.store(regs.rip, std::memory_order_relaxed);
}

// Where the vCPU is, for whoever looks. KVM does not tell when it halts it: that is asked.
void KvmVcpu::Publish() {
  wire::VcpuStats& s = *context_.stats;
  kvm_mp_state state{};
  ioctl(fd_, KVM_GET_MP_STATE, &state);
  kvm_regs regs;
  if (ioctl(fd_, KVM_GET_REGS, &regs) != 0) return;
  rip_.store(regs.rip, std::memory_order_relaxed);
  s.last_rip = regs.rip;
  s.rflags = static_cast<uint32_t>(regs.rflags);
  s.state = state.mp_state == KVM_MP_STATE_HALTED ? 2 : 1;
  s.looks++;
}

RunResult KvmVcpu::Fail(uint32_t fault, ExitCode code, std::string text) {
  UpdateRip();
  error_ = {static_cast<uint32_t>(code), fault, rip(), std::string(ExitName(code)) + ": " + std::move(text)};
  return RunResult::kInternalError;
}

RunResult KvmVcpu::Run() {
  thread_.store(gettid(), std::memory_order_release);
  for (;;) {
    std::atomic_ref(run_->immediate_exit).store(0);
    const uint32_t attention = context_.attention->load();
    if (attention) {
      if (attention & wire::Attention::kStop) {
        Finish();
        UpdateRip();
        return RunResult::kStopped;
      }
      // KVM sees memory itself; kInterrupt only brought us here, because of the PIC or because somebody looks.
      Publish();
      context_.attention->fetch_and(wire::Attention::kStop);
    }
    run_->request_interrupt_window = 0;
    if (extint_.load(std::memory_order_acquire)) {
      if (run_->ready_for_interrupt_injection) {
        const int vector = context_.bus->IntAck();
        if (vector >= 0) {
          kvm_interrupt interrupt{static_cast<uint32_t>(vector)};
          if (ioctl(fd_, KVM_INTERRUPT, &interrupt) == 0) context_.stats->interrupts++;
          run_->ready_for_interrupt_injection = 0;
        }
      } else {
        run_->request_interrupt_window = 1;
      }
    }
    unfinished_ = false;
    if (ioctl(fd_, KVM_RUN, 0) < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return Fail(machine::EngineFault::kFailure, ExitCode::kEngineError, std::string("KVM_RUN: ") + strerror(errno));
    }
    switch (run_->exit_reason) {
      case KVM_EXIT_IO:
      case KVM_EXIT_MMIO: Access(); break;
      case KVM_EXIT_IOAPIC_EOI: context_.bus->Eoi(run_->eoi.vector); break;
      case KVM_EXIT_HLT: context_.stats->exits_halt++; break;
      case KVM_EXIT_INTR:
      case KVM_EXIT_IRQ_WINDOW_OPEN: break;
      case KVM_EXIT_SHUTDOWN:
        UpdateRip();
        return RunResult::kTripleFault;
      case KVM_EXIT_FAIL_ENTRY: {
        const uint64_t reason = run_->fail_entry.hardware_entry_failure_reason;
        const ExitCode code = ExitFromVmx(static_cast<uint32_t>(reason));
        return Fail(machine::EngineFault::kEntry, code == ExitCode::kUnknown ? ExitCode::kInvalidGuestState : code,
                    "the processor refused to enter the guest, reason " + std::to_string(reason));
      }
      case KVM_EXIT_INTERNAL_ERROR:
        return Fail(run_->internal.suberror == KVM_INTERNAL_ERROR_EMULATION ? machine::EngineFault::kEmulation
                                                                            : machine::EngineFault::kFailure,
                    ExitCode::kEngineError, "KVM internal error " + std::to_string(run_->internal.suberror) + LastInstruction());
      case KVM_EXIT_SYSTEM_EVENT:
        return Fail(machine::EngineFault::kExit, ExitCode::kSystemEvent, "KVM system event " + std::to_string(run_->system_event.type));
      default:
        return Fail(machine::EngineFault::kExit, ExitFromKvm(run_->exit_reason), "KVM exit reason " + std::to_string(run_->exit_reason) + " is not handled");
    }
  }
}

void KvmVcpu::Access() {
  unfinished_ = true;
  if (run_->exit_reason == KVM_EXIT_IO) {
    Port();
  } else {
    Mmio();
  }
}

// An access is complete only once KVM_RUN was entered again: before that registers are not what the guest would see,
// and setting them would be undone.
void KvmVcpu::Finish() {
  while (unfinished_) {
    unfinished_ = false;
    std::atomic_ref(run_->immediate_exit).store(1);
    if (ioctl(fd_, KVM_RUN, 0) == 0 && (run_->exit_reason == KVM_EXIT_IO || run_->exit_reason == KVM_EXIT_MMIO)) Access();
  }
}

// What KVM could not emulate, as far as it tells.
std::string KvmVcpu::LastInstruction() {
  if (run_->internal.suberror != KVM_INTERNAL_ERROR_EMULATION || run_->internal.ndata < 4 ||
      !(run_->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
    return {};
  }
  std::string text = ", instruction";
  const unsigned size = std::min<unsigned>(run_->emulation_failure.insn_size, 15);
  for (unsigned i = 0; i < size; i++) {
    char hex[4];
    snprintf(hex, sizeof hex, " %02x", run_->emulation_failure.insn_bytes[i]);
    text += hex;
  }
  return text;
}

void KvmVcpu::Port() {
  const auto& io = run_->io;
  auto* data = reinterpret_cast<uint8_t*>(run_) + io.data_offset;
  Bus& bus = *context_.bus;
  if (io.direction == KVM_EXIT_IO_IN) {
    if (io.count > 1) return bus.PioReadBurst(io.port, io.size, io.count, data);
    const uint32_t value = bus.PioRead(io.port, io.size);
    memcpy(data, &value, io.size);
  } else {
    if (io.count > 1) return bus.PioWriteBurst(io.port, io.size, io.count, data);
    uint32_t value = 0;
    memcpy(&value, data, io.size);
    bus.PioWrite(io.port, io.size, value);
  }
}

void KvmVcpu::Mmio() {
  auto& m = run_->mmio;
  // A write to ROM is dropped; KVM reads ROM itself.
  const bool memory = context_.memory->Find(m.phys_addr) != nullptr;
  unsigned at = 0;
  // KVM passes 1 to 8 bytes, also 3 and 5 to 7 of an access that a page border cut: largest powers of two first.
  while (at < m.len && at < 8) {
    unsigned width = 8;
    while (width > m.len - at) width /= 2;
    const uint64_t gpa = m.phys_addr + at;
    if (m.is_write) {
      uint64_t value = 0;
      memcpy(&value, m.data + at, width);
      if (!memory) context_.bus->MmioWrite(gpa, width, value);
    } else {
      const uint64_t value = memory ? ~uint64_t{0} : context_.bus->MmioRead(gpa, width);
      memcpy(m.data + at, &value, width);
    }
    at += width;
  }
}

}  // namespace nyx::kvm
