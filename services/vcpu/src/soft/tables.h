#pragma once
#include "soft/insn.h"

namespace nyx::soft {

// All instructions. Built at the first call; never changes.
const OpTables& op_tables();

}  // namespace nyx::soft
