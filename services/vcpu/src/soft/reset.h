#pragma once
#include "gen/machine.h"
#include "soft/cpu.h"

namespace nyx::soft {

// State at the start of the machine and after its reset: header.boot_mode for the boot CPU, wait-for-SIPI for others.
void boot_state(Cpu& c, const machine::MachineHeader& h, bool boot_cpu);

}  // namespace nyx::soft
