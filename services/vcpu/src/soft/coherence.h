// Keeping decoded blocks true to memory, with several vCPUs and devices that write it.
//
// A page that any vCPU decoded code from is marked in the code bitmap (wire.h PageMap), and no vCPU then keeps a write
// tag for it: protect_code_page() marks it, and returns after every other vCPU has dropped its tag or is parked (not in
// guest code). A write to a marked page comes to write_code(), which drops the blocks of this vCPU, and with several
// vCPUs unmarks the page and posts it to the others, who drop their blocks before they run another one.
//
// Why that is enough: a vCPU that sees data written after the code was modified also sees the attention bit that was set
// before it (x86-TSO), and reads it at the next block border; the architecture demands a serializing instruction or a
// jump before it may rely on the new code.
//
// One spin lock guards marking, unmarking and posting. Who waits for it serves the requests of its holder meanwhile, so
// that two vCPUs cannot wait for each other.
#pragma once
#include <atomic>
#include <memory>

#include "accel.h"
#include "soft/block.h"
#include "soft/mmu.h"

namespace nyx::soft {

class Engine {
 public:
  Engine(const MemoryMap& memory, const VcpuContext& first, unsigned cpus, SavedRam* saved);

  struct alignas(64) Peer {
    Cpu* cpu = nullptr;
    std::atomic<bool> parked{true};        // not in guest code and without a pointer into guest memory
    std::atomic<uint64_t> scrub_seq{0};    // tags of scrub_host are to go; written under the lock
    std::atomic<const uint8_t*> scrub_host{nullptr};
    std::atomic<uint64_t> scrub_ack{0};
    std::atomic<bool> drops_pending{false};
    // Pages whose blocks are to go; under the lock. Too many: all blocks.
    static constexpr unsigned kMaxDrops = 32;
    unsigned drops = 0;
    bool drop_all = false;
    uint64_t drop[kMaxDrops];
    uint64_t spare = 0;  // PageStore::Spare
  };

  const unsigned cpus;
  Peer peers[machine::kMaxCpus];
  std::atomic<bool> lock{false};
  // One bit a page, in the order of MemoryMap::Region::first_page. The dirty one may be null.
  uint8_t* code_bitmap;
  uint8_t* dirty_bitmap;
  uint64_t pages;
  SavedRam* const saved;  // null: there are no checkpoints

 private:
  std::unique_ptr<uint8_t[]> own_bitmap_;
};

// True when decoded code stems from the page at `phys`, or the page is not in the bitmap (then always).
bool is_code(const Cpu& c, const MemoryMap::Region& region, uint64_t phys);

// A store of `size` bytes inside one page that has a code tag.
void write_code(Cpu& c, uint8_t* at, const void* in, unsigned size);
// The same before a write through a pointer by the current instruction.
void prepare_code_write(Cpu& c, uint8_t* at, unsigned size);

// Requests of other vCPUs. At a block border, or while waiting without pointers into guest memory.
void serve_peers(Cpu& c);
// Attention.dma: drops the blocks of pages that devices wrote.
void drop_dma_pages(Cpu& c);

void park(Cpu& c);
void unpark(Cpu& c);

// A call out of the engine: the host's floating point, and others need not wait for this vCPU.
class Outside {
 public:
  explicit Outside(Cpu& c);
  ~Outside();

 private:
  Cpu& c_;
};

}  // namespace nyx::soft
