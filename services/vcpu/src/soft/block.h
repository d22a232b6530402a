// The decoded blocks of one vCPU: found by host address of their bytes, RIP and mode; dropped when their bytes change.
//
// Each vCPU has its own cache, used by its own thread only. Memory is bounded: when a pool is full everything is dropped
// and decoding starts anew. A dropped block's memory stays intact until the next block is decoded, so the block that is
// being executed may be dropped: its remaining instructions are replaced by an exit to the run loop.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "soft/insn.h"
#include "soft/translate.h"

namespace nyx::soft {

// With Cpu::mode in Block::mode: a block of one instruction (single step, hardware breakpoints, interrupt shadow).
inline constexpr uint32_t kModeStep = 1u << 31;

inline constexpr unsigned kMaxBlockInsns = 64;
// Conditional jumps that a block goes on behind.
inline constexpr unsigned kMaxSides = 6;

// What a jump to a computed address finds: RIP -> block. Translated code reads `key`, `host` and `hot` alone.
struct alignas(32) JumpEntry {
  uint64_t key;         // jump_key, or ~0
  const uint8_t* host;  // of the block's first byte
  Block* block;         // or null
  const uint8_t* hot;   // Block::hot
};
inline constexpr unsigned kJumpBits = 12;
// Besides user and supervisor mode, which have a table each, translated modes differ in the width of addresses.
inline uint64_t jump_key(uint32_t mode, uint64_t rip) { return mode & kMode64 ? rip : rip | (mode & kModeLMA ? 1ull << 62 : 1ull << 61); }

class BlockCache {
 public:
  // `tables` outlives the cache. Sizes in blocks and instructions.
  // With `code_bytes` hot blocks are translated to host code, which is kept in so much memory.
  explicit BlockCache(const OpTables& tables, size_t max_blocks = 1 << 17, size_t max_insns = 1 << 20, size_t code_bytes = 0);
  ~BlockCache();
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  // The block at c.rip for `mode`; decoded when missing. Fetch faults leave by raise().
  Block* Find(Cpu& c, uint32_t mode);
  // extend.cc: lets a block that is hot, but neither translated nor being executed, go on behind the conditional jump at its
  // end, and further ones, if they were rarely taken. `count` (lockstep.cc, one vCPU): up to so many instructions, whatever is known of the jumps.
  // False: not now, as its bytes may be changing; attention tells.
  bool Extend(Cpu& c, Block* b, unsigned count = 0);
  // Drops the blocks with a byte in the 64-byte granules of [phys, phys + size), which lies in one page. True when no
  // decoded code is left in the page.
  bool Invalidate(Cpu& c, uint64_t phys, unsigned size);
  // Decoded granules of the page: bit n is bytes 64 n .. 64 n + 63. 0: no code.
  uint64_t Granules(uint64_t phys) const;
  // Drops everything.
  void Flush(Cpu& c);
  // Changes when blocks may have been freed: pointers to blocks from before are void.
  uint64_t generation() const { return generation_; }
  // Another cache of the same CPU, which is to forget the same.
  void set_twin(BlockCache* twin) { twin_ = twin; twin->twin_ = this; }
  Translator* translator() { return translator_.get(); }
  // `c` takes its blocks from here from now on.
  void Attach(Cpu& c);

  // Of supervisor and user mode.
  JumpEntry jumps[2][1 << kJumpBits];
  JumpEntry& jump_entry(uint32_t mode, uint64_t rip) {
    return jumps[(mode & kModeUser) != 0][(rip ^ rip >> kJumpBits) & ((1 << kJumpBits) - 1)];
  }
  // Also when a block that may be there has been translated.
  void RememberJump(Block* b);
  void ForgetJump(const Block* b);

 private:
  struct Page {
    uint64_t number;    // phys >> 12
    uint64_t granules;
    Block* blocks;      // by page_next[0] where number is that of Block::phys, else by page_next[1]
    Page* hash_next;
  };
  static constexpr unsigned kHashBits = 16, kPageHashBits = 12;

  bool InvalidateOwn(Cpu& c, uint64_t phys, unsigned size);
  void FlushOwn(Cpu& c);
  Page* FindPage(uint64_t phys) const;
  Page* AddPage(Cpu& c, uint64_t phys);
  void RemovePage(Page* page);
  Block* Decode(Cpu& c, uint32_t mode, const uint8_t* host, uint64_t phys);
  void Enlist(Block* b, Page* page, int which);
  void Unlist(Block* b, uint64_t phys, int which);
  size_t max_links() const { return 4 * max_blocks_; }
  Block* Lookup(const uint8_t* host, uint64_t rip, uint32_t mode) const;
  // Makes `b` of the `count` instructions at the end of the pool.
  void Fill(Block* b, unsigned count, unsigned bytes, unsigned sides);
  bool GoesThrough(const Cpu& c, const Block* part) const;
  void Drop(Cpu& c, Block* b);
  void ForgetJumps();
  static size_t Hash(const uint8_t* host, uint64_t rip, uint32_t mode);

  const OpTables& tables_;
  const size_t max_blocks_, max_insns_, code_bytes_, pool_bytes_;
  // Blocks, instructions and code share one reservation, so that code reaches everything by RIP-relative addresses.
  uint8_t* reserved_;
  uint8_t* code_write_ = nullptr;
  Block* blocks_;
  Insn* insns_;
  Link* links_;
  Exit* exits_;  // of the links
  uint8_t* returns_;
  size_t used_blocks_ = 0, used_insns_ = 0, used_links_ = 0;
  std::unique_ptr<Translator> translator_;
  std::unique_ptr<Block*[]> hash_;
  std::unique_ptr<Page*[]> page_hash_;
  BlockCache* twin_ = nullptr;
  uint64_t generation_ = 1;
};

// For mmu.cc and the engine; this CPU's thread.
// After a write to, or a change of, guest-physical memory of one page (a store to a code page, DMA, another CPU's store).
// True: this CPU has no decoded code there any more.
bool invalidate_range(Cpu& c, uint64_t phys, unsigned size);
bool invalidate_page(Cpu& c, uint64_t phys);
// Bit n: bytes 64 n .. 64 n + 63 of the page were decoded by this CPU. Writes elsewhere in the page need no invalidation.
uint64_t code_granules(const Cpu& c, uint64_t phys);
// Everything (the memory map changed).
void flush_blocks(Cpu& c);

}  // namespace nyx::soft
