// The local APIC of one vCPU (Intel SDM 3A chapter 11: "Advanced Programmable Interrupt Controller") and the bus
// between them. xAPIC (MMIO) and x2APIC (MSRs), timer one-shot, periodic and TSC-deadline.
//
// How an engine uses it, in the vCPU thread:
//   block border   attention has kTimer     -> clear it, RunTimer()
//                  attention has kInterrupt -> clear it, then ask as below
//   which event    TakeInit() -> reset the CPU to its INIT state (the Lapic has reset itself); an AP, and every
//                                CPU with bsp() false, then waits for SIPI
//                  TakeSipi(&vector) -> only while waiting for SIPI: CS = vector << 8, IP 0, run
//                  TakeNmi()  -> when NMIs are not blocked
//                  Deliverable() -> when IF = 1 and no shadow: kFixed: vector = Acknowledge(); kExtInt: vector =
//                                   bus->IntAck(), and inject it if it is >= 0. kNone: nothing to deliver now.
//   Deliverable() is cheap (a few loads) and must be asked again when IF becomes 1, after a shadow, after IRET, after
//   a write to TPR or CR8. Nothing sets kInterrupt again for an event that was already announced.
//   HLT            Wait(): sleeps until attention has any bit of `wake`; then the engine looks at it as at a block
//                  border and halts again if there was nothing for it. kStop always wakes.
// Other threads only post: Post, Msi, ExtInt, Nmi, Init, Sipi. They set attention kInterrupt and wake the sleeper.
#pragma once
#include <time.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "accel.h"
#include "gen/state.h"

namespace nyx {

enum class Deliver { kNone, kFixed, kExtInt };

class Lapic {
 public:
  static constexpr uint64_t kBase = 0xfee00000;
  // The timer counts 1 ns ticks before its divider (tell the guest: CPUID 15H crystal, or leaf 40000010H EBX in kHz).
  static constexpr uint64_t kTimerHz = 1'000'000'000;
  static constexpr uint64_t kNever = ~uint64_t{0};

  Lapic(unsigned id, Clock* clock, std::atomic<uint32_t>* attention, ApicBus* apics);
  ~Lapic();
  void set_bus(Bus* bus) { bus_ = bus; }

  // Power-on state; the vCPU is stopped.
  void Reset();
  // ---- the vCPU stands still: all of its state (lapic_state.cc). Check: null, or what cannot be.
  void Save(state::LapicState* to) const;
  static const char* Check(const state::LapicState& from);
  void Load(const state::LapicState& from, int64_t tsc_offset);

  // As firmware hands over (direct boot): enabled, LINT0 ExtINT and LINT1 NMI on the boot CPU ("virtual wire").
  void SetVirtualWire();

  // ---- vCPU thread: events
  Deliver Deliverable() const;
  // Highest deliverable vector: IRR to ISR. Only directly after Deliverable() == kFixed. May be the spurious vector.
  uint8_t Acknowledge();
  bool TakeInit();
  bool TakeSipi(uint8_t* vector);
  bool TakeNmi();
  // True when an INIT, SIPI or NMI waits to be taken.
  bool EventPending() const { return events_.load(std::memory_order_acquire) != 0; }
  // Timer expiry. Spurious calls do nothing.
  void RunTimer();
  // At most `timeout_ns`; false: nobody woke it.
  bool Wait(uint32_t wake = wire::Attention::kInterrupt | wire::Attention::kTimer | wire::Attention::kStop |
                            wire::Attention::kFlush | wire::Attention::kOutside,
            uint64_t timeout_ns = kNever);
  // Virtual time: when to call RunTimer.
  uint64_t due() const { return armed_; }
  bool bsp() const { return id_ == 0; }

  // ---- vCPU thread: registers
  // True when the APIC page at `gpa` belongs to this APIC now (enabled, xAPIC mode, base as in the MSR).
  bool Claims(uint64_t gpa) const { return xapic_ && (gpa & ~uint64_t{0xfff}) == base_; }
  // offset 0..0xfff. Registers are 32 bits at 16-byte borders; width other than 4 reads the bytes, and writes are
  // dropped unless they are 4 aligned bytes.
  uint64_t MmioRead(uint32_t offset, unsigned width);
  void MmioWrite(uint32_t offset, unsigned width, uint64_t value);
  // MSRs 0x800..0x8ff, IA32_APIC_BASE (0x1b), IA32_TSC_DEADLINE (0x6e0). False: #GP(0).
  bool ReadMsr(uint32_t msr, uint64_t* value);
  bool WriteMsr(uint32_t msr, uint64_t value);
  // CR8 is TPR bits 7:4.
  uint64_t Cr8() const { return tpr_ >> 4; }
  void SetCr8(uint64_t value);
  // CPUID.1:EDX[9] and CPUID.1:EBX[31:24] follow the MSR.
  bool Enabled() const { return apic_base_ & (1u << 11); }
  uint32_t id() const { return id_; }
  // Guest TSC of this vCPU minus Clock::Tsc() (TSC_ADJUST, WRMSR TSC): moves the deadline along.
  void SetTscOffset(int64_t offset);

  // ---- any thread
  void Post(uint8_t vector, bool level);
  void SetLint0(bool level);
  void PostNmi();
  void PostInit();
  void PostSipi(uint8_t vector);
  // The PIC answered the interrupt acknowledge of an ExtINT message.
  void ExtIntTaken() { extint_message_.store(false, std::memory_order_relaxed); }
  void PostExtInt();
  bool waiting_for_sipi() const { return wait_sipi_.load(std::memory_order_acquire); }

 private:
  friend class ApicBus;
  enum Event : uint32_t { kEventInit = 1u << 8, kEventSipi = 1u << 9, kEventNmi = 1u << 10 };  // low byte: SIPI vector

  void Raise(uint32_t bit);
  uint32_t Read(uint32_t index);
  bool Write(uint32_t index, uint32_t value, bool x2);
  void WriteLvt(unsigned lvt, uint32_t value);
  void WriteIcr(uint32_t low, uint32_t destination);
  void WriteSvr(uint32_t value);
  void Eoi();
  void Fail(uint32_t esr_bit);
  void LocalInterrupt(unsigned lvt);
  bool SetApicBase(uint64_t value);
  void ResetRegisters();
  void PublishLogical();

  int TopIrr() const;
  int TopIsr() const;
  uint32_t Ppr() const;

  // Timer, in guest ns; kNever: disarmed.
  uint32_t TimerMode() const { return (lvt_[0] >> 17) & 3; }
  unsigned TimerShift() const;  // log2 of the divider
  uint32_t CurrentCount() const;
  void StartTimer(uint32_t initial);
  void SetDeadline(uint64_t tsc);
  void Arm(uint64_t guest_ns);

  const unsigned id_;
  Clock* const clock_;
  std::atomic<uint32_t>* const attention_;
  ApicBus* const apics_;
  Bus* bus_ = nullptr;

  // Written by other threads.
  std::array<std::atomic<uint32_t>, 8> irr_{};
  std::array<std::atomic<uint32_t>, 8> tmr_{};
  std::atomic<uint32_t> events_{0};
  std::atomic<bool> extint_{false};  // level of LINT0
  std::atomic<bool> asleep_{false};
  std::atomic<bool> wait_sipi_{false};
  // Timer, thermal, performance, LINT0, LINT1, error. Written by the vCPU thread, read by all.
  std::array<std::atomic<uint32_t>, 6> lvt_{};
  // Read by senders to find a destination: ldr, dfr, mode. Written by the vCPU thread.
  std::atomic<uint32_t> ldr_{0};
  std::atomic<uint32_t> dfr_{~0u};
  std::atomic<uint32_t> xapic_id_{0};
  std::atomic<uint32_t> accepts_{0};      // 1: hardware enabled, 2: software enabled, 4: x2APIC
  std::atomic<uint32_t> priority_{0};     // TPR, for lowest-priority arbitration
  std::atomic<bool> extint_message_{false};  // an ExtINT message (not the pin) waits to be acknowledged
  std::atomic<uint32_t> esr_pending_{0};  // errors since the last write to ESR

  // vCPU thread only.
  std::array<uint32_t, 8> isr_{};
  uint64_t apic_base_ = 0;
  uint64_t base_ = kBase;
  bool xapic_ = true;
  uint32_t tpr_ = 0;
  uint32_t svr_ = 0xff;
  uint32_t esr_ = 0;
  uint32_t icr_low_ = 0;
  uint32_t icr_high_ = 0;
  uint32_t divide_ = 0;
  uint32_t initial_count_ = 0;
  uint64_t timer_start_ = 0;         // guest ns at which the count was loaded
  uint64_t timer_expires_ = kNever;  // guest ns
  uint64_t deadline_tsc_ = 0;
  int64_t tsc_offset_ = 0;
  uint64_t armed_ = kNever;
  timer_t posix_timer_ = nullptr;
  bool has_timer_ = false;
};

// All local APICs: finds the destinations of messages and inter-processor interrupts. Any thread.
class ApicBus : public InterruptSink {
 public:
  static constexpr unsigned kMax = machine::kMaxCpus;
  void Add(Lapic* lapic) { lapics_[count_++] = lapic; }
  void Msi(uint64_t address, uint32_t data) override;
  void ExtInt(bool level) override;
  void Nmi(unsigned cpu) override;

  // SDM 11.6: delivery mode, destination and trigger as in the ICR / message data.
  struct Message {
    uint8_t vector;
    uint8_t mode;  // 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 6 start-up, 7 ExtINT
    bool logical;
    bool level;
    uint32_t destination;
    bool x2;  // destination is a 32-bit x2APIC one
  };
  enum class Shorthand : uint8_t { kNone, kSelf, kAll, kOthers };
  // False: no APIC accepted it.
  bool Send(const Message& message, Shorthand shorthand, unsigned sender);

 private:
  uint64_t Targets(const Message& message) const;
  void DeliverTo(Lapic& lapic, const Message& message);

  Lapic* lapics_[kMax] = {};
  unsigned count_ = 0;
  std::atomic<uint32_t> round_robin_{0};
};

}  // namespace nyx
