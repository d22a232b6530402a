// Seccomp allow-lists. Shared by the addon and nyx-vcpu.
#pragma once
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nyx::seccomp {

// A program that allows these calls and answers the others with `denied` (a SECCOMP_RET_ value). Two are allowed in part
// only: kill and tgkill reach this process alone, and mmap makes no anonymous shared memory, which no limit of
// a process would count. x32 numbers (bit 30) are in no list, so they are denied with the rest.
inline std::vector<sock_filter> Program(std::vector<uint32_t> allow, uint32_t denied) {
  std::sort(allow.begin(), allow.end());
  allow.erase(std::unique(allow.begin(), allow.end()), allow.end());
  constexpr auto kArgs = static_cast<uint32_t>(offsetof(seccomp_data, args));
  std::vector<sock_filter> out = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
  };
  for (const uint32_t number : allow) {
    if (number == __NR_kill || number == __NR_tgkill) {
      out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4));
      out.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kArgs));
      out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(getpid()), 0, 1));
      out.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
      out.push_back(BPF_STMT(BPF_RET | BPF_K, denied));
    } else if (number == __NR_mmap) {
      constexpr uint32_t kSharedAnonymous = MAP_SHARED | MAP_ANONYMOUS;
      out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 5));
      out.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kArgs + 3 * 8));
      out.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, kSharedAnonymous));
      out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kSharedAnonymous, 0, 1));
      out.push_back(BPF_STMT(BPF_RET | BPF_K, denied));
      out.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    } else {
      out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
      out.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    }
  }
  out.push_back(BPF_STMT(BPF_RET | BPF_K, denied));
  return out;
}

// For all threads, for good; implies no_new_privs. 0, or errno (EBUSY: a thread could not be synchronized).
inline int Install(std::vector<sock_filter>& program) {
  sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  const long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
  return result == 0 ? 0 : result > 0 ? EBUSY : errno;
}

}  // namespace nyx::seccomp
