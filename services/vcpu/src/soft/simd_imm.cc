// SSE instructions with an 8-bit immediate. The immediate is part of the opcode bytes, so each instruction has a table of
// 256 host stubs, 8 bytes apart, on xmm0 (destination), xmm1 (source), eax and ecx.
#include "soft/simd.h"

namespace nyx::soft {
namespace {

// `bytes` are the opcode bytes up to the immediate; at most 6, so that a stub with `ret` fits in 8.
#define NYX_STUBS(name, bytes)                                             \
  asm(".pushsection .text.nyx_stubs,\"ax\",@progbits\n\t.balign 64\n" #name \
      ":\n\t.set nyx_imm,0\n\t.rept 256\n\t.byte " bytes                   \
      ", nyx_imm\n\tret\n\t.balign 8, 0xcc\n\t.set nyx_imm,nyx_imm+1\n\t.endr\n\t.popsection"); \
  extern "C" const uint8_t name[] asm(#name);

NYX_STUBS(nyx_cmpps, "0x0f,0xc2,0xc1")
NYX_STUBS(nyx_cmppd, "0x66,0x0f,0xc2,0xc1")
NYX_STUBS(nyx_cmpss, "0xf3,0x0f,0xc2,0xc1")
NYX_STUBS(nyx_cmpsd, "0xf2,0x0f,0xc2,0xc1")
NYX_STUBS(nyx_shufps, "0x0f,0xc6,0xc1")
NYX_STUBS(nyx_shufpd, "0x66,0x0f,0xc6,0xc1")
NYX_STUBS(nyx_pshufd, "0x66,0x0f,0x70,0xc1")
NYX_STUBS(nyx_pshufhw, "0xf3,0x0f,0x70,0xc1")
NYX_STUBS(nyx_pshuflw, "0xf2,0x0f,0x70,0xc1")
// 71..73: shifts by immediate; the operation is in ModRM.reg.
NYX_STUBS(nyx_psrlw, "0x66,0x0f,0x71,0xd0")
NYX_STUBS(nyx_psraw, "0x66,0x0f,0x71,0xe0")
NYX_STUBS(nyx_psllw, "0x66,0x0f,0x71,0xf0")
NYX_STUBS(nyx_psrld, "0x66,0x0f,0x72,0xd0")
NYX_STUBS(nyx_psrad, "0x66,0x0f,0x72,0xe0")
NYX_STUBS(nyx_pslld, "0x66,0x0f,0x72,0xf0")
NYX_STUBS(nyx_psrlq, "0x66,0x0f,0x73,0xd0")
NYX_STUBS(nyx_psrldq, "0x66,0x0f,0x73,0xd8")
NYX_STUBS(nyx_psllq, "0x66,0x0f,0x73,0xf0")
NYX_STUBS(nyx_pslldq, "0x66,0x0f,0x73,0xf8")
NYX_STUBS(nyx_roundps, "0x66,0x0f,0x3a,0x08,0xc1")
NYX_STUBS(nyx_roundpd, "0x66,0x0f,0x3a,0x09,0xc1")
NYX_STUBS(nyx_roundss, "0x66,0x0f,0x3a,0x0a,0xc1")
NYX_STUBS(nyx_roundsd, "0x66,0x0f,0x3a,0x0b,0xc1")
NYX_STUBS(nyx_blendps, "0x66,0x0f,0x3a,0x0c,0xc1")
NYX_STUBS(nyx_blendpd, "0x66,0x0f,0x3a,0x0d,0xc1")
NYX_STUBS(nyx_pblendw, "0x66,0x0f,0x3a,0x0e,0xc1")
NYX_STUBS(nyx_palignr, "0x66,0x0f,0x3a,0x0f,0xc1")
NYX_STUBS(nyx_insertps, "0x66,0x0f,0x3a,0x21,0xc1")
NYX_STUBS(nyx_dpps, "0x66,0x0f,0x3a,0x40,0xc1")
NYX_STUBS(nyx_dppd, "0x66,0x0f,0x3a,0x41,0xc1")
NYX_STUBS(nyx_mpsadbw, "0x66,0x0f,0x3a,0x42,0xc1")
NYX_STUBS(nyx_pcmpestrm, "0x66,0x0f,0x3a,0x60,0xc1")
NYX_STUBS(nyx_pcmpestri, "0x66,0x0f,0x3a,0x61,0xc1")
NYX_STUBS(nyx_pcmpistrm, "0x66,0x0f,0x3a,0x62,0xc1")
NYX_STUBS(nyx_pcmpistri, "0x66,0x0f,0x3a,0x63,0xc1")

struct StubRegs {
  __m128i xmm0;
  uint64_t eax, ecx;
  uint16_t flags;
};
// Calls the stub for `imm`. The stack moves below the red zone for the call.
[[gnu::always_inline]] inline StubRegs call_stub(const uint8_t* table, uint8_t imm, __m128i a, __m128i b, uint64_t eax = 0, uint64_t edx = 0) {
  register __m128i x0 asm("xmm0") = a;
  register __m128i x1 asm("xmm1") = b;
  const uint8_t* stub = table + size_t(imm) * 8;
  uint64_t ecx = 0;
  uint16_t flags;
  asm volatile(
      "sub $128, %%rsp\n\tcall *%[stub]\n\tmov %%eax, %%esi\n\tlahf\n\tseto %%al\n\tmov %%ax, %[flags]\n\tmov %%esi, %%eax\n\tlea 128(%%rsp), %%rsp"
      : "+x"(x0), "+x"(x1), "+a"(eax), "+c"(ecx), [flags] "=&D"(flags), "+d"(edx)
      : [stub] "r"(stub)
      : "rsi", "cc", "memory");
  return {x0, eax, ecx, flags};
}

template <const uint8_t* Table, bool Fp, int Bytes>
struct ShuffleLike : Forms<ShuffleLike<Table, Fp, Bytes>, Bytes> {
  static void apply(Cpu& c, const Insn* i, __m128i b) {
    __m128i r;
    if constexpr (Fp) fp_do(c, i, [&] { r = call_stub(Table, uint8_t(i->imm), *xmm(c, i->reg), b).xmm0; });
    else r = call_stub(Table, uint8_t(i->imm), *xmm(c, i->reg), b).xmm0;
    *xmm(c, i->reg) = r;
  }
};
// INSERTPS from memory: the source selector of the immediate is ignored, the value is the dword.
void insertps_mem(Cpu& c, const Insn* i) {
  need_sse(c, i);
  const __m128i b = load_vec<4>(c, i);
  *xmm(c, i->reg) = call_stub(nyx_insertps, uint8_t(i->imm) & 0x3f, *xmm(c, i->reg), b).xmm0;
  return next(c, i);
}

// Shift by immediate: destination is rm.
template <const uint8_t* Table>
void shift_imm(Cpu& c, const Insn* i) {
  need_sse(c, i);
  *xmm(c, i->rm) = call_stub(Table, uint8_t(i->imm), *xmm(c, i->rm), _mm_setzero_si128()).xmm0;
  return next(c, i);
}

// PCMPxSTRx. Kind: bit 0 = index in ECX (else mask in XMM0), bit 1 = explicit lengths in EAX, EDX.
template <const uint8_t* Table, int Kind>
struct StringCompare : Forms<StringCompare<Table, Kind>, 0> {
  static void apply(Cpu& c, const Insn* i, __m128i b) {
    if constexpr (Kind & 2) {
      // With REX.W the lengths are 64-bit and saturate: the stub has 32-bit ones, so saturate here.
      auto length = [&](uint64_t v) -> uint64_t {
        if (!(i->bits & kRexW)) return uint32_t(v);
        const int64_t s = int64_t(v);
        return uint32_t(s > 16 ? 16 : s < -16 ? -16 : s);
      };
      const StubRegs r = call_stub(Table, uint8_t(i->imm), *xmm(c, i->reg), b, length(c.gpr[RAX]), length(c.gpr[RDX]));
      finish(c, r);
    } else {
      finish(c, call_stub(Table, uint8_t(i->imm), *xmm(c, i->reg), b));
    }
  }
  static void finish(Cpu& c, const StubRegs& r) {
    if constexpr (Kind & 1) c.gpr[RCX] = uint32_t(r.ecx);
    else *xmm(c, 0) = r.xmm0;
    c.flags = r.flags;
  }
};

// PINSRx, PEXTRx, EXTRACTPS: plain lane moves.
template <class T>
T& lane(Cpu& c, unsigned r, uint64_t imm) {
  return (&xmm_as<T>(c, r))[imm & (16 / sizeof(T) - 1)];
}
template <class T>
void insert_reg(Cpu& c, const Insn* i) {
  need_sse(c, i);
  lane<T>(c, i->reg, i->imm) = T(c.gpr[i->rm]);
  return next(c, i);
}
template <class T>
void insert_mem(Cpu& c, const Insn* i) {
  need_sse(c, i);
  const T v = load_rm<T>(c, i);
  lane<T>(c, i->reg, i->imm) = v;
  return next(c, i);
}
template <class T>
void extract_reg(Cpu& c, const Insn* i) {  // destination r/m, zero-extended
  need_sse(c, i);
  c.gpr[i->rm] = lane<T>(c, i->reg, i->imm);
  return next(c, i);
}
template <class T>
void extract_mem(Cpu& c, const Insn* i) {
  need_sse(c, i);
  store_rm<T>(c, i, lane<T>(c, i->reg, i->imm));
  return next(c, i);
}
void pextrw_c5(Cpu& c, const Insn* i) {  // 66 0F C5: destination reg, source rm
  need_sse(c, i);
  c.gpr[i->reg] = lane<uint16_t>(c, i->rm, i->imm);
  return next(c, i);
}

template <const uint8_t* Table, bool Fp, int Bytes>
void enter_shuffle(OpTables& t, int map, int row, int opcode) {
  put_row(t, map, row, opcode, ShuffleLike<Table, Fp, Bytes>::reg, ShuffleLike<Table, Fp, Bytes>::mem, 0, kImmUb);
}
template <const uint8_t* Table, int Kind>
void enter_string(OpTables& t, int opcode) {
  put_row(t, 3, 1, opcode, StringCompare<Table, Kind>::reg, StringCompare<Table, Kind>::mem, 0, kImmUb);
}

OpEntry shift_groups[3][8];

}  // namespace

void register_simd_imm(OpTables& t) {
  enter_shuffle<nyx_cmpps, true, 16>(t, 1, 0, 0xc2);
  enter_shuffle<nyx_cmppd, true, 16>(t, 1, 1, 0xc2);
  enter_shuffle<nyx_cmpss, true, 4>(t, 1, 2, 0xc2);
  enter_shuffle<nyx_cmpsd, true, 8>(t, 1, 3, 0xc2);
  enter_shuffle<nyx_shufps, false, 16>(t, 1, 0, 0xc6);
  enter_shuffle<nyx_shufpd, false, 16>(t, 1, 1, 0xc6);
  enter_shuffle<nyx_pshufd, false, 16>(t, 1, 1, 0x70);
  enter_shuffle<nyx_pshufhw, false, 16>(t, 1, 2, 0x70);
  enter_shuffle<nyx_pshuflw, false, 16>(t, 1, 3, 0x70);
  enter_shuffle<nyx_roundps, true, 16>(t, 3, 1, 0x08);
  enter_shuffle<nyx_roundpd, true, 16>(t, 3, 1, 0x09);
  enter_shuffle<nyx_roundss, true, 4>(t, 3, 1, 0x0a);
  enter_shuffle<nyx_roundsd, true, 8>(t, 3, 1, 0x0b);
  enter_shuffle<nyx_blendps, false, 16>(t, 3, 1, 0x0c);
  enter_shuffle<nyx_blendpd, false, 16>(t, 3, 1, 0x0d);
  enter_shuffle<nyx_pblendw, false, 16>(t, 3, 1, 0x0e);
  enter_shuffle<nyx_palignr, false, 16>(t, 3, 1, 0x0f);
  enter_shuffle<nyx_dpps, true, 16>(t, 3, 1, 0x40);
  enter_shuffle<nyx_dppd, true, 16>(t, 3, 1, 0x41);
  enter_shuffle<nyx_mpsadbw, false, 16>(t, 3, 1, 0x42);
  put_row(t, 3, 1, 0x21, ShuffleLike<nyx_insertps, false, 4>::reg, insertps_mem, 0, kImmUb);
  enter_string<nyx_pcmpestrm, 2>(t, 0x60);
  enter_string<nyx_pcmpestri, 3>(t, 0x61);
  enter_string<nyx_pcmpistrm, 0>(t, 0x62);
  enter_string<nyx_pcmpistri, 1>(t, 0x63);

  put_row(t, 1, 1, 0xc4, insert_reg<uint16_t>, insert_mem<uint16_t>, 0, kImmUb);
  put_row(t, 1, 1, 0xc5, pextrw_c5, nullptr, 0, kImmUb);
  put_row(t, 3, 1, 0x14, extract_reg<uint8_t>, extract_mem<uint8_t>, 0, kImmUb);
  put_row(t, 3, 1, 0x15, extract_reg<uint16_t>, extract_mem<uint16_t>, 0, kImmUb);
  put_row(t, 3, 1, 0x17, extract_reg<uint32_t>, extract_mem<uint32_t>, 0, kImmUb);
  put_row(t, 3, 1, 0x20, insert_reg<uint8_t>, insert_mem<uint8_t>, 0, kImmUb);
  // PEXTRD/Q and PINSRD/Q by REX.W.
  put_row(t, 3, 1, 0x16, extract_reg<uint32_t>, extract_mem<uint32_t>, 0, kImmUb);
  t.map[3][1][0x16].reg[3] = extract_reg<uint64_t>;
  t.map[3][1][0x16].mem[3] = extract_mem<uint64_t>;
  put_row(t, 3, 1, 0x22, insert_reg<uint32_t>, insert_mem<uint32_t>, 0, kImmUb);
  t.map[3][1][0x22].reg[3] = insert_reg<uint64_t>;
  t.map[3][1][0x22].mem[3] = insert_mem<uint64_t>;

  auto shift = [&](int opcode, int op, Handler h) { shift_groups[opcode - 0x71][op] = op_all(h, nullptr, kModrm | kIgnore66, kImmUb); };
  shift(0x71, 2, shift_imm<nyx_psrlw>);
  shift(0x71, 4, shift_imm<nyx_psraw>);
  shift(0x71, 6, shift_imm<nyx_psllw>);
  shift(0x72, 2, shift_imm<nyx_psrld>);
  shift(0x72, 4, shift_imm<nyx_psrad>);
  shift(0x72, 6, shift_imm<nyx_pslld>);
  shift(0x73, 2, shift_imm<nyx_psrlq>);
  shift(0x73, 3, shift_imm<nyx_psrldq>);
  shift(0x73, 6, shift_imm<nyx_psllq>);
  shift(0x73, 7, shift_imm<nyx_pslldq>);
  for (int opcode = 0x71; opcode <= 0x73; opcode++) {
    OpEntry e;
    e.bits = kModrm | kGroup | kIgnore66;
    e.group = shift_groups[opcode - 0x71];
    e.imm = kImmUb;
    t.map[1][1][opcode] = e;
  }
}

}  // namespace nyx::soft
