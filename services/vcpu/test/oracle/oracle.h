// The random oracle: one machine instruction with random operands runs on the host CPU, on the soft CPU's interpreter
// and as translated code; everything that it can change must come out the same.
//
// Both sides run the same bytes at the same linear addresses: code at kCode, data at kData. The host runs them in this
// process (native.cc), the soft CPU on a flat memory of its own (flat.cc). An instruction form is a line in a table
// (forms_*.cc) in the notation of the SDM; encode.cc makes a random instance of it.
#pragma once
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace oracle {

inline constexpr uint64_t kCode = 0x11000000, kCodeBytes = 0x2000;
inline constexpr uint64_t kData = 0x12000000, kDataBytes = 0x2000;  // unmapped before and behind
inline constexpr uint64_t kGsBase = 0x1230;                         // of GS, in 64-bit mode

enum Mode : uint8_t { kLong, kFlat32, kSeg32, kSeg16, kModes };
// Segments of the two kSeg modes: CS at kCode, DS, ES and SS at kData, all through the LDT.
inline constexpr uint32_t kSegLimit = kDataBytes - 1;

struct State {
  uint64_t gpr[16];
  uint64_t rip;
  uint32_t flags;  // RFLAGS bits of kFlagMask
  int vector;      // exception that ended it; 3: none, it came to the INT3 behind the instruction
  alignas(16) uint8_t fx[512];  // FXSAVE64 image; used by forms with kFx
};
inline constexpr uint32_t kFlagMask = 0xcd5;  // OF DF SF ZF AF PF CF

enum FormBits : uint32_t {
  kByteOp = 1,     // 8-bit operands
  kWordOp = 2,     // 16, 32 or 64 bits by 66 and REX.W; without it and kByteOp the opcode fixes the size
  kMemory = 4,     // a memory operand is possible
  kRegister = 8,   // a register operand is possible
  kRm = kMemory | kRegister,
  kLockOk = 16,    // LOCK is allowed with a memory operand
  kRepeat = 32,    // string instruction
  kStack = 64,     // uses RSP (and RBP) as a pointer
  kNot64 = 128,
  kOnly64 = 256,
  kDivide = 512,   // operands are made so that most quotients fit
  kBranch = 1024,  // goes to its target, also through a register or memory
  kBitString = 2048,
  kNoOpSize = 4096,   // no random 66
  kFx = 8192,      // x87, MMX, SSE: Cpu::fx is loaded and compared
  kAlign16 = 16384,  // the memory operand is 16-byte aligned (mostly)
  kTable = 32768,  // XLAT
  kUndefined = 1 << 17,  // UD0, UD1, UD2: how long they are is the processor's affair
  kPartial = 1 << 18,    // processors differ in which registers a fault in the middle leaves changed: not compared
  kByteRmOp = 65536,  // only the r/m operand is 8 bits (SPL.. need REX)
};

// `spec`: opcode bytes in hex (a mandatory prefix first), then /r or /0 .. /7, +r, and immediates ib iw iz iv rel8 relz.
struct Form {
  const char* spec;
  uint32_t bits;
  uint32_t undefined = 0;  // RFLAGS bits that are not compared, with the reason in the table
};

using Rng = std::mt19937_64;

// An instance: bytes to be put at State::rip, registers that fit them.
struct Case {
  const Form* form;
  Mode mode;
  uint8_t bytes[32];
  unsigned length;
  State in;
  // Put into memory first, where poke_bytes is not 0: a branch target on the stack or in the operand.
  uint64_t poke_at, poke_value;
  unsigned poke_bytes;
};
Case make_case(const Form& form, Mode mode, Rng& rng);
// Random register contents: corner values, small numbers, random bits.
uint64_t random_value(Rng& rng);

// The host. False when this host cannot run the mode (`why` tells).
bool native_open(std::string* why);
bool native_mode(Mode mode, std::string* why);
State native_run(const Case& c);
// Writable mapping of the code pages.
uint8_t* native_code();

// The soft CPU. `soft_data` are its kDataBytes bytes at kData; code is shared with the host side.
void soft_open();
// `translated`: by translated code, else by the interpreter.
State soft_run(const Case& c, bool translated);
uint8_t* soft_data();

std::vector<Form> integer_forms();  // forms_int.cc
std::vector<Form> simd_forms();     // forms_simd.cc

// programs.cc: the run loop on small programs (links, jump cache, code that changes itself). The number of failures.
int run_programs();
// random.cc: random programs by the interpreter and translated, for so long. Exit status.
int run_random(double seconds, uint64_t seed, double (*elapsed)());
// Instructions a second of a few loops, for comparison while working on the engine.
void run_bench();

}  // namespace oracle
