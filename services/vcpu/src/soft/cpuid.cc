// CPUID of the soft CPU: x86-64-v2 (Intel SDM vol. 2, CPUID).
//
// Vendor and model. "GenuineIntel", since guests read the TSC and timer frequencies of leaf 15H from that vendor only;
// without them Linux calibrates against the PIT. The vendor also decides what SYSCALL and SYSENTER do in compatibility
// mode: SYSCALL is #UD there, SYSENTER works everywhere. Family 6 model 1CH is an in-order CPU without speculation: what
// this engine is. Guests know that model as not affected by speculative side channels and leave out the mitigations,
// which would cost time here and protect nothing. The brand string says what it really is.
#include "soft/cpuid.h"

#include <cstring>

#include "clock.h"
#include "lapic.h"
#include "soft/coherence.h"
#include "soft/walk.h"

namespace nyx::soft {
namespace {

constexpr uint32_t bits(std::initializer_list<unsigned> list) {
  uint32_t v = 0;
  for (const unsigned b : list) v |= 1u << b;
  return v;
}

constexpr uint32_t kSignature = 0x000106ca;  // family 6, model 1CH, stepping 10

// Leaf 1.
constexpr uint32_t k1Ecx = bits({0 /* SSE3 */, 9 /* SSSE3 */, 13 /* CX16 */, 19 /* SSE4.1 */, 20 /* SSE4.2 */, 21 /* x2APIC */,
                                 23 /* POPCNT */, 24 /* TSC deadline */, 26 /* XSAVE */, 31 /* hypervisor */});
constexpr uint32_t k1Edx = bits({0 /* FPU */, 2 /* DE */, 3 /* PSE */, 4 /* TSC */, 5 /* MSR */, 6 /* PAE */, 7 /* MCE */,
                                 8 /* CX8 */, 11 /* SEP */, 12 /* MTRR */, 13 /* PGE */, 14 /* MCA */, 15 /* CMOV */,
                                 16 /* PAT */, 17 /* PSE-36 */, 19 /* CLFLUSH */, 23 /* MMX */, 24 /* FXSR */, 25 /* SSE */,
                                 26 /* SSE2 */});
// Leaf 7.
constexpr uint32_t k7Ebx = bits({0 /* FSGSBASE */, 1 /* TSC_ADJUST */, 7 /* SMEP */, 9 /* ERMS */, 20 /* SMAP */, 22 /* PCOMMIT */, 23 /* CLFLUSHOPT */, 24 /* CLWB */});
constexpr uint32_t k7Ecx = bits({2 /* UMIP */, 3 /* PKU */, 31 /* PKS */});
// Leaf 80000001H.
constexpr uint32_t kExtEcx = bits({0 /* LAHF in 64-bit mode */, 8 /* PREFETCHW */});
constexpr uint32_t kExtEdx = bits({11 /* SYSCALL */, 20 /* NX */, 26 /* 1 GiB pages */, 27 /* RDTSCP */, 29 /* LM */});

struct Cache {
  uint32_t type, level, ways, sets;
};
constexpr Cache kCaches[] = {{1, 1, 8, 64}, {2, 1, 8, 64}, {3, 2, 16, 1024}};

// Bits that number the vCPUs: all are cores of one package.
unsigned id_bits(unsigned cpus) {
  unsigned n = 0;
  while ((1u << n) < cpus) n++;
  return n;
}

CpuidResult cache_leaf(unsigned n, unsigned cpus) {
  if (n >= sizeof kCaches / sizeof *kCaches) return {};
  const Cache& k = kCaches[n];
  const uint32_t cores = (1u << id_bits(cpus)) - 1;
  return {k.type | k.level << 5 | 1u << 8 | cores << 26, 63u | (k.ways - 1) << 22, k.sets - 1, 0};
}

CpuidResult topology_leaf(const Cpu& c, uint32_t subleaf) {
  const uint32_t id = c.lapic->id();
  if (subleaf == 0) return {0, 1, 0x100, id};
  if (subleaf == 1) return {id_bits(c.engine->cpus), c.engine->cpus, 0x201, id};
  return {0, 0, subleaf & 0xff, id};
}

CpuidResult xsave_leaf(const Cpu& c, uint32_t subleaf) {
  if (subleaf == 0) return {uint32_t(kXcr0Offered), c.xcr0 & kXcrPkru ? kXsaveBytes : kXsavePkru, kXsaveBytes, 0};
  if (subleaf == 9) return {kXsaveBytes - kXsavePkru, kXsavePkru, 0, 0};
  return {};
}

// TSC frequency as a ratio to the APIC timer's, with a numerator that guests multiply by the crystal's kHz in 32 bits:
// the best rational approximation (continued fraction).
void tsc_ratio(uint32_t tsc_khz, uint32_t* numerator, uint32_t* denominator) {
  const uint64_t crystal = Lapic::kTimerHz / 1000;
  const uint64_t limit = 0xffffffffu / crystal;
  uint64_t a = tsc_khz, b = crystal, p0 = 0, p1 = 1, q0 = 1, q1 = 0;
  while (b) {
    const uint64_t n = a / b, p2 = n * p1 + p0, q2 = n * q1 + q0;
    if (p2 > limit) break;
    p0 = p1;
    q0 = q1;
    p1 = p2;
    q1 = q2;
    const uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  *numerator = uint32_t(p1);
  *denominator = uint32_t(q1 ? q1 : 1);
}

CpuidResult text(const char* at) {
  CpuidResult r;
  std::memcpy(&r, at, 16);
  return r;
}

// Three leaves of 16 bytes.
constexpr char kBrand[48] = "Nyx soft x86-64 CPU";
constexpr char kHypervisor[13] = "NyxNyxNyxNyx";

CpuidResult basic(const Cpu& c, uint32_t leaf, uint32_t subleaf) {
  const unsigned cpus = c.engine->cpus;
  switch (leaf) {
    case 0: return {c.misc_enable & kMiscLimitCpuid ? 2u : 0x16u, 0x756e6547, 0x6c65746e, 0x49656e69};  // GenuineIntel
    case 1: {
      CpuidResult r{kSignature, 8u << 8 | c.lapic->id() << 24, k1Ecx, k1Edx};
      if (cpus > 1) {
        r.ebx |= (1u << id_bits(cpus)) << 16;
        r.edx |= 1u << 28;  // HTT: the count is valid
      }
      if (c.lapic->Enabled()) r.edx |= 1u << 9;
      if (c.cr4 & kCr4OSXSAVE) r.ecx |= 1u << 27;
      return r;
    }
    case 2: return {0x00feff01, 0, 0, 0};  // see leaf 4
    case 4: return cache_leaf(subleaf, cpus);
    case 6: return {bits({2 /* ARAT */}), 0, 0, 0};
    case 7: return subleaf == 0 ? CpuidResult{0, k7Ebx, k7Ecx | (c.cr4 & kCr4PKE ? 1u << 4 : 0), 0} : CpuidResult{};
    case 0xb: return topology_leaf(c, subleaf);
    case 0xd: return xsave_leaf(c, subleaf);
    case 0x15: {
      CpuidResult r{0, 0, uint32_t(Lapic::kTimerHz), 0};
      tsc_ratio(c.clock->tsc_khz(), &r.ebx, &r.eax);
      return r;
    }
    case 0x16: {
      const uint32_t mhz = c.clock->tsc_khz() / 1000;
      return {mhz, mhz, 100, 0};
    }
    default: return {};
  }
}

CpuidResult hypervisor(const Cpu& c, uint32_t leaf) {
  if (leaf == 0x40000000) {
    CpuidResult r{0x40000010, 0, 0, 0};
    std::memcpy(&r.ebx, kHypervisor, 12);
    return r;
  }
  // Frequencies in kHz: TSC, APIC timer.
  if (leaf == 0x40000010) return {c.clock->tsc_khz(), uint32_t(Lapic::kTimerHz / 1000), 0, 0};
  return {};
}

CpuidResult extended(const Cpu& c, uint32_t leaf) {
  switch (leaf) {
    case 0x80000000: return {0x80000008, 0, 0, 0};
    case 0x80000001: return {0, 0, kExtEcx, c.misc_enable & kMiscNoExecute ? kExtEdx & ~(1u << 20) : kExtEdx};
    case 0x80000002: return text(kBrand);
    case 0x80000003: return text(kBrand + 16);
    case 0x80000004: return text(kBrand + 32);
    case 0x80000006: return {0, 0, 1024u << 16 | 8u << 12 | 64, 0};  // L2: 1 MiB, 16 ways, 64-byte lines
    case 0x80000007: return {0, 0, 0, bits({8 /* invariant TSC */})};
    case 0x80000008: return {kPhysBits | 48u << 8, 0, 0, 0};
    default: return {};
  }
}

}  // namespace

CpuidResult cpuid(const Cpu& c, uint32_t leaf, uint32_t subleaf) {
  if (leaf <= 0x16) return basic(c, leaf, subleaf);
  if (leaf >> 8 == 0x400000) return hypervisor(c, leaf);
  if (leaf >= 0x80000000 && leaf <= 0x80000008) return extended(c, leaf);
  return basic(c, 0x16, subleaf);  // beyond the last leaf Intel CPUs answer with it
}

}  // namespace nyx::soft
