// The address map: which device answers which port, physical address and PCI function. Ranges that belong to a device
// for good come from the machine description; others (BARs, ECAM) are published by devices in their committed state.
// Readers use an immutable snapshot of their own and compare one version number per access.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "state_block.h"
#include "gen/machine.h"
#include "ring.h"

namespace nyx {

// A device as described, with the memory it publishes.
struct Device {
  machine::MachineDevice description;
  Channel* channel = nullptr;
  StateBlock block;
};

struct Target {
  uint16_t device;
  uint8_t region;
  uint8_t space;  // wire::Space
  uint64_t base;
  uint64_t length;
};

class Snapshot {
 public:
  const Target* Pio(uint16_t port) const {
    const uint16_t t = pio_[port];
    return t ? &targets_[t - 1u] : nullptr;
  }
  // `hint` is the caller's; it remembers the last hit.
  const Target* Mmio(uint64_t gpa, unsigned* hint) const;
  const ClassTable& classes(unsigned device) const { return classes_[device]; }

 private:
  friend class AddressMap;
  struct Span {
    uint64_t begin, last;  // last: inclusive, so that the top of the address space fits
    uint16_t target;
  };
  void Claim(const Target& target);

  std::array<uint16_t, 65536> pio_{};
  std::vector<Span> mmio_;  // sorted, disjoint
  std::vector<Target> targets_;
  std::vector<ClassTable> classes_;
};

class AddressMap {
 public:
  AddressMap(std::vector<std::unique_ptr<Device>>* devices, const std::vector<machine::MachineRange>& ranges,
             const std::vector<machine::MachineFunction>& functions);

  // Reads all blocks and builds a new snapshot. Any thread. Broken blocks and ranges isolate their process.
  void Rebuild();
  uint32_t version() const { return version_.load(std::memory_order_acquire); }
  std::shared_ptr<const Snapshot> snapshot();

  struct Function {
    uint16_t device;  // machine::kNone: no function there
    uint16_t region;
  };
  Function FunctionAt(uint16_t bdf) const { return functions_[bdf]; }
  // Latch of port 0xCF8, one for the machine.
  std::atomic<uint32_t> config_address{0};

 private:
  std::vector<std::unique_ptr<Device>>* devices_;
  std::vector<machine::MachineRange> fixed_;
  std::vector<Function> functions_;
  std::mutex mutex_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::atomic<uint32_t> version_{0};
};

}  // namespace nyx
