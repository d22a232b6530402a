// What a vCPU looks at between blocks: attention bits, interrupts, INIT and SIPI, HLT (lapic.h tells the protocol).
#include "lapic.h"
#include "soft/coherence.h"
#include "soft/pace.h"
#include "soft/run.h"
#include "soft/system.h"

namespace nyx::soft {
namespace {

void publish_stats(Cpu& c) {
  wire::VcpuStats& s = *c.context->stats;
  s.instructions = c.icount;
  s.interrupts = c.stat_interrupts;
  s.exits_halt = c.stat_halts;
  s.blocks_decoded = c.stat_blocks;
  s.tlb_misses = c.stat_tlb_misses;
  s.last_rip = c.code64() ? c.rip : c.seg[CS].base + c.rip;
  s.rflags = uint32_t(rflags(c));
  s.looks++;
}

void start_at_sipi(Cpu& c, uint8_t vector) {
  Segment& cs = c.seg[CS];
  cs.selector = uint16_t(vector << 8);
  cs.base = uint64_t{vector} << 12;
  c.rip = 0;
  c.wait_sipi = false;
  update_mode(c);
}

// Delivers one event if the CPU may take it now.
void deliver_pending(Cpu& c) {
  if (c.lapic->EventPending()) {
    if (c.lapic->TakeInit()) {
      reset_cpu(c, true);
      c.wait_sipi = !c.lapic->bsp();
    }
    uint8_t vector;
    if (c.wait_sipi && c.lapic->TakeSipi(&vector)) start_at_sipi(c, vector);
    if (!c.wait_sipi && !c.nmi_blocked && c.lapic->TakeNmi()) {
      c.halted = false;
      c.nmi_blocked = true;
      c.irq_pending = true;
      deliver_interrupt(c, kNMI);
    }
  }
  if (c.wait_sipi) return;
  const Deliver what = c.lapic->Deliverable();
  if (what != Deliver::kNone && (c.eflags & kIF)) {
    int vector;
    if (what == Deliver::kFixed) {
      vector = c.lapic->Acknowledge();
    } else {
      paced(c, nullptr);
      Outside outside(c);
      vector = c.bus->IntAck();
    }
    c.irq_pending = true;  // stays when the delivery faults: then it is asked again
    if (vector >= 0) {
      c.halted = false;
      deliver_interrupt(c, vector);
    }
  }
  c.irq_pending = c.lapic->Deliverable() != Deliver::kNone || c.lapic->EventPending();
  if (c.irq_pending && (c.eflags & kIF)) c.attention->fetch_or(wire::Attention::kInterrupt);
}

// Acts on the bits that were set. False: stop.
bool serve_bits(Cpu& c) {
  using A = wire::Attention;
  // Bits without a meaning are cleared, too: a device process may set any.
  const uint32_t bits = c.attention->fetch_and(uint32_t(A::kStop));
  if (bits & A::kEngine) serve_peers(c);
  if (bits & A::kDma) drop_dma_pages(c);
  if (bits & A::kFlush) {
    tlb_flush_all(c);
    flush_blocks(c);
  }
  if (bits & A::kTimer) c.lapic->RunTimer();
  if (bits & (A::kInterrupt | A::kTimer)) c.irq_pending = true;
  if (c.pacer && bits & A::kOutside) {
    tell_time(c, nullptr);
    Outside outside(c);
    c.pacer->Settle();
  }
  publish_stats(c);
  return !(bits & A::kStop);
}

void sleep(Cpu& c) {
  publish_stats(c);
  wire::VcpuStats& s = *c.context->stats;
  s.state = c.wait_sipi ? 0 : 2;
  {
    Outside outside(c);
    const uint64_t since = MonotonicNs();
    c.where = kAsleep;
    if (!c.pacer || (!pass_time(c) && c.attention->load() == 0)) c.lapic->Wait();
    s.halted_ns += MonotonicNs() - since;
  }
  s.state = 1;
}

}  // namespace

void lapic_changed(Cpu& c) {
  if (c.pacer) [[unlikely]] find_deadline(c);
  if (c.lapic->Deliverable() != Deliver::kNone) c.attention->fetch_or(uint32_t(wire::Attention::kInterrupt));
}

bool service_attention(Cpu& c) {
  for (;;) {
    if (c.shutdown) return false;
    if (c.pacer) [[unlikely]] serve_time(c);
    if (c.attention->load(std::memory_order_relaxed) != 0 && !serve_bits(c)) return false;
    if (c.irq_pending) deliver_pending(c);
    if (!c.halted && !c.wait_sipi) [[likely]]
      return true;
    if (c.attention->load(std::memory_order_relaxed) == 0) sleep(c);
  }
}

}  // namespace nyx::soft
