// Instruction formats: Intel SDM vol. 2, chapter 2; AMD APM vol. 3, chapter 1.
#include "soft/decode.h"

#include <cstring>
#include <deque>
#include <memory>

namespace nyx::soft {
namespace {

// Reads bytes of one instruction. After an overrun it gives zeros and `short_of` is set.
struct Reader {
  const uint8_t* bytes;
  unsigned avail;  // at most kMaxInsnBytes
  unsigned at = 0;
  bool short_of = false;

  template <class T>
  T take() {
    if (at + sizeof(T) > avail) {
      short_of = true;
      at = avail;
      return 0;
    }
    T v;
    std::memcpy(&v, bytes + at, sizeof(T));
    at += sizeof(T);
    return v;
  }
  template <class T>
  uint64_t take_signed() {
    return uint64_t(int64_t(std::make_signed_t<T>(take<T>())));
  }
};

struct Prefixes {
  uint8_t bits = 0;  // InsnBits
  uint8_t rex = 0;
  bool addr = false;
  int seg = -1;
};

// The opcode byte after the prefixes.
uint8_t read_prefixes(Reader& r, bool mode64, Prefixes* p) {
  for (;;) {
    const uint8_t b = r.take<uint8_t>();
    if (r.short_of) return 0;
    switch (b) {
      case 0x66: p->bits |= kOpSize; break;
      case 0x67: p->addr = true; break;
      case 0xf0: p->bits |= kLock; break;
      case 0xf2: p->bits = uint8_t((p->bits & ~kRep) | kRepne); break;
      case 0xf3: p->bits = uint8_t((p->bits & ~kRepne) | kRep); break;
      // 64-bit mode ignores these four, also as an answer to an earlier FS or GS.
      case 0x26: if (!mode64) p->seg = ES; break;
      case 0x2e: if (!mode64) p->seg = CS; break;
      case 0x36: if (!mode64) p->seg = SS; break;
      case 0x3e: if (!mode64) p->seg = DS; break;
      case 0x64: p->seg = FS; break;
      case 0x65: p->seg = GS; break;
      default:
        if (mode64 && (b & 0xf0) == 0x40) {
          p->rex = b;
          continue;
        }
        if (p->rex) p->bits |= kRex;
        if (p->rex & 8) p->bits |= kRexW;
        return b;
    }
    p->rex = 0;  // counts only directly before the opcode
  }
}

void memory_16(Reader& r, unsigned mod, unsigned rm, Insn* i) {
  static constexpr uint8_t kBase[8] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX};
  static constexpr uint8_t kIndex[8] = {RSI, RDI, RSI, RDI, kRegZero, kRegZero, kRegZero, kRegZero};
  i->base = kBase[rm];
  i->index = kIndex[rm];
  i->seg = i->base == RBP ? SS : DS;
  if (mod == 0 && rm == 6) {
    i->base = kRegZero;
    i->seg = DS;
    i->disp = r.take<uint16_t>();
  } else if (mod == 1) {
    i->disp = int32_t(r.take_signed<uint8_t>());
  } else if (mod == 2) {
    i->disp = int32_t(r.take_signed<uint16_t>());
  }
}

// True when the operand is relative to the next instruction.
bool memory_32(Reader& r, unsigned mod, unsigned rm, uint8_t rex, bool mode64, Insn* i) {
  bool relative = false;
  i->seg = DS;
  unsigned base = rm;
  if (rm == 4) {
    const uint8_t sib = r.take<uint8_t>();
    base = sib & 7;
    const unsigned index = (sib >> 3 & 7) | (rex & 2) << 2;
    if (index != 4) {
      i->index = uint8_t(index);
      i->shift = sib >> 6;
    }
  }
  if (base == 5 && mod == 0) {
    relative = rm == 5 && mode64;
    i->disp = int32_t(r.take<uint32_t>());
  } else {
    i->base = uint8_t(base | (rex & 1) << 3);
    if (i->base == RSP || i->base == RBP) i->seg = SS;
    if (mod == 1) i->disp = int32_t(r.take_signed<uint8_t>());
    if (mod == 2) i->disp = int32_t(r.take<uint32_t>());
  }
  return relative;
}

// Offset in Cpu::gpr of an 8-bit register.
uint8_t byte_reg(unsigned n, bool rex) { return uint8_t(!rex && n >= 4 ? (n - 4) * 8 + 1 : n * 8); }

unsigned operand_size(uint32_t mode, const Prefixes& p, uint32_t bits) {
  if (bits & kByte) return 1;
  const bool small = (p.bits & kOpSize) && !(bits & kIgnore66);
  if (mode & kMode64) {
    if ((p.bits & kRexW) || (bits & kForce64)) return 8;
    if (small) return 2;
    return bits & kDef64 ? 8 : 4;
  }
  if (bits & kIgnore66) return 4;
  return small != bool(mode & kModeD32) ? 4 : 2;
}

// Reads the immediate; what is relative to the next instruction is completed by the caller, who knows the length.
uint64_t read_immediate(Reader& r, Imm kind, unsigned opsize, unsigned addr) {
  switch (kind) {
    case kImmNone: return 0;
    case kImmB:
    case kImmRelB: return r.take_signed<uint8_t>();
    case kImmUb: return r.take<uint8_t>();
    case kImmW: return r.take<uint16_t>();
    case kImmZ:
    case kImmRelZ: return opsize == 2 ? r.take_signed<uint16_t>() : r.take_signed<uint32_t>();
    case kImmV: return opsize == 2 ? r.take<uint16_t>() : opsize == 4 ? r.take<uint32_t>() : r.take<uint64_t>();
    case kImmMoffs: return addr == 2 ? r.take<uint16_t>() : addr == 4 ? r.take<uint32_t>() : r.take<uint64_t>();
    case kImmFar: {
      const uint64_t offset = opsize == 2 ? r.take<uint16_t>() : r.take<uint32_t>();
      return offset | uint64_t(r.take<uint16_t>()) << 32;
    }
    case kImmWB: {
      const uint64_t size = r.take<uint16_t>();
      return size | uint64_t(r.take<uint8_t>()) << 16;
    }
  }
  return 0;
}

uint8_t address_bits(uint32_t mode, unsigned addr, unsigned seg) {
  const bool based = seg == FS || seg == GS;
  const uint8_t width = addr == 2 ? kEa16 : addr == 4 ? kEa32 : 0;
  if (mode & kMode64) return uint8_t(width | (based ? kEaSegBase : 0));
  if ((mode & kModeFlat) && !based && seg != CS) return width;  // CS is not writable
  return uint8_t(width | kEaLegacy | kEaCheck);
}

}  // namespace

Decoded decode(const OpTables& t, uint32_t mode, const uint8_t* bytes, unsigned avail, uint16_t off, Insn* out, uint32_t* bits) {
  // A copy: the guest's other CPUs may change the bytes while we look at them twice.
  uint8_t copy[kMaxInsnBytes];
  const unsigned have = avail < kMaxInsnBytes ? avail : kMaxInsnBytes;
  std::memcpy(copy, bytes, have);
  Reader r{copy, have};
  const Decoded overrun = avail < kMaxInsnBytes ? Decoded::kNeedMore : Decoded::kTooLong;
  const bool mode64 = mode & kMode64;

  Prefixes p;
  uint8_t opcode = read_prefixes(r, mode64, &p);
  int map = 0;
  if (opcode == 0x0f && !r.short_of) {
    opcode = r.take<uint8_t>();
    map = 1;
    if (opcode == 0x38 || opcode == 0x3a) {
      map = opcode == 0x38 ? 2 : 3;
      opcode = r.take<uint8_t>();
    }
  }
  if (r.short_of) return overrun;

  const int row = p.bits & kRep ? 2 : p.bits & kRepne ? 3 : p.bits & kOpSize ? 1 : 0;
  const OpEntry* e = &t.map[map][row][opcode];
  if (!mode64 && e->legacy) e = e->legacy;

  *out = Insn{};
  out->base = out->index = kRegZero;
  out->seg = DS;
  out->off = off;
  const unsigned addr = mode64 ? (p.addr ? 4 : 8) : p.addr != bool(mode & kModeD32) ? 4 : 2;
  const bool has_modrm = e->bits & (kModrm | kGroup);
  bool memory = e->imm == kImmMoffs, relative = false;
  unsigned modrm = 0;
  if (has_modrm) {
    modrm = r.take<uint8_t>();
    if (r.short_of) return overrun;
    const unsigned mod = modrm >> 6, rm = modrm & 7;
    if (e->bits & kGroup) {
      const bool wide = (e->bits & kGroup64) && mod == 3;
      const OpEntry* member = &e->group[wide ? 8 + (modrm & 0x3f) : modrm >> 3 & 7];
      e = member;
    }
    memory = mod != 3 && !(e->bits & kIgnoreMod);
    if (memory && !r.short_of) {
      if (addr == 2) memory_16(r, mod, rm, out);
      else relative = memory_32(r, mod, rm, p.rex, mode64, out);
    }
  }
  // An opcode that is undefined here still has its length, and one that is too long is that first.
  const bool undefined = (e->bits & (mode64 ? kNo64 : kOnly64)) || (has_modrm && (e->bits & (memory ? kRegOnly : kMemOnly))) ||
                         ((p.bits & kLock) && !(memory && (e->bits & kLockable)));
  const unsigned opsize = operand_size(mode, p, e->bits);
  const unsigned k = opsize == 8 ? 3 : opsize >> 1;
  out->fn = memory ? e->mem[k] : e->reg[k];
  out->opsize = uint8_t(opsize);
  out->bits = p.bits;

  // Registers.
  const bool rex = p.rex != 0;
  unsigned reg = (modrm >> 3 & 7) | (p.rex & 4) << 1, rm = (modrm & 7) | (p.rex & 1) << 3;
  if (e->bits & kOpcodeReg) rm = (opcode & 7) | (p.rex & 1) << 3;
  if (has_modrm || (e->bits & kOpcodeReg)) {
    out->reg = e->bits & kByte ? byte_reg(reg, rex) : uint8_t(reg);
    out->rm = e->bits & (kByte | kByteRm) ? byte_reg(rm, rex) : uint8_t(rm);
    if (!has_modrm) out->reg = 0;
  }

  out->imm = read_immediate(r, e->imm, opsize, addr);
  if (e->bits & kX87) {
    out->rm = modrm & 7;
    out->imm = modrm | unsigned(opcode) << 8;
  } else if (e->bits & kModrmToImm) {
    out->imm = (out->imm & 0xff) | modrm << 8;
  }
  if (r.short_of) return overrun;
  if (undefined || !out->fn) return Decoded::kUndefined;

  out->len = uint8_t(r.at);
  const int64_t end = int64_t(off) + r.at;
  if (e->imm == kImmRelB || e->imm == kImmRelZ) out->imm += uint64_t(end);
  if (relative) {
    out->base = kRegBlock;
    // Wraps only for a displacement within a block's length of 2 GiB.
    out->disp = int32_t(uint32_t(out->disp) + uint32_t(end));
  }
  if (p.seg >= 0) out->seg = uint8_t(p.seg);
  // Pushes, pops and branches access the stack, whatever the prefixes say: #SS when they fault.
  if (!has_modrm && (e->bits & (kDef64 | kForce64))) out->seg = SS;
  out->ea = address_bits(mode, addr, out->seg);
  *bits = e->bits;
  return Decoded::kOk;
}

namespace {

// Groups live as long as the program: tables are built once.
OpEntry* new_group(size_t entries) {
  static std::deque<std::unique_ptr<OpEntry[]>> groups;
  return groups.emplace_back(new OpEntry[entries]).get();
}

}  // namespace

void put_group(OpTables& t, int map, int row, int opcode, int n, const OpEntry& e) {
  for (int k = 0; k < 4; k++) {
    if (row >= 0 && k != row) continue;
    OpEntry& parent = t.map[map][k][opcode];
    if (!(parent.bits & kGroup)) {
      const OpEntry* const legacy = parent.legacy;
      parent = OpEntry{};
      parent.legacy = legacy;
      parent.bits = kModrm | kGroup | kGroup64;
      parent.group = new_group(8 + 64);
    }
    OpEntry* const group = const_cast<OpEntry*>(parent.group);
    if (n >= 0xc0) {
      group[8 + (n & 0x3f)] = e;
      continue;
    }
    // kGroup64 makes every mod = 3 form an entry of its own: fill the eight of this member that nobody entered.
    group[n] = e;
    for (int rm = 0; rm < 8; rm++) group[8 + n * 8 + rm] = e;
  }
}

void put_legacy(OpTables& t, int map, int opcode, const OpEntry& e) {
  OpEntry* const legacy = new_group(1);
  *legacy = e;
  for (int row = 0; row < 4; row++) t.map[map][row][opcode].legacy = legacy;
}

}  // namespace nyx::soft
