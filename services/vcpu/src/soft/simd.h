// Shared by the MMX, SSE and x87 handlers: register file, availability checks, the guest's MXCSR on the host.
//
// SIMD and x87 instructions are executed by the host's own: a handler brings the operands into fixed host registers,
// runs the same opcode bytes, and stores the result. Rounding, flags and NaN payloads are then the host's.
#pragma once
#include <emmintrin.h>

#include "soft/mem.h"

namespace nyx::soft {

// Offsets in the FXSAVE64 image (SDM vol. 1, 10.5.1).
inline constexpr int kFxCw = 0, kFxSw = 2, kFxTw = 4, kFxOp = 6, kFxIp = 8, kFxDp = 16, kFxMxcsr = 24, kFxMask = 28, kFxSt = 32,
                     kFxXmm = 160;
// Exceptions and their masks in MXCSR; DAZ and all defined bits.
inline constexpr uint32_t kMxFlags = 0x3f, kMxMasks = 0x1f80, kMxDefined = 0xffff, kMxReset = 0x1f80;

[[gnu::always_inline]] inline __m128i* xmm(Cpu& c, unsigned r) { return reinterpret_cast<__m128i*>(c.fx.bytes + kFxXmm) + r; }
template <class T>
[[gnu::always_inline]] inline T& xmm_as(Cpu& c, unsigned r) {
  return *reinterpret_cast<T*>(c.fx.bytes + kFxXmm + 16 * r);
}
[[gnu::always_inline]] inline uint64_t& mm(Cpu& c, unsigned r) { return *reinterpret_cast<uint64_t*>(c.fx.bytes + kFxSt + 16 * (r & 7)); }

[[noreturn, gnu::cold]] void simd_unavailable(Cpu& c, const Insn* i);

// SSE instructions: #UD when CR0.EM or not CR4.OSFXSR, #NM when CR0.TS.
[[gnu::always_inline]] inline void need_sse(Cpu& c, const Insn* i) {
  if ((c.cr0 & (kCr0EM | kCr0TS)) != 0 || (c.cr4 & kCr4OSFXSR) == 0) [[unlikely]]
    simd_unavailable(c, i);
}

// The guest's MXCSR is live on the host from the first floating-point SSE instruction until fp_leave, with all exceptions
// masked; flags gather there. Code outside of the engine (devices, timers) must run under the host's own: call fp_leave
// before anything that may use floating point, and before reading Cpu::mxcsr.
void fp_load(Cpu& c);
void fp_leave(Cpu& c);

// x87 state: live in the host's x87 registers (x87_live) or in Cpu::fx. MMX works on Cpu::fx.
void x87_spill(Cpu& c);  // to Cpu::fx; a no-op when it is there

// Runs `op` as one SSE floating-point operation under the guest's MXCSR. When the guest unmasked exceptions, `op` must
// not have changed guest state yet: `unmasked` raises #XM for what occurred.
[[gnu::cold]] void fp_unmasked_begin(Cpu& c);
[[gnu::cold]] void fp_unmasked_end(Cpu& c, const Insn* i);
template <class Op>
[[gnu::always_inline]] inline void fp_do(Cpu& c, const Insn* i, Op op) {
  if (!c.fp_live) [[unlikely]]
    fp_load(c);
  if (c.fp_unmasked) [[unlikely]] {
    fp_unmasked_begin(c);
    op();
    fp_unmasked_end(c, i);
    return;
  }
  op();
}

// 128-bit memory operand. Legacy SSE demands alignment (#GP) for all but the explicitly unaligned instructions.
[[gnu::always_inline]] inline __m128i load128(Cpu& c, const Insn* i, bool aligned) {
  const uint64_t at = linear_of(c, i, 16, Access::kRead);
  if (aligned && (at & 15)) [[unlikely]]
    raise(c, i, kGP, 0);
  const TlbEntry& e = tlb_entry(c, at);
  if (((at + 15) & ~0xfffull) == e.read) [[likely]]
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + uint64_t(e.addend)));
  alignas(16) __m128i v;
  load_slow(c, i, at, &v, 16);
  return v;
}
[[gnu::always_inline]] inline void store128(Cpu& c, const Insn* i, __m128i v, bool aligned) {
  const uint64_t at = linear_of(c, i, 16, Access::kWrite);
  if (aligned && (at & 15)) [[unlikely]]
    raise(c, i, kGP, 0);
  const TlbEntry& e = tlb_entry(c, at);
  if (((at + 15) & ~0xfffull) == e.write) [[likely]] {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at + uint64_t(e.addend)), v);
    return;
  }
  store_slow(c, i, at, &v, 16);
}

// Memory operand of `Bytes` bytes in the low part of a vector, the rest zero.
template <int Bytes>
[[gnu::always_inline]] inline __m128i load_vec(Cpu& c, const Insn* i) {
  if constexpr (Bytes == 16) return load128(c, i, true);
  else if constexpr (Bytes == 8) return _mm_cvtsi64_si128(int64_t(load_rm<uint64_t>(c, i)));
  else if constexpr (Bytes == 4) return _mm_cvtsi32_si128(int32_t(load_rm<uint32_t>(c, i)));
  else if constexpr (Bytes == 2) return _mm_cvtsi32_si128(load_rm<uint16_t>(c, i));
  else return _mm_cvtsi32_si128(load_rm<uint8_t>(c, i));
}

// Opcode bytes of a register-register form on xmm0, xmm1 (ModRM C1). Row: 0 none, 1 66, 2 F3, 3 F2; map: 1 0F, 2 0F38.
template <int Row, int Map, int Opcode>
[[gnu::always_inline]] inline __m128i host_xx(__m128i dst, __m128i src) {
  register __m128i a asm("xmm0") = dst;
  register __m128i b asm("xmm1") = src;
  constexpr int prefix = Row == 1 ? 0x66 : Row == 2 ? 0xf3 : 0xf2;
  if constexpr (Row == 0 && Map == 1) asm volatile(".byte 0x0f, %c2, 0xc1" : "+x"(a) : "x"(b), "i"(Opcode));
  else if constexpr (Row == 0) asm volatile(".byte 0x0f, 0x38, %c2, 0xc1" : "+x"(a) : "x"(b), "i"(Opcode));
  else if constexpr (Map == 1) asm volatile(".byte %c3, 0x0f, %c2, 0xc1" : "+x"(a) : "x"(b), "i"(Opcode), "i"(prefix));
  else asm volatile(".byte %c3, 0x0f, 0x38, %c2, 0xc1" : "+x"(a) : "x"(b), "i"(Opcode), "i"(prefix));
  return a;
}

// The register and the memory form of an instruction whose work on its source is Body::apply(c, i, source). Bytes of a
// memory operand: 16 are aligned or #GP; 0 are 16 that need not be.
template <class Body, int Bytes>
struct Forms {
  static void reg(Cpu& c, const Insn* i) {
    need_sse(c, i);
    Body::apply(c, i, *xmm(c, i->rm));
    return next(c, i);
  }
  static void mem(Cpu& c, const Insn* i) {
    need_sse(c, i);
    if constexpr (Bytes == 0) Body::apply(c, i, load128(c, i, false));
    else Body::apply(c, i, load_vec<Bytes>(c, i));
    return next(c, i);
  }
};

inline void put_row(OpTables& t, int map, int row, int opcode, Handler reg, Handler mem, uint32_t bits = 0, Imm imm = kImmNone) {
  t.map[map][row][opcode] = op_all(reg, mem, bits | kModrm | kIgnore66, imm);
}

void register_mmx(OpTables& t);
void register_simd_packed(OpTables& t);
void register_simd_move(OpTables& t);
void register_simd_convert(OpTables& t);
void register_simd_imm(OpTables& t);
void register_fxsave(OpTables& t);

}  // namespace nyx::soft
