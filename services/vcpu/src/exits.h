// One set of names for why a guest was left, whatever left it: KVM's exit reasons (linux/kvm.h), VMX basic exit reasons
// (Intel SDM 3C appendix C) and SVM exit codes (AMD APM 2 appendix C). Columns are -1 where a source has no such exit;
// a source that splits what another one joins (CR, DR, exceptions) has a range in its `last` column.
#pragma once
#include <cstdint>

namespace nyx {

// name, KVM, VMX, SVM first, SVM last
#define NYX_EXITS(X)                             \
  X(Unknown, 0, -1, -1, -1)                      \
  X(Exception, 1, 0, 0x40, 0x5f)                 \
  X(ExternalInterrupt, 10, 1, 0x60, 0x60)        \
  X(TripleFault, 8, 2, 0x7f, 0x7f)               \
  X(InitSignal, -1, 3, 0x63, 0x63)               \
  X(StartupSignal, -1, 4, -1, -1)                \
  X(IoSmi, -1, 5, -1, -1)                        \
  X(OtherSmi, -1, 6, 0x62, 0x62)                 \
  X(InterruptWindow, 7, 7, 0x64, 0x64)           \
  X(NmiWindow, -1, 8, -1, -1)                    \
  X(Nmi, 16, -1, 0x61, 0x61)                     \
  X(TaskSwitch, -1, 9, 0x7d, 0x7d)               \
  X(Cpuid, -1, 10, 0x72, 0x72)                   \
  X(Getsec, -1, 11, -1, -1)                      \
  X(Halt, 5, 12, 0x78, 0x78)                     \
  X(Invd, -1, 13, 0x76, 0x76)                    \
  X(Invlpg, -1, 14, 0x79, 0x79)                  \
  X(Rdpmc, -1, 15, 0x6f, 0x6f)                   \
  X(Rdtsc, -1, 16, 0x6e, 0x6e)                   \
  X(Rsm, -1, 17, 0x73, 0x73)                     \
  X(Hypercall, 3, 18, 0x81, 0x81)                \
  X(Vmclear, -1, 19, -1, -1)                     \
  X(Vmlaunch, -1, 20, 0x80, 0x80)                \
  X(Vmptrld, -1, 21, 0x82, 0x82)                 \
  X(Vmptrst, -1, 22, 0x83, 0x83)                 \
  X(Vmread, -1, 23, -1, -1)                      \
  X(Vmresume, -1, 24, -1, -1)                    \
  X(Vmwrite, -1, 25, -1, -1)                     \
  X(Vmxoff, -1, 26, 0x85, 0x85)                  \
  X(Vmxon, -1, 27, 0x84, 0x84)                   \
  X(ControlRegister, -1, 28, 0x00, 0x1f)         \
  X(DebugRegister, -1, 29, 0x20, 0x3f)           \
  X(ControlRegisterSelective, -1, -1, 0x65, 0x65) \
  X(ControlRegisterTrap, -1, -1, 0x8f, 0x9f)     \
  X(Port, 2, 30, 0x7b, 0x7b)                     \
  X(MsrRead, 29, 31, 0x7c, 0x7c)                 \
  X(MsrWrite, 30, 32, -1, -1)                    \
  X(InvalidGuestState, 9, 33, -1, -1)            \
  X(MsrLoading, -1, 34, -1, -1)                  \
  X(Mwait, -1, 36, 0x8b, 0x8c)                   \
  X(MonitorTrap, -1, 37, -1, -1)                 \
  X(Monitor, -1, 39, 0x8a, 0x8a)                 \
  X(Pause, -1, 40, 0x77, 0x77)                   \
  X(MachineCheck, -1, 41, -1, -1)                \
  X(TprThreshold, 11, 43, -1, -1)                \
  X(ApicAccess, 12, 44, 0x402, 0x402)            \
  X(ApicIpi, -1, -1, 0x401, 0x401)               \
  X(EndOfInterrupt, 26, 45, -1, -1)              \
  X(DescriptorTable, -1, 46, 0x66, 0x67)         \
  X(LocalTable, -1, 47, 0x68, 0x6d)              \
  X(NestedPageFault, -1, 48, 0x400, 0x400)       \
  X(NestedMisconfiguration, -1, 49, -1, -1)      \
  X(Mmio, 6, -1, -1, -1)                         \
  X(Invept, -1, 50, -1, -1)                      \
  X(Rdtscp, -1, 51, 0x87, 0x87)                  \
  X(PreemptionTimer, -1, 52, -1, -1)             \
  X(Invvpid, -1, 53, 0x7a, 0x7a)                 \
  X(Wbinvd, -1, 54, 0x89, 0x89)                  \
  X(Xsetbv, -1, 55, 0x8d, 0x8d)                  \
  X(ApicWrite, -1, 56, -1, -1)                   \
  X(Rdrand, -1, 57, -1, -1)                      \
  X(Invpcid, -1, 58, 0xa2, 0xa2)                 \
  X(Vmfunc, -1, 59, -1, -1)                      \
  X(Encls, -1, 60, -1, -1)                       \
  X(Rdseed, -1, 61, -1, -1)                      \
  X(PageModificationLog, 31, 62, -1, -1)         \
  X(Xsaves, -1, 63, -1, -1)                      \
  X(Xrstors, -1, 64, -1, -1)                     \
  X(Umwait, -1, 67, -1, -1)                      \
  X(Tpause, -1, 68, -1, -1)                      \
  X(BusLock, 33, 74, 0xa5, 0xa5)                 \
  X(Notify, 37, 75, -1, -1)                      \
  X(Pushf, -1, -1, 0x70, 0x70)                   \
  X(Popf, -1, -1, 0x71, 0x71)                    \
  X(Iret, -1, -1, 0x74, 0x74)                    \
  X(SoftwareInterrupt, -1, -1, 0x75, 0x75)       \
  X(FerrFreeze, -1, -1, 0x7e, 0x7e)              \
  X(Skinit, -1, -1, 0x86, 0x86)                  \
  X(Icebp, -1, -1, 0x88, 0x88)                   \
  X(Rdpru, -1, -1, 0x8e, 0x8e)                   \
  X(GuestExit, -1, -1, 0x403, 0x403)             \
  X(Debug, 4, -1, -1, -1)                        \
  X(EngineError, 17, -1, -1, -1)                 \
  X(SystemEvent, 24, -1, -1, -1)                 \
  X(HyperV, 27, -1, -1, -1)                      \
  X(Xen, 34, -1, -1, -1)                         \
  X(Unimplemented, -1, -1, -1, -1)

enum class ExitCode : uint32_t {
#define NYX_EXIT_NAME(name, kvm, vmx, svm, last) k##name,
  NYX_EXITS(NYX_EXIT_NAME)
#undef NYX_EXIT_NAME
};

struct ExitInfo {
  const char* name;
  int32_t kvm, vmx, svm, svm_last;
};

inline constexpr ExitInfo kExits[] = {
#define NYX_EXIT_INFO(name, kvm, vmx, svm, last) {#name, kvm, vmx, svm, last},
    NYX_EXITS(NYX_EXIT_INFO)
#undef NYX_EXIT_INFO
};
inline constexpr unsigned kExitCount = sizeof kExits / sizeof kExits[0];

constexpr const char* ExitName(ExitCode code) {
  const auto i = static_cast<uint32_t>(code);
  return i < kExitCount ? kExits[i].name : "Unknown";
}

template <typename Match>
constexpr ExitCode FindExit(Match match) {
  for (unsigned i = 1; i < kExitCount; i++) {
    if (match(kExits[i])) return static_cast<ExitCode>(i);
  }
  return ExitCode::kUnknown;
}
constexpr ExitCode ExitFromKvm(uint32_t reason) {
  return FindExit([=](const ExitInfo& e) { return e.kvm >= 0 && static_cast<uint32_t>(e.kvm) == reason; });
}
// Bits 15:0 of the exit reason field.
constexpr ExitCode ExitFromVmx(uint32_t reason) {
  return FindExit([=](const ExitInfo& e) { return e.vmx >= 0 && static_cast<uint32_t>(e.vmx) == (reason & 0xffff); });
}
constexpr ExitCode ExitFromSvm(uint32_t code) {
  return FindExit([=](const ExitInfo& e) {
    return e.svm >= 0 && code >= static_cast<uint32_t>(e.svm) && code <= static_cast<uint32_t>(e.svm_last);
  });
}

static_assert(kExitCount > 50);
static_assert(ExitFromKvm(2) == ExitCode::kPort && ExitFromVmx(30) == ExitCode::kPort && ExitFromSvm(0x7b) == ExitCode::kPort);
static_assert(ExitFromSvm(0x4e) == ExitCode::kException && ExitFromVmx(0x80000021) == ExitCode::kInvalidGuestState);

}  // namespace nyx
