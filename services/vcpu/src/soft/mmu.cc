// Address translation: page walks (Intel SDM vol. 3, chapter 4), the software TLB and the slow paths of data access.
#include "soft/mmu.h"

#include "soft/pace.h"
#include "soft/sampler.h"

#include "accel.h"
#include "lapic.h"
#include "soft/coherence.h"
#include "soft/lockstep.h"
#include "soft/system.h"
#include "soft/walk.h"

namespace nyx::soft {
namespace {

unsigned slot_of(uint64_t linear) { return linear >> 12 & (kTlbEntries - 1); }

[[noreturn, gnu::cold]] void page_fault(Cpu& c, const Insn* i, uint64_t linear, uint32_t error) {
  c.cr2 = linear;
  raise(c, i, kPFx, error);
}

// A walk that a TLB did not spare.
Walk need_walk(Cpu& c, const Insn* i, uint64_t linear, Access a, Rights r) {
  c.stat_tlb_misses++;
  const In in(c, kInMmu);
  Walk w;
  if (!walk(c, linear, a, r, &w)) page_fault(c, i, linear, w.error);
  return w;
}

// `a` is read or write.
bool allows(const TlbEntry& e, uint64_t linear, Access a) {
  const uint64_t tag = a == Access::kWrite ? e.write : e.read;
  return (tag & ~0xfffull) == (linear & ~0xfffull) && tag != kTlbInvalid;
}

// The entry of `linear` that allows `a`, read or write; by a walk if no TLB has it. Valid until the next call.
const TlbEntry& lookup(Cpu& c, const Insn* i, uint64_t linear, Access a, Rights r) {
  const unsigned slot = slot_of(linear);
  const TlbEntry& e = c.tlbs[r == Rights::kUser].entries[slot];
  if (allows(e, linear, a)) return e;
  if (r == Rights::kSupervisor && ac_open(c) && allows(c.tlbs[1].entries[slot], linear, a)) return c.tlbs[1].entries[slot];
  const uint64_t page = linear & ~0xfffull;
  Walk w = need_walk(c, i, linear, a, r);
  if (a == Access::kWrite) save_page(c, w.phys);
  if (a == Access::kWrite && !w.write) {
    // Allowed, but by no right that an entry could say: CR0.WP = 0 and RFLAGS.AC = 1 with SMAP.
    w.write = true;
    return c.once = make_entry(c, page, w);
  }
  tlb_fill(c, page, w);
  return c.tlbs[w.which].entries[slot];
}

// Where a linear address that grew past a page goes on: 32-bit modes wrap at 4 GiB.
uint64_t wrap(const Cpu& c, uint64_t linear) { return c.mode & kMode64 ? linear : uint32_t(linear); }

bool canonical(uint64_t a) { return int64_t(a << 16) >> 16 == int64_t(a); }

[[noreturn, gnu::cold]] void non_canonical(Cpu& c, const Insn* i, bool stack) { raise(c, i, stack ? kSSx : kGP, 0); }

void check_linear(Cpu& c, const Insn* i, uint64_t linear, unsigned size, bool write) {
  if (!canonical(linear) || !canonical(linear + size - 1)) [[unlikely]]
    non_canonical(c, i, i && i->seg == SS);
  if (c.watch) watch_access(c, linear, size, write);
  if (c.ac_check && (size & (size - 1)) == 0 && (linear & (size - 1)) != 0) raise(c, i, kACx, 0);
}

// Largest access of the bus that fits.
unsigned io_width(unsigned size) { return size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1; }

void io_load(Cpu& c, const Insn* i, uint64_t phys, uint8_t* out, unsigned size) {
  if (i) c.rip = insn_rip(c, i);
  paced(c, i);
  if (c.log) c.log->impure = true;
  while (size) {
    const unsigned w = io_width(size);
    uint64_t v;
    if (c.lapic->Claims(phys)) {
      v = c.lapic->MmioRead(phys & 0xfff, w);
    } else {
      Outside outside(c);
      v = c.bus->MmioRead(phys, w);
    }
    std::memcpy(out, &v, w);
    out += w;
    phys += w;
    size -= w;
  }
}

void io_store(Cpu& c, const Insn* i, uint64_t phys, const uint8_t* in, unsigned size) {
  if (i) c.rip = insn_rip(c, i);
  paced(c, i);
  if (c.log) c.log->impure = true;
  while (size) {
    const unsigned w = io_width(size);
    uint64_t v = 0;
    std::memcpy(&v, in, w);
    if (c.lapic->Claims(phys)) {
      c.lapic->MmioWrite(phys & 0xfff, w, v);
      lapic_changed(c);
    } else {
      Outside outside(c);
      c.bus->MmioWrite(phys, w, v);
    }
    in += w;
    phys += w;
    size -= w;
  }
}

// The sizes of ordinary operands without a call.
void copy(void* to, const void* from, unsigned size) {
  switch (size) {
    case 1: std::memcpy(to, from, 1); return;
    case 2: std::memcpy(to, from, 2); return;
    case 4: std::memcpy(to, from, 4); return;
    case 8: std::memcpy(to, from, 8); return;
    default: std::memcpy(to, from, size);
  }
}

void load_part(Cpu& c, const Insn* i, uint64_t linear, void* out, unsigned size, Rights r) {
  const TlbEntry& e = lookup(c, i, linear, Access::kRead, r);
  if (e.read & kTagIo) return io_load(c, i, linear + uint64_t(e.addend), static_cast<uint8_t*>(out), size);
  copy(out, reinterpret_cast<const void*>(linear + uint64_t(e.addend)), size);
}

void store_part(Cpu& c, const Insn* i, uint64_t linear, const void* in, unsigned size, Rights r) {
  const TlbEntry& e = lookup(c, i, linear, Access::kWrite, r);
  uint8_t* at = reinterpret_cast<uint8_t*>(linear + uint64_t(e.addend));
  if (c.log && (e.write & kTagIo) == 0) c.log->Add(at, size);
  switch (e.write & 0xfff) {
    case 0: return copy(at, in, size);
    case kTagIo: return io_store(c, i, linear + uint64_t(e.addend), static_cast<const uint8_t*>(in), size);
    case kTagCode: return write_code(c, at, in, size);
    default: return;  // ROM
  }
}

void load_any(Cpu& c, const Insn* i, uint64_t linear, void* out, unsigned size, Rights r) {
  const unsigned first = 4096 - (linear & 0xfff);
  if (size <= first) return load_part(c, i, linear, out, size, r);
  const uint64_t second = wrap(c, linear + first);
  lookup(c, i, linear, Access::kRead, r);
  lookup(c, i, second, Access::kRead, r);
  load_part(c, i, linear, out, first, r);
  load_part(c, i, second, static_cast<uint8_t*>(out) + first, size - first, r);
}

void store_any(Cpu& c, const Insn* i, uint64_t linear, const void* in, unsigned size, Rights r) {
  const unsigned first = 4096 - (linear & 0xfff);
  if (size <= first) return store_part(c, i, linear, in, size, r);
  const uint64_t second = wrap(c, linear + first);
  lookup(c, i, linear, Access::kWrite, r);
  lookup(c, i, second, Access::kWrite, r);
  store_part(c, i, linear, in, first, r);
  store_part(c, i, second, static_cast<const uint8_t*>(in) + first, size - first, r);
}

Rights current(const Cpu& c) { return c.cpl == 3 ? Rights::kUser : Rights::kSupervisor; }

}  // namespace

void load_slow(Cpu& c, const Insn* i, uint64_t linear, void* out, unsigned size) {
  c.current = i;
  check_linear(c, i, linear, size, false);
  load_any(c, i, linear, out, size, current(c));
}

void store_slow(Cpu& c, const Insn* i, uint64_t linear, const void* in, unsigned size) {
  c.current = i;
  check_linear(c, i, linear, size, true);
  store_any(c, i, linear, in, size, current(c));
}

uint8_t* rmw_slow(Cpu& c, const Insn* i, uint64_t linear, unsigned size) {
  c.current = i;
  check_linear(c, i, linear, size, true);
  const unsigned first = 4096 - (linear & 0xfff);
  const TlbEntry& e = lookup(c, i, linear, Access::kWrite, current(c));
  if (size > first) {
    lookup(c, i, wrap(c, linear + first), Access::kWrite, current(c));
    return nullptr;
  }
  uint8_t* at = reinterpret_cast<uint8_t*>(linear + uint64_t(e.addend));
  const uint64_t flags = e.write & 0xfff;
  if (c.log && (flags & kTagIo) == 0) c.log->Add(at, size);
  if (flags == 0) return at;
  if (flags != kTagCode) return nullptr;
  prepare_code_write(c, at, size);
  return at;
}

void check_write(Cpu& c, const Insn* i, uint64_t linear, unsigned size) {
  check_linear(c, i, linear, size, true);
  lookup(c, i, linear, Access::kWrite, current(c));
  if (size > 4096 - (linear & 0xfff)) lookup(c, i, wrap(c, linear + size - 1) & ~0xfffull, Access::kWrite, current(c));
}

void load_as(Cpu& c, const Insn* i, uint64_t linear, void* out, unsigned size, Rights r) {
  if (!canonical(linear) || !canonical(linear + size - 1)) non_canonical(c, i, false);
  load_any(c, i, linear, out, size, r);
}
void store_as(Cpu& c, const Insn* i, uint64_t linear, const void* in, unsigned size, Rights r) {
  if (!canonical(linear) || !canonical(linear + size - 1)) non_canonical(c, i, false);
  store_any(c, i, linear, in, size, r);
}

template <class T>
T load_system(Cpu& c, const Insn* i, uint64_t linear) {
  T v;
  load_as(c, i, linear, &v, sizeof(T), Rights::kImplicit);
  return v;
}
template <class T>
void store_system(Cpu& c, const Insn* i, uint64_t linear, T v) {
  store_as(c, i, linear, &v, sizeof(T), Rights::kImplicit);
}
template uint8_t load_system(Cpu&, const Insn*, uint64_t);
template uint16_t load_system(Cpu&, const Insn*, uint64_t);
template uint32_t load_system(Cpu&, const Insn*, uint64_t);
template uint64_t load_system(Cpu&, const Insn*, uint64_t);
template void store_system(Cpu&, const Insn*, uint64_t, uint8_t);
template void store_system(Cpu&, const Insn*, uint64_t, uint16_t);
template void store_system(Cpu&, const Insn*, uint64_t, uint32_t);
template void store_system(Cpu&, const Insn*, uint64_t, uint64_t);

CodePage fetch_page(Cpu& c, const Insn* i, uint64_t linear) {
  if (!canonical(linear)) non_canonical(c, i, false);
  const uint64_t page = linear & ~0xfffull;
  const CodeEntry& e = code_entry(c, linear);
  if (e.page != page) {
    const Walk w = need_walk(c, i, linear, Access::kExec, current(c));
    if (!tlb_fill_code(c, page, w)) return {nullptr, w.phys};
  }
  const uint8_t* host = reinterpret_cast<const uint8_t*>(page + uint64_t(e.addend));
  return {host, phys_of_host(c, host)};
}

void watch_access(Cpu& c, uint64_t linear, unsigned size, bool write) {
  for (unsigned n = 0; n < 4; n++) {
    const unsigned control = c.dr[7] >> (16 + 4 * n) & 15, kind = control & 3;
    if (!(c.dr[7] >> (2 * n) & 3) || kind == 0 || kind == 2 || (kind == 1 && !write)) continue;
    const uint64_t bytes = control >> 2 == 2 ? 8 : (control >> 2) + 1, from = c.dr[n] & ~(bytes - 1);
    if (linear < from + bytes && from < linear + size) c.watch_hits |= uint8_t(1u << n);
  }
}

uint8_t* phys_ptr(Cpu& c, uint64_t phys) { return c.memory->Host(phys, 1, false); }

void update_mode(Cpu& c) {
  const Segment& cs = c.seg[CS];
  uint32_t m = 0;
  if (c.efer & kEferLMA) m |= kModeLMA;
  if ((c.efer & kEferLMA) && cs.l()) {
    m |= kMode64 | kModePE;
  } else {
    if (cs.db()) m |= kModeD32;
    if (c.seg[SS].db()) m |= kModeSs32;
    if (c.cr0 & kCr0PE) m |= c.eflags & kVM ? kModeVM86 : kModePE;
    // CS need not be writable for data accesses with a CS override: those are never flat (decode.cc checks them).
    bool flat = (m & kModePE) != 0;
    for (const SegReg r : {CS, DS, ES, SS}) {
      const Segment& s = c.seg[r];
      const bool data = r == CS || (s.present() && (s.attr & 0x1a) == 0x12 && !s.expand_down());
      flat = flat && s.base == 0 && s.limit == 0xffffffff && data;
    }
    if (flat) m |= kModeFlat;
  }
  if (c.cpl == 3) m |= kModeUser;
  if (c.mode != m) c.returns.Enter(m, (c.mode ^ m) & kModeUser);
  c.mode = m;
  c.ac_check = c.cpl == 3 && (c.cr0 & kCr0AM) && (c.eflags & kAC);
  c.watch = (c.dr[7] & 0xff) && (c.dr[7] & 0x11110000);  // the low bit of R/W: writes, or reads and writes
  if (c.ac_check || c.watch) c.mode |= kModeChecked;
  c.tlb = &c.tlbs[c.ac_check || c.watch ? 2 : c.cpl == 3];
}

}  // namespace nyx::soft
