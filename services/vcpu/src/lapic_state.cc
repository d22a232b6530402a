// State of a local APIC, out and in (LapicState in libs/protocol/src/machine-state.ts). The vCPU stands still.
#include "lapic.h"
#include "lapic_regs.h"

namespace nyx {

using namespace apic;

void Lapic::Save(state::LapicState* s) const {
  *s = {};
  for (unsigned i = 0; i < 8; i++) {
    s->irr[i] = irr_[i].load();
    s->isr[i] = isr_[i];
    s->tmr[i] = tmr_[i].load();
  }
  for (unsigned i = 0; i < 6; i++) s->lvt[i] = lvt_[i].load();
  s->ldr = ldr_.load();
  s->dfr = dfr_.load();
  s->xapic_id = xapic_id_.load();
  s->tpr = tpr_;
  s->svr = svr_;
  s->esr = esr_;
  s->esr_pending = esr_pending_.load();
  s->icr_low = icr_low_;
  s->icr_high = icr_high_;
  s->divide = divide_;
  s->initial_count = initial_count_;
  s->events = events_.load();
  s->apic_base = apic_base_;
  s->timer_start = timer_start_;
  s->timer_expires = timer_expires_;
  s->deadline_tsc = deadline_tsc_;
  s->extint = extint_.load();
  s->extint_message = extint_message_.load();
  s->wait_sipi = wait_sipi_.load();
}

const char* Lapic::Check(const state::LapicState& s) {
  constexpr uint32_t kEvents = 0xff | kEventInit | kEventSipi | kEventNmi;
  for (unsigned i = 0; i < 6; i++) {
    if (s.lvt[i] & ~(kLvtMask[i] | kMasked)) return "an LVT entry has undefined bits";
  }
  // Vectors 0 to 15 cannot be requested or in service.
  if ((s.irr[0] | s.isr[0]) & 0xffff) return "a vector below 16";
  if (s.tpr > 0xff || s.svr & ~0x11ffu || s.divide & ~11u || s.xapic_id > 0xff || s.events & ~kEvents) {
    return "a register has undefined bits";
  }
  if (s.apic_base & ~(kBaseAddress | kBaseBsp | kBaseX2 | kBaseEnable)) return "IA32_APIC_BASE has undefined bits";
  if (s.apic_base & kBaseX2 && !(s.apic_base & kBaseEnable)) return "x2APIC mode while disabled";
  if (s.extint > 1 || s.extint_message > 1 || s.wait_sipi > 1) return "a flag is neither 0 nor 1";
  return nullptr;
}

void Lapic::Load(const state::LapicState& s, int64_t tsc_offset) {
  for (unsigned i = 0; i < 8; i++) {
    irr_[i].store(s.irr[i]);
    isr_[i] = s.isr[i];
    tmr_[i].store(s.tmr[i]);
  }
  for (unsigned i = 0; i < 6; i++) lvt_[i].store(s.lvt[i]);
  ldr_.store(s.ldr);
  dfr_.store(s.dfr);
  xapic_id_.store(s.xapic_id);
  tpr_ = s.tpr;
  priority_.store(tpr_);
  svr_ = s.svr;
  esr_ = s.esr;
  esr_pending_.store(s.esr_pending);
  icr_low_ = s.icr_low;
  icr_high_ = s.icr_high;
  divide_ = s.divide;
  initial_count_ = s.initial_count;
  events_.store(s.events);
  apic_base_ = s.apic_base;
  base_ = apic_base_ & kBaseAddress;
  xapic_ = apic_base_ & kBaseEnable && !(apic_base_ & kBaseX2);
  accepts_.store((apic_base_ & kBaseEnable ? kHwEnabled : 0) | (svr_ & 0x100 ? kSwEnabled : 0) | (apic_base_ & kBaseX2 ? kX2 : 0));
  timer_start_ = s.timer_start;
  timer_expires_ = s.timer_expires;
  deadline_tsc_ = s.deadline_tsc;
  tsc_offset_ = tsc_offset;
  extint_.store(s.extint);
  extint_message_.store(s.extint_message);
  wait_sipi_.store(s.wait_sipi);
  // The vCPU thread arms the timer, and looks at what is deliverable.
  armed_ = kNever;
  attention_->fetch_or(uint32_t{wire::Attention::kTimer} | wire::Attention::kInterrupt);
}

}  // namespace nyx
