// Flags (PUSHF, POPF, CLI, STI), time stamps, MSR access and CPUID as instructions (Intel SDM vol. 2).
#include "soft/cpuid.h"
#include "soft/pace.h"
#include "soft/segment.h"
#include "soft/system.h"

namespace nyx::soft {
namespace {

unsigned iopl(const Cpu& c) { return c.eflags >> 12 & 3; }

void need_iopl_vm86(Cpu& c, const Insn* i) {
  if ((c.eflags & kVM) && iopl(c) != 3) raise(c, i, kGP, 0);
}

void op_pushf(Cpu& c, const Insn* i) {
  need_iopl_vm86(c, i);
  const uint64_t v = rflags(c) & ~uint64_t{kRF | kVM};
  if (i->opsize == 8) push<uint64_t>(c, i, v);
  else if (i->opsize == 4) push<uint32_t>(c, i, uint32_t(v));
  else push<uint16_t>(c, i, uint16_t(v));
  return next(c, i);
}

// RFLAGS bits that POPF may change here.
uint32_t popf_mask(const Cpu& c, unsigned size) {
  uint32_t mask = kArith | kDF | kTF | kNT;
  if (size != 2) mask |= kAC | kID | kRF;
  if (c.eflags & kVM) return mask | kIF;
  if (c.cpl == 0) mask |= kIOPL;
  if (c.cpl <= iopl(c)) mask |= kIF;
  return mask;
}

// What follows a change of TF, IF or AC; POPF itself stays short.
[[gnu::noinline]] void popf_special(Cpu& c, const Insn* i, uint32_t changed) {
  if ((changed & kIF) && (c.eflags & kIF)) interrupts_enabled(c);
  if (changed & kAC) update_mode(c);
  if ((c.eflags & kTF) || c.mode != c.block->mode) leave_after(c, i);
}

void op_popf(Cpu& c, const Insn* i) {
  need_iopl_vm86(c, i);
  const uint64_t v = i->opsize == 8 ? pop<uint64_t>(c, i) : i->opsize == 4 ? pop<uint32_t>(c, i) : pop<uint16_t>(c, i);
  const uint32_t mask = popf_mask(c, i->opsize), old = c.eflags;
  set_rflags(c, ((rflags(c) & ~mask) | (v & mask)) & ~uint64_t{kRF});
  const uint32_t changed = c.eflags ^ old;
  if ((changed & (kIF | kAC)) || (c.eflags & kTF)) [[unlikely]]
    popf_special(c, i, changed);
  return next(c, i);
}

void need_iopl(Cpu& c, const Insn* i) {
  if ((c.cr0 & kCr0PE) && (c.eflags & kVM ? 3u : unsigned(c.cpl)) > iopl(c)) raise(c, i, kGP, 0);
}

void op_cli(Cpu& c, const Insn* i) {
  need_iopl(c, i);
  c.eflags &= ~kIF;
  return next(c, i);
}
void op_sti(Cpu& c, const Insn* i) {
  need_iopl(c, i);
  if (!(c.eflags & kIF)) {
    c.eflags |= kIF;
    set_inhibit(c, i, kInhibitSti);
    interrupts_enabled(c);
  }
  return next(c, i);
}

void time_stamp(Cpu& c, const Insn* i) {
  if ((c.cr4 & kCr4TSD) && c.cpl != 0 && (c.cr0 & kCr0PE)) raise(c, i, kGP, 0);
  paced(c, i);
  const uint64_t t = guest_tsc(c);
  c.gpr[RAX] = uint32_t(t);
  c.gpr[RDX] = t >> 32;
}
void op_rdtsc(Cpu& c, const Insn* i) {
  time_stamp(c, i);
  return next(c, i);
}
void op_rdtscp(Cpu& c, const Insn* i) {
  time_stamp(c, i);
  c.gpr[RCX] = uint32_t(c.tsc_aux);
  return next(c, i);
}
// There are no performance counters.
void op_rdpmc(Cpu& c, const Insn* i) { raise(c, i, kGP, 0); }

[[gnu::noinline]] void rdmsr(Cpu& c, const Insn* i) {
  uint64_t v = 0;
  paced(c, i);
  if (c.cpl != 0 || !read_msr(c, uint32_t(c.gpr[RCX]), &v)) raise(c, i, kGP, 0);
  c.gpr[RAX] = uint32_t(v);
  c.gpr[RDX] = v >> 32;
}
void op_rdmsr(Cpu& c, const Insn* i) {
  rdmsr(c, i);
  return next(c, i);
}
[[gnu::noinline]] void wrmsr(Cpu& c, const Insn* i) {
  const uint64_t v = uint32_t(c.gpr[RAX]) | c.gpr[RDX] << 32;
  paced(c, i);
  if (c.cpl != 0 || !write_msr(c, uint32_t(c.gpr[RCX]), v)) raise(c, i, kGP, 0);
  if (c.pacer) [[unlikely]] find_deadline(c);
}
void op_wrmsr(Cpu& c, const Insn* i) {
  wrmsr(c, i);
  return jump(c, i, next_rip(c, i));
}

[[gnu::noinline]] void run_cpuid(Cpu& c) {
  const CpuidResult r = cpuid(c, uint32_t(c.gpr[RAX]), uint32_t(c.gpr[RCX]));
  c.gpr[RAX] = r.eax;
  c.gpr[RBX] = r.ebx;
  c.gpr[RCX] = r.ecx;
  c.gpr[RDX] = r.edx;
}
// Serializing: the block ends, so that code changed by others is seen.
void op_cpuid(Cpu& c, const Insn* i) {
  run_cpuid(c);
  return jump(c, i, next_rip(c, i));
}

}  // namespace

void register_transfer(OpTables& t);
void register_iret(OpTables& t);
void register_control(OpTables& t);
void register_tables(OpTables& t);
void register_segments(OpTables& t);
void register_protect(OpTables& t);
void register_io(OpTables& t);

void register_system(OpTables& t) {
  register_transfer(t);
  register_iret(t);
  register_tables(t);  // before those who enter single ModRM bytes of the same groups
  register_control(t);
  register_segments(t);
  register_protect(t);
  register_io(t);
  put(t, 0, 0x9c, op_all(op_pushf, nullptr, kDef64));
  put(t, 0, 0x9d, op_all(op_popf, nullptr, kDef64));
  put(t, 0, 0xfa, op_all(op_cli, nullptr, 0));
  put(t, 0, 0xfb, op_all(op_sti, nullptr, kShadow));
  put(t, 1, 0x30, op_all(op_wrmsr, nullptr, kEnds));
  put(t, 1, 0x31, op_all(op_rdtsc, nullptr, 0));
  put(t, 1, 0x32, op_all(op_rdmsr, nullptr, 0));
  put(t, 1, 0x33, op_all(op_rdpmc, nullptr, 0));
  put(t, 1, 0xa2, op_all(op_cpuid, nullptr, kEnds));
  put_group(t, 1, -1, 0x01, 0xf9, op_all(op_rdtscp, nullptr, 0));
}

}  // namespace nyx::soft
