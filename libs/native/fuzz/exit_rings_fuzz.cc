// libFuzzer target: the consumer of exit rings (src/cc/exit_rings.cc) on ring memory that holds anything, and that
// changes under its hands. The input is a list of (place, bytes) patches; between them the consumer works.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../src/cc/exit_rings.h"

using namespace nyx;

namespace {

constexpr uint32_t kRings = 3;
constexpr size_t kBytes = wire::kRingBase + kRings * wire::kRingStride;

void Check(bool condition) {
  if (!condition) abort();
}

void Serve(ExitRings& rings) {
  for (int i = 0; i < 100; i++) {
    const uint32_t ring = rings.Poll();
    if (ring == kNoRing) return;
    Check(ring < rings.count());
    Request r;
    const uint64_t next = rings.next(ring);
    if (rings.Read(ring, &r)) {
      // What the rest of the process relies on.
      Check(r.ring == ring && r.kind >= 1 && r.kind <= wire::ExitKind::kTime && r.width <= 255);
      if (r.kind == wire::ExitKind::kReadBurst || r.kind == wire::ExitKind::kWriteBurst)
        Check(r.count >= 1 && uint64_t{r.count} * r.width <= kMaxBurst);
      if (r.kind <= wire::ExitKind::kWrite) Check(r.width == 1 || r.width == 2 || r.width == 4 || r.width == 8);
    }
    rings.StoreReply(ring, r.data_lo, wire::Status::kOk);
    rings.Advance(ring);
    Check(rings.next(ring) == next + 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Exactly as large as it must be, so that a step beyond it is seen.
  auto* memory = static_cast<uint8_t*>(aligned_alloc(4096, kBytes));
  memset(memory, 0, kBytes);
  auto* control = reinterpret_cast<wire::ProcessControl*>(memory);
  control->magic = wire::kRingMagic;
  control->version = wire::kVersion;
  control->rings = kRings;
  // Bit 0 of the first byte: the header itself is hostile too.
  const bool header_too = size > 0 && (data[0] & 1) != 0;
  const auto patch = [&](const uint8_t*& p, const uint8_t* end) {
    if (end - p < 4) return false;
    const size_t at = (p[0] | p[1] << 8 | p[2] << 16) % kBytes, length = p[3] % 16 + 1;
    p += 4;
    for (size_t i = 0; i < length && p < end; i++, p++) {
      if (at + i < kBytes && (header_too || at + i >= sizeof *control)) memory[at + i] = *p;
    }
    return true;
  };
  const uint8_t *p = data + (size > 0 ? 1 : 0), *end = data + size;
  for (int i = 0; i < 4 && patch(p, end); i++) {
  }
  ExitRings rings;
  if (rings.Open(memory, kBytes)) {
    Check(rings.count() >= 1 && rings.count() <= kRings);
    bool sound = true;
    for (uint32_t ring = 0; ring < rings.count(); ring++) sound = rings.Take(ring) && sound;
    if (sound) {
      for (uint32_t ring = 0; ring < rings.count(); ring++)
        if (rings.AnsweredAlready(ring)) rings.SkipAnswered(ring);
      do Serve(rings);
      while (patch(p, end));
    }
  }
  free(memory);
  return 0;
}
