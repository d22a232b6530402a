// What the soft CPU is (CPUID) and the model-specific registers that go with it.
#pragma once
#include "soft/cpu.h"

namespace nyx::soft {

// Bits of CR0 and CR4 that can be set.
inline constexpr uint64_t kCr0Defined = kCr0PE | kCr0MP | kCr0EM | kCr0TS | kCr0ET | kCr0NE | kCr0WP | kCr0AM | kCr0NW | kCr0CD | kCr0PG;
inline constexpr uint64_t kCr4Offered = kCr4TSD | kCr4DE | kCr4PSE | kCr4PAE | kCr4MCE | kCr4PGE | kCr4PCE | kCr4OSFXSR |
                                 kCr4OSXMMEXCPT | kCr4UMIP | kCr4FSGSBASE | kCr4OSXSAVE | kCr4SMEP | kCr4SMAP | kCr4PKE | kCr4PKS;
// XCR0: x87 and SSE state, PKRU.
inline constexpr uint64_t kXcrPkru = 1 << 9, kXcr0Offered = 3 | kXcrPkru;
// XSAVE area: legacy area with SSE, header, then PKRU (8 bytes).
inline constexpr uint32_t kXsavePkru = 576, kXsaveBytes = 584;

// IA32_MISC_ENABLE.
inline constexpr uint64_t kMiscLimitCpuid = 1 << 22, kMiscNoExecute = 1ull << 34;

struct CpuidResult {
  uint32_t eax, ebx, ecx, edx;
};
CpuidResult cpuid(const Cpu& c, uint32_t leaf, uint32_t subleaf);

// RDMSR, WRMSR without the privilege check. False: #GP(0).
bool read_msr(Cpu& c, uint32_t msr, uint64_t* value);
bool write_msr(Cpu& c, uint32_t msr, uint64_t value);

// Guest TSC of this vCPU.
uint64_t guest_tsc(const Cpu& c);

}  // namespace nyx::soft
