#include "differ.h"

#include <cstdarg>
#include <cstdio>

#include "board.h"
#include "soft/simd.h"
#include "soft/x87.h"

namespace differ {
namespace {

using namespace nyx::soft;

constexpr size_t kHeader = 8, kMaxBytes = 0x2000;
constexpr uint64_t kLimit = 3000;
// One OUTS of four gigabytes takes minutes: a guest that the interpreter does not end in 0.3 s is not compared. One that it
// does end has to end in 30 s when translated.
constexpr unsigned kShort = 3000, kLong = 300'000;

struct Boards {
  Board interpreted{machine::SoftMode::kInterpret, true, kShort}, translated{machine::SoftMode::kTranslate, true, kLong};
  // The same without a pacer, as machines usually run: blocks begin differently.
  Board free_interpreted{machine::SoftMode::kInterpret, false, kShort}, free_translated{machine::SoftMode::kTranslate, false, kLong};
};

class Report {
 public:
  void Add(const char* format, ...) __attribute__((format(printf, 2, 3))) {
    char line[200];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    text += line;
  }
  void Value(const char* name, uint64_t a, uint64_t b) {
    if (a != b) Add("  %s: interpreted %llx, translated %llx\n", name, (unsigned long long)a, (unsigned long long)b);
  }
  std::string text;
};

std::string compare(Board& x, Board& y) {
  const Cpu &a = x.cpu(), &b = y.cpu();
  Report r;
  static constexpr const char* kGpr[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
  for (unsigned k = 0; k < 16; k++) r.Value(kGpr[k], a.gpr[k], b.gpr[k]);
  r.Value("rip", a.rip, b.rip);
  r.Value("rflags", rflags(a), rflags(b));
  r.Value("icount", a.icount, b.icount);
  r.Value("cpl", a.cpl, b.cpl);
  r.Value("mode", a.mode, b.mode);
  r.Value("halted", a.halted, b.halted);
  r.Value("shutdown", a.shutdown, b.shutdown);
  r.Value("cr0", a.cr0, b.cr0);
  r.Value("cr2", a.cr2, b.cr2);
  r.Value("cr3", a.cr3, b.cr3);
  r.Value("cr4", a.cr4, b.cr4);
  r.Value("efer", a.efer, b.efer);
  r.Value("xcr0", a.xcr0, b.xcr0);
  r.Value("pkru", a.pkru, b.pkru);
  r.Value("mxcsr", a.mxcsr, b.mxcsr);
  r.Value("x87 opcode", a.x87_op, b.x87_op);
  r.Value("x87 instruction", a.x87_ip, b.x87_ip);
  r.Value("x87 operand", a.x87_dp, b.x87_dp);
  r.Value("kernel GS", a.kernel_gs_base, b.kernel_gs_base);
  r.Value("devices", x.io(), y.io());
  for (unsigned k = 0; k < 8; k++) r.Value("debug register", a.dr[k], b.dr[k]);
  for (unsigned k = 0; k < kSegs; k++) {
    r.Value("segment base", a.seg[k].base, b.seg[k].base);
    r.Value("segment limit", a.seg[k].limit, b.seg[k].limit);
    r.Value("segment", a.seg[k].selector | a.seg[k].attr << 16, b.seg[k].selector | b.seg[k].attr << 16);
  }
  for (unsigned k = 0; k < sizeof a.fx.bytes; k++) {
    if (a.fx.bytes[k] != b.fx.bytes[k]) r.Add("  FXSAVE byte %u: %02x, %02x\n", k, a.fx.bytes[k], b.fx.bytes[k]);
  }
  if (std::memcmp(x.ram(), y.ram(), kRam) != 0) {
    for (uint64_t k = 0, shown = 0; k < kRam && shown < 16; k++) {
      if (x.ram()[k] == y.ram()[k]) continue;
      shown++;
      r.Add("  memory %llx: %02x, %02x\n", (unsigned long long)k, x.ram()[k], y.ram()[k]);
    }
  }
  return r.text;
}

}  // namespace

std::string run(const uint8_t* data, size_t size, Ran* ran) {
  static Boards boards;
  *ran = {};
  if (size <= kHeader) return "";
  Setup s{};
  s.mode = Mode(data[0] % kModes);
  s.flags = data[1];
  s.control = data[2];
  s.place = data[3];
  std::memcpy(&s.seed, data + 4, 4);
  s.code = data + kHeader;
  s.bytes = std::min(size - kHeader, kMaxBytes);

  boards.interpreted.Run(s, kLimit);
  const Cpu& c = boards.interpreted.cpu();
  ran->instructions = c.icount;
  ran->ended = c.icount < kLimit;
  if (boards.interpreted.stopped_early()) return "";
  boards.translated.Run(s, kLimit);
  std::string text = compare(boards.interpreted, boards.translated);
  if (!text.empty()) return "deterministic mode:\n" + text;
  if (!ran->ended) return "";
  boards.free_interpreted.Run(s, 0);
  // A guest may look at the time and go on for ever because of it.
  if (boards.free_interpreted.stopped_early()) return "";
  boards.free_translated.Run(s, 0);
  text = compare(boards.free_interpreted, boards.free_translated);
  return text.empty() ? "" : "free run:\n" + text;
}

}  // namespace differ
