// Control and debug registers, XCR0, INVLPG, cache instructions, HLT (Intel SDM vol. 3, 2.5, 17.2; vol. 2).
#include "soft/run.h"
#include "soft/cpuid.h"
#include "soft/segment.h"
#include "soft/system.h"
#include "soft/walk.h"

#include "lapic.h"

namespace nyx::soft {

void set_lma(Cpu& c) {
  const bool lma = (c.cr0 & kCr0PG) && (c.efer & kEferLME);
  c.efer = lma ? c.efer | kEferLMA : c.efer & ~kEferLMA;
}

namespace {

void need_cpl0(Cpu& c, const Insn* i) {
  if (c.cpl != 0) raise(c, i, kGP, 0);
}

bool pae_paging(const Cpu& c) { return (c.cr0 & kCr0PG) && (c.cr4 & kCr4PAE) && !(c.efer & kEferLMA); }

void write_cr0(Cpu& c, const Insn* i, uint64_t v) {
  if (v >> 32) raise(c, i, kGP, 0);
  v = (v & kCr0Defined) | kCr0ET;
  if ((v & kCr0PG) && !(v & kCr0PE)) raise(c, i, kGP, 0);
  if ((v & kCr0NW) && !(v & kCr0CD)) raise(c, i, kGP, 0);
  const uint64_t old = c.cr0, changed = old ^ v;
  if (changed & kCr0PG) {
    if (v & kCr0PG) {
      if (c.efer & kEferLME) {
        if (!(c.cr4 & kCr4PAE) || c.seg[CS].l()) raise(c, i, kGP, 0);
      } else if ((c.cr4 & kCr4PAE) && !load_pdptes(c, c.cr3)) {
        raise(c, i, kGP, 0);
      }
    } else if (c.code64()) {
      raise(c, i, kGP, 0);
    }
  }
  c.cr0 = v;
  set_lma(c);
  if (changed & (kCr0PG | kCr0PE | kCr0WP)) tlb_flush_all(c);
  if (changed & (kCr0PG | kCr0PE | kCr0AM)) update_mode(c);
}

void write_cr3(Cpu& c, const Insn* i, uint64_t v) {
  if (c.long_mode()) {
    if (v & ~kPhysMask) raise(c, i, kGP, 0);
  } else {
    v = uint32_t(v);
    if (pae_paging(c) && !load_pdptes(c, v)) raise(c, i, kGP, 0);
  }
  c.cr3 = v;
  tlb_flush_nonglobal(c);
}

void write_cr4(Cpu& c, const Insn* i, uint64_t v) {
  if (v & ~kCr4Offered) raise(c, i, kGP, 0);
  const uint64_t changed = c.cr4 ^ v;
  if (c.long_mode() && !(v & kCr4PAE)) raise(c, i, kGP, 0);
  constexpr uint64_t paging = kCr4PSE | kCr4PAE | kCr4PGE | kCr4SMEP | kCr4SMAP | kCr4PKE | kCr4PKS;
  if ((changed & (kCr4PSE | kCr4PAE | kCr4PGE | kCr4SMEP)) && (c.cr0 & kCr0PG) && (v & kCr4PAE) && !(c.efer & kEferLMA) &&
      !load_pdptes(c, c.cr3))
    raise(c, i, kGP, 0);
  c.cr4 = v;
  if (changed & paging) tlb_flush_all(c);
}

[[gnu::noinline]] void write_cr(Cpu& c, const Insn* i) {
  need_cpl0(c, i);
  const uint64_t v = c.code64() ? c.gpr[i->rm] : uint32_t(c.gpr[i->rm]);
  switch (i->reg) {
    case 0: return write_cr0(c, i, v);
    case 2: c.cr2 = v; return;
    case 3: return write_cr3(c, i, v);
    case 4: return write_cr4(c, i, v);
    case 8:
      if (v >> 4) raise(c, i, kGP, 0);
      c.lapic->SetCr8(v);
      return lapic_changed(c);
    default: raise(c, i, kUD);
  }
}

void op_mov_to_cr(Cpu& c, const Insn* i) {
  write_cr(c, i);
  return jump(c, i, next_rip(c, i));
}

[[gnu::noinline]] void read_cr(Cpu& c, const Insn* i) {
  need_cpl0(c, i);
  uint64_t v;
  switch (i->reg) {
    case 0: v = c.cr0; break;
    case 2: v = c.cr2; break;
    case 3: v = c.cr3; break;
    case 4: v = c.cr4; break;
    case 8: v = c.lapic->Cr8(); break;
    default: raise(c, i, kUD);
  }
  c.gpr[i->rm] = c.code64() ? v : uint32_t(v);
}

void op_mov_from_cr(Cpu& c, const Insn* i) {
  read_cr(c, i);
  return next(c, i);
}

unsigned debug_register(Cpu& c, const Insn* i) {
  unsigned n = i->reg;
  if (n > 7) raise(c, i, kUD);
  if (n == 4 || n == 5) {
    if (c.cr4 & kCr4DE) raise(c, i, kUD);
    n += 2;
  }
  need_cpl0(c, i);
  if (c.dr[7] & 0x2000) {  // general detect
    c.dr[6] |= 0x2000;
    c.dr[7] &= ~uint64_t{0x2000};
    raise(c, i, kDB);
  }
  return n;
}

void op_mov_to_dr(Cpu& c, const Insn* i) {
  const unsigned n = debug_register(c, i);
  uint64_t v = c.code64() ? c.gpr[i->rm] : uint32_t(c.gpr[i->rm]);
  if (n >= 6) {
    if (v >> 32) raise(c, i, kGP, 0);
    v = n == 6 ? (v & 0xe00f) | 0xffff0ff0 : (v & 0xffff2fff) | 0x400;
  }
  c.dr[n] = v;
  update_mode(c);
  leave_after(c, i);
}

void op_mov_from_dr(Cpu& c, const Insn* i) {
  const uint64_t v = c.dr[debug_register(c, i)];
  c.gpr[i->rm] = c.code64() ? v : uint32_t(v);
  return next(c, i);
}

void op_clts(Cpu& c, const Insn* i) {
  need_cpl0(c, i);
  c.cr0 &= ~kCr0TS;
  return next(c, i);
}

void lmsw(Cpu& c, const Insn* i, uint16_t v) {
  need_cpl0(c, i);
  // PE can be set, not cleared.
  write_cr0(c, i, (c.cr0 & ~uint64_t{14}) | (v & 15));
}
void op_lmsw_reg(Cpu& c, const Insn* i) {
  lmsw(c, i, uint16_t(c.gpr[i->rm]));
  return jump(c, i, next_rip(c, i));
}
void op_lmsw_mem(Cpu& c, const Insn* i) {
  lmsw(c, i, load_rm<uint16_t>(c, i));
  return jump(c, i, next_rip(c, i));
}
void op_smsw_reg(Cpu& c, const Insn* i) {
  check_umip(c, i);
  if (i->opsize == 2) set_reg<uint16_t>(c, i->rm, uint16_t(c.cr0));
  else c.gpr[i->rm] = i->opsize == 8 ? c.cr0 : uint32_t(c.cr0);
  return next(c, i);
}
void op_smsw_mem(Cpu& c, const Insn* i) {
  check_umip(c, i);
  store_rm<uint16_t>(c, i, uint16_t(c.cr0));
  return next(c, i);
}

void op_invlpg(Cpu& c, const Insn* i) {
  need_cpl0(c, i);
  uint64_t at = ea_offset(c, i) + (i->ea & (kEaSegBase | kEaLegacy) ? c.seg[i->seg].base : 0);
  if (!c.code64()) at = uint32_t(at);
  tlb_flush_page(c, at);
  return jump(c, i, next_rip(c, i));
}

// INVD, WBINVD: there is no cache that a guest could see.
void op_cache(Cpu& c, const Insn* i) {
  need_cpl0(c, i);
  return next(c, i);
}

void op_hlt(Cpu& c, const Insn* i) {
  need_cpl0(c, i);
  c.halted = true;
  c.stat_halts++;
  leave(c, next_rip(c, i));
}

void op_xgetbv(Cpu& c, const Insn* i) {
  if (!(c.cr4 & kCr4OSXSAVE)) raise(c, i, kUD);
  if (uint32_t(c.gpr[RCX]) != 0) raise(c, i, kGP, 0);
  c.gpr[RAX] = uint32_t(c.xcr0);
  c.gpr[RDX] = uint32_t(c.xcr0 >> 32);
  return next(c, i);
}

void op_xsetbv(Cpu& c, const Insn* i) {
  if (!(c.cr4 & kCr4OSXSAVE)) raise(c, i, kUD);
  need_cpl0(c, i);
  const uint64_t v = uint32_t(c.gpr[RAX]) | c.gpr[RDX] << 32;
  if (uint32_t(c.gpr[RCX]) != 0 || !(v & 1) || (v & ~kXcr0Offered)) raise(c, i, kGP, 0);
  c.xcr0 = v;
  return next(c, i);
}

}  // namespace

void register_control(OpTables& t) {
  constexpr uint32_t cr = kModrm | kIgnoreMod | kForce64 | kIgnore66;
  put(t, 1, 0x20, op_all(op_mov_from_cr, nullptr, cr));
  put(t, 1, 0x21, op_all(op_mov_from_dr, nullptr, cr));
  put(t, 1, 0x22, op_all(op_mov_to_cr, nullptr, cr | kEnds));
  put(t, 1, 0x23, op_all(op_mov_to_dr, nullptr, cr | kEnds));
  put(t, 1, 0x06, op_all(op_clts, nullptr, 0));
  put(t, 1, 0x08, op_all(op_cache, nullptr, 0));
  put(t, 1, 0x09, op_all(op_cache, nullptr, 0));
  put(t, 0, 0xf4, op_all(op_hlt, nullptr, kEnds));
  put_group(t, 1, -1, 0x01, 4, op_all(op_smsw_reg, op_smsw_mem, 0));
  put_group(t, 1, -1, 0x01, 6, op_all(op_lmsw_reg, op_lmsw_mem, kEnds));
  put_group(t, 1, -1, 0x01, 7, op_all(nullptr, op_invlpg, kEnds));
  put_group(t, 1, 0, 0x01, 0xd0, op_all(op_xgetbv, nullptr, 0));
  put_group(t, 1, 0, 0x01, 0xd1, op_all(op_xsetbv, nullptr, 0));
}

}  // namespace nyx::soft
