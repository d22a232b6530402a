#include "soft/coherence.h"

#include "soft/pace.h"

#include <sched.h>

#include "soft/sampler.h"
#include "soft/simd.h"
#include "soft/walk.h"

namespace nyx::soft {
namespace {

constexpr uint64_t kNoPage = MemoryMap::kNoPage;

uint64_t page_of(const Cpu& c, uint64_t phys) {
  const MemoryMap::Region* r = c.memory->Find(phys);
  if (!r || r->first_page == kNoPage) return kNoPage;
  const uint64_t page = r->first_page + ((phys - r->gpa) >> 12);
  return page < c.engine->pages ? page : kNoPage;
}

std::atomic_ref<uint8_t> byte_of(uint8_t* bitmap, uint64_t page) { return std::atomic_ref<uint8_t>(bitmap[page >> 3]); }
bool test(uint8_t* bitmap, uint64_t page) { return byte_of(bitmap, page).load(std::memory_order_acquire) >> (page & 7) & 1; }
void set(uint8_t* bitmap, uint64_t page) { byte_of(bitmap, page).fetch_or(uint8_t(1u << (page & 7))); }
void reset(uint8_t* bitmap, uint64_t page) { byte_of(bitmap, page).fetch_and(uint8_t(~(1u << (page & 7)))); }

Engine::Peer& self(Cpu& c) { return c.engine->peers[c.index]; }

// What the holder of the lock waits for.
void serve_scrub(Cpu& c) {
  Engine::Peer& p = self(c);
  const uint64_t seq = p.scrub_seq.load();
  const uint64_t ack = p.scrub_ack.load(std::memory_order_relaxed);
  if (seq == ack) return;
  if (seq == ack + 1) {
    tlb_mark_code(c, p.scrub_host.load(), true);
  } else {
    tlb_drop_writes(c);  // requests were skipped while this vCPU was parked
  }
  p.scrub_ack.store(seq);
}

// Spins politely: the vCPU that is waited for may share this host CPU.
class Backoff {
 public:
  void Pause() {
    if (++count_ % 64) {
      __builtin_ia32_pause();
    } else {
      sched_yield();
    }
  }

 private:
  unsigned count_ = 0;
};

class Lock {
 public:
  explicit Lock(Cpu& c) : engine_(*c.engine) {
    Backoff backoff;
    while (engine_.lock.exchange(true)) {
      serve_scrub(c);
      backoff.Pause();
    }
  }
  ~Lock() { engine_.lock.store(false); }

 private:
  Engine& engine_;
};

// Under the lock. The others drop their blocks of the page before they run another block.
void post_drop(Cpu& c, uint64_t phys) {
  Engine& e = *c.engine;
  for (unsigned k = 0; k < e.cpus; k++) {
    if (k == c.index) continue;
    Engine::Peer& p = e.peers[k];
    if (p.drops < Engine::Peer::kMaxDrops) {
      p.drop[p.drops++] = phys;
    } else {
      p.drop_all = true;
    }
    p.drops_pending.store(true);
    p.cpu->context->attention->fetch_or(wire::Attention::kEngine);
  }
}

// Under the lock. Returns when no other vCPU can write the page without noticing that it is code.
void shoot_down(Cpu& c, const uint8_t* host) {
  Engine& e = *c.engine;
  for (unsigned k = 0; k < e.cpus; k++) {
    if (k == c.index) continue;
    Engine::Peer& p = e.peers[k];
    p.scrub_host.store(host);
    p.scrub_seq.fetch_add(1);
    p.cpu->context->attention->fetch_or(wire::Attention::kEngine);
  }
  for (unsigned k = 0; k < e.cpus; k++) {
    if (k == c.index) continue;
    Engine::Peer& p = e.peers[k];
    Backoff backoff;
    while (p.scrub_ack.load() != p.scrub_seq.load() && !p.parked.load()) backoff.Pause();
  }
}

// Drops what was decoded from the page, here and elsewhere, and lets it be written at full speed.
void unmark(Cpu& c, uint64_t phys, const uint8_t* host, uint64_t page) {
  Lock lock(c);
  invalidate_page(c, phys);
  post_drop(c, phys);
  reset(c.engine->code_bitmap, page);
  tlb_mark_code(c, host, false);
}

}  // namespace

Engine::Engine(const MemoryMap& memory, const VcpuContext& first, unsigned count, SavedRam* checkpoint)
    : cpus(count), code_bitmap(first.code_bitmap), dirty_bitmap(first.dirty_bitmap), pages(first.pages), saved(checkpoint) {
  if (code_bitmap) return;
  dirty_bitmap = nullptr;
  pages = 0;
  for (unsigned k = 0; k < memory.count(); k++) {
    const MemoryMap::Region& r = memory.regions()[k];
    if (r.first_page != kNoPage && r.first_page + (r.size >> 12) > pages) pages = r.first_page + (r.size >> 12);
  }
  own_bitmap_ = std::make_unique<uint8_t[]>(pages / 8 + 1);
  code_bitmap = own_bitmap_.get();
}

bool is_code(const Cpu& c, const MemoryMap::Region& region, uint64_t phys) {
  if (region.first_page == kNoPage) return true;
  const uint64_t page = region.first_page + ((phys - region.gpa) >> 12);
  return page >= c.engine->pages || test(c.engine->code_bitmap, page);
}

void protect_code_page(Cpu& c, uint64_t phys) {
  const uint64_t page = page_of(c, phys);
  Engine& e = *c.engine;
  if (page == kNoPage || test(e.code_bitmap, page)) return;
  Lock lock(c);
  if (test(e.code_bitmap, page)) return;
  set(e.code_bitmap, page);
  // From here on a device that writes the page tells us; what it wrote before is not decoded yet.
  if (e.dirty_bitmap) reset(e.dirty_bitmap, page);
  const uint8_t* host = phys_ptr(c, phys & ~0xfffull);
  tlb_mark_code(c, host, true);
  if (e.cpus > 1) shoot_down(c, host);
}

void prepare_code_write(Cpu& c, uint8_t* at, unsigned size) {
  const uint64_t phys = phys_of_host(c, at);
  const uint64_t page = page_of(c, phys);
  const uint8_t* host = at - (phys & 0xfff);
  if (c.engine->cpus == 1 || page == kNoPage) {
    // The page stays marked while other code of it is decoded: code and data may share a page for long (firmware).
    if (!invalidate_range(c, phys, size) || page == kNoPage) return;
  }
  unmark(c, phys & ~0xfffull, host, page);
}

void write_code(Cpu& c, uint8_t* at, const void* in, unsigned size) {
  // Blocks go first. With several vCPUs the page is then unmarked: one that decodes it anew waits for this vCPU to reach
  // a block border, and so for the bytes.
  prepare_code_write(c, at, size);
  std::memcpy(at, in, size);
}

void serve_peers(Cpu& c) {
  if (c.engine->cpus == 1) return;
  serve_scrub(c);
  Engine::Peer& p = self(c);
  if (!p.drops_pending.load()) return;
  Lock lock(c);
  p.drops_pending.store(false);
  if (p.drop_all) {
    flush_blocks(c);
  } else {
    for (unsigned k = 0; k < p.drops; k++) invalidate_page(c, p.drop[k]);
  }
  p.drops = 0;
  p.drop_all = false;
}

void drop_dma_pages(Cpu& c) {
  Engine& e = *c.engine;
  if (!e.dirty_bitmap) return;
  Lock lock(c);
  for (uint64_t at = 0; at < (e.pages + 7) / 8; at += 8) {
    const uint64_t left = (e.pages + 7) / 8 - at;
    uint64_t code = 0, dirty = 0;
    std::memcpy(&code, e.code_bitmap + at, left < 8 ? left : 8);
    if (!code) continue;
    std::memcpy(&dirty, e.dirty_bitmap + at, left < 8 ? left : 8);
    for (uint64_t both = code & dirty; both; both &= both - 1) {
      const uint64_t page = at * 8 + unsigned(__builtin_ctzll(both));
      for (unsigned k = 0; k < c.memory->count(); k++) {
        const MemoryMap::Region& r = c.memory->regions()[k];
        if (r.first_page == kNoPage || page - r.first_page >= r.size >> 12) continue;
        const uint64_t phys = r.gpa + ((page - r.first_page) << 12);
        invalidate_page(c, phys);
        post_drop(c, phys);
        reset(e.code_bitmap, page);
        reset(e.dirty_bitmap, page);
      }
    }
  }
}

void park(Cpu& c) { self(c).parked.store(true); }

void unpark(Cpu& c) {
  self(c).parked.store(false);
  if (c.engine->cpus > 1) serve_scrub(c);
}

Outside::Outside(Cpu& c) : c_(c) {
  c.where = kInExit;
  fp_leave(c);
  // The machine may be stopped, and compared, while this one waits.
  if (c.pacer) [[unlikely]] c.context->stats->instructions = c.icount;
  if (c.engine->cpus > 1) park(c);
}
Outside::~Outside() {
  c_.where = kInGuestCode;
  if (c_.sampler) c_.sampler->Wake();
  if (c_.engine->cpus > 1) unpark(c_);
  if (c_.pacer) [[unlikely]] find_deadline(c_);
}

}  // namespace nyx::soft
