// A decoded instruction, a block of them, and the tables from which the decoder picks handlers.
#pragma once
#include <cstdint>

#include "soft/cpu.h"

namespace nyx::soft {

// Executes instruction `i` and tail-calls its successor (`return next(c, i)`), or leaves the block (run.h).
using Handler = void (*)(Cpu& c, const Insn* i);

// How the effective address is made (Insn::ea). 0 is the fast case: 64-bit addressing, no segment base.
enum EaBits : uint8_t {
  kEaSegBase = 1,   // add c.seg[i->seg].base (64-bit mode: FS, GS)
  kEa32 = 2,        // truncate the offset to 32 bits
  kEa16 = 4,        // truncate the offset to 16 bits
  kEaLegacy = 8,    // outside 64-bit mode: truncate the linear address to 32 bits, add the base
  kEaCheck = 16,    // outside 64-bit mode and segments are not flat: limit and type checks
};

enum InsnBits : uint8_t { kLock = 1, kRep = 2 /* F3 */, kRepne = 4 /* F2 */, kOpSize = 8 /* 66 */, kRexW = 16, kRex = 32 };

struct alignas(32) Insn {
  Handler fn;
  uint8_t len;    // bytes
  uint8_t reg;    // ModRM.reg + REX.R: register number. For 8-bit operands: byte offset in Cpu::gpr (AH = 1, CL = 8 ...)
                  // Jcc: 0, or the link that it leaves by when the block goes on behind it
  uint8_t rm;     // ModRM.rm + REX.B when mod = 3, or opcode + REX.B; same rule for 8-bit operands
  uint8_t base;   // register number, kRegZero, or kRegBlock for RIP-relative (disp is then relative to the block)
  uint8_t index;  // register number or kRegZero
  uint8_t shift;
  uint8_t seg;    // SegReg of the memory operand
  uint8_t ea;     // EaBits
  int32_t disp;
  uint16_t off;   // from the first instruction of the block: RIP = gpr[kRegBlock] + off
  uint8_t opsize; // 1, 2, 4, 8
  uint8_t bits;   // InsnBits
  uint64_t imm;   // immediate, sign-extended as the instruction wants it; ENTER: iw | ib << 16; far: offset | selector << 32;
                  // near branches: target relative to the block's start (signed)
};
static_assert(sizeof(Insn) == 32);

// Where an immediate comes from.
enum Imm : uint8_t {
  kImmNone,
  kImmB,       // ib, sign-extended
  kImmUb,      // ib, zero-extended
  kImmW,       // iw, zero-extended
  kImmZ,       // iw or id by operand size, sign-extended
  kImmV,       // iw, id or iq (MOV r, imm)
  kImmRelB,    // branch displacements
  kImmRelZ,
  kImmMoffs,   // address-size absolute offset: becomes a memory operand (base none)
  kImmFar,     // ptr16:16/32
  kImmWB,      // iw, ib (ENTER)
};

enum OpBits : uint32_t {
  kModrm = 1,
  kByte = 2,        // 8-bit operands (reg and rm become byte offsets)
  kLockable = 4,    // LOCK allowed with a memory destination; otherwise #UD
  kEnds = 8,        // ends the block (branches, mode changes, anything after which decoding must start anew)
  kNo64 = 16,       // #UD in 64-bit mode
  kOnly64 = 32,     // #UD outside it
  kDef64 = 64,      // 64-bit mode: operand size 64 by default (push, pop, near branches); 66 gives 16
  kForce64 = 128,   // 64-bit mode: always 64 (near branches on Intel ignore 66)
  kMemOnly = 256,   // mod = 3 is #UD
  kRegOnly = 512,   // memory form is #UD
  kGroup = 1024,    // `group` has 8 entries by ModRM.reg (or 64 more by ModRM, mod 3, when kGroup64)
  kGroup64 = 2048,  // with kGroup and mod = 3: entry 8 + (modrm & 0x3f)
  kByteRm = 4096,   // only the rm operand is 8-bit (MOVZX, MOVSX, SETcc)
  kWordRm = 8192,   // informational: rm is 16-bit
  kIgnore66 = 16384,// 66 does not change the operand size (it selects the table row instead)
  kShadow = 32768,  // interrupts inhibited after it: one more instruction, then the block ends (STI, MOV SS)
  kOpcodeReg = 65536, // register in the low three bits of the opcode goes to rm
  kX87 = 1 << 17,   // D8..DF: rm = ModRM & 7, imm = the ModRM byte | opcode << 8
  kIgnoreMod = 1 << 19,  // MOV CR, MOV DR: always the register form
  kModrmToImm = 1 << 18, // handler wants the raw ModRM byte in imm bits 15:8 (with ib in 7:0 if any)
};

// One opcode: handlers by operand size (index 0: 8 bit, 1: 16, 2: 32, 3: 64) for register and memory form.
// A null handler is #UD. `all` fills the four with one handler.
struct OpEntry {
  Handler reg[4] = {};
  Handler mem[4] = {};
  uint32_t bits = 0;
  Imm imm = kImmNone;
  const OpEntry* group = nullptr;
  const OpEntry* legacy = nullptr;  // what the opcode is outside 64-bit mode, if something else (put_legacy)
};

// Opcode maps: 0 one byte, 1 0F, 2 0F38, 3 0F3A. Rows: 0 no prefix, 1 66, 2 F3, 3 F2 (last of F2/F3 wins over 66).
// Integer instructions without mandatory prefix fill all four rows (`all rows`) unless another owner takes a row.
struct OpTables {
  OpEntry map[4][4][256];
};

// Each file of handlers enters its own instructions at start.
void register_integer(OpTables& t);  // int_*.cc
void register_system(OpTables& t);   // sys_*.cc: control registers, MSRs, descriptors, far transfers, in/out, interrupts
void register_simd(OpTables& t);     // simd_*.cc: MMX, SSE .. SSE4.2, POPCNT/CRC32 belong to integer
void register_x87(OpTables& t);      // x87.cc, FXSAVE/XSAVE

inline OpEntry op_all(Handler reg, Handler mem, uint32_t bits, Imm imm = kImmNone) {
  OpEntry e;
  for (int k = 0; k < 4; k++) {
    e.reg[k] = reg;
    e.mem[k] = mem;
  }
  e.bits = bits;
  e.imm = imm;
  return e;
}

// Enters `e` in all four prefix rows.
inline void put(OpTables& t, int map, int opcode, const OpEntry& e) {
  for (int row = 0; row < 4; row++) t.map[map][row][opcode] = e;
}

// Enters `e` as a member of an opcode that ModRM decides, in one row or (row < 0) in all four. n 0..7: ModRM.reg, both
// forms; n = 0xc0..0xff: that exact ModRM byte. The group is made when it is missing, so several files can share one.
// The member's own bits and imm count; kModrm is implied. decode.cc
// An exact ModRM byte is entered after the member of its reg, which fills all eight.
void put_group(OpTables& t, int map, int row, int opcode, int n, const OpEntry& e);
// Enters `e` as the meaning of an opcode outside 64-bit mode beside the one that it has there (ARPL and MOVSXD). Call it
// after put() of the other, which overwrites everything. Files register in the order of the declarations above.
void put_legacy(OpTables& t, int map, int opcode, const OpEntry& e);

// Where translated code goes on at a link, together and apart from the rest of blocks: both are read at the jump.
struct Exit {
  const void* jump;  // into the successor, or to the link's stub
  intptr_t addend;   // CodeEntry::addend of the successor
};

// A direct jump out of a block.
struct Link {
  Block* block;       // its successor, or null; leads_to (run.h) tells whether it still is
  // Of a translated block:
  Block* jumps_to;    // the block that exit->jump leads into
  Link* in_next;      // the next link that leads there
  Exit* exit;
  const void* stub;   // null: the link has no code
  bool pending;       // the flags are in the host's flags there
};

struct Block {
  uint64_t rip;       // linear address of its first byte minus CS base: what gpr[kRegBlock] is set to
  uint64_t phys;      // physical address of its first byte
  uint32_t mode;      // Cpu::mode it was decoded for
  uint16_t count;     // instructions
  uint16_t bytes;
  Insn* insns;        // count instructions, then one `end of block` entry
  Link* links;        // taken, fall-through, then one for each conditional jump that the block goes on behind
  Block* hash_next;
  Block* page_next[2];  // blocks of the same physical page: of phys, of phys2
  uint64_t phys2;     // address in the second page of an instruction that spans pages, else ~0
  const uint8_t* host;  // host address of its first byte
  const uint8_t* host2;  // of phys2's page
  bool valid;
  uint8_t sides;      // links after the first two

  // Translation (translate.h).
  Handler code;               // execution starts here, with the state in Cpu
  const uint8_t* hot;         // from translated code: guest registers in host registers, flags in Cpu::flags
  const uint8_t* hot_flags;   // the same with flags in the host's; null: not translated
  uint32_t heat;              // executions before it was translated
  uint32_t taken;             // of them, those in which the jump at its end was taken
  Link* in;                   // list of links that lead here
};

// Successor inside the block. Must be in tail position.
[[gnu::always_inline]] inline void next(Cpu& c, const Insn* i) { return i[1].fn(c, i + 1); }

inline uint64_t insn_rip(const Cpu& c, const Insn* i) { return c.gpr[kRegBlock] + i->off; }
inline uint64_t next_rip(const Cpu& c, const Insn* i) { return c.gpr[kRegBlock] + i->off + i->len; }

}  // namespace nyx::soft
