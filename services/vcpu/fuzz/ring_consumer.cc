// libFuzzer target: a hostile device process. The input is a program: what the guest accesses, and what the device
// writes, between two accesses, anywhere into its ring, its state block and its interrupt page. Nothing that the vCPU
// process does with such memory may leave it (AddressSanitizer), hang, or touch the other process's devices.
//
//     node services/vcpu/fuzz/run.mjs [seconds]
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "bus.h"
#include "fabric.h"
#include "lapic.h"

using namespace nyx;

namespace {

constexpr unsigned kBlockBytes = 0x3000;
constexpr unsigned kRingBytes = wire::kRingBase + 2 * wire::kRingStride;
constexpr unsigned kIrqBytes = 0x2000;

int Memfd(size_t bytes) {
  const int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) abort();
  return fd;
}

uint8_t* Map(int fd, size_t bytes) {
  return static_cast<uint8_t*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
  bool more() const { return at_ < end_; }
  uint8_t Byte() { return more() ? *at_++ : 0; }
  uint16_t Word() { return static_cast<uint16_t>(Byte() | Byte() << 8); }
  uint32_t Dword() { return Word() | static_cast<uint32_t>(Word()) << 16; }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

struct Events : HostEvents {
  void OnViolation(unsigned process, uint32_t error) override {
    // The second process is honest; nobody may be blamed in its name.
    if (process != 0 || error == 0) abort();
  }
  void OnWaiting(unsigned, uint64_t) override {}
  void OnAnswered(unsigned, uint64_t) override {}
  void OnMachineEvent(uint32_t event, unsigned) override {
    if (event > wire::MachineEvent::kPanic) abort();
  }
  void OnMapChanged() override { map->Rebuild(); }
  AddressMap* map = nullptr;
};

// Gives up at the second look: a device that does not answer costs microseconds here.
struct Impatient : Waiter {
  bool GiveUp() override { return looks++ & 1; }
  bool StopAsked() const override { return true; }
  unsigned looks = 0;
};

struct Files {
  int ring[2], block[2], irq[2], kick, event;
  uint8_t *ring_at[2], *block_at[2], *irq_at[2];
  Files() {
    // A wait that nobody ends costs microseconds.
    Producer::look_ns = 1'000;
    prctl(PR_SET_TIMERSLACK, 1);
    kick = eventfd(0, EFD_NONBLOCK);
    event = eventfd(0, EFD_NONBLOCK);
    for (int i = 0; i < 2; i++) {
      ring[i] = Memfd(kRingBytes);
      block[i] = Memfd(kBlockBytes);
      irq[i] = Memfd(kIrqBytes);
      ring_at[i] = Map(ring[i], kRingBytes);
      block_at[i] = Map(block[i], kBlockBytes);
      irq_at[i] = Map(irq[i], kIrqBytes);
    }
  }
};

void Format(Files& f) {
  for (int i = 0; i < 2; i++) {
    memset(f.ring_at[i], 0, kRingBytes);
    memset(f.block_at[i], 0, kBlockBytes);
    memset(f.irq_at[i], 0, kIrqBytes);
    auto* control = reinterpret_cast<wire::ProcessControl*>(f.ring_at[i]);
    control->magic = wire::kRingMagic;
    control->version = wire::kVersion;
    control->rings = 2;
    auto* h = reinterpret_cast<wire::BlockHeader*>(f.block_at[i]);
    h->magic = wire::kBlockMagic;
    h->version = wire::kVersion;
    h->half_bytes = 512;
    h->ranges = 4;
    h->classes = 2;
    h->initialized = 1;
    h->class_table[0] = {wire::ClassKind::kShadow, 0, 4, {}, 0, 256, 0};
    h->class_table[1] = {wire::ClassKind::kCounter, 0, 4, {}, 4, 264, 0};
  }
}

Description Describe(const Files& f) {
  Description d{};
  d.header.cpus = 1;
  d.header.pic_device = 0;
  d.header.ioapic_device = 1;
  for (uint16_t i = 0; i < 2; i++) {
    machine::MachineProcess p{};
    p.irq_page_fd = i;
    p.irq_event_fd = 2;
    d.processes.push_back(p);
    machine::MachineDevice v{};
    v.process = i;
    v.irq_count = 4;
    d.devices.push_back(v);
    d.ranges.push_back({wire::Space::kPio, 0, i, {}, static_cast<uint64_t>(0x500 + i * 0x100), 0x100});
    d.ranges.push_back({wire::Space::kMmio, 1, i, {}, 0x1000'0000u + i * 0x1000u, 0x1000});
    d.functions.push_back({static_cast<uint16_t>(8 * i), i, 0, {}});
  }
  for (uint16_t e = 0; e < 4; e++) d.routes.push_back({0, e, static_cast<uint8_t>(1 + e), {}, 20});
  (void)f;
  return d;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Files f;
  Format(f);
  const Description d = Describe(f);
  Events events;
  Impatient waiter;
  static wire::VmPage page;
  static Clock clock(&page, 1);
  clock.Resume();
  std::atomic<uint32_t> attention{0};
  ApicBus apics;
  Lapic lapic(0, &clock, &attention, &apics);
  apics.Add(&lapic);
  lapic.SetVirtualWire();
  std::vector<std::unique_ptr<Channel>> channels;
  std::vector<std::unique_ptr<Device>> devices;
  std::string error;
  for (unsigned i = 0; i < 2; i++) {
    channels.push_back(std::make_unique<Channel>());
    if (channels[i]->Attach(i, f.ring_at[i], kRingBytes, 2, f.kick, &events)) abort();
    devices.push_back(std::make_unique<Device>());
    devices[i]->description = d.devices[i];
    devices[i]->channel = channels[i].get();
    if (!devices[i]->block.Attach(f.block[i], &error)) abort();
  }
  AddressMap map(&devices, d.ranges, d.functions);
  events.map = &map;
  map.Rebuild();
  wire::VcpuStats stats{};
  VcpuBus bus({&map, &devices, &channels, &clock, 0, 1}, 0, &waiter, &lapic, &stats);
  lapic.set_bus(&bus);
  Fabric fabric(d, &devices, &channels, &apics);
  if (!fabric.Attach({f.irq[0], f.irq[1], f.event}, &error)) {
    // The same eventfd cannot be watched twice; the first process's is enough.
    if (error.find("exists") == std::string::npos) abort();
  }

  Input in(data, size);
  uint8_t burst[8192];
  memset(burst, 0x55, sizeof burst);
  for (int steps = 0; in.more() && steps < 100; steps++) {
    const uint8_t op = in.Byte();
    const unsigned width = 1u << (op >> 6 & 1 ? op >> 5 & 1 : 2);
    const uint16_t port = static_cast<uint16_t>(0x4f8 + (in.Byte() << 1));
    switch (op & 15) {
      case 0: bus.PioRead(port, width); break;
      case 1: bus.PioWrite(port, width, in.Dword()); break;
      case 2: bus.PioReadBurst(port, width, in.Word() % (sizeof burst / width), burst); break;
      case 3: bus.PioWriteBurst(port, width, in.Word() % (sizeof burst / width), burst); break;
      case 4: bus.MmioRead(0x1000'0000u + in.Word(), op & 0x80 ? 8 : width); break;
      case 5: bus.MmioWrite(0x1000'0000u + in.Word(), op & 0x80 ? 8 : width, in.Dword()); break;
      case 6:
        bus.PioWrite(0xcf8, 4, 0x80000000u | in.Word());
        bus.PioRead(static_cast<uint16_t>(0xcfc + (op >> 4 & 3)), 1);
        break;
      case 7: bus.IntAck(); break;
      case 8: lapic.Post(op, true), lapic.Acknowledge(), lapic.MmioWrite(0xb0, 4, 0); break;
      case 9: {
        // The answer to the next request, before it is asked.
        auto* h = reinterpret_cast<wire::RingHeader*>(f.ring_at[0] + wire::kRingBase);
        auto* slot = reinterpret_cast<wire::ExitSlot*>(f.ring_at[0] + wire::kRingBase + wire::kSlotsAt) + (h->head & 63);
        slot->reply_seq_lo = static_cast<uint32_t>(h->head + 1);
        slot->status = op & 0x80 ? in.Dword() : in.Byte() & 1 ? wire::StatusFlag::kMapChanged : 0;
        slot->reply = in.Dword();
        break;
      }
      case 10: {
        const uint32_t at = in.Word() % (kRingBytes / 4);
        reinterpret_cast<uint32_t*>(f.ring_at[0])[at] = op & 0x80 ? in.Dword() : in.Byte();
        break;
      }
      case 11: {
        const uint32_t at = in.Word() % (kBlockBytes / 4);
        reinterpret_cast<uint32_t*>(f.block_at[0])[at] = op & 0x80 ? in.Dword() : in.Byte();
        break;
      }
      case 12: {
        const uint32_t at = in.Word() % (kIrqBytes / 4);
        reinterpret_cast<uint32_t*>(f.irq_at[0])[at] = in.Dword();
        break;
      }
      case 13: map.Rebuild(); break;
      case 14: channels[0]->Replaced(); break;
      case 15:
        fabric.Look(0);
        fabric.Turn(0);
        break;
    }
  }
  // The honest process was never blamed, and is still asked.
  if (channels[1]->isolated()) abort();
  return 0;
}
