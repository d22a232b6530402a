// The soft CPU of the oracle, for tests that drive it themselves.
#pragma once
#include "oracle.h"
#include "soft/cpu.h"

namespace nyx::soft {

struct Flat {
  Cpu* cpu;
  uint8_t* code;  // kCodeBytes at kCode
  uint8_t* data;  // kDataBytes at kData
  bool code_writable;
  bool stack;  // the access is a push or a pop
  bool ended;  // an exception came: `vector`
  int vector;
};
extern Flat flat;

}  // namespace nyx::soft

namespace oracle {

void flat_mode(Mode mode);
// Every block is translated before it runs, or none. Drops decoded code when that changes.
void flat_translate(bool on);
// Drops TLB and decoded code.
void flat_forget();
// The FXSAVE image, to and from the CPU.
void flat_load_fx(nyx::soft::Cpu& c, const uint8_t* fx);
void flat_store_fx(nyx::soft::Cpu& c, uint8_t* fx);

}  // namespace oracle
