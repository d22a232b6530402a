// User pages and the supervisor (SMAP: STAC, CLAC), and protection keys (RDPKRU, WRPKRU). Intel SDM vol. 3, 4.6.
#include "soft/system.h"
#include "soft/walk.h"

namespace nyx::soft {
namespace {

// AC is no part of the supervisor's mode: the slow path asks for it (mmu.cc).
template <bool Set>
void op_ac(Cpu& c, const Insn* i) {
  if (c.cpl != 0) raise(c, i, kUD);
  c.eflags = Set ? c.eflags | kAC : c.eflags & ~kAC;
  return next(c, i);
}

void need_pke(Cpu& c, const Insn* i) {
  if (!(c.cr4 & kCr4PKE)) raise(c, i, kUD);
  if (uint32_t(c.gpr[RCX]) != 0) raise(c, i, kGP, 0);
}

void op_rdpkru(Cpu& c, const Insn* i) {
  need_pke(c, i);
  c.gpr[RAX] = c.pkru;
  c.gpr[RDX] = 0;
  return next(c, i);
}

void op_wrpkru(Cpu& c, const Insn* i) {
  need_pke(c, i);
  if (uint32_t(c.gpr[RDX]) != 0) raise(c, i, kGP, 0);
  set_pkru(c, uint32_t(c.gpr[RAX]));
  return next(c, i);
}

}  // namespace

void register_protect(OpTables& t) {
  put_group(t, 1, 0, 0x01, 0xca, op_all(op_ac<false>, nullptr, 0));
  put_group(t, 1, 0, 0x01, 0xcb, op_all(op_ac<true>, nullptr, 0));
  put_group(t, 1, 0, 0x01, 0xee, op_all(op_rdpkru, nullptr, 0));
  put_group(t, 1, 0, 0x01, 0xef, op_all(op_wrpkru, nullptr, 0));
}

}  // namespace nyx::soft
