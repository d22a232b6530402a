// The soft CPU on a flat memory: what the system half is in the product, reduced to the two areas of the oracle. The
// integer, SSE and x87 handlers, the decoder, the block cache and the run loop are the real ones.
#include "flat.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "soft/block.h"
#include "soft/mmu.h"
#include "soft/run.h"
#include "soft/tables.h"
#include "soft/walk.h"
#include "soft/x87.h"

namespace nyx::soft {
namespace {

bool in(uint64_t at, uint64_t size, uint64_t base, uint64_t bytes) { return at >= base && size <= bytes && at - base <= bytes - size; }

// Host address of guest bytes; null when they are not there, or not writable.
uint8_t* host(uint64_t at, unsigned size, bool write) {
  using namespace oracle;
  if (in(at, size, kData, kDataBytes)) return flat.data + (at - kData);
  if (flat.code_writable && in(at, size, kCode, kCodeBytes)) return flat.code + (at - kCode);
  if (!write && in(at, size, kCode, kCodeBytes)) return flat.code + (at - kCode);
  return nullptr;
}

[[noreturn]] void refuse(Cpu& c, const Insn* i, uint64_t at, unsigned size) {
  const bool canonical = int64_t(at << 16) >> 16 == int64_t(at) && int64_t((at + size - 1) << 16) >> 16 == int64_t(at + size - 1);
  if (canonical) raise(c, i, kPFx, 0);
  raise(c, i, flat.stack || i->seg == SS ? kSSx : kGP, 0);
}

uint8_t* need(Cpu& c, const Insn* i, uint64_t at, unsigned size, bool write) {
  uint8_t* const p = host(at, size, write);
  if (!p) refuse(c, i, at, size);
  const uint64_t page = at & ~0xfffull;
  TlbEntry& e = tlb_entry(c, at);
  const bool code = page >= oracle::kCode && page < oracle::kCode + oracle::kCodeBytes;
  e.read = page;
  e.write = write && !code ? page : kTlbInvalid;
  e.addend = intptr_t(p) - intptr_t(at);
  return p;
}

}  // namespace

Flat flat;

// Bytes of code have changed; linear is physical here.
void changed(Cpu& c, uint64_t at, unsigned size) {
  const unsigned first = unsigned(std::min<uint64_t>(size, 0x1000 - (at & 0xfff)));
  invalidate_range(c, at, first);
  if (first < size) invalidate_range(c, at + first, size - first);
}

void load_slow(Cpu& c, const Insn* i, uint64_t at, void* out, unsigned size) {
  std::memcpy(out, need(c, i, at, size, false), size);
}
void store_slow(Cpu& c, const Insn* i, uint64_t at, const void* in, unsigned size) {
  std::memcpy(need(c, i, at, size, true), in, size);
  if (flat.code_writable) changed(c, at, size);
}
uint8_t* rmw_slow(Cpu& c, const Insn* i, uint64_t at, unsigned size) {
  uint8_t* const p = need(c, i, at, size, true);
  return (at & 0xfff) + size > 0x1000 || flat.code_writable ? nullptr : p;
}
uint64_t linear_seg(Cpu& c, const Insn* i, SegReg seg, uint64_t offset, unsigned size, Access) {
  const Segment& s = c.seg[seg];
  if (offset > s.limit || size - 1 > s.limit - offset) raise(c, i, seg == SS ? kSSx : kGP, 0);
  return uint32_t(s.base + offset);
}
uint64_t linear_legacy(Cpu& c, const Insn* i, uint64_t offset, unsigned size, Access a) {
  return linear_seg(c, i, SegReg(i->seg), offset, size, a);
}
CodePage fetch_page(Cpu& c, const Insn* i, uint64_t linear) {
  const uint64_t page = linear & ~0xfffull;
  uint8_t* const p = host(page, 0x1000, false);
  if (!p || page < oracle::kCode || page >= oracle::kCode + oracle::kCodeBytes) {
    const bool canonical = int64_t(linear << 16) >> 16 == int64_t(linear);
    raise(c, i, canonical ? kPFx : kGP, 0);
  }
  code_entry(c, linear) = {page, intptr_t(p) - intptr_t(page)};
  return {p, page};
}
void protect_code_page(Cpu&, uint64_t) {}
void set_pkru(Cpu& c, uint32_t v) { c.pkru = v; }

void push_slow(Cpu& c, const Insn* i, uint64_t v, unsigned size) {
  const uint64_t sp = c.code64() ? c.gpr[RSP] - size : c.mode & kModeSs32 ? uint32_t(c.gpr[RSP] - size) : uint16_t(c.gpr[RSP] - size);
  flat.stack = true;
  std::memcpy(need(c, i, c.code64() ? sp : linear_seg(c, i, SS, sp, size, Access::kWrite), size, true), &v, size);
  flat.stack = false;
  if (c.code64() || (c.mode & kModeSs32)) c.gpr[RSP] = sp;
  else set_reg<uint16_t>(c, RSP, uint16_t(sp));
}
uint64_t pop_slow(Cpu& c, const Insn* i, unsigned size) {
  const uint64_t sp = c.code64() ? c.gpr[RSP] : c.mode & kModeSs32 ? uint32_t(c.gpr[RSP]) : uint16_t(c.gpr[RSP]);
  uint64_t v = 0;
  flat.stack = true;
  std::memcpy(&v, need(c, i, c.code64() ? sp : linear_seg(c, i, SS, sp, size, Access::kRead), size, false), size);
  flat.stack = false;
  if (c.code64()) c.gpr[RSP] = sp + size;
  else if (c.mode & kModeSs32) c.gpr[RSP] = uint32_t(sp + size);
  else set_reg<uint16_t>(c, RSP, uint16_t(sp + size));
  return v;
}

void deliver_exception(Cpu& c) {
  flat.ended = true;
  flat.vector = c.exception;
}
bool service_attention(Cpu& c) {
  c.attention->store(0);
  return !flat.ended;
}

namespace {
void int3(Cpu& c, const Insn* i) { raise(c, i, kBP); }
}  // namespace
void register_system(OpTables& t) { put(t, 0, 0xcc, op_all(int3, int3, kEnds)); }

}  // namespace nyx::soft

namespace oracle {

using namespace nyx::soft;

void soft_open() {
  flat.cpu = new Cpu();
  Cpu& c = *flat.cpu;
  c.attention = new std::atomic<uint32_t>(0);
  (new BlockCache(op_tables(), 1 << 12, 1 << 16, 16 << 20))->Attach(c);
  c.hot_count = ~0u;
  c.tlb = &c.tlbs[1];  // of CPL 3
  c.cr4 = kCr4OSFXSR | kCr4OSXMMEXCPT;
  flat.code = native_code();
  flat.data = static_cast<uint8_t*>(std::aligned_alloc(0x1000, kDataBytes));
  flat_forget();
}

void flat_forget() {
  Cpu& c = *flat.cpu;
  for (TlbEntry& e : c.tlbs[1].entries) e = {kTlbInvalid, kTlbInvalid, 0};
  for (CodeEntry& e : c.tlbs[1].code) e = {kTlbInvalid, 0};
  flush_blocks(c);
}

void flat_mode(Mode mode) {
  Cpu& c = *flat.cpu;
  const bool seg = mode == kSeg32 || mode == kSeg16;
  c.cpl = 3;
  c.mode = kModePE | kModeUser | kModeLMA;
  if (mode == kLong) c.mode |= kMode64;
  if (mode == kFlat32 || mode == kSeg32) c.mode |= kModeD32 | kModeSs32;
  if (mode == kFlat32) c.mode |= kModeFlat;
  for (Segment& s : c.seg) s = {seg ? kData : 0, seg ? kSegLimit : 0xffffffff, 0, 0xc0f3};
  c.seg[CS] = {seg ? kCode : 0, seg ? kSegLimit : 0xffffffff, 0, 0xc0fb};
  c.returns.Forget();
  c.seg[FS] = c.seg[GS] = {mode == kLong ? kGsBase : 0, 0xffffffff, 0, 0xc0f3};
}

void flat_load_fx(Cpu& c, const uint8_t* fx) {
  std::memcpy(c.fx.bytes, fx, sizeof(c.fx.bytes));
  std::memcpy(&c.mxcsr, fx + kFxMxcsr, 4);
  c.x87_live = c.fp_live = false;
}
void flat_store_fx(Cpu& c, uint8_t* fx) {
  fp_leave(c);
  x87_spill(c);
  std::memcpy(fx, c.fx.bytes, sizeof(c.fx.bytes));
  std::memcpy(fx + kFxMxcsr, &c.mxcsr, 4);
}

void flat_translate(bool on) {
  Cpu& c = *flat.cpu;
  const uint32_t count = on ? 1 : ~0u;
  if (c.hot_count == count) return;
  c.hot_count = count;
  flush_blocks(c);
}

State soft_run(const Case& k, bool translated) {
  Cpu& c = *flat.cpu;
  flat_translate(translated);
  flat_mode(k.mode);
  auto* const at = flat.code + (k.mode == kSeg32 || k.mode == kSeg16 ? k.in.rip : k.in.rip - kCode);
  std::memcpy(at, k.bytes, k.length);
  changed(c, kCode + uint64_t(at - flat.code), k.length);
  std::memcpy(c.gpr, k.in.gpr, sizeof(k.in.gpr));
  c.gpr[kRegZero] = 0;
  c.rip = k.in.rip;
  set_rflags(c, k.in.flags);
  if (k.form->bits & kFx) flat_load_fx(c, k.in.fx);
  flat.ended = flat.stack = false;
  run(c);
  State s{};
  std::memcpy(s.gpr, c.gpr, sizeof(s.gpr));
  s.rip = c.rip;
  s.flags = uint32_t(rflags(c)) & kFlagMask;
  s.vector = flat.vector;
  if (k.form->bits & kFx) flat_store_fx(c, s.fx);
  std::memset(at, 0xcc, k.length);
  changed(c, kCode + uint64_t(at - flat.code), k.length);
  return s;
}

uint8_t* soft_data() { return flat.data; }

}  // namespace oracle
