// The address map and the exit table.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "check.h"
#include "exits.h"
#include "map.h"

namespace nyx {
namespace {

struct Silent : HostEvents {
  void OnViolation(unsigned, uint32_t error) override { violation = error; }
  void OnWaiting(unsigned, uint64_t) override {}
  void OnAnswered(unsigned, uint64_t) override {}
  void OnMachineEvent(uint32_t, unsigned) override {}
  void OnMapChanged() override {}
  uint32_t violation = 0;
};

int Memfd(size_t bytes) {
  const int fd = memfd_create("test", MFD_ALLOW_SEALING);
  OK(ftruncate(fd, static_cast<off_t>(bytes)) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  return fd;
}

// Two devices with a state block each, in one process.
struct Rig {
  Rig() {
    ring.resize(wire::kRingBase + 2 * wire::kRingStride);
    auto* control = reinterpret_cast<wire::ProcessControl*>(ring.data());
    *control = {};
    control->magic = wire::kRingMagic;
    control->version = wire::kVersion;
    control->rings = 2;
    OK(channel.Attach(0, ring.data(), ring.size(), 2, eventfd(0, 0), &events) == nullptr);
    for (int i = 0; i < 2; i++) {
      const int fd = Memfd(0x3000);
      block[i] = static_cast<uint8_t*>(mmap(nullptr, 0x3000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
      auto* h = reinterpret_cast<wire::BlockHeader*>(block[i]);
      h->magic = wire::kBlockMagic;
      h->version = wire::kVersion;
      h->half_bytes = 512;
      h->ranges = 3;
      h->initialized = 1;
      devices.push_back(std::make_unique<Device>());
      devices[i]->channel = &channel;
      std::string error;
      OK(devices[i]->block.Attach(fd, &error));
    }
  }
  void Range(int device, int index, wire::Range r) {
    memcpy(block[device] + wire::kHalvesAt + sizeof(wire::HalfHeader) + index * sizeof r, &r, sizeof r);
  }
  Silent events;
  std::vector<uint8_t> ring;
  Channel channel;
  uint8_t* block[2];
  std::vector<std::unique_ptr<Device>> devices;
};

TEST("map: what is fixed stays; published ranges get what is left, the first device first") {
  Rig r;
  AddressMap map(&r.devices, {{wire::Space::kMmio, 1, 0, {}, 0x2000, 0x1000}, {wire::Space::kPio, 1, 0, {}, 0x60, 4}}, {});
  r.Range(0, 0, {wire::Space::kMmio, 5, {}, 0x1000, 0x4000, {}});
  r.Range(1, 0, {wire::Space::kMmio, 6, {}, 0x0800, 0x9000, {}});
  r.Range(1, 1, {wire::Space::kPio, 7, {}, 0x50, 0x20, {}});
  map.Rebuild();
  const auto s = map.snapshot();
  unsigned hint = 0;
  const auto region = [&](uint64_t gpa) { return s->Mmio(gpa, &hint) ? s->Mmio(gpa, &hint)->region : 0; };
  EQ(region(0x7ff), 0);
  EQ(region(0x800), 6);
  EQ(region(0xfff), 6);
  EQ(region(0x1000), 5);
  EQ(region(0x2000), 1);
  EQ(region(0x2fff), 1);
  EQ(region(0x3000), 5);
  EQ(region(0x4fff), 5);
  EQ(region(0x5000), 6);
  EQ(region(0x97ff), 6);
  EQ(region(0x9800), 0);
  EQ(s->Pio(0x5f)->region, 7);
  EQ(s->Pio(0x60)->region, 1);
  EQ(s->Pio(0x64)->region, 7);
  OK(s->Pio(0x70) == nullptr);
  EQ(r.events.violation, 0);
}

TEST("map: a range may end at the top of the address space, but not wrap or be empty") {
  Rig r;
  AddressMap map(&r.devices, {}, {});
  r.Range(0, 0, {wire::Space::kMmio, 2, {}, ~uint64_t{0} - 0xfff, 0x1000, {}});
  map.Rebuild();
  unsigned hint = 0;
  EQ(map.snapshot()->Mmio(~uint64_t{0}, &hint)->region, 2);
  EQ(r.events.violation, 0);
  r.Range(0, 0, {wire::Space::kMmio, 2, {}, ~uint64_t{0} - 0xfff, 0x1001, {}});
  map.Rebuild();
  EQ(r.events.violation, machine::VcpuError::kBadRange);
}

TEST("map: ranges come from the committed half") {
  Rig r;
  AddressMap map(&r.devices, {}, {});
  r.Range(0, 0, {wire::Space::kPio, 3, {}, 0x100, 1, {}});
  auto* h = reinterpret_cast<wire::BlockHeader*>(r.block[0]);
  h->generation = 1;
  map.Rebuild();
  OK(map.snapshot()->Pio(0x100) == nullptr);
  h->generation = 2;
  map.Rebuild();
  EQ(map.snapshot()->Pio(0x100)->region, 3);
  // A block that nobody initialized yet is no error.
  h->initialized = 0;
  map.Rebuild();
  OK(map.snapshot()->Pio(0x100) == nullptr);
  EQ(r.events.violation, 0);
}

TEST("exits: no reason of KVM, VMX or SVM has two names") {
  for (unsigned i = 1; i < kExitCount; i++) {
    const ExitInfo& e = kExits[i];
    const auto code = static_cast<ExitCode>(i);
    if (e.kvm >= 0) OK(ExitFromKvm(static_cast<uint32_t>(e.kvm)) == code);
    if (e.vmx >= 0) OK(ExitFromVmx(static_cast<uint32_t>(e.vmx)) == code);
    for (int32_t s = e.svm; s >= 0 && s <= e.svm_last; s++) OK(ExitFromSvm(static_cast<uint32_t>(s)) == code);
    for (unsigned k = 1; k < i; k++) OK(strcmp(kExits[k].name, e.name) != 0);
  }
}

}  // namespace
}  // namespace nyx
