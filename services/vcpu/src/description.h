// The binary machine description (gen/machine.h), parsed and checked completely before anything is built from it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "gen/machine.h"
#include "gen/wire.h"

namespace nyx {

struct Description {
  machine::MachineHeader header;
  std::vector<machine::MachineMemory> memories;
  std::vector<machine::MachineProcess> processes;
  std::vector<machine::MachineDevice> devices;
  std::vector<machine::MachineRange> ranges;
  std::vector<machine::MachineRoute> routes;
  std::vector<machine::MachineFunction> functions;
};

// False, and in `error` what was expected and what came, when anything in it is inconsistent: sizes, counts, indices,
// overlaps. `fds` descriptors came with it; whether they are what they should be is found when they are mapped.
bool ParseDescription(const uint8_t* data, size_t bytes, size_t fds, Description* out, std::string* error);

}  // namespace nyx
