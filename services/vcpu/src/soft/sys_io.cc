// IN, OUT, INS, OUTS with their permission checks (Intel SDM vol. 1, 19.5; vol. 2).
#include "accel.h"
#include "soft/coherence.h"
#include "soft/pace.h"
#include "soft/segment.h"
#include "soft/system.h"
#include "soft/walk.h"

namespace nyx::soft {
namespace {

// The I/O permission bitmap of the TSS.
[[gnu::noinline]] void check_bitmap(Cpu& c, const Insn* i, unsigned port, unsigned size) {
  const Segment& tss = c.seg[TR];
  const unsigned type = tss.attr & 15;
  if (!tss.present() || (type != kTss32 && type != kTss32Busy) || tss.limit < 103) raise(c, i, kGP, 0);
  const unsigned at = load_system<uint16_t>(c, i, tss.base + 102) + port / 8;
  if (at + 1 > tss.limit) raise(c, i, kGP, 0);
  const unsigned bits = load_system<uint16_t>(c, i, tss.base + at) >> (port & 7);
  if (bits & ((1u << size) - 1)) raise(c, i, kGP, 0);
}

void check_port(Cpu& c, const Insn* i, unsigned port, unsigned size) {
  if ((c.cr0 & kCr0PE) && (c.cpl > (c.eflags >> 12 & 3) || (c.eflags & kVM))) check_bitmap(c, i, port, size);
}

[[gnu::noinline]] void in(Cpu& c, const Insn* i, uint16_t port) {
  const unsigned size = i->opsize > 4 ? 4 : i->opsize;
  check_port(c, i, port, size);
  c.rip = insn_rip(c, i);
  paced(c, i);
  uint32_t v;
  {
    Outside outside(c);
    v = c.bus->PioRead(port, size);
  }
  if (size == 1) set_reg<uint8_t>(c, RAX, uint8_t(v));
  else if (size == 2) set_reg<uint16_t>(c, RAX, uint16_t(v));
  else c.gpr[RAX] = v;
}

[[gnu::noinline]] void out(Cpu& c, const Insn* i, uint16_t port) {
  const unsigned size = i->opsize > 4 ? 4 : i->opsize;
  check_port(c, i, port, size);
  c.rip = insn_rip(c, i);
  paced(c, i);
  const uint32_t v = uint32_t(c.gpr[RAX]);
  Outside outside(c);
  c.bus->PioWrite(port, size, size == 1 ? uint8_t(v) : size == 2 ? uint16_t(v) : v);
}

// All end their block: what the access did to the machine (an interrupt, a reset) shows before the next instruction.
void op_in_imm(Cpu& c, const Insn* i) {
  in(c, i, uint16_t(i->imm & 0xff));
  return jump(c, i, next_rip(c, i));
}
void op_in_dx(Cpu& c, const Insn* i) {
  in(c, i, uint16_t(c.gpr[RDX]));
  return jump(c, i, next_rip(c, i));
}
void op_out_imm(Cpu& c, const Insn* i) {
  out(c, i, uint16_t(i->imm & 0xff));
  return jump(c, i, next_rip(c, i));
}
void op_out_dx(Cpu& c, const Insn* i) {
  out(c, i, uint16_t(c.gpr[RDX]));
  return jump(c, i, next_rip(c, i));
}

// Bytes of an address of the string instruction.
unsigned address_size(const Cpu& c, const Insn* i) { return i->ea & kEa16 ? 2 : i->ea & kEa32 ? 4 : c.code64() ? 8 : 4; }
uint64_t address_mask(unsigned size) { return size == 8 ? ~uint64_t{0} : size == 4 ? 0xffffffff : 0xffff; }

void add_to(Cpu& c, unsigned reg, unsigned asize, int64_t delta) {
  const uint64_t v = c.gpr[reg] + uint64_t(delta);
  if (asize == 2) set_reg<uint16_t>(c, uint8_t(reg), uint16_t(v));
  else c.gpr[reg] = asize == 4 ? uint32_t(v) : v;
}

// Elements that one burst may move: up to the end of the page, of the segment and of the index register's range.
uint32_t burst(const Cpu& c, SegReg seg, uint64_t offset, uint64_t linear, unsigned size, uint64_t count, unsigned asize) {
  if (c.df || c.ac_check) return 1;
  uint64_t room = 4096 - (linear & 0xfff);
  uint64_t end = asize == 8 ? ~uint64_t{0} : address_mask(asize) + 1;
  if (!c.code64()) end = std::min<uint64_t>(end, uint64_t{c.seg[seg].limit} + 1);
  if (!c.code64() && c.seg[seg].expand_down()) return 1;
  room = std::min(room, end - offset);
  return uint32_t(std::max<uint64_t>(1, std::min(count, room / size)));
}

uint64_t string_linear(Cpu& c, const Insn* i, SegReg seg, uint64_t offset, unsigned size, Access a) {
  if (c.code64()) return offset + (seg == FS || seg == GS ? c.seg[seg].base : 0);
  return linear_seg(c, i, seg, offset, size, a);
}

// One element without REP, everything (or until attention asks) with it. False: interrupted, to be continued.
[[gnu::noinline]] bool string_io(Cpu& c, const Insn* i, bool input) {
  const unsigned size = i->opsize > 4 ? 4 : i->opsize;
  const uint16_t port = uint16_t(c.gpr[RDX]);
  check_port(c, i, port, size);
  const unsigned asize = address_size(c, i);
  const bool rep = i->bits & (kRep | kRepne);
  const unsigned index = input ? RDI : RSI;
  const SegReg seg = input ? ES : SegReg(i->seg);
  alignas(8) uint8_t buffer[4096];
  for (;;) {
    const uint64_t count = rep ? c.gpr[RCX] & address_mask(asize) : 1;
    if (count == 0) return true;
    const uint64_t offset = c.gpr[index] & address_mask(asize);
    const uint64_t at = string_linear(c, i, seg, offset, size, input ? Access::kWrite : Access::kRead);
    const uint32_t n = burst(c, seg, offset, at, size, count, asize);
    const unsigned bytes = n * size;
    if (input) {
      check_write(c, i, at, bytes);
    } else {
      load_slow(c, i, at, buffer, bytes);
    }
    c.rip = insn_rip(c, i);
    paced(c, i);
    {
      Outside outside(c);
      if (input) c.bus->PioReadBurst(port, size, n, buffer);
      else c.bus->PioWriteBurst(port, size, n, buffer);
    }
    if (input) store_slow(c, i, at, buffer, bytes);
    add_to(c, index, asize, c.df ? -int64_t(bytes) : int64_t(bytes));
    if (!rep) return true;
    add_to(c, RCX, asize, -int64_t(n));
    if ((c.gpr[RCX] & address_mask(asize)) && c.attention->load(std::memory_order_relaxed)) return false;
  }
}

template <bool Input>
void op_string(Cpu& c, const Insn* i) {
  if (!string_io(c, i, Input)) leave_at(c, i);
  return jump(c, i, next_rip(c, i));
}

}  // namespace

void register_io(OpTables& t) {
  put(t, 0, 0xe4, op_all(op_in_imm, nullptr, kEnds | kByte, kImmUb));
  put(t, 0, 0xe5, op_all(op_in_imm, nullptr, kEnds, kImmUb));
  put(t, 0, 0xe6, op_all(op_out_imm, nullptr, kEnds | kByte, kImmUb));
  put(t, 0, 0xe7, op_all(op_out_imm, nullptr, kEnds, kImmUb));
  put(t, 0, 0xec, op_all(op_in_dx, nullptr, kEnds | kByte));
  put(t, 0, 0xed, op_all(op_in_dx, nullptr, kEnds));
  put(t, 0, 0xee, op_all(op_out_dx, nullptr, kEnds | kByte));
  put(t, 0, 0xef, op_all(op_out_dx, nullptr, kEnds));
  put(t, 0, 0x6c, op_all(op_string<true>, nullptr, kEnds | kByte));
  put(t, 0, 0x6d, op_all(op_string<true>, nullptr, kEnds));
  put(t, 0, 0x6e, op_all(op_string<false>, nullptr, kEnds | kByte));
  put(t, 0, 0x6f, op_all(op_string<false>, nullptr, kEnds));
}

}  // namespace nyx::soft
