// What the soft CPU is (CPUID) and the model-specific registers that go with it.
#pragma once
#include "soft/cpu.h"

namespace nyx::soft {

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
