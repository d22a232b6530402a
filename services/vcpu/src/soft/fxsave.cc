// FXSAVE, FXRSTOR, LDMXCSR, STMXCSR, XSAVE, XSAVEOPT, XRSTOR (x87 and SSE components), and the fences of the 0F AE group.
#include "soft/cpuid.h"
#include "soft/walk.h"
#include "soft/x87.h"

namespace nyx::soft {
namespace {

constexpr int kXsaveHeader = 512;

// Cpu::fx made complete: x87 spilled, MXCSR and pointers filled in.
void complete(Cpu& c) {
  x87_spill(c);
  fp_leave(c);
  std::memcpy(c.fx.bytes + kFxMxcsr, &c.mxcsr, 4);
  const uint32_t mask = kMxDefined;
  std::memcpy(c.fx.bytes + kFxMask, &mask, 4);
  std::memcpy(c.fx.bytes + kFxOp, &c.x87_op, 2);
  std::memcpy(c.fx.bytes + kFxIp, &c.x87_ip, 8);
  std::memcpy(c.fx.bytes + kFxDp, &c.x87_dp, 8);
}
void set_mxcsr(Cpu& c, const Insn* i, uint32_t v) {
  if (v & ~kMxDefined) raise(c, i, kGP, 0);
  fp_leave(c);
  c.mxcsr = v;
}
int xmm_count(const Cpu& c) { return c.code64() ? 16 : 8; }

void store_bytes(Cpu& c, const Insn* i, uint64_t at, const uint8_t* from, unsigned n) {
  for (unsigned k = 0; k < n; k += 64) store_slow(c, i, at + k, from + k, n - k < 64 ? n - k : 64);
}
void load_bytes(Cpu& c, const Insn* i, uint64_t at, uint8_t* to, unsigned n) {
  for (unsigned k = 0; k < n; k += 64) load_slow(c, i, at + k, to + k, n - k < 64 ? n - k : 64);
}

void need_fx(Cpu& c, const Insn* i) {
  if (c.cr0 & (kCr0EM | kCr0TS)) raise(c, i, kNM);
}
[[gnu::noinline]] void fxsave(Cpu& c, const Insn* i) {
  need_fx(c, i);
  const uint64_t at = linear_of(c, i, 512, Access::kWrite);
  if (at & 15) raise(c, i, kGP, 0);
  complete(c);
  store_bytes(c, i, at, c.fx.bytes, unsigned(kFxXmm + 16 * xmm_count(c)));
}
[[gnu::noinline]] void fxrstor(Cpu& c, const Insn* i) {
  need_fx(c, i);
  const uint64_t at = linear_of(c, i, 512, Access::kRead);
  if (at & 15) raise(c, i, kGP, 0);
  uint8_t area[512];
  load_bytes(c, i, at, area, unsigned(kFxXmm + 16 * xmm_count(c)));
  uint32_t csr;
  std::memcpy(&csr, area + kFxMxcsr, 4);
  set_mxcsr(c, i, csr);
  x87_take(c, area);
  std::memcpy(c.fx.bytes + kFxXmm, area + kFxXmm, size_t(16 * xmm_count(c)));
}
void ldmxcsr(Cpu& c, const Insn* i) {
  need_sse(c, i);
  const uint32_t v = load_rm<uint32_t>(c, i);
  set_mxcsr(c, i, v);
  return next(c, i);
}
void stmxcsr(Cpu& c, const Insn* i) {
  need_sse(c, i);
  fp_leave(c);
  store_rm<uint32_t>(c, i, c.mxcsr);
  return next(c, i);
}

void need_xsave(Cpu& c, const Insn* i) {
  if (!(c.cr4 & kCr4OSXSAVE)) raise(c, i, kUD);
  if (c.cr0 & kCr0TS) raise(c, i, kNM);
}
uint64_t requested(const Cpu& c) { return (uint64_t(uint32_t(c.gpr[RDX])) << 32 | uint32_t(c.gpr[RAX])) & c.xcr0; }

unsigned area_bytes(uint64_t rfbm) { return rfbm & kXcrPkru ? kXsaveBytes : kXsavePkru; }

// Standard format: legacy area, header, PKRU; XSTATE_BV says which components were written. All components are
// always in use here, which XSAVEOPT is allowed to assume.
[[gnu::noinline]] void xsave(Cpu& c, const Insn* i) {
  need_xsave(c, i);
  const uint64_t rfbm = requested(c), at = linear_of(c, i, area_bytes(rfbm), Access::kWrite);
  if (at & 63) raise(c, i, kGP, 0);
  complete(c);
  uint64_t bv;
  load_slow(c, i, at + kXsaveHeader, &bv, 8);
  if (rfbm & 1) {
    store_bytes(c, i, at, c.fx.bytes, kFxMxcsr);
    store_bytes(c, i, at + kFxSt, c.fx.bytes + kFxSt, kFxXmm - kFxSt);
  }
  if (rfbm & 2) {
    store_bytes(c, i, at + kFxMxcsr, c.fx.bytes + kFxMxcsr, 8);
    store_bytes(c, i, at + kFxXmm, c.fx.bytes + kFxXmm, unsigned(16 * xmm_count(c)));
  }
  if (rfbm & kXcrPkru) {
    const uint64_t v = c.pkru;
    store_slow(c, i, at + kXsavePkru, &v, 8);
  }
  bv = (bv & ~rfbm) | rfbm;
  store_slow(c, i, at + kXsaveHeader, &bv, 8);
}
[[gnu::noinline]] void xrstor(Cpu& c, const Insn* i) {
  need_xsave(c, i);
  const uint64_t rfbm = requested(c), at = linear_of(c, i, area_bytes(rfbm), Access::kRead);
  if (at & 63) raise(c, i, kGP, 0);
  uint8_t area[kXsaveBytes];
  load_bytes(c, i, at, area, area_bytes(rfbm));
  uint64_t header[8];
  std::memcpy(header, area + kXsaveHeader, 64);
  // XSTATE_BV may name only enabled components; XCOMP_BV and the rest must be 0 (no compacted format).
  if ((header[0] & ~c.xcr0) || header[1] || header[2]) raise(c, i, kGP, 0);
  if (rfbm & 2) {
    uint32_t csr;
    std::memcpy(&csr, area + kFxMxcsr, 4);
    set_mxcsr(c, i, csr);
    const size_t bytes = size_t(16 * xmm_count(c));
    if (header[0] & 2) std::memcpy(c.fx.bytes + kFxXmm, area + kFxXmm, bytes);
    else std::memset(c.fx.bytes + kFxXmm, 0, bytes);
  }
  if (rfbm & kXcrPkru) {
    uint32_t v = 0;
    if (header[0] & kXcrPkru) std::memcpy(&v, area + kXsavePkru, 4);
    set_pkru(c, v);
  }
  if (rfbm & 1) {
    if (header[0] & 1) {
      x87_take(c, area);
    } else {
      x87_reset(c);
      std::memset(c.fx.bytes + kFxSt, 0, kFxXmm - kFxSt);
    }
  }
}

void fence(Cpu& c, const Insn* i) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return next(c, i);
}
// CLFLUSH checks its address like a byte read.
void clflush(Cpu& c, const Insn* i) {
  load_rm<uint8_t>(c, i);
  return next(c, i);
}

OpEntry group_ae[8];

}  // namespace

void register_fxsave(OpTables& t) {
  const uint32_t bits = kModrm | kIgnore66;
  group_ae[0] = op_all(nullptr, then_next<fxsave>, bits);
  group_ae[1] = op_all(nullptr, then_next<fxrstor>, bits);
  group_ae[2] = op_all(nullptr, ldmxcsr, bits);
  group_ae[3] = op_all(nullptr, stmxcsr, bits);
  group_ae[4] = op_all(nullptr, then_next<xsave>, bits);
  group_ae[5] = op_all(fence, then_next<xrstor>, bits);
  group_ae[6] = op_all(fence, then_next<xsave>, bits);
  group_ae[7] = op_all(fence, clflush, bits);
  OpEntry e;
  e.bits = bits | kGroup;
  e.group = group_ae;
  // CLWB, CLFLUSHOPT and PCOMMIT, which has nothing to do after a fence.
  for (const int n : {6, 7}) put_group(t, 1, 1, 0xae, n, op_all(nullptr, clflush, bits));
  put_group(t, 1, 1, 0xae, 0xf8, op_all(fence, nullptr, bits));
  t.map[1][0][0xae] = e;  // the F3 row (RDFSBASE ...) belongs to the system instructions
}

}  // namespace nyx::soft
