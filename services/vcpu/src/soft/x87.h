// The x87 state between the host's registers and its FXSAVE image.
#pragma once
#include "soft/simd.h"

namespace nyx::soft {

// What a register form is, by opcode - D8 and the low six bits of ModRM. Reserved encodings are #UD.
enum X87Form : uint8_t { kX87Bad, kX87Plain, kX87Cmov, kX87Compare };
X87Form x87_form(int op, int rm);
// Memory forms, by opcode - D8 and ModRM.reg: bytes of the operand and whether it is written. 0 bytes: control, environment,
// state, or reserved.
struct X87Memory {
  uint8_t bytes;
  bool store;
};
extern const X87Memory kX87Memory[8][8];
// What FNSTENV shows of an instruction's opcode: its low three bits, and ModRM.
inline uint16_t x87_opcode(const Insn& i) { return i.imm & 0x7ff; }

void x87_load(Cpu& c);   // makes the state live on the host
void x87_spill(Cpu& c);  // to Cpu::fx
void x87_take(Cpu& c, const uint8_t* in);  // from an FXSAVE image of the guest's
void x87_reset(Cpu& c);  // FNINIT state in Cpu::fx, not live
// #MF when an unmasked exception is pending.
void mmx_check_slow(Cpu& c, const Insn* i);
// The same; then state to Cpu::fx, TOP = 0, all tags valid.
void mmx_enter_slow(Cpu& c, const Insn* i);
// Already in MMX form: spilled, TOP 0, all tags valid. A pending exception cannot arise in that form but by a load of
// the image, which FTW = 0xff does not exclude, so the status word is looked at too.
[[gnu::always_inline]] inline bool mmx_form(const Cpu& c) {
  const uint32_t head = *reinterpret_cast<const uint32_t*>(c.fx.bytes);
  return !c.x87_live && c.fx.bytes[kFxTw] == 0xff && (head & 0x3800003f) == 0x0000003f;
}
[[gnu::always_inline]] inline void mmx_enter(Cpu& c, const Insn* i) {
  if (!mmx_form(c)) [[unlikely]]
    mmx_enter_slow(c, i);
}

}  // namespace nyx::soft
