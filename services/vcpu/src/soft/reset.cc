// Power-on and INIT state (Intel SDM vol. 3, table 10-1), and the states in which a kernel is entered directly.
#include "soft/reset.h"

#include "soft/block.h"
#include "soft/mmu.h"
#include "soft/simd.h"
#include "soft/system.h"

namespace nyx::soft {
namespace {

Segment code(uint16_t selector, bool wide) { return {0, 0xffffffff, selector, uint16_t(wide ? 0xa09b : 0xc09b)}; }
Segment data(uint16_t selector) { return {0, 0xffffffff, selector, 0xc093}; }

void reset_fpu(Cpu& c) {
  c.x87_live = false;
  std::memset(c.fx.bytes, 0, sizeof c.fx.bytes);
  c.fx.bytes[kFxCw] = 0x40;
  c.fx.bytes[kFxTw] = 0xff;
  c.x87_cw = 0x40;
  c.x87_op = 0;
  c.x87_ip = c.x87_dp = 0;
  c.mxcsr = kMxReset;
  c.xcr0 = 1;
  c.pkru = c.pkrs = 0;
}

// What INIT leaves alone.
void reset_msrs(Cpu& c) {
  c.star = c.lstar = c.cstar = c.sfmask = c.kernel_gs_base = c.tsc_aux = c.debugctl = 0;
  c.sysenter_cs = c.sysenter_esp = c.sysenter_eip = 0;
  c.pat = 0x0007040600070406;
  c.misc_enable = 0x1801;  // fast strings; no BTS, no PEBS
  c.mtrr_def_type = 0;
  std::memset(c.mtrr_fixed, 0, sizeof c.mtrr_fixed);
  std::memset(c.mtrr_phys, 0, sizeof c.mtrr_phys);
  c.tsc_adjust = 0;
  c.tsc_offset = 0;
}

}  // namespace

void reset_cpu(Cpu& c, bool init) {
  fp_leave(c);
  std::memset(c.gpr, 0, sizeof c.gpr);
  c.gpr[RDX] = 0x000106ca;  // as CPUID leaf 1 EAX
  set_rflags(c, 2);
  for (const SegReg r : {ES, SS, DS, FS, GS}) c.seg[r] = Segment{0, 0xffff, 0, 0x93};
  c.seg[CS] = Segment{0xffff0000, 0xffff, 0xf000, 0x9b};
  c.seg[LDTR] = Segment{0, 0xffff, 0, 0x82};
  c.seg[TR] = Segment{0, 0xffff, 0, 0x8b};
  c.gdtr = c.idtr = {0, 0xffff};
  c.rip = 0xfff0;
  c.cpl = 0;
  c.cr0 = kCr0ET | (init ? c.cr0 & (kCr0CD | kCr0NW) : kCr0CD | kCr0NW);
  c.cr2 = c.cr3 = c.cr4 = c.cr8 = c.efer = 0;
  std::memset(c.dr, 0, sizeof c.dr);
  c.dr[6] = 0xffff0ff0;
  c.dr[7] = 0x400;
  c.inhibit = 0;
  c.trap_pending = false;
  c.watch_hits = 0;
  c.delivering = -1;
  c.nmi_blocked = c.halted = c.shutdown = false;
  if (!init) {
    reset_fpu(c);
    reset_msrs(c);
  }
  tlb_flush_all(c);
  update_mode(c);
}

void boot_state(Cpu& c, const machine::MachineHeader& h, bool boot_cpu) {
  reset_cpu(c, false);
  flush_blocks(c);
  c.irq_pending = true;  // ask the local APIC once
  c.wait_sipi = !boot_cpu;
  if (!boot_cpu || h.boot_mode == machine::BootMode::kReset) return;
  const bool wide = h.boot_mode == machine::BootMode::kLong64;
  std::memset(c.gpr, 0, sizeof c.gpr);
  c.rip = h.rip;
  c.gpr[RSP] = h.rsp;
  c.gpr[RSI] = h.rsi;
  c.gpr[RBX] = h.rbx;
  c.seg[CS] = code(h.code_selector, wide);
  for (const SegReg r : {ES, SS, DS, FS, GS}) c.seg[r] = data(h.data_selector);
  c.seg[TR] = Segment{0, 0x67, 0, 0x8b};
  c.gdtr = {h.gdt_base, uint16_t(h.gdt_limit)};
  c.idtr = {0, 0};
  c.cr0 = kCr0PE | kCr0ET | kCr0NE | (wide ? kCr0PG : 0);
  c.cr3 = wide ? h.cr3 : 0;
  c.cr4 = wide ? kCr4PAE : 0;
  c.efer = wide ? kEferLME | kEferLMA : 0;
  c.mtrr_def_type = 0x806;  // firmware would have enabled MTRRs with write-back as default; Linux uses PAT only then
  tlb_flush_all(c);
  update_mode(c);
}

}  // namespace nyx::soft
