// Numbers of the local APIC's registers, shared by lapic*.cc.
#pragma once
#include <cstdint>

namespace nyx::apic {

// Register indices: MMIO offset / 16, MSR - 0x800 (SDM 3A tables 11-1 and 11-6).
enum Reg : uint32_t {
  kId = 0x02, kVersion = 0x03, kTpr = 0x08, kApr = 0x09, kPpr = 0x0a, kEoi = 0x0b, kRrd = 0x0c, kLdr = 0x0d, kDfr = 0x0e,
  kSvr = 0x0f, kIsr = 0x10, kTmr = 0x18, kIrr = 0x20, kEsr = 0x28, kIcrLow = 0x30, kIcrHigh = 0x31, kLvt = 0x32,
  kInitialCount = 0x38, kCurrentCount = 0x39, kDivide = 0x3e, kSelfIpi = 0x3f,
};

// 6 LVT entries, EOI-broadcast suppression (bit 24), integrated APIC version 14h.
inline constexpr uint32_t kVersionValue = 0x01050014;
inline constexpr uint32_t kMasked = 1u << 16;
// Writable bits of each LVT entry (SDM figure 11-8).
inline constexpr uint32_t kLvtMask[6] = {0x000700ff, 0x000107ff, 0x000107ff, 0x0001a7ff, 0x0001a7ff, 0x000100ff};
inline constexpr uint32_t kEsrSendIllegal = 1u << 5, kEsrReceiveIllegal = 1u << 6, kEsrIllegalRegister = 1u << 7;
inline constexpr uint64_t kBaseBsp = 1u << 8, kBaseX2 = 1u << 10, kBaseEnable = 1u << 11;
// MAXPHYADDR that the base may use: 40 bits.
inline constexpr uint64_t kBaseAddress = 0xff'ffff'f000;
inline constexpr unsigned kLint0 = 3, kLint1 = 4, kError = 5;
inline constexpr uint32_t kHwEnabled = 1, kSwEnabled = 2, kX2 = 4;

}  // namespace nyx::apic
