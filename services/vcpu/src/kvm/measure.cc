// How fast is this KVM? A KVM may be present and yet emulate every instruction (nested hosts without VMX and SVM). A
// guest of three instructions runs for some milliseconds; hardware does a billion of them a second, emulation two million.
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../machine.h"

namespace nyx {
namespace {

constexpr uint64_t kRunNs = 5'000'000;

struct Fd {
  int fd;
  ~Fd() {
    if (fd >= 0) close(fd);
  }
};

// 16-bit code at 0: inc eax; jnz back (66 40; 75 fc), wrapping into hlt never within the time given.
constexpr uint8_t kLoop[] = {0x66, 0x40, 0x75, 0xfc, 0xf4};

}  // namespace

uint64_t MeasureKvm() {
  const Fd kvm{open("/dev/kvm", O_RDWR | O_CLOEXEC)};
  if (kvm.fd < 0 || ioctl(kvm.fd, KVM_GET_API_VERSION, 0) != 12) return 0;
  const Fd vm{ioctl(kvm.fd, KVM_CREATE_VM, 0)};
  if (vm.fd < 0) return 0;
  const uint64_t identity = 0xfeffc000;
  ioctl(vm.fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
  ioctl(vm.fd, KVM_SET_TSS_ADDR, 0xfeffd000);
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return 0;
  memcpy(page, kLoop, sizeof kLoop);
  kvm_userspace_memory_region slot{};
  slot.memory_size = 4096;
  slot.userspace_addr = reinterpret_cast<uint64_t>(page);
  const Fd vcpu{ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, &slot) == 0 ? ioctl(vm.fd, KVM_CREATE_VCPU, 0) : -1};
  uint64_t speed = 0;
  kvm_sregs sregs;
  if (vcpu.fd >= 0 && ioctl(vcpu.fd, KVM_GET_SREGS, &sregs) == 0) {
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    kvm_regs regs{};
    regs.rflags = 2;
    regs.rax = 1;
    ioctl(vcpu.fd, KVM_SET_SREGS, &sregs);
    ioctl(vcpu.fd, KVM_SET_REGS, &regs);
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGRTMIN;
    event._sigev_un._tid = static_cast<int>(syscall(SYS_gettid));
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) == 0) {
      itimerspec when = {};
      when.it_value.tv_nsec = kRunNs;
      // Again and again, in case the first signal comes before KVM_RUN is entered.
      when.it_interval.tv_nsec = kRunNs;
      const uint64_t start = MonotonicNs();
      timer_settime(timer, 0, &when, nullptr);
      ioctl(vcpu.fd, KVM_RUN, 0);
      const uint64_t ns = MonotonicNs() - start;
      timer_delete(timer);
      if (ioctl(vcpu.fd, KVM_GET_REGS, &regs) == 0) {
        // Fewer than 2^32 turns: half a second at least on any processor.
        const uint64_t turns = static_cast<uint32_t>(regs.rax);
        speed = turns * 2 * 1'000'000'000u / (ns ? ns : 1);
      }
    }
  }
  munmap(page, 4096);
  return speed;
}

}  // namespace nyx
