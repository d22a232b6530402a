// Hot blocks that go on behind conditional jumps.
//
// A block is decoded up to its first branch. When it is hot, and the conditional jump at its end was rarely taken, it is
// decoded anew and goes on with what follows in memory, behind further jumps of that kind, too. So its instructions stay
// the bytes from one address up: for faults, single-step, changed bytes and the interpreter it is a block like others, but
// that a jump in its middle may leave it, by a link of its own, with the count of what does not come taken back.
#include <algorithm>

#include "soft/block.h"
#include "soft/decode.h"
#include "soft/run.h"
#include "soft/sampler.h"

namespace nyx::soft {
namespace {

// A jump is gone through that was taken in one of so many executions at most, of at least so many.
constexpr uint32_t kRarely = 4, kKnownAfter = 8;

bool is_jcc(const OpName& n) {
  return (n.map == 0 && (n.opcode & 0xf0) == 0x70) || (n.map == 1 && (n.opcode & 0xf0) == 0x80);
}

}  // namespace

bool BlockCache::GoesThrough(const Cpu& c, const Block* part) const {
  if (!part) return c.hot_count == 1;  // a test, in which no jump has a past
  return part->heat >= std::min(c.hot_count, kKnownAfter) && part->taken * kRarely <= part->heat;
}

bool BlockCache::Extend(Cpu& c, Block* b, unsigned count) {
  const In in(c, kInTranslator);
  // With a pacer an interrupt must come at the border where the interpreter takes it.
  if (b->phys2 != ~0ull || c.pacer) return true;
  if (used_insns_ + kMaxBlockInsns + 1 > max_insns_ || used_links_ + 2 + kMaxSides > max_links()) return true;
  Insn* const insns = &insns_[used_insns_];
  const unsigned room = 0x1000 - (b->phys & 0xfff), max = count ? count : kMaxBlockInsns;
  unsigned n = 0, at = 0, sides = 0;
  bool shadow = false, popf = false;
  Insn* side = nullptr;
  const Block* part = b;
  while (n < max && at < room) {
    Insn* const i = &insns[n];
    uint32_t bits = 0;
    if (decode(tables_, b->mode, b->host + at, room - at, uint16_t(at), i, &bits) != Decoded::kOk) break;
    n++;
    at += i->len;
    if (shadow) break;
    shadow = bits & kShadow;
    const OpName* const name = op_name(i->fn);
    // Behind it interrupts may be enabled; before they are disabled again there must be a border as there was.
    popf |= name && name->map == 0 && name->opcode == 0x9d;
    if (!(bits & kEnds)) continue;
    if (!name || !is_jcc(*name) || i->opsize != (b->mode & kMode64 ? 8 : 4) || popf || sides == kMaxSides) break;
    if (!count && !GoesThrough(c, part)) break;
    side = i;
    i->reg = uint8_t(2 + sides++);
    part = Lookup(b->host + at, b->rip + at, b->mode);
  }
  if (side == &insns[n - 1]) side->reg = 0, sides--;
  // Another CPU sets this CPU's attention word before it changes bytes that were decoded.
  if (!count && c.attention->load() != 0) return false;
  if (n > b->count) Fill(b, n, at, sides);
  return true;
}

}  // namespace nyx::soft
