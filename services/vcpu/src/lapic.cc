// Registers of the local APIC. lapic_msr.cc has the MSRs, lapic_timer.cc the timer, apic_bus.cc what lies between several.
#include "lapic.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>

#include "lapic_regs.h"

namespace nyx {

using namespace apic;

namespace {

template <typename A>
int Top(const A& words) {
  for (int i = 7; i >= 0; i--) {
    const uint32_t w = words[i];
    if (w) return i * 32 + 31 - std::countl_zero(w);
  }
  return -1;
}

}  // namespace

Lapic::Lapic(unsigned id, Clock* clock, std::atomic<uint32_t>* attention, ApicBus* apics)
    : id_(id), clock_(clock), attention_(attention), apics_(apics) {
  Reset();
}

Lapic::~Lapic() {
  if (has_timer_) timer_delete(posix_timer_);
}

void Lapic::Reset() {
  apic_base_ = kBase | kBaseEnable | (bsp() ? kBaseBsp : 0);
  base_ = kBase;
  xapic_ = true;
  accepts_.store(kHwEnabled);
  xapic_id_.store(id_);
  events_.store(0);
  extint_message_.store(false);
  tsc_offset_ = 0;
  ResetRegisters();
  wait_sipi_.store(!bsp());
}

// SDM 11.4.7.1: the state after power-up, and after INIT (which keeps ID and IA32_APIC_BASE).
void Lapic::ResetRegisters() {
  for (auto& w : irr_) w.store(0);
  for (auto& w : tmr_) w.store(0);
  isr_.fill(0);
  for (auto& l : lvt_) l.store(kMasked);
  tpr_ = 0;
  priority_.store(0);
  svr_ = 0xff;
  accepts_.fetch_and(~kSwEnabled);
  esr_ = 0;
  esr_pending_.store(0);
  icr_low_ = icr_high_ = 0;
  ldr_.store(accepts_.load() & kX2 ? (id_ >> 4) << 16 | 1u << (id_ & 15) : 0);
  dfr_.store(~0u);
  divide_ = initial_count_ = 0;
  timer_expires_ = kNever;
  deadline_tsc_ = 0;
}

void Lapic::SetVirtualWire() {
  WriteSvr(0x1ff);
  if (!bsp()) return;
  WriteLvt(kLint0, 0x700);
  WriteLvt(kLint1, 0x400);
}

int Lapic::TopIrr() const { return Top(irr_); }
int Lapic::TopIsr() const { return Top(isr_); }

uint32_t Lapic::Ppr() const {
  const int isr = TopIsr();
  const uint32_t isr_class = isr < 0 ? 0 : static_cast<uint32_t>(isr) & 0xf0;
  return (tpr_ & 0xf0) >= isr_class ? tpr_ : isr_class;
}

Deliver Lapic::Deliverable() const {
  const bool enabled = Enabled();
  if (extint_.load(std::memory_order_acquire)) {
    const uint32_t lint0 = lvt_[kLint0].load(std::memory_order_relaxed);
    // A disabled local APIC leaves LINT0 as the processor's INTR pin (SDM 11.4.3).
    if (!enabled || (!(lint0 & kMasked) && ((lint0 >> 8) & 7) == 7)) return Deliver::kExtInt;
  }
  if (!enabled) return Deliver::kNone;
  if (extint_message_.load(std::memory_order_acquire)) return Deliver::kExtInt;
  const int vector = TopIrr();
  if (vector < 0) return Deliver::kNone;
  return (static_cast<uint32_t>(vector) & 0xf0) > (Ppr() & 0xf0) ? Deliver::kFixed : Deliver::kNone;
}

uint8_t Lapic::Acknowledge() {
  const int vector = TopIrr();
  if (vector < 0 || (static_cast<uint32_t>(vector) & 0xf0) <= (Ppr() & 0xf0)) return static_cast<uint8_t>(svr_);
  const uint32_t bit = 1u << (vector & 31);
  irr_[vector >> 5].fetch_and(~bit, std::memory_order_acq_rel);
  isr_[vector >> 5] |= bit;
  return static_cast<uint8_t>(vector);
}

bool Lapic::TakeInit() {
  if (!(events_.load(std::memory_order_acquire) & kEventInit)) return false;
  ResetRegisters();
  wait_sipi_.store(!bsp());
  // NMIs that came before the INIT are lost, a SIPI that came after it stays.
  events_.fetch_and(~(kEventInit | kEventNmi));
  return true;
}

bool Lapic::TakeSipi(uint8_t* vector) {
  const uint32_t events = events_.load(std::memory_order_acquire);
  if (!(events & kEventSipi) || !wait_sipi_.load()) return false;
  *vector = static_cast<uint8_t>(events);
  wait_sipi_.store(false);
  events_.fetch_and(~(kEventSipi | 0xffu));
  return true;
}

bool Lapic::TakeNmi() { return events_.load() & kEventNmi && events_.fetch_and(~kEventNmi) & kEventNmi; }

bool Lapic::Wait(uint32_t wake, uint64_t timeout_ns) {
  asleep_.store(true);
  const timespec limit{static_cast<time_t>(timeout_ns / 1'000'000'000), static_cast<long>(timeout_ns % 1'000'000'000)};
  bool woken = true;
  for (uint32_t word; woken && !((word = attention_->load()) & wake);) {
    if (syscall(SYS_futex, attention_, FUTEX_WAIT, word, timeout_ns == kNever ? nullptr : &limit, nullptr, 0) < 0 &&
        errno == ETIMEDOUT) {
      woken = false;
    }
  }
  asleep_.store(false);
  return woken;
}

void Lapic::Raise(uint32_t bit) {
  attention_->fetch_or(bit);
  if (asleep_.load()) syscall(SYS_futex, attention_, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

void Lapic::Post(uint8_t vector, bool level) {
  if ((accepts_.load(std::memory_order_acquire) & (kHwEnabled | kSwEnabled)) != (kHwEnabled | kSwEnabled)) return;
  if (vector < 16) return Fail(kEsrReceiveIllegal);
  const uint32_t bit = 1u << (vector & 31);
  if (level) {
    tmr_[vector >> 5].fetch_or(bit);
  } else {
    tmr_[vector >> 5].fetch_and(~bit);
  }
  irr_[vector >> 5].fetch_or(bit);
  Raise(wire::Attention::kInterrupt);
}

void Lapic::SetLint0(bool level) {
  if (extint_.exchange(level) == level || !level) return;
  const uint32_t lint0 = lvt_[kLint0].load();
  if (!(accepts_.load() & kHwEnabled) || ((lint0 >> 8) & 7) == 7) {
    Raise(wire::Attention::kInterrupt);
  } else {
    LocalInterrupt(kLint0);
  }
}

void Lapic::PostNmi() {
  events_.fetch_or(kEventNmi);
  Raise(wire::Attention::kInterrupt);
}

void Lapic::PostInit() {
  events_.fetch_and(~(kEventSipi | 0xffu));
  events_.fetch_or(kEventInit);
  Raise(wire::Attention::kInterrupt);
}

// A SIPI counts only while the processor waits for it, or will once it has taken a pending INIT; of several, the first.
void Lapic::PostSipi(uint8_t vector) {
  uint32_t events = events_.load();
  do {
    if (events & kEventSipi || !(wait_sipi_.load() || events & kEventInit)) return;
  } while (!events_.compare_exchange_weak(events, events | kEventSipi | vector));
  Raise(wire::Attention::kInterrupt);
}

void Lapic::PostExtInt() {
  extint_message_.store(true);
  Raise(wire::Attention::kInterrupt);
}

// Delivery of a local source (SDM 11.5.1), from any thread.
void Lapic::LocalInterrupt(unsigned lvt) {
  const uint32_t entry = lvt_[lvt].load(std::memory_order_relaxed);
  if (entry & kMasked) return;
  const uint8_t vector = static_cast<uint8_t>(entry);
  switch (lvt == 0 || lvt == kError ? 0 : (entry >> 8) & 7) {
    case 0: return Post(vector, (lvt == kLint0 || lvt == kLint1) && entry & (1u << 15));
    case 4: return PostNmi();
    case 5: return PostInit();
    default: return;
  }
}

void Lapic::Fail(uint32_t esr_bit) {
  if (esr_pending_.fetch_or(esr_bit) & esr_bit) return;
  if ((lvt_[kError].load() & 0xff) >= 16) LocalInterrupt(kError);
}

void Lapic::Eoi() {
  const int vector = TopIsr();
  if (vector < 0) return;
  const uint32_t bit = 1u << (vector & 31);
  isr_[vector >> 5] &= ~bit;
  if (tmr_[vector >> 5].load(std::memory_order_acquire) & bit && !(svr_ & (1u << 12)) && bus_) {
    bus_->Eoi(static_cast<uint8_t>(vector));
  }
  // A level-triggered LINT0 that is still asserted comes again (SDM 11.5.1, remote IRR).
  const uint32_t lint0 = lvt_[kLint0].load();
  if (extint_.load() && (lint0 & 0x87ff) == (0x8000u | static_cast<uint32_t>(vector))) LocalInterrupt(kLint0);
}

void Lapic::SetCr8(uint64_t value) {
  tpr_ = static_cast<uint32_t>(value & 15) << 4;
  priority_.store(tpr_, std::memory_order_relaxed);
}

void Lapic::WriteSvr(uint32_t value) {
  svr_ = value & 0x11ff;
  if (svr_ & 0x100) {
    accepts_.fetch_or(kSwEnabled);
    return;
  }
  accepts_.fetch_and(~kSwEnabled);
  for (auto& l : lvt_) l.fetch_or(kMasked);
}

void Lapic::WriteLvt(unsigned lvt, uint32_t value) {
  value &= kLvtMask[lvt];
  if (!(svr_ & 0x100)) value |= kMasked;
  const uint32_t old = lvt_[lvt].load();
  lvt_[lvt].store(value);
  // SDM 11.5.4.1: changing to or from TSC-deadline mode disarms the timer.
  if (lvt == 0 && ((old ^ value) & (1u << 18))) {
    timer_expires_ = kNever;
    deadline_tsc_ = 0;
    initial_count_ = 0;
  }
}

void Lapic::WriteIcr(uint32_t low, uint32_t destination) {
  icr_low_ = low & 0xccfff;
  const bool x2 = accepts_.load(std::memory_order_relaxed) & kX2;
  ApicBus::Message m{};
  m.vector = static_cast<uint8_t>(low);
  m.mode = (low >> 8) & 7;
  m.logical = low & (1u << 11);
  m.destination = x2 ? destination : destination >> 24;
  m.x2 = x2;
  // INIT level de-assert only synchronized arbitration IDs of processors long gone (SDM 11.6.1).
  if (m.mode == 5 && !(low & (1u << 14)) && low & (1u << 15)) return;
  if ((m.mode == 0 || m.mode == 1) && m.vector < 16) return Fail(kEsrSendIllegal);
  apics_->Send(m, static_cast<ApicBus::Shorthand>((low >> 18) & 3), id_);
}

uint32_t Lapic::Read(uint32_t r) {
  if (r >= kIsr && r < kIsr + 8u) return isr_[r - kIsr];
  if (r >= kTmr && r < kTmr + 8u) return tmr_[r - kTmr].load();
  if (r >= kIrr && r < kIrr + 8u) return irr_[r - kIrr].load();
  if (r >= kLvt && r < kLvt + 6u) return lvt_[r - kLvt].load();
  switch (r) {
    case kId: return accepts_.load() & kX2 ? id_ : xapic_id_.load() << 24;
    case kVersion: return kVersionValue;
    case kTpr: return tpr_;
    case kPpr: return Ppr();
    case kLdr: return ldr_.load();
    case kDfr: return dfr_.load();
    case kSvr: return svr_;
    case kEsr: return esr_;
    case kIcrLow: return icr_low_;
    case kIcrHigh: return icr_high_;
    case kInitialCount: return initial_count_;
    case kCurrentCount: return CurrentCount();
    case kDivide: return divide_;
    case kApr:
    case kRrd:
    case kEoi: return 0;
    default: Fail(kEsrIllegalRegister); return 0;
  }
}

// Registers that exist in both modes. False: there is no such register to write.
bool Lapic::Write(uint32_t r, uint32_t value, bool x2) {
  if (r >= kLvt && r < kLvt + 6u) return WriteLvt(r - kLvt, value), true;
  switch (r) {
    case kTpr:
      tpr_ = value & 0xff;
      priority_.store(tpr_, std::memory_order_relaxed);
      return true;
    case kEoi: return Eoi(), true;
    case kSvr: return WriteSvr(value), true;
    case kEsr: return esr_ = esr_pending_.exchange(0), true;
    case kInitialCount: return StartTimer(value), true;
    case kDivide:
      // The count goes on from where it is.
      if (const uint32_t left = CurrentCount(); left && TimerMode() != 2) {
        divide_ = value & 11;
        const uint64_t now = clock_->Now();
        timer_start_ = now - (static_cast<uint64_t>(initial_count_ - left) << TimerShift());
        timer_expires_ = now + (static_cast<uint64_t>(left) << TimerShift());
        Arm(timer_expires_);
      }
      divide_ = value & 11;
      return true;
    case kId: return !x2 && (xapic_id_.store(value >> 24), true);
    case kLdr: return !x2 && (ldr_.store(value & 0xff000000), true);
    case kDfr: return !x2 && (dfr_.store(value | 0x0fffffff), true);
    case kIcrHigh: return !x2 && (icr_high_ = value & 0xff000000, true);
    case kIcrLow: return !x2 && (WriteIcr(value, icr_high_), true);
    // Read-only: writes change nothing (SDM 11.4.1).
    case kVersion:
    case kApr:
    case kPpr:
    case kRrd:
    case kCurrentCount: return !x2;
    default: return !x2 && r >= kIsr && r < kIrr + 8u;
  }
}

uint64_t Lapic::MmioRead(uint32_t offset, unsigned width) {
  const uint64_t value = (offset & 15) < 4 ? Read(offset >> 4) : 0;
  const uint64_t shifted = value >> ((offset & 3) * 8);
  return width >= 8 ? shifted : shifted & ((uint64_t{1} << (width * 8)) - 1);
}

void Lapic::MmioWrite(uint32_t offset, unsigned width, uint64_t value) {
  if (width != 4 || offset & 15) return;
  if (!Write(offset >> 4, static_cast<uint32_t>(value), false)) Fail(kEsrIllegalRegister);
}

}  // namespace nyx
