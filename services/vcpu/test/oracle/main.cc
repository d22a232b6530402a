// soft-oracle [--seconds N] [--seed N] [--set int|simd] [--form TEXT] [--mode 64|32|s32|s16] [--programs] [--random] [--bench]: exit status 0 when host and soft CPU agree.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "oracle.h"

namespace oracle {
namespace {

const char* const kModeNames[kModes] = {"64", "32", "s32", "s16"};
const char* const kRegNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};

struct Options {
  double seconds = 3;
  uint64_t seed = 1;
  const char* set = nullptr;  // all
  const char* form = nullptr;
  const char* mode = nullptr;
  bool programs = false, bench = false, random = false;
};

void poke(const Case& c) {
  if (!c.poke_bytes) return;
  std::memcpy(reinterpret_cast<void*>(c.poke_at), &c.poke_value, c.poke_bytes);
  std::memcpy(soft_data() + (c.poke_at - kData), &c.poke_value, c.poke_bytes);
}

// Clears what is not state: the mask of MXCSR bits, which tells of the processor; the six bytes behind each x87 register.
void drop_reserved(uint8_t* fx) {
  std::memset(fx + 28, 0, 4);
  for (unsigned r = 0; r < 8; r++) std::memset(fx + 32 + 16 * r + 10, 0, 6);
}

// After a fault registers are compared, not what undefined flags became on the way: nothing may have changed at all.
bool same(const Case& c, const State& host, const State& soft) {
  const uint32_t mask = kFlagMask & ~(host.vector == 3 ? c.form->undefined : 0);
  // Across the end of a 4 GiB segment processors may or may not check the limit (SDM vol. 3, 5.3).
  const bool limit = c.mode == kFlat32 && (host.vector == 12 || host.vector == 13) && soft.vector == 14;
  // An operand that is misaligned and also outside of SS: the checks have no order.
  const bool both = (c.form->bits & kAlign16) && host.vector == 13 && soft.vector == 12;
  if ((host.vector != soft.vector && !limit && !both) || host.rip != soft.rip || ((host.flags ^ soft.flags) & mask)) return false;
  // Outside 64-bit mode the upper halves are nobody's (the host's kernel leaves its own bits in that of RSP).
  const uint64_t visible = c.mode == kLong ? ~0ull : 0xffffffff;
  for (int r = 0; r < (c.mode == kLong ? 16 : 8); r++) {
    if (host.vector != 3 && (c.form->bits & kPartial) && r != 4) continue;
    if ((host.gpr[r] ^ soft.gpr[r]) & visible) return false;
  }
  if ((c.form->bits & kFx) && std::memcmp(host.fx, soft.fx, 416) != 0) return false;
  return std::memcmp(reinterpret_cast<const void*>(kData), soft_data(), kDataBytes) == 0;
}

void report(const Case& c, const State& host, const State& soft, bool translated) {
  std::printf("DIFFERENT%s: %s, mode %s, bytes", translated ? " (translated)" : "", c.form->spec, kModeNames[c.mode]);
  for (unsigned k = 0; k < c.length; k++) std::printf(" %02x", c.bytes[k]);
  std::printf("\n  vector in -> host %d soft %d; rip %llx -> %llx %llx; flags %03x -> %03x %03x\n", host.vector, soft.vector,
              static_cast<unsigned long long>(c.in.rip), static_cast<unsigned long long>(host.rip),
              static_cast<unsigned long long>(soft.rip), c.in.flags, host.flags, soft.flags);
  for (int r = 0; r < 16; r++) {
    std::printf("  %-3s %016llx", kRegNames[r], static_cast<unsigned long long>(c.in.gpr[r]));
    if (host.gpr[r] != c.in.gpr[r] || soft.gpr[r] != c.in.gpr[r])
      std::printf(" -> host %016llx soft %016llx%s", static_cast<unsigned long long>(host.gpr[r]),
                  static_cast<unsigned long long>(soft.gpr[r]), host.gpr[r] != soft.gpr[r] ? "  <--" : "");
    std::printf("\n");
  }
  const auto* const memory = reinterpret_cast<const uint8_t*>(kData);
  unsigned shown = 0;
  for (unsigned k = 0; k < kDataBytes && shown < 16; k++) {
    if (memory[k] != soft_data()[k]) {
      std::printf("  [%llx] host %02x soft %02x\n", static_cast<unsigned long long>(kData + k), memory[k], soft_data()[k]);
      shown++;
    }
  }
  if (!(c.form->bits & kFx)) return;
  for (unsigned k = 0; k < 416; k += 8) {
    if (std::memcmp(host.fx + k, soft.fx + k, 8) == 0) continue;
    uint64_t v[3];
    std::memcpy(&v[0], c.in.fx + k, 8);
    std::memcpy(&v[1], host.fx + k, 8);
    std::memcpy(&v[2], soft.fx + k, 8);
    std::printf("  fx+%u %016llx -> host %016llx soft %016llx\n", k, static_cast<unsigned long long>(v[0]),
                static_cast<unsigned long long>(v[1]), static_cast<unsigned long long>(v[2]));
  }
}

// New random contents on both sides, and no decoded code.
void refill(Rng& rng) {
  auto* const memory = reinterpret_cast<uint8_t*>(kData);
  for (unsigned k = 0; k < kDataBytes; k += 8) {
    const uint64_t v = random_value(rng);
    std::memcpy(memory + k, &v, 8);
  }
  std::memcpy(soft_data(), memory, kDataBytes);
}

int run_forms(const Options& o) {
  bool available[kModes] = {true};
  for (int m = 1; m < kModes; m++) {
    std::string why;
    available[m] = native_mode(Mode(m), &why);
    if (!available[m]) std::printf("mode %s is not tried: %s\n", kModeNames[m], why.c_str());
  }
  Rng rng(o.seed);
  std::vector<Form> forms;
  if (!o.set || std::strcmp(o.set, "int") == 0) forms = integer_forms();
  if (!o.set || std::strcmp(o.set, "simd") == 0) {
    for (const Form& form : simd_forms()) forms.push_back(form);
  }
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  uint64_t cases = 0, faults = 0, different = 0, by_mode[kModes] = {};
  std::vector<uint8_t> before(kDataBytes);
  refill(rng);
  while (elapsed() < o.seconds && different < 40) {
    for (const Form& form : forms) {
      if (o.form && !std::strstr(form.spec, o.form)) continue;
      unsigned wrong = 0;
      for (int m = 0; m < kModes && wrong < 3; m++) {
        if (!available[m] || (form.bits & (m == kLong ? kNot64 : kOnly64))) continue;
        if (o.mode && std::strcmp(o.mode, kModeNames[m]) != 0) continue;
        for (int k = 0; k < (m == kLong ? 8 : 3); k++) {
          const Case c = make_case(form, Mode(m), rng);
          poke(c);
          std::memcpy(before.data(), soft_data(), kDataBytes);
          State host = native_run(c);
          bool agree = true;
          for (const bool translated : {false, true}) {
            if (translated) std::memcpy(soft_data(), before.data(), kDataBytes);
            State soft = soft_run(c, translated);
            if (form.bits & kFx) {
              drop_reserved(host.fx);
              drop_reserved(soft.fx);
            }
            if (same(c, host, soft)) continue;
            report(c, host, soft, translated);
            agree = false;
            break;
          }
          cases++;
          by_mode[m]++;
          faults += host.vector != 3;
          if (agree) continue;
          refill(rng);
          different++;
          wrong++;
          break;
        }
      }
    }
    refill(rng);
  }
  std::printf("%zu forms, %llu cases (64: %llu, 32: %llu, segmented 32: %llu, segmented 16: %llu), %llu of them faults, %llu different, seed %llu\n",
              forms.size(), static_cast<unsigned long long>(cases), static_cast<unsigned long long>(by_mode[0]),
              static_cast<unsigned long long>(by_mode[1]), static_cast<unsigned long long>(by_mode[2]),
              static_cast<unsigned long long>(by_mode[3]), static_cast<unsigned long long>(faults),
              static_cast<unsigned long long>(different), static_cast<unsigned long long>(o.seed));
  return different != 0 || cases == 0;
}

}  // namespace
}  // namespace oracle

int main(int argc, char** argv) {
  oracle::Options o;
  for (int k = 1; k < argc; k++) {
    const std::string a = argv[k];
    const char* const value = k + 1 < argc ? argv[k + 1] : "";
    if (a == "--programs") {
      o.programs = true;
      continue;
    }
    if (a == "--random") {
      o.random = true;
      continue;
    }
    if (a == "--bench") {
      o.bench = true;
      continue;
    }
    if (a == "--seconds") o.seconds = std::atof(value);
    else if (a == "--seed") o.seed = std::strtoull(value, nullptr, 0);
    else if (a == "--set") o.set = value;
    else if (a == "--form") o.form = value;
    else if (a == "--mode") o.mode = value;
    else {
      std::fprintf(stderr, "soft-oracle: unknown option %s\n", argv[k]);
      return 2;
    }
    k++;
  }
  std::string why;
  if (!oracle::native_open(&why)) {
    std::fprintf(stderr, "soft-oracle: %s\n", why.c_str());
    return 2;
  }
  oracle::soft_open();
  if (o.random) {
    static const auto start = std::chrono::steady_clock::now();
    return oracle::run_random(o.seconds, o.seed, [] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); });
  }
  if (o.bench) return oracle::run_bench(), 0;
  if (o.programs) return oracle::run_programs();
  return oracle::run_forms(o);
}
