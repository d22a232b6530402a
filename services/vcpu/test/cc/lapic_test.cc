// The local APIC against Intel SDM 3A chapter 11. Test names quote what the clause says.
#include <time.h>

#include <cstring>
#include <memory>

#include "check.h"
#include "lapic.h"

namespace nyx {
namespace {

struct NoBus : Bus {
  uint32_t PioRead(uint16_t, unsigned) override { return 0; }
  void PioWrite(uint16_t, unsigned, uint32_t) override {}
  void PioReadBurst(uint16_t, unsigned, uint32_t, void*) override {}
  void PioWriteBurst(uint16_t, unsigned, uint32_t, const void*) override {}
  uint64_t MmioRead(uint64_t, unsigned) override { return 0; }
  void MmioWrite(uint64_t, unsigned, uint64_t) override {}
  int IntAck() override { return -1; }
  void Eoi(uint8_t vector) override { eois.push_back(vector); }
  std::vector<uint8_t> eois;
};

struct Rig {
  explicit Rig(unsigned cpus = 1) : clock(&page, 1) {
    clock.Resume();
    for (unsigned i = 0; i < cpus; i++) {
      apic.push_back(std::make_unique<Lapic>(i, &clock, &attention[i], &bus));
      apic[i]->set_bus(&io);
      bus.Add(apic[i].get());
    }
  }
  uint32_t Get(uint32_t offset, unsigned cpu = 0) { return static_cast<uint32_t>(apic[cpu]->MmioRead(offset, 4)); }
  void Set(uint32_t offset, uint32_t value, unsigned cpu = 0) { apic[cpu]->MmioWrite(offset, 4, value); }
  void Enable(unsigned cpu = 0) { Set(0xf0, 0x1ff, cpu); }
  bool Irr(unsigned vector, unsigned cpu = 0) { return Get(0x200 + vector / 32 * 16, cpu) >> (vector % 32) & 1; }
  bool Isr(unsigned vector, unsigned cpu = 0) { return Get(0x100 + vector / 32 * 16, cpu) >> (vector % 32) & 1; }

  wire::VmPage page{};
  Clock clock;
  ApicBus bus;
  NoBus io;
  std::atomic<uint32_t> attention[8]{};
  std::vector<std::unique_ptr<Lapic>> apic;
};

void Sleep(uint64_t us) {
  const uint64_t until = MonotonicNs() + us * 1000;
  timespec t{0, static_cast<long>(us * 1000)};
  while (MonotonicNs() < until) nanosleep(&t, nullptr);
}

TEST("11.4.7.1: state after power-up") {
  Rig r;
  EQ(r.Get(0x20), 0);
  EQ(r.Get(0x30), 0x01050014);
  EQ(r.Get(0x80), 0);
  EQ(r.Get(0xa0), 0);
  EQ(r.Get(0xd0), 0);
  EQ(r.Get(0xe0), 0xffffffff);
  EQ(r.Get(0xf0), 0xff);
  for (uint32_t i = 0x100; i < 0x280; i += 16) EQ(r.Get(i), 0);
  EQ(r.Get(0x280), 0);
  EQ(r.Get(0x300), 0);
  EQ(r.Get(0x310), 0);
  for (uint32_t i = 0x320; i <= 0x370; i += 16) EQ(r.Get(i), 0x10000);
  EQ(r.Get(0x380), 0);
  EQ(r.Get(0x390), 0);
  EQ(r.Get(0x3e0), 0);
  uint64_t base;
  OK(r.apic[0]->ReadMsr(0x1b, &base));
  EQ(base, 0xfee00900);
}

TEST("11.4.7.2: software-disabled: LVT masks are set and cannot be cleared, fixed interrupts are not accepted") {
  Rig r;
  r.Set(0x350, 0x700);
  EQ(r.Get(0x350), 0x10700);
  r.apic[0]->Post(0x40, false);
  OK(!r.Irr(0x40));
  r.Enable();
  r.Set(0x350, 0x700);
  EQ(r.Get(0x350), 0x700);
  r.apic[0]->Post(0x40, false);
  OK(r.Irr(0x40));
  r.Set(0xf0, 0xff);
  EQ(r.Get(0x350), 0x10700);
  OK(r.Irr(0x40));
}

TEST("11.8.3.1: the task priority blocks interrupts of its class and below") {
  Rig r;
  r.Enable();
  Lapic& a = *r.apic[0];
  a.Post(0x45, false);
  OK(r.attention[0] & wire::Attention::kInterrupt);
  r.Set(0x80, 0x40);
  EQ(a.Cr8(), 4);
  EQ(a.Deliverable(), Deliver::kNone);
  a.SetCr8(3);
  EQ(r.Get(0x80), 0x30);
  EQ(a.Deliverable(), Deliver::kFixed);
  EQ(a.Acknowledge(), 0x45);
  OK(r.Isr(0x45));
  OK(!r.Irr(0x45));
  EQ(r.Get(0xa0), 0x40);
  // One of the same class waits, one of a higher class does not.
  a.Post(0x4f, false);
  EQ(a.Deliverable(), Deliver::kNone);
  a.Post(0x51, false);
  EQ(a.Deliverable(), Deliver::kFixed);
  EQ(a.Acknowledge(), 0x51);
  r.Set(0xb0, 0);
  OK(!r.Isr(0x51));
  OK(r.Isr(0x45));
  r.Set(0xb0, 0);
  EQ(a.Acknowledge(), 0x4f);
}

TEST("11.9: an interrupt that vanished gives the spurious vector, without an ISR bit") {
  Rig r;
  r.Set(0xf0, 0x1ef);
  EQ(r.apic[0]->Acknowledge(), 0xef);
  OK(!r.Isr(0xef));
}

TEST("11.8.5: EOI of a level-triggered vector goes to the I/O APIC, unless suppressed; of an edge it does not") {
  Rig r;
  r.Enable();
  Lapic& a = *r.apic[0];
  a.Post(0x50, true);
  a.Acknowledge();
  EQ(r.Get(0x180 + 2 * 16) >> 16 & 1, 1);
  r.Set(0xb0, 0);
  EQ(r.io.eois.size(), 1);
  EQ(r.io.eois[0], 0x50);
  a.Post(0x50, false);
  a.Acknowledge();
  r.Set(0xb0, 0);
  EQ(r.io.eois.size(), 1);
  r.Set(0xf0, 0x11ff);
  a.Post(0x50, true);
  a.Acknowledge();
  r.Set(0xb0, 0);
  EQ(r.io.eois.size(), 1);
}

TEST("11.5.3: errors are latched by a write to ESR") {
  Rig r;
  r.Enable();
  r.Set(0x370, 0x33);
  r.Set(0x300, 0x0000000f);
  EQ(r.Get(0x280), 0);
  OK(r.Irr(0x33));
  r.Set(0x280, 0);
  EQ(r.Get(0x280), 0x20);
  r.Set(0x280, 0);
  EQ(r.Get(0x280), 0);
  r.apic[0]->Post(3, false);
  r.Set(0x280, 0);
  EQ(r.Get(0x280), 0x40);
  r.Get(0x2a0 + 0x150);
  r.Set(0x0, 1);
  r.Set(0x280, 0);
  EQ(r.Get(0x280), 0x80);
}

TEST("11.6.1: IPIs by shorthand, physical, flat and cluster destinations") {
  Rig r(4);
  for (unsigned i = 0; i < 4; i++) r.Enable(i);
  const auto hits = [&](uint8_t vector) {
    unsigned mask = 0;
    for (unsigned i = 0; i < 4; i++) mask |= static_cast<unsigned>(r.Irr(vector, i)) << i;
    return mask;
  };
  r.Set(0x300, 0x000c4041, 0);
  EQ(hits(0x41), 0xe);
  r.Set(0x300, 0x00084042, 1);
  EQ(hits(0x42), 0xf);
  r.Set(0x300, 0x00044043, 2);
  EQ(hits(0x43), 0x4);
  r.Set(0x310, 3u << 24);
  r.Set(0x300, 0x4044);
  EQ(hits(0x44), 0x8);
  r.Set(0x310, 0xffu << 24);
  r.Set(0x300, 0x4045);
  EQ(hits(0x45), 0xf);
  for (unsigned i = 0; i < 4; i++) r.Set(0xd0, 1u << (24 + i), i);
  r.Set(0x310, 0x6u << 24);
  r.Set(0x300, 0x4846);
  EQ(hits(0x46), 0x6);
  for (unsigned i = 0; i < 4; i++) {
    r.Set(0xe0, 0x0fffffff, i);
    r.Set(0xd0, ((i / 2) << 4 | 1u << (i % 2)) << 24, i);
  }
  r.Set(0x310, 0x12u << 24);
  r.Set(0x300, 0x4847);
  EQ(hits(0x47), 0x8);
}

TEST("11.6.2.4: lowest priority chooses the one with the lowest TPR, and only one") {
  Rig r(3);
  for (unsigned i = 0; i < 3; i++) {
    r.Enable(i);
    r.Set(0xd0, 1u << (24 + i), i);
    r.Set(0x80, i == 1 ? 0x10 : 0x20, i);
  }
  r.bus.Msi(0xfee07000 | 4, 0x0160);
  OK(!r.Irr(0x60, 0) && r.Irr(0x60, 1) && !r.Irr(0x60, 2));
  for (unsigned i = 0; i < 3; i++) r.Set(0x80, 0, i);
  for (unsigned n = 0; n < 3; n++) r.bus.Msi(0xfee07000 | 4, 0x0170u + n);
  unsigned got = 0;
  for (unsigned i = 0; i < 3; i++) {
    for (unsigned n = 0; n < 3; n++) got += r.Irr(0x70 + n, i);
  }
  EQ(got, 3);
}

TEST("8.4.4: INIT, then SIPI, start a processor; a SIPI that nobody waits for is lost") {
  Rig r(2);
  uint8_t vector = 0;
  Lapic& ap = *r.apic[1];
  OK(ap.waiting_for_sipi());
  OK(!r.apic[0]->waiting_for_sipi());
  r.Set(0x310, 1u << 24);
  r.Set(0x300, 0x4500);
  r.Set(0x300, 0x4699);
  r.Set(0x300, 0x4655);
  OK(ap.TakeInit());
  OK(ap.TakeSipi(&vector));
  EQ(vector, 0x99);
  OK(!ap.waiting_for_sipi());
  OK(!ap.TakeSipi(&vector));
  r.Set(0x300, 0x4677);
  OK(!ap.TakeSipi(&vector));
  // The de-assert of old systems does nothing.
  r.Set(0x300, 0x8500);
  OK(!ap.TakeInit());
  r.Set(0x300, 0x4400);
  OK(ap.TakeNmi());
  OK(!ap.TakeNmi());
}

TEST("11.4.3: IA32_APIC_BASE: only the transitions of figure 11-27; reserved bits are #GP") {
  Rig r;
  Lapic& a = *r.apic[0];
  uint64_t value;
  OK(!a.WriteMsr(0x1b, 0xfee00d00 | 1));
  OK(!a.WriteMsr(0x1b, 0xfee00000 | 1u << 10));
  OK(!a.ReadMsr(0x802, &value));
  OK(a.Claims(0xfee00300));
  OK(a.WriteMsr(0x1b, 0xfee00d00));
  OK(!a.Claims(0xfee00300));
  OK(a.ReadMsr(0x802, &value));
  OK(!a.WriteMsr(0x1b, 0xfee00900));
  OK(a.WriteMsr(0x1b, 0xfee00100));
  OK(!a.Enabled());
  OK(!a.WriteMsr(0x1b, 0xfee00d00));
  OK(a.WriteMsr(0x1b, 0xfed10900));
  OK(a.Claims(0xfed10300));
}

TEST("11.12.1: x2APIC registers: ids of 32 bits, ICR of 64, self IPI, #GP on reserved bits and registers") {
  Rig r(2);
  for (unsigned i = 0; i < 2; i++) OK(r.apic[i]->WriteMsr(0x1b, 0xfee00c00 | (i ? 0 : 0x100)));
  Lapic& a = *r.apic[1];
  uint64_t value;
  OK(a.ReadMsr(0x802, &value));
  EQ(value, 1);
  OK(a.ReadMsr(0x80d, &value));
  EQ(value, 2);
  OK(!a.WriteMsr(0x80d, 1));
  OK(!a.WriteMsr(0x802, 1));
  OK(!a.ReadMsr(0x80e, &value));
  OK(!a.ReadMsr(0x831, &value));
  OK(!a.ReadMsr(0x80b, &value));
  OK(!a.WriteMsr(0x80b, 1));
  OK(a.WriteMsr(0x80b, 0));
  OK(!a.WriteMsr(0x808, 0x100));
  OK(!a.WriteMsr(0x80f, 0x2000));
  OK(a.WriteMsr(0x80f, 0x1ff));
  OK(a.WriteMsr(0x83f, 0x61));
  OK(a.ReadMsr(0x823, &value));
  EQ(value, 2);
  OK(r.apic[0]->WriteMsr(0x80f, 0x1ff));
  OK(r.apic[0]->WriteMsr(0x830, uint64_t{1} << 32 | 0x62));
  OK(a.ReadMsr(0x823, &value));
  EQ(value, 6);
  OK(r.apic[0]->WriteMsr(0x830, uint64_t{0xffffffff} << 32 | 0x63));
  OK(a.ReadMsr(0x823, &value));
  EQ(value, 14);
  OK(r.apic[0]->ReadMsr(0x823, &value));
  EQ(value, 8);
  OK(!a.WriteMsr(0x830, 0x2000));
}

TEST("11.5.4: one-shot and periodic timer count from the initial count at the divided rate") {
  Rig r;
  r.Enable();
  Lapic& a = *r.apic[0];
  r.Set(0x320, 0x30);
  r.Set(0x3e0, 0x0b);
  r.Set(0x380, 2'000'000);
  const uint32_t first = r.Get(0x390);
  OK(first <= 2'000'000 && first > 1'000'000);
  Sleep(2500);
  OK(r.attention[0].load() & wire::Attention::kTimer);
  a.RunTimer();
  OK(r.Irr(0x30));
  EQ(r.Get(0x390), 0);
  a.Acknowledge();
  r.Set(0xb0, 0);
  // Divide by 2 (reset value): half a million counts take a millisecond.
  r.Set(0x3e0, 0);
  r.Set(0x320, 0x20030);
  r.Set(0x380, 500'000);
  for (int i = 0; i < 3; i++) {
    r.attention[0] = 0;
    Sleep(1500);
    OK(r.attention[0].load() & wire::Attention::kTimer);
    a.RunTimer();
    OK(r.Irr(0x30));
    a.Acknowledge();
    r.Set(0xb0, 0);
    OK(r.Get(0x390) > 0);
  }
  r.Set(0x380, 0);
  EQ(r.Get(0x390), 0);
}

TEST("11.5.4.1: TSC-deadline: fires at the deadline, the MSR then reads zero; other modes ignore the MSR") {
  Rig r;
  r.Enable();
  Lapic& a = *r.apic[0];
  uint64_t value;
  OK(a.WriteMsr(0x6e0, r.clock.Tsc() + 1));
  OK(a.ReadMsr(0x6e0, &value));
  EQ(value, 0);
  r.Set(0x320, 0x40031);
  r.Set(0x380, 1000);
  EQ(r.Get(0x380), 0);
  const uint64_t deadline = r.clock.Tsc() + r.clock.NsToTsc(1'000'000);
  OK(a.WriteMsr(0x6e0, deadline));
  a.RunTimer();
  OK(!r.Irr(0x31));
  OK(a.ReadMsr(0x6e0, &value));
  EQ(value, deadline);
  r.attention[0] = 0;
  Sleep(1500);
  OK(r.attention[0].load() & wire::Attention::kTimer);
  a.RunTimer();
  OK(r.Irr(0x31));
  OK(a.ReadMsr(0x6e0, &value));
  EQ(value, 0);
  // A deadline in the past fires at once.
  a.Acknowledge();
  OK(a.WriteMsr(0x6e0, 1));
  OK(r.Irr(0x31));
  // Leaving the mode disarms.
  OK(a.WriteMsr(0x6e0, deadline * 2));
  r.Set(0x320, 0x31);
  r.Set(0x320, 0x40031);
  OK(a.ReadMsr(0x6e0, &value));
  EQ(value, 0);
}

TEST("11.5.1: ExtINT on LINT0 is for the PIC; a disabled APIC passes INTR through") {
  Rig r;
  Lapic& a = *r.apic[0];
  r.bus.ExtInt(true);
  EQ(a.Deliverable(), Deliver::kNone);
  OK(a.WriteMsr(0x1b, 0xfee00100));
  EQ(a.Deliverable(), Deliver::kExtInt);
  OK(a.WriteMsr(0x1b, 0xfee00900));
  r.Enable();
  r.Set(0x350, 0x700);
  EQ(a.Deliverable(), Deliver::kExtInt);
  r.bus.ExtInt(false);
  EQ(a.Deliverable(), Deliver::kNone);
  // Virtual wire as firmware sets it up.
  a.Reset();
  a.SetVirtualWire();
  r.bus.ExtInt(true);
  EQ(a.Deliverable(), Deliver::kExtInt);
  // LINT0 as a fixed, edge-triggered source.
  r.bus.ExtInt(false);
  r.Set(0x350, 0x35);
  r.bus.ExtInt(true);
  OK(r.Irr(0x35));
}

TEST("11.11: messages outside of 0xFEE, with a reserved mode, or INIT and SIPI are not delivered") {
  Rig r;
  r.Enable();
  r.bus.Msi(0xfed00000, 0x41);
  r.bus.Msi(0x1fee00000, 0x42);
  r.bus.Msi(0xfee00000, 0x343);
  r.bus.Msi(0xfee00000, 0x544);
  r.bus.Msi(0xfee01000, 0x45);
  for (uint32_t i = 0x200; i < 0x280; i += 16) EQ(r.Get(i), 0);
  OK(!r.apic[0]->EventPending());
  r.bus.Msi(0xfee00000, 0x46);
  OK(r.Irr(0x46));
}

TEST("xAPIC accesses that are not 32 bits at a 16-byte border") {
  Rig r;
  EQ(r.apic[0]->MmioRead(0x32, 1), 5);
  EQ(r.apic[0]->MmioRead(0x34, 4), 0);
  EQ(r.apic[0]->MmioRead(0xe0, 8), 0xffffffff);
  r.apic[0]->MmioWrite(0x80, 1, 0x50);
  r.apic[0]->MmioWrite(0x84, 4, 0x50);
  EQ(r.Get(0x80), 0);
}

}  // namespace
}  // namespace nyx
