// Bytes to Insn.
#pragma once
#include "soft/insn.h"

namespace nyx::soft {

inline constexpr unsigned kMaxInsnBytes = 15;

enum class Decoded : uint8_t {
  kOk,
  kNeedMore,   // more bytes than `avail` are needed; nothing else is known
  kUndefined,  // #UD
  kTooLong,    // more than 15 bytes: #GP(0)
};

// Decodes the instruction at `bytes`, of which `avail` may be read, for Cpu::mode `mode`. `off` is its distance from the
// block's start. On kOk `*out` is complete and `*bits` holds the OpBits of its entry; otherwise neither is meaningful.
Decoded decode(const OpTables& t, uint32_t mode, const uint8_t* bytes, unsigned avail, uint16_t off, Insn* out, uint32_t* bits);

}  // namespace nyx::soft
