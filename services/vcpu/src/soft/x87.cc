// x87. A register form is executed by a host stub with the same two opcode bytes, on the host's own x87 registers, which
// hold the guest's while Cpu::x87_live. A memory form goes through a buffer that the stub addresses with rdi. The host
// runs with all exceptions masked; unmasked ones of the guest are found in the status word afterwards.
#include "soft/x87.h"

#include <algorithm>

namespace nyx::soft {
namespace {

// 8 opcodes x 64 register forms and 8 x 8 memory forms, 4 bytes apart.
asm(".pushsection .text.nyx_x87,\"ax\",@progbits\n"
    "\t.balign 64\nnyx_x87_reg:\n\t.set nyx_op,0xd8\n\t.rept 8\n\t.set nyx_rm,0xc0\n\t.rept 64\n"
    "\t.byte nyx_op, nyx_rm\n\tret\n\tint3\n\t.set nyx_rm,nyx_rm+1\n\t.endr\n\t.set nyx_op,nyx_op+1\n\t.endr\n"
    "\t.balign 64\nnyx_x87_mem:\n\t.set nyx_op,0xd8\n\t.rept 8\n\t.set nyx_rm,0x07\n\t.rept 8\n"
    "\t.byte nyx_op, nyx_rm\n\tret\n\tint3\n\t.set nyx_rm,nyx_rm+8\n\t.endr\n\t.set nyx_op,nyx_op+1\n\t.endr\n"
    "\t.popsection");
extern "C" const uint8_t nyx_x87_reg[] asm("nyx_x87_reg");
extern "C" const uint8_t nyx_x87_mem[] asm("nyx_x87_mem");

void run_stub(const uint8_t* stub, void* mem = nullptr) { reinterpret_cast<void (*)(void*)>(reinterpret_cast<uintptr_t>(stub))(mem); }

uint16_t host_sw() {
  uint16_t sw;
  asm volatile("fnstsw %0" : "=a"(sw));
  return sw;
}
uint16_t& image_cw(Cpu& c) { return *reinterpret_cast<uint16_t*>(c.fx.bytes + kFxCw); }
uint16_t& image_sw(Cpu& c) { return *reinterpret_cast<uint16_t*>(c.fx.bytes + kFxSw); }
uint16_t raw_sw(Cpu& c) { return c.x87_live ? host_sw() : image_sw(c); }
uint16_t control(Cpu& c) { return c.x87_live ? c.x87_cw : image_cw(c); }
// ES and B follow from the flags and the guest's masks.
uint16_t with_summary(uint16_t sw, uint16_t cw) {
  sw &= 0x7f7f;
  return sw & ~cw & 0x3f ? uint16_t(sw | 0x8080) : sw;
}
uint16_t status(Cpu& c) { return with_summary(raw_sw(c), control(c)); }
bool pending(Cpu& c) { return (control(c) & 0x3f) != 0x3f && (raw_sw(c) & ~control(c) & 0x3f); }

void need_x87(Cpu& c, const Insn* i, bool waits) {
  if (c.cr0 & (kCr0EM | kCr0TS)) [[unlikely]]
    raise(c, i, kNM);
  if (waits && pending(c)) [[unlikely]]
    raise(c, i, kMF);
}

void note(Cpu& c, const Insn* i) {
  c.x87_ip = insn_rip(c, i);
  c.x87_op = x87_opcode(*i);
}

// Runs a stub so that unmasked exceptions behave: IE, DE, ZE leave operands and stack alone, the flags stay.
template <class Run>
bool guarded(Cpu& c, Run run) {
  if ((c.x87_cw & 0x3f) == 0x3f) [[likely]] {
    run();
    return true;
  }
  const uint16_t before = host_sw();
  x87_spill(c);
  const FxState saved = c.fx;
  x87_load(c);
  run();
  const uint16_t raised = host_sw() & ~before & 0x7f;
  if (!(raised & ~c.x87_cw & 7)) return true;
  x87_spill(c);
  std::copy(saved.bytes, saved.bytes + kFxXmm, c.fx.bytes);
  image_sw(c) = with_summary(uint16_t(image_sw(c) | raised), c.x87_cw);
  return false;
}

uint8_t forms[8][64];

void fnclex(Cpu& c) {
  if (c.x87_live) asm volatile("fnclex");
  else image_sw(c) &= 0x7f00;
}

template <int Op>
[[gnu::noinline]] void x87_reg(Cpu& c, const Insn* i) {
  const int rm = int(i->imm & 0x3f);
  const int form = forms[Op][rm];
  if (form == kX87Bad) [[unlikely]]
    raise(c, i, kUD);
  if constexpr (Op == 3) {
    if ((rm >> 3) == 4) {  // FNENI, FNDISI, FNCLEX, FNINIT, FNSETPM: do not wait
      need_x87(c, i, false);
      if (rm == 0x22) fnclex(c);
      if (rm == 0x23) x87_reset(c);
      return;
    }
  }
  if constexpr (Op == 7) {
    if (rm == 0x20) {  // FNSTSW AX
      need_x87(c, i, false);
      set_reg<uint16_t>(c, RAX, status(c));
      return;
    }
  }
  need_x87(c, i, true);
  if (!c.x87_live) [[unlikely]]
    x87_load(c);
  note(c, i);
  const uint8_t* stub = nyx_x87_reg + (Op * 64 + rm) * 4;
  if (form == kX87Plain) [[likely]] {
    guarded(c, [&] { run_stub(stub); });
  } else if (form == kX87Cmov) {
    uint16_t ax = c.flags;
    guarded(c, [&] {
      asm volatile("sub $128, %%rsp\n\tsahf\n\tcall *%1\n\tlea 128(%%rsp), %%rsp" : "+a"(ax) : "r"(stub) : "cc", "memory");
    });
  } else {
    uint16_t ax = 0;
    // ZF, PF, CF as compared; OF, SF, AF cleared.
    if (guarded(c, [&] {
          asm volatile("sub $128, %%rsp\n\tcall *%1\n\tlahf\n\tlea 128(%%rsp), %%rsp" : "+a"(ax) : "r"(stub) : "cc", "memory");
        }))
      c.flags = uint16_t((ax & 0x4500) | 0x0200);
  }
}

void fetch(Cpu& c, const Insn* i, uint64_t at, void* out, unsigned n) { load_slow(c, i, at, out, n); }

// FNSTENV image of 14 or 28 bytes (protected-mode format).
unsigned environment(Cpu& c, const Insn* i, uint8_t* out) {
  x87_spill(c);
  const uint16_t cw = image_cw(c), sw = with_summary(image_sw(c), cw);
  uint16_t tags = 0;
  const int top = sw >> 11 & 7;
  for (int r = 0; r < 8; r++) {  // r: physical register
    unsigned tag = 3;
    if (c.fx.bytes[kFxTw] >> r & 1) {
      const uint8_t* st = c.fx.bytes + kFxSt + 16 * ((r - top) & 7);
      uint64_t significand;
      uint16_t exponent;
      std::memcpy(&significand, st, 8);
      std::memcpy(&exponent, st + 8, 2);
      exponent &= 0x7fff;
      tag = exponent == 0 && significand == 0 ? 1 : exponent == 0x7fff || exponent == 0 || !(significand >> 63) ? 2 : 0;
    }
    tags |= uint16_t(tag << (2 * r));
  }
  if (i->opsize == 2) {
    const uint16_t env[7] = {cw, sw, tags, uint16_t(c.x87_ip), 0, uint16_t(c.x87_dp), 0};
    std::memcpy(out, env, 14);
    return 14;
  }
  const uint32_t env[7] = {0xffff0000u | cw, 0xffff0000u | sw, 0xffff0000u | tags, uint32_t(c.x87_ip), uint32_t(c.x87_op) << 16, uint32_t(c.x87_dp), 0xffff0000u};
  std::memcpy(out, env, 28);
  return 28;
}
void set_environment(Cpu& c, const Insn* i, const uint8_t* in) {
  uint16_t cw, sw, tags;
  const unsigned step = i->opsize == 2 ? 2 : 4;
  std::memcpy(&cw, in, 2);
  std::memcpy(&sw, in + step, 2);
  std::memcpy(&tags, in + 2 * step, 2);
  x87_spill(c);
  image_cw(c) = uint16_t((cw & 0x1f3f) | 0x40);
  image_sw(c) = with_summary(sw, cw);
  c.fx.bytes[kFxTw] = 0;
  for (int r = 0; r < 8; r++)
    if ((tags >> (2 * r) & 3) != 3) c.fx.bytes[kFxTw] |= uint8_t(1 << r);
  c.x87_ip = c.x87_dp = 0;
  std::memcpy(&c.x87_ip, in + 3 * step, step);
  std::memcpy(&c.x87_dp, in + 5 * step, step);
  if (step == 4) {
    uint32_t op;
    std::memcpy(&op, in + 16, 4);
    c.x87_op = op >> 16 & 0x7ff;
  }
}

// The register images of FNSAVE and FXSAVE are both in stack order, relative to TOP.
void fnsave(Cpu& c, const Insn* i, uint64_t at) {
  uint8_t area[108];
  const unsigned env = environment(c, i, area);
  for (int k = 0; k < 8; k++) std::memcpy(area + env + 10 * k, c.fx.bytes + kFxSt + 16 * k, 10);
  store_slow(c, i, at, area, 64);
  store_slow(c, i, at + 64, area + 64, env + 80 - 64);
  x87_reset(c);
}
void frstor(Cpu& c, const Insn* i, uint64_t at) {
  const unsigned env = i->opsize == 2 ? 14 : 28;
  uint8_t area[108];
  fetch(c, i, at, area, 64);
  fetch(c, i, at + 64, area + 64, env + 80 - 64);
  set_environment(c, i, area);
  for (int k = 0; k < 8; k++) std::memcpy(c.fx.bytes + kFxSt + 16 * k, area + env + 10 * k, 10);
}

// D9 /4../7, DD /4, /6, /7: control, environment, state. True when handled.
template <int Op>
bool control_form(Cpu& c, const Insn* i, int reg) {
  if constexpr (Op == 1) {
    if (reg == 4) {  // FLDENV
      need_x87(c, i, true);
      uint8_t env[28];
      const unsigned n = i->opsize == 2 ? 14 : 28;
      fetch(c, i, linear_of(c, i, n, Access::kRead), env, n);
      set_environment(c, i, env);
    } else if (reg == 5) {  // FLDCW
      need_x87(c, i, true);
      const uint16_t cw = uint16_t((load_rm<uint16_t>(c, i) & 0x1f3f) | 0x40);
      if (c.x87_live) {
        c.x87_cw = cw;
        const uint16_t masked = cw | 0x3f;
        asm volatile("fldcw %0" : : "m"(masked));
      } else {
        image_cw(c) = cw;
        image_sw(c) = with_summary(image_sw(c), cw);
      }
    } else if (reg == 6) {  // FNSTENV
      need_x87(c, i, false);
      uint8_t env[28];
      const unsigned n = environment(c, i, env);
      store_slow(c, i, linear_of(c, i, n, Access::kWrite), env, n);
      image_cw(c) |= 0x3f;  // masks all exceptions
      image_sw(c) = with_summary(image_sw(c), image_cw(c));
    } else if (reg == 7) {  // FNSTCW
      need_x87(c, i, false);
      store_rm<uint16_t>(c, i, control(c));
    } else {
      return false;
    }
    return true;
  } else if constexpr (Op == 5) {
    if (reg == 4) {
      need_x87(c, i, true);
      frstor(c, i, linear_of(c, i, 108, Access::kRead));
    } else if (reg == 6) {
      need_x87(c, i, false);
      fnsave(c, i, linear_of(c, i, 108, Access::kWrite));
    } else if (reg == 7) {
      need_x87(c, i, false);
      store_rm<uint16_t>(c, i, status(c));
    } else {
      return false;
    }
    return true;
  }
  return false;
}

template <int Op>
[[gnu::noinline]] void x87_mem(Cpu& c, const Insn* i) {
  const int reg = int(i->imm >> 3 & 7);
  const X87Memory f = kX87Memory[Op][reg];
  if (f.bytes == 0) {
    if (!control_form<Op>(c, i, reg)) raise(c, i, kUD);
    return;
  }
  need_x87(c, i, true);
  const uint8_t* stub = nyx_x87_mem + (Op * 8 + reg) * 4;
  alignas(16) uint8_t buffer[16];
  const uint64_t at = linear_of(c, i, f.bytes, f.store ? Access::kWrite : Access::kRead);
  if (f.store) {
    // The stub may pop: every fault comes first.
    rmw_slow(c, i, at, f.bytes);
    if (!c.x87_live) x87_load(c);
    note(c, i);
    c.x87_dp = at;
    if (guarded(c, [&] { run_stub(stub, buffer); })) {
      switch (f.bytes) {
        case 2: { uint16_t v; std::memcpy(&v, buffer, 2); store<uint16_t>(c, i, at, v); break; }
        case 4: { uint32_t v; std::memcpy(&v, buffer, 4); store<uint32_t>(c, i, at, v); break; }
        case 8: { uint64_t v; std::memcpy(&v, buffer, 8); store<uint64_t>(c, i, at, v); break; }
        default: store_slow(c, i, at, buffer, 10);
      }
    }
  } else {
    switch (f.bytes) {
      case 2: { const uint16_t v = load<uint16_t>(c, i, at); std::memcpy(buffer, &v, 2); break; }
      case 4: { const uint32_t v = load<uint32_t>(c, i, at); std::memcpy(buffer, &v, 4); break; }
      case 8: { const uint64_t v = load<uint64_t>(c, i, at); std::memcpy(buffer, &v, 8); break; }
      default: load_slow(c, i, at, buffer, 10);
    }
    if (!c.x87_live) [[unlikely]]
      x87_load(c);
    note(c, i);
    c.x87_dp = at;
    guarded(c, [&] { run_stub(stub, buffer); });
  }
}

void fwait(Cpu& c, const Insn* i) {
  if ((c.cr0 & (kCr0MP | kCr0TS)) == (kCr0MP | kCr0TS)) raise(c, i, kNM);
  if (pending(c)) raise(c, i, kMF);
  return next(c, i);
}

}  // namespace

X87Form x87_form(int op, int rm) {
  const int reg = rm >> 3;
  switch (op) {
    case 1:  // D9
      if (reg == 2) return rm == 0x10 ? kX87Plain : kX87Bad;
      if (reg == 4) return rm == 0x22 || rm == 0x23 || rm == 0x26 || rm == 0x27 ? kX87Bad : kX87Plain;
      return rm == 0x2f ? kX87Bad : kX87Plain;
    case 2:  // DA
      if (reg < 4) return kX87Cmov;
      return rm == 0x29 ? kX87Plain : kX87Bad;
    case 3:  // DB
      if (reg < 4) return kX87Cmov;
      if (reg == 5 || reg == 6) return kX87Compare;
      return reg == 4 && (rm & 7) <= 4 ? kX87Plain : kX87Bad;
    case 5:  // DD
      return reg >= 6 ? kX87Bad : kX87Plain;
    case 6:  // DE
      return reg == 3 && rm != 0x19 ? kX87Bad : kX87Plain;
    case 7:  // DF
      if (reg == 4) return rm == 0x20 ? kX87Plain : kX87Bad;
      if (reg == 5 || reg == 6) return kX87Compare;
      return reg == 7 ? kX87Bad : kX87Plain;
    default:
      return kX87Plain;
  }
}
const X87Memory kX87Memory[8][8] = {
    {{4, 0}, {4, 0}, {4, 0}, {4, 0}, {4, 0}, {4, 0}, {4, 0}, {4, 0}},
    {{4, 0}, {0, 0}, {4, 1}, {4, 1}, {0, 0}, {0, 0}, {0, 0}, {0, 0}},
    {{4, 0}, {4, 0}, {4, 0}, {4, 0}, {4, 0}, {4, 0}, {4, 0}, {4, 0}},
    {{4, 0}, {4, 1}, {4, 1}, {4, 1}, {0, 0}, {10, 0}, {0, 0}, {10, 1}},
    {{8, 0}, {8, 0}, {8, 0}, {8, 0}, {8, 0}, {8, 0}, {8, 0}, {8, 0}},
    {{8, 0}, {8, 1}, {8, 1}, {8, 1}, {0, 0}, {0, 0}, {0, 0}, {0, 0}},
    {{2, 0}, {2, 0}, {2, 0}, {2, 0}, {2, 0}, {2, 0}, {2, 0}, {2, 0}},
    {{2, 0}, {2, 1}, {2, 1}, {2, 1}, {10, 0}, {8, 0}, {10, 1}, {8, 1}},
};

void x87_load(Cpu& c) {
  if (c.x87_live) return;
  c.x87_cw = image_cw(c);
  alignas(64) uint8_t area[512];
  std::memcpy(area, c.fx.bytes, kFxXmm);
  const uint16_t masked = c.x87_cw | 0x3f;
  const uint16_t sw = image_sw(c) & 0x7f7f;
  const uint32_t csr = _mm_getcsr();
  std::memcpy(area + kFxCw, &masked, 2);
  std::memcpy(area + kFxSw, &sw, 2);
  std::memcpy(area + kFxMxcsr, &csr, 4);
  asm volatile("fxrstor64 %0"
               :
               : "m"(area)
               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  c.x87_live = true;
}

void x87_spill(Cpu& c) {
  if (!c.x87_live) return;
  alignas(64) uint8_t area[512];
  asm volatile("fxsave64 %0\n\tfninit" : "=m"(area));
  // Not the host's pointers.
  std::memcpy(c.fx.bytes, area, kFxOp);
  std::memcpy(c.fx.bytes + kFxSt, area + kFxSt, kFxXmm - kFxSt);
  image_cw(c) = c.x87_cw;
  image_sw(c) = with_summary(image_sw(c), c.x87_cw);
  c.x87_live = false;
}

void x87_take(Cpu& c, const uint8_t* in) {
  x87_spill(c);
  std::memcpy(c.fx.bytes, in, kFxMxcsr);
  std::memcpy(c.fx.bytes + kFxSt, in + kFxSt, kFxXmm - kFxSt);
  // What a processor does not keep.
  image_cw(c) = uint16_t((image_cw(c) & 0x1f3f) | 0x40);
  image_sw(c) = with_summary(image_sw(c), image_cw(c));
  c.fx.bytes[kFxTw + 1] = 0;
  for (int k = 0; k < 8; k++) std::memset(c.fx.bytes + kFxSt + 16 * k + 10, 0, 6);
  std::memcpy(&c.x87_op, in + kFxOp, 2);
  c.x87_op &= 0x7ff;
  std::memcpy(&c.x87_ip, in + kFxIp, 8);
  std::memcpy(&c.x87_dp, in + kFxDp, 8);
}

void x87_reset(Cpu& c) {
  x87_spill(c);
  image_cw(c) = 0x37f;
  image_sw(c) = 0;
  c.fx.bytes[kFxTw] = 0;
  c.x87_ip = c.x87_dp = c.x87_op = 0;
}

void mmx_check_slow(Cpu& c, const Insn* i) {
  if (pending(c)) raise(c, i, kMF);
}
void mmx_enter_slow(Cpu& c, const Insn* i) {
  mmx_check_slow(c, i);
  x87_spill(c);
  // In the image ST(k) is physical register (TOP + k): with TOP = 0 the order becomes physical.
  const int top = image_sw(c) >> 11 & 7;
  if (top) std::rotate(c.fx.bytes + kFxSt, c.fx.bytes + kFxSt + 16 * (8 - top), c.fx.bytes + kFxSt + 128);
  image_sw(c) &= 0xc7ff;
  c.fx.bytes[kFxTw] = 0xff;
}

template <int Op>
static void enter_opcode(OpTables& t) {
  put(t, 0, 0xd8 + Op, op_all(then_next<x87_reg<Op>>, then_next<x87_mem<Op>>, kModrm | kX87));
}

void register_x87(OpTables& t) {
  for (int op = 0; op < 8; op++)
    for (int rm = 0; rm < 64; rm++) forms[op][rm] = uint8_t(x87_form(op, rm));
  enter_opcode<0>(t);
  enter_opcode<1>(t);
  enter_opcode<2>(t);
  enter_opcode<3>(t);
  enter_opcode<4>(t);
  enter_opcode<5>(t);
  enter_opcode<6>(t);
  enter_opcode<7>(t);
  put(t, 0, 0x9b, op_all(fwait, fwait, 0));
  register_fxsave(t);
}

}  // namespace nyx::soft
