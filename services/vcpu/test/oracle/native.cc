// Runs instructions on the host CPU. Signals are the way in and out: a trap's handler replaces the interrupted context by
// the case's registers, and returns into it; the INT3 behind the instruction, or its fault, brings the results back.
// The same works for 16 and 32-bit code: the context has CS and SS.
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "oracle.h"

namespace oracle {
namespace {

constexpr int kGreg[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                           REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
constexpr uint16_t kUserCs = 0x33, kUserCs32 = 0x23, kUserDs = 0x2b;
// LDT entries: 32-bit code, 16-bit code, 32-bit data, 16-bit data.
constexpr uint16_t ldt(unsigned n) { return uint16_t(n * 8 | 7); }

const Case* entering = nullptr;  // set: the next trap enters it
bool inside = false;
State result;
gregset_t outer;
alignas(16) uint8_t outer_fx[512];

void set_selectors(gregset_t g, uint16_t cs, uint16_t ss) {
  g[REG_CSGSFS] = (g[REG_CSGSFS] & 0x0000ffffffff0000) | cs | int64_t(uint64_t(ss) << 48);
}

void enter(const Case& c, ucontext_t* u) {
  gregset_t& g = u->uc_mcontext.gregs;
  std::memcpy(outer, g, sizeof(outer));
  for (int r = 0; r < 16; r++) g[kGreg[r]] = int64_t(c.in.gpr[r]);
  g[REG_RIP] = int64_t(c.in.rip);
  g[REG_EFL] = (g[REG_EFL] & ~int64_t(kFlagMask)) | c.in.flags;
  switch (c.mode) {
    case kFlat32: set_selectors(g, kUserCs32, kUserDs); break;
    case kSeg32: set_selectors(g, ldt(0), ldt(2)); break;
    case kSeg16: set_selectors(g, ldt(1), ldt(3)); break;
    default: break;
  }
  if (c.form->bits & kFx) {
    auto* const fx = reinterpret_cast<uint8_t*>(u->uc_mcontext.fpregs);
    std::memcpy(outer_fx, fx, 464);
    std::memcpy(fx, c.in.fx, 416);
    fx[512] |= 3;  // XSAVE header: x87 and SSE state are present
  }
  inside = true;
}

void on_signal(int, siginfo_t*, void* context) {
  auto* const u = static_cast<ucontext_t*>(context);
  gregset_t& g = u->uc_mcontext.gregs;
  if (entering && !inside) {
    enter(*entering, u);
    return;
  }
  if (!inside) _exit(101);  // a bug of the oracle itself
  inside = false;
  result = State{};
  for (int r = 0; r < 16; r++) result.gpr[r] = uint64_t(g[kGreg[r]]);
  result.vector = int(g[REG_TRAPNO]);
  result.rip = uint64_t(g[REG_RIP]) - (result.vector == 3 ? 1 : 0);
  result.flags = uint32_t(g[REG_EFL]) & kFlagMask;
  if (entering->form->bits & kFx) {
    auto* const fx = reinterpret_cast<uint8_t*>(u->uc_mcontext.fpregs);
    std::memcpy(result.fx, fx, 416);
    std::memcpy(fx, outer_fx, 464);
  }
  std::memcpy(g, outer, sizeof(outer));  // goes on behind the INT3 that entered
}

uint8_t* code;  // writable mapping of the code pages; at kCode they are read-only

void map_at(uint64_t at, size_t bytes, int prot, int fd) {
  const int kind = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* const p = mmap(reinterpret_cast<void*>(at), bytes, prot, kind | MAP_FIXED_NOREPLACE, fd, 0);
  if (p != reinterpret_cast<void*>(at)) {
    std::perror("oracle: mmap");
    std::exit(2);
  }
}

bool set_ldt(unsigned n, uint64_t base, bool wide, bool code, std::string* why) {
  user_desc d{};
  d.entry_number = n;
  d.base_addr = unsigned(base);
  d.limit = kSegLimit;
  d.seg_32bit = wide;
  d.contents = code ? 2 : 0;
  d.useable = 1;
  if (syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) == 0) return true;
  *why = std::string("modify_ldt: ") + std::strerror(errno);
  return false;
}

void load_data_segments(uint16_t selector) {
  asm volatile("movw %w0, %%ds\n\tmovw %w0, %%es" : : "r"(selector));
}

}  // namespace

bool native_open(std::string* why) {
  const int fd = memfd_create("oracle code", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, kCodeBytes) != 0) {
    *why = std::string("memfd: ") + std::strerror(errno);
    return false;
  }
  code = static_cast<uint8_t*>(mmap(nullptr, kCodeBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  map_at(kCode, kCodeBytes, PROT_READ | PROT_EXEC, fd);
  map_at(kData, kDataBytes, PROT_READ | PROT_WRITE, -1);
  std::memset(code, 0xcc, kCodeBytes);
  stack_t stack{};
  stack.ss_size = 1 << 16;
  stack.ss_sp = std::malloc(stack.ss_size);
  sigaltstack(&stack, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int s : {SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigaction(s, &action, nullptr);
  if (syscall(SYS_arch_prctl, ARCH_SET_GS, kGsBase) != 0) {
    *why = "arch_prctl(ARCH_SET_GS) failed";
    return false;
  }
  return true;
}

bool native_mode(Mode mode, std::string* why) {
  if (mode == kSeg32 || mode == kSeg16) {
    return set_ldt(0, kCode, true, true, why) && set_ldt(1, kCode, false, true, why) && set_ldt(2, kData, true, false, why) &&
           set_ldt(3, kData, false, false, why);
  }
  if (mode == kFlat32) {
    // Does the host run 32-bit code at all? INC EAX (40) is a REX prefix in 64-bit mode.
    Form form{"90", 0};
    Case probe{};
    probe.form = &form;
    probe.mode = mode;
    probe.bytes[0] = 0x40;
    probe.length = 1;
    probe.in.rip = kCode;
    const State s = native_run(probe);
    if (s.gpr[0] != 1 || s.vector != 3) {
      *why = "the kernel has no 32-bit code segment";
      return false;
    }
  }
  return true;
}

State native_run(const Case& c) {
  uint8_t* const at = code + (c.mode == kSeg32 || c.mode == kSeg16 ? c.in.rip : c.in.rip - kCode);
  std::memcpy(at, c.bytes, c.length);
  entering = &c;
  const uint16_t data = c.mode == kSeg32 ? ldt(2) : c.mode == kSeg16 ? ldt(3) : kUserDs;
  load_data_segments(data);
  asm volatile("int3" : : : "memory");
  load_data_segments(0);
  entering = nullptr;
  std::memset(at, 0xcc, c.length);
  return result;
}

uint8_t* native_code() { return code; }

}  // namespace oracle
