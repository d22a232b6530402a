// Destinations of messages and inter-processor interrupts (SDM 3A 11.6.2, 11.12.10).
#include "lapic.h"
#include "lapic_regs.h"

namespace nyx {

using apic::kX2;
constexpr uint32_t kAccepting = apic::kHwEnabled | apic::kSwEnabled;

uint64_t ApicBus::Targets(const Message& m) const {
  uint64_t targets = 0;
  for (unsigned i = 0; i < count_; i++) {
    const Lapic& l = *lapics_[i];
    const uint32_t mode = l.accepts_.load(std::memory_order_acquire);
    if (!(mode & 1)) continue;
    bool hit;
    if (m.destination == (m.x2 ? ~0u : 0xffu)) {
      hit = true;
    } else if (!m.logical) {
      hit = m.destination == (mode & kX2 ? l.id_ : l.xapic_id_.load(std::memory_order_relaxed));
    } else {
      const uint32_t ldr = l.ldr_.load(std::memory_order_relaxed);
      if (mode & kX2) {
        hit = m.destination >> 16 == ldr >> 16 && m.destination & ldr & 0xffff;
      } else if (l.dfr_.load(std::memory_order_relaxed) >> 28 == 0xf) {
        hit = m.destination & (ldr >> 24);
      } else {
        hit = (m.destination >> 4) == ldr >> 28 && m.destination & (ldr >> 24) & 0xf;
      }
    }
    if (hit) targets |= uint64_t{1} << i;
  }
  return targets;
}

void ApicBus::DeliverTo(Lapic& l, const Message& m) {
  switch (m.mode) {
    case 0:
    case 1: return l.Post(m.vector, m.level);
    case 4: return l.PostNmi();
    case 5: return l.PostInit();
    case 6: return l.PostSipi(m.vector);
    case 7: return l.PostExtInt();
    // SMI: there is no system management mode; reserved modes are not delivered.
    default: return;
  }
}

bool ApicBus::Send(const Message& m, Shorthand shorthand, unsigned sender) {
  const uint64_t all = count_ == 64 ? ~uint64_t{0} : (uint64_t{1} << count_) - 1;
  uint64_t targets = 0;
  switch (shorthand) {
    case Shorthand::kNone: targets = Targets(m); break;
    case Shorthand::kSelf: targets = uint64_t{1} << sender; break;
    case Shorthand::kAll: targets = all; break;
    case Shorthand::kOthers: targets = all & ~(uint64_t{1} << sender); break;
  }
  if (m.mode == 1 && targets & (targets - 1)) {
    // Lowest priority: the accepting one with the lowest TPR, in turn among equals.
    const unsigned start = round_robin_.fetch_add(1, std::memory_order_relaxed) % count_;
    uint32_t best = ~0u;
    unsigned chosen = 64;
    for (unsigned k = 0; k < count_; k++) {
      const unsigned i = (start + k) % count_;
      if (!(targets >> i & 1) || (lapics_[i]->accepts_.load() & kAccepting) != kAccepting) continue;
      const uint32_t priority = lapics_[i]->priority_.load(std::memory_order_relaxed) & 0xf0;
      if (priority < best) {
        best = priority;
        chosen = i;
      }
    }
    targets = chosen < 64 ? uint64_t{1} << chosen : 0;
  }
  for (unsigned i = 0; i < count_; i++) {
    if (targets >> i & 1) DeliverTo(*lapics_[i], m);
  }
  return targets != 0;
}

// SDM 3A 11.11: address 0xFEE, destination 19:12, redirection hint 3, destination mode 2; data as in an ICR.
void ApicBus::Msi(uint64_t address, uint32_t data) {
  if (address >> 20 != 0xfee) return;
  Message m{};
  m.vector = static_cast<uint8_t>(data);
  m.mode = (data >> 8) & 7;
  m.level = data & (1u << 15);
  m.logical = address & 4;
  m.destination = (address >> 12) & 0xff;
  // INIT and start-up come from processors only.
  if (m.mode == 5 || m.mode == 6) return;
  Send(m, Shorthand::kNone, 0);
}

void ApicBus::ExtInt(bool level) {
  if (count_) lapics_[0]->SetLint0(level);
}

void ApicBus::Nmi(unsigned cpu) {
  if (cpu < count_) lapics_[cpu]->PostNmi();
}

}  // namespace nyx
