// Bus of one vCPU: from an address to the device that answers, by its exit class. vCPU thread only.
#pragma once
#include <memory>
#include <vector>

#include "accel.h"
#include "map.h"
#include "ring.h"

namespace nyx {

struct BusConfig {
  AddressMap* map;
  std::vector<std::unique_ptr<Device>>* devices;
  std::vector<std::unique_ptr<Channel>>* channels;
  Clock* clock;
  uint16_t pic_device;     // machine::kNone: none
  uint16_t ioapic_device;  // machine::kNone: none
  bool paced;              // deterministic mode
};

class Fabric;

class VcpuBus : public Bus, public Pacer {
 public:
  VcpuBus(const BusConfig& config, unsigned cpu, Waiter* waiter, Lapic* lapic, wire::VcpuStats* stats);

  uint32_t PioRead(uint16_t port, unsigned width) override;
  void PioWrite(uint16_t port, unsigned width, uint32_t value) override;
  void PioReadBurst(uint16_t port, unsigned width, uint32_t count, void* data) override;
  void PioWriteBurst(uint16_t port, unsigned width, uint32_t count, const void* data) override;
  uint64_t MmioRead(uint64_t gpa, unsigned width) override;
  void MmioWrite(uint64_t gpa, unsigned width, uint64_t value) override;
  int IntAck() override;
  void Eoi(uint8_t vector) override;

  // The vCPU stands still: nothing that it asked of devices is under way; it is given up.
  bool Idle();
  void Discard();

  // Deterministic mode (pacer.cc).
  void set_fabric(Fabric* fabric) { fabric_ = fabric; }
  void Settle() override;
  uint64_t Next() const override;

 private:
  // Paced, every access is waited for, with all that follows from it.
  void Settle(const Device& d) {
    if (!config_.paced) [[likely]] return;
    touched_ |= 1u << d.description.process;
    Settle();
  }
  bool AskTime(unsigned process);

  const Snapshot& Map();
  uint64_t Read(const Target& t, uint64_t offset, unsigned width);
  void Write(const Target& t, uint64_t offset, unsigned width, uint64_t value);
  uint64_t Ask(unsigned device, uint8_t kind, unsigned region, uint64_t offset, unsigned width);
  void Tell(unsigned device, uint8_t kind, unsigned region, uint64_t offset, unsigned width, uint64_t value, bool post);
  void NoPort(uint16_t port);
  void NoMmio(uint64_t gpa);
  uint64_t ConfigRead(uint16_t bdf, unsigned reg, unsigned width);
  void ConfigWrite(uint16_t bdf, unsigned reg, unsigned width, uint64_t value);
  bool ConfigPort(uint16_t port, unsigned width, uint16_t* bdf, unsigned* reg) const;
  Device& device(unsigned index) { return *(*config_.devices)[index]; }
  Producer& producer(const Device& d) { return producers_[d.description.process]; }

  const BusConfig config_;
  Lapic* const lapic_;
  wire::VcpuStats* const stats_;
  std::vector<Producer> producers_;  // by process
  std::shared_ptr<const Snapshot> snapshot_;
  uint32_t version_ = ~0u;
  unsigned hint_ = 0;
  Waiter* const waiter_;
  Fabric* fabric_ = nullptr;
  uint32_t touched_ = 0;         // processes that may have more to say
  std::vector<uint64_t> next_;   // by process: guest ns of its next timer
};

}  // namespace nyx
