// Random programs: registers, memory, flags that live across instructions, branches and loops; by the interpreter and as
// translated code. Everything must come out the same, the instruction count included.
#include <cstdio>
#include <cstring>

#include "flat.h"
#include "soft/emit.h"
#include "soft/run.h"
#include "soft/x87.h"

namespace oracle {
namespace {

using namespace nyx::soft;

// RDI and RSI point to data, RSP to its end, R15 counts loops; all others take part. An address uses RDI, RSI, or one of
// them with an index register that was just loaded with something small.
class Maker {
 public:
  Maker(Rng& rng, uint8_t* code) : rng_(rng) {
    e_.at = code;
    const unsigned loops = 1 + pick(3);
    e_.imm(h15, loops);
    uint8_t* const top = e_.at;
    const unsigned n = 5 + pick(40);
    for (unsigned k = 0; k < n; k++) {
      one();
      if (skip_ && pick(3) == 0) end_skip();
    }
    if (skip_) end_skip();
    e_.ins(4, 0xff, 1, reg(h15));
    e_.jcc_to(ccNE, top);
    e_.byte(0xcc);
    length = unsigned(e_.at - code);
  }
  unsigned length;

 private:
  unsigned pick(unsigned n) { return unsigned(rng_() % n); }
  unsigned any_size() { return 1u << pick(4); }
  unsigned wide_size() { return 2u << pick(3); }
  int any() {  // a register that may change
    static constexpr int kFree[] = {hAX, hCX, hDX, hBX, hBP, h8, h9, h10, h11, h12, h13, h14};
    return kFree[pick(12)];
  }
  Rm place() {
    // Mostly far from the end of the page, sometimes across it.
    const int disp = pick(8) ? int(pick(0x700)) : 0xff0 + int(pick(32));
    const int base = pick(2) ? hDI : hSI;
    if (pick(3)) return mem(base, disp);
    const int index = any();
    e_.imm(index, pick(64));
    return mem(base, index, int(pick(4)), disp);
  }
  Rm operand() { return pick(2) ? reg(any()) : place(); }
  void end_skip() {
    e_.bind(skip_);
    skip_ = nullptr;
  }
  void one() {
    switch (pick(34)) {
      case 0: case 1: case 2: {  // r, r/m
        const unsigned size = any_size();
        const Rm m = operand();
        return e_.ins(size, pick(8) << 3 | 2 | (size > 1), any(), m);
      }
      case 3: {  // r/m, r
        const unsigned size = any_size();
        const Rm m = operand();
        return e_.ins(size, pick(8) << 3 | (size > 1), any(), m);
      }
      case 4: return e_.alu_imm(any_size(), int(pick(8)), operand(), int32_t(rng_() >> pick(32)));
      case 5: {
        const unsigned size = any_size();
        const Rm m = operand();
        return e_.ins(size, 0x84 | (size > 1), any(), m);
      }
      case 6: {  // INC, DEC, NOT, NEG
        const unsigned size = any_size();
        const bool step = pick(2);
        return e_.ins(size, (step ? 0xfe : 0xf6) | (size > 1), step ? int(pick(2)) : 2 + int(pick(2)), operand());
      }
      case 7: case 8: case 9: {
        const unsigned size = any_size();
        const Rm m = operand();
        return pick(2) ? e_.load(any(), m, size) : e_.store(m, any(), size);
      }
      case 10: return e_.imm(any(), rng_() >> pick(64));
      case 11: {
        const int base = any(), index = any();
        return e_.lea(any(), mem(base, index, int(pick(4)), int(pick(1000)) - 500), wide_size());
      }
      case 12: {
        const Rm m = operand();
        return e_.ins(wide_size(), (pick(2) ? 0x0fb6u : 0x0fbeu) | pick(2), any(), m, 0, 0, true);
      }
      case 13: {
        const Rm m = operand();
        return e_.ins(wide_size(), 0x0f40u | pick(16), any(), m);
      }
      case 14: return e_.ins(1, 0x0f90u | pick(16), 0, operand());
      case 15: {  // shifts and rotates
        const unsigned size = any_size();
        const Rm m = operand();
        if (pick(3) == 0) return e_.ins(size, 0xd2u | (size > 1), int(pick(8)), m);
        e_.ins(size, 0xc0u | (size > 1), int(pick(8)), m, 1);
        return e_.byte(pick(70));
      }
      case 16: {
        const Rm m = operand();
        return e_.ins(wide_size(), 0x0faf, any(), m);
      }
      case 17: return e_.ins(wide_size(), 0xf7, 4 + int(pick(2)), operand());
      case 18: {  // BT, BTS, BTR, BTC
        const Rm m = operand();
        e_.ins(wide_size(), 0x0fba, 4 + int(pick(4)), m, 1);
        return e_.byte(pick(64));
      }
      case 19: {  // PUSH and POP
        const int from = any(), to = any();
        if (from & 8) e_.byte(0x41);
        e_.byte(0x50u | (from & 7));
        if (to & 8) e_.byte(0x41);
        return e_.byte(0x58u | (to & 7));
      }
      case 20: {  // XCHG, XADD, CMPXCHG
        static constexpr unsigned kOps[] = {0x87, 0x0fc1, 0x0fb1};
        const Rm m = operand();
        return e_.ins(wide_size(), kOps[pick(3)], any(), m);
      }
      case 21:
        if (skip_) return;
        skip_ = e_.jcc(int(pick(16)));
        return;
      case 22: {  // SSE integer
        static constexpr unsigned kOps[] = {0x0ffe, 0x0fef, 0x0fd4, 0x0f61, 0x0f6f, 0x0f74, 0x0ff4};
        return e_.ins(4, kOps[pick(7)], int(pick(16)), reg(int(pick(16))), 0, 0x66);
      }
      case 23: case 24: {  // x87 on registers
        const int op = int(pick(8)), rm = int(pick(64));
        if (x87_form(op, rm) == kX87Bad) return;
        return e_.byte(0xd8u | unsigned(op)), e_.byte(0xc0u | unsigned(rm));
      }
      case 25: {  // on memory
        const int op = int(pick(8)), n = int(pick(8));
        if (kX87Memory[op][n].bytes) return e_.ins(4, 0xd8u | unsigned(op), n, place());
        if (op == 5 && n == 7) return e_.ins(4, 0xdd, 7, place());  // FNSTSW
        if (op != 1 || n == 4) return;
        if (n != 5) return e_.ins(4, 0xd9, n, place());  // FNSTENV, FNSTCW
        const Rm m = place();
        e_.ins(2, 0xc7, 0, m, 2);
        e_.word((unsigned(rng_()) & 0xf00) | (pick(8) ? 0x7f : pick(64)));
        return e_.ins(4, 0xd9, 5, m);  // FLDCW
      }
      case 26: case 27: {  // MMX
        static constexpr unsigned kOps[] = {0x0ffe, 0x0fef, 0x0fd4, 0x0f60, 0x0f6f, 0x0f7f, 0x0f74, 0x0f6b, 0x0fe5, 0x0f3800, 0x0f381c, 0x0f77, 0x0f6e, 0x0f7e, 0x0fd7, 0x0f70, 0x0f73, 0x0fc4, 0x0fd6};
        const unsigned o = kOps[pick(19)];
        const int r = int(pick(8));
        if (o == 0x0f77) return e_.byte(0x0f), e_.byte(0x77);
        if (o == 0x0f6e || o == 0x0f7e) return e_.ins(pick(2) ? 8 : 4, o, r, operand());
        if (o == 0x0fd7) return e_.ins(4, o, any(), reg(r));
        if (o == 0x0fd6) return pick(2) ? e_.ins(4, o, int(pick(16)), reg(r), 0, 0xf3) : e_.ins(4, o, r, reg(int(pick(16))), 0, 0xf2);
        const bool imm = o == 0x0f70 || o == 0x0f73 || o == 0x0fc4;
        const Rm m = o == 0x0f73 ? reg(r) : o == 0x0fc4 ? reg(any()) : pick(2) ? reg(int(pick(8))) : place();
        e_.ins(4, o, o == 0x0f73 ? 2 + 4 * int(pick(2)) : r, m, imm);
        if (imm) e_.byte(pick(70));
        return;
      }
      case 28: {  // what is done to flags alone
        static constexpr uint8_t kOps[] = {0x9e, 0x9f, 0xf5, 0xf8, 0xf9, 0x9e, 0x9f, 0xf5, 0xf8, 0xf9, 0xfc, 0xfc, 0xfd};
        return e_.byte(kOps[pick(13)]);
      }
      case 29: {  // strings
        static constexpr uint8_t kOps[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
        const unsigned size = any_size();
        if (size == 2) e_.byte(0x66);
        if (size == 8) e_.byte(0x48);
        return e_.byte(kOps[pick(5)] | (size > 1));
      }
      case 30: {  // PUSH of memory, into a register
        e_.ins(4, 0xff, 6, place());
        const int to = any();
        if (to & 8) e_.byte(0x41);
        return e_.byte(0x58u | (to & 7));
      }
      case 31: {  // SHLD, SHRD
        static constexpr unsigned kOps[] = {0x0fa4, 0x0fa5, 0x0fac, 0x0fad};
        const unsigned o = kOps[pick(4)];
        const Rm m = operand();
        e_.ins(wide_size(), o, any(), m, !(o & 1));
        if (!(o & 1)) e_.byte(pick(70));
        return;
      }
      default: {  // SSE floating point, moves
        static constexpr unsigned kOps[] = {0x0f58, 0x0f59, 0x0f5c, 0x0f10, 0x0f11, 0x0f5a};
        const Rm m = pick(2) ? reg(int(pick(16))) : place();
        return e_.ins(4, kOps[pick(6)], int(pick(16)), m, 0, pick(2) ? 0xf2 : 0xf3);
      }
    }
  }
  Rng& rng_;
  Emit e_;
  uint8_t* skip_ = nullptr;
};

struct Result {
  uint64_t gpr[16], rip, flags, icount, x87_ip, x87_dp, x87_op;
  int vector;
  alignas(16) uint8_t fx[512];
  uint8_t data[kDataBytes];
};

void run_once(bool translated, const State& in, Result* r) {
  Cpu& c = *flat.cpu;
  flat_translate(translated);
  std::memcpy(c.gpr, in.gpr, sizeof in.gpr);
  c.rip = in.rip;
  c.icount = 0;
  set_rflags(c, in.flags);
  flat_load_fx(c, in.fx);
  c.x87_ip = c.x87_dp = c.x87_op = 0;
  flat.ended = flat.stack = false;
  run(c);
  std::memcpy(r->gpr, c.gpr, sizeof r->gpr);
  r->rip = c.rip;
  r->flags = rflags(c);
  r->icount = c.icount;
  r->vector = flat.vector;
  flat_store_fx(c, r->fx);
  r->x87_ip = c.x87_ip;
  r->x87_dp = c.x87_dp;
  r->x87_op = c.x87_op;
  std::memcpy(r->data, flat.data, kDataBytes);
}

}  // namespace

int run_random(double seconds, uint64_t seed, double (*elapsed)()) {
  Rng rng(seed);
  uint64_t programs = 0, instructions = 0;
  int different = 0;
  static Result results[2];
  static uint8_t before[kDataBytes];
  flat_forget();
  flat_mode(kLong);
  while (elapsed() < seconds && different < 5) {
    std::memset(flat.code, 0xcc, kCodeBytes);
    flat_forget();
    const unsigned offset = rng() % 4 ? 0 : 0xf80;  // sometimes over the end of the page
    Maker maker(rng, flat.code + offset);
    State in{};
    for (uint64_t& g : in.gpr) g = random_value(rng);
    in.gpr[RDI] = kData + rng() % 64;
    in.gpr[RSI] = kData + 0x80 + rng() % 64;
    in.gpr[RSP] = kData + 0x1f00;
    in.rip = kCode + offset;
    in.flags = uint32_t(rng()) & kFlagMask & ~uint32_t{kDF};
    for (unsigned k = 0; k < 512; k += 8) {
      const uint64_t v = random_value(rng);
      std::memcpy(in.fx + k, &v, 8);
    }
    const uint32_t mxcsr = 0x1f80;
    std::memset(in.fx, 0, 160);
    std::memcpy(in.fx + 24, &mxcsr, 4);
    const uint16_t control = uint16_t(0x40 | (rng() & 0xf00) | (rng() % 8 ? 0x3f : rng() & 0x3f)), status = uint16_t(rng() & 0x7f00);
    std::memcpy(in.fx, &control, 2);
    std::memcpy(in.fx + 2, &status, 2);
    in.fx[4] = uint8_t(rng());
    for (unsigned k = 0; k < 8; k++) {
      uint64_t v = random_value(rng) | (rng() % 8 ? 1ull << 63 : 0);
      std::memcpy(in.fx + 32 + 16 * k, &v, 8);
      v = rng() % 4 ? 0x3fff + rng() % 64 - 32 : rng();
      std::memcpy(in.fx + 40 + 16 * k, &v, 2);
    }
    for (unsigned k = 0; k < kDataBytes; k += 8) {
      const uint64_t v = random_value(rng);
      std::memcpy(before + k, &v, 8);
    }
    for (int k = 0; k < 2; k++) {
      std::memcpy(flat.data, before, kDataBytes);
      run_once(k == 1, in, &results[k]);
    }
    programs++;
    instructions += results[0].icount;
    if (std::memcmp(&results[0], &results[1], sizeof(Result)) == 0) continue;
    different++;
    std::printf("DIFFERENT: program of %u bytes:", maker.length);
    for (unsigned k = 0; k < maker.length; k++) std::printf(" %02x", flat.code[offset + k]);
    std::printf("\n  rip %llx %llx, vector %d %d, flags %llx %llx, icount %llu %llu\n", (unsigned long long)results[0].rip,
                (unsigned long long)results[1].rip, results[0].vector, results[1].vector, (unsigned long long)results[0].flags,
                (unsigned long long)results[1].flags, (unsigned long long)results[0].icount, (unsigned long long)results[1].icount);
    for (int g = 0; g < 16; g++) {
      if (results[0].gpr[g] != results[1].gpr[g])
        std::printf("  r%d %llx %llx\n", g, (unsigned long long)results[0].gpr[g], (unsigned long long)results[1].gpr[g]);
    }
    for (unsigned k = 0; k < kDataBytes; k++)
      if (results[0].data[k] != results[1].data[k]) std::printf("  [%x] %02x %02x\n", k, results[0].data[k], results[1].data[k]);
    if (results[0].x87_ip != results[1].x87_ip || results[0].x87_dp != results[1].x87_dp || results[0].x87_op != results[1].x87_op)
      std::printf("  FIP %llx %llx FDP %llx %llx FOP %llx %llx\n", (unsigned long long)results[0].x87_ip, (unsigned long long)results[1].x87_ip,
                  (unsigned long long)results[0].x87_dp, (unsigned long long)results[1].x87_dp, (unsigned long long)results[0].x87_op,
                  (unsigned long long)results[1].x87_op);
    for (unsigned k = 0; k < 416; k += 8)
      if (std::memcmp(results[0].fx + k, results[1].fx + k, 8)) std::printf("  fx+%u differs\n", k);
  }
  std::printf("%llu programs, %llu instructions, %d different, seed %llu\n", (unsigned long long)programs, (unsigned long long)instructions,
              different, (unsigned long long)seed);
  return different != 0 || programs == 0;
}

}  // namespace oracle
