#include "soft/block.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "soft/decode.h"
#include "soft/mmu.h"
#include "soft/run.h"
#include "soft/sampler.h"

namespace nyx::soft {
namespace {

constexpr uint64_t kPageMask = 0xfff;

constexpr size_t kReturnBytes = 2 * (Returns::kBelow + Returns::kBytes) + Returns::kBytes;

size_t pages(size_t bytes) { return (bytes + kPageMask) & ~kPageMask; }

// Address space for the pools; pages appear when they are used.
uint8_t* reserve(size_t bytes) {
  void* const p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) std::abort();  // at start, before there is a guest
  return static_cast<uint8_t*>(p);
}

// Memory for code, executable at `at`. The writable mapping of it; null when the host does not allow that.
uint8_t* map_code(uint8_t* at, size_t bytes) {
  const int fd = memfd_create("nyx code", MFD_CLOEXEC);
  if (fd < 0) return nullptr;
  void* write = MAP_FAILED;
  if (ftruncate(fd, off_t(bytes)) == 0) write = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const bool done = write != MAP_FAILED && mmap(at, bytes, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED;
  close(fd);
  if (done) return static_cast<uint8_t*>(write);
  if (write != MAP_FAILED) munmap(write, bytes);
  return nullptr;
}

// ---- pseudo-instructions

// After the last instruction of a block that does not branch.
void end_of_block(Cpu& c, const Insn* i) {
  const uint64_t rip = insn_rip(c, i);
  return follow(c, i, 1, c.code64() ? rip : uint32_t(rip));
}
// Replaces the rest of a block that was dropped while it runs: the guest may have changed what comes next.
void dropped(Cpu& c, const Insn* i) {
  c.icount -= c.block->count - uint64_t(i - c.block->insns);
  c.rip = insn_rip(c, i);
}
void undefined_opcode(Cpu& c, const Insn* i) { raise(c, i, kUD); }
void too_long(Cpu& c, const Insn* i) { raise(c, i, kGP, 0); }

}  // namespace

BlockCache::BlockCache(const OpTables& tables, size_t max_blocks, size_t max_insns, size_t code_bytes)
    : tables_(tables),
      max_blocks_(max_blocks),
      max_insns_(max_insns),
      code_bytes_(pages(code_bytes)),
      pool_bytes_(kReturnBytes + pages(max_blocks * sizeof(Block)) + pages(max_insns * sizeof(Insn)) + pages(max_links() * sizeof(Link)) + pages(max_links() * sizeof(Exit))),
      reserved_(reserve(pool_bytes_ + code_bytes_)),
      blocks_(reinterpret_cast<Block*>(reserved_)),
      insns_(reinterpret_cast<Insn*>(reserved_ + pages(max_blocks * sizeof(Block)))),
      links_(reinterpret_cast<Link*>(reserved_ + pages(max_blocks * sizeof(Block)) + pages(max_insns * sizeof(Insn)))),
      exits_(reinterpret_cast<Exit*>(reserved_ + pool_bytes_ - kReturnBytes - pages(max_links() * sizeof(Exit)))),
      returns_(reserved_ + pool_bytes_ - kReturnBytes),
      hash_(new Block*[1 << kHashBits]()),
      page_hash_(new Page*[1 << kPageHashBits]()) {
  ForgetJumps();
  if (!code_bytes_) return;
  uint8_t* const code = reserved_ + pool_bytes_;
  code_write_ = map_code(code, code_bytes_);
  if (code_write_) translator_ = std::make_unique<Translator>(code_write_, code, code_bytes_);
}

void BlockCache::Attach(Cpu& c) {
  c.blocks = this;
  c.jumps = &jumps[0][0];
  if (translator_) c.returns.Start(returns_, translator_->no_return());
}

BlockCache::~BlockCache() {
  munmap(reserved_, pool_bytes_ + code_bytes_);
  if (code_write_) munmap(code_write_, code_bytes_);
  for (size_t k = 0; k < 1 << kPageHashBits; k++) {
    while (page_hash_[k]) RemovePage(page_hash_[k]);
  }
}

size_t BlockCache::Hash(const uint8_t* host, uint64_t rip, uint32_t mode) {
  const uint64_t h = (reinterpret_cast<uintptr_t>(host) ^ rip << 20 ^ mode) * 0x9e3779b97f4a7c15u;
  return h >> (64 - kHashBits);
}

// ---- the jump cache

void BlockCache::ForgetJumps() {
  for (auto& table : jumps)
    for (JumpEntry& e : table) e = {~0ull, nullptr, nullptr, nullptr};
}

void BlockCache::RememberJump(Block* b) {
  const bool hot = translates(b->mode);
  jump_entry(b->mode, b->rip) = {hot ? jump_key(b->mode, b->rip) : ~0ull, hot ? b->host : nullptr, b, b->hot};
}

void BlockCache::ForgetJump(const Block* b) {
  JumpEntry& e = jump_entry(b->mode, b->rip);
  if (e.block == b) e = {~0ull, nullptr, nullptr, nullptr};
}

// ---- pages

BlockCache::Page* BlockCache::FindPage(uint64_t phys) const {
  const uint64_t number = phys >> 12;
  Page* p = page_hash_[number & ((1 << kPageHashBits) - 1)];
  while (p && p->number != number) p = p->hash_next;
  return p;
}

// Also from now on no CPU writes to the page without telling, so it must come before its bytes are read.
BlockCache::Page* BlockCache::AddPage(Cpu& c, uint64_t phys) {
  if (Page* const p = FindPage(phys)) return p;
  protect_code_page(c, phys & ~kPageMask);
  const uint64_t number = phys >> 12;
  Page*& head = page_hash_[number & ((1 << kPageHashBits) - 1)];
  head = new Page{number, 0, nullptr, head};
  return head;
}

void BlockCache::RemovePage(Page* page) {
  Page** at = &page_hash_[page->number & ((1 << kPageHashBits) - 1)];
  while (*at != page) at = &(*at)->hash_next;
  *at = page->hash_next;
  delete page;
}

uint64_t BlockCache::Granules(uint64_t phys) const {
  const Page* const p = FindPage(phys);
  return p ? p->granules : 0;
}

// Granules of [from, to) within a page, to <= 4096.
static uint64_t granule_mask(unsigned from, unsigned to) {
  const unsigned first = from >> 6, last = (to - 1) >> 6;
  return (~0ull >> (63 - (last - first))) << first;
}
// The bytes of `b` in its first (which 0) or second page.
static uint64_t block_granules(const Block& b, int which) {
  const unsigned from = b.phys & kPageMask, first = b.phys2 == ~0ull ? b.bytes : 0x1000 - from;
  return which == 0 ? granule_mask(from, from + first) : granule_mask(0, b.bytes - first);
}

void BlockCache::Enlist(Block* b, Page* page, int which) {
  b->page_next[which] = page->blocks;
  page->blocks = b;
  page->granules |= block_granules(*b, which);
}

void BlockCache::Unlist(Block* b, uint64_t phys, int which) {
  Page* const page = FindPage(phys);
  uint64_t granules = 0;
  for (Block** at = &page->blocks; *at;) {
    Block* const x = *at;
    const int w = x->phys >> 12 == page->number ? 0 : 1;
    if (x == b) {
      *at = b->page_next[which];
      continue;
    }
    granules |= block_granules(*x, w);
    at = &x->page_next[w];
  }
  page->granules = granules;
}

// ---- dropping

void BlockCache::Drop(Cpu& c, Block* b) {
  b->valid = false;
  ForgetJump(b);
  if (translator_) {
    disconnect(b);
    b->hot = translator_->enter_thunk();
    b->hot_flags = nullptr;
  }
  Block** at = &hash_[Hash(b->host, b->rip, b->mode)];
  while (*at != b) at = &(*at)->hash_next;
  *at = b->hash_next;
  if (b == c.block) {
    for (unsigned k = 0; k <= b->count; k++) b->insns[k].fn = dropped;
  }
}

bool BlockCache::Invalidate(Cpu& c, uint64_t phys, unsigned size) {
  const bool others = !twin_ || twin_->InvalidateOwn(c, phys, size);
  return InvalidateOwn(c, phys, size) && others;
}

bool BlockCache::InvalidateOwn(Cpu& c, uint64_t phys, unsigned size) {
  Page* const page = FindPage(phys);
  if (!page) return true;
  const unsigned from = phys & kPageMask, to = from + size < 0x1000 ? from + size : 0x1000;
  const uint64_t mask = granule_mask(from, to);
  if (page->blocks && !(page->granules & mask)) return false;
  uint64_t granules = 0;
  for (Block** at = &page->blocks; *at;) {
    Block* const b = *at;
    const int which = b->phys >> 12 == page->number ? 0 : 1;
    const uint64_t own = block_granules(*b, which);
    if (!(own & mask)) {
      granules |= own;
      at = &b->page_next[which];
      continue;
    }
    *at = b->page_next[which];
    Drop(c, b);
    if (b->phys2 != ~0ull) Unlist(b, which == 0 ? b->phys2 : b->phys, 1 - which);
  }
  page->granules = granules;
  if (page->blocks) return false;
  RemovePage(page);
  return true;
}

void BlockCache::Flush(Cpu& c) {
  if (twin_) twin_->FlushOwn(c);
  FlushOwn(c);
}

void BlockCache::FlushOwn(Cpu& c) {
  generation_++;
  if (Block* const b = c.block) {
    for (unsigned k = 0; k <= b->count; k++) b->insns[k].fn = dropped;
    b->valid = false;
    for (unsigned k = 0; k < 2u + b->sides; k++) b->links[k] = {};
    b->in = nullptr;
  }
  if (translator_) {
    translator_->Reset();
    c.returns.Forget();
  }
  used_blocks_ = used_insns_ = used_links_ = 0;
  ForgetJumps();
  std::memset(hash_.get(), 0, sizeof(Block*) << kHashBits);
  for (size_t k = 0; k < 1 << kPageHashBits; k++) {
    while (page_hash_[k]) RemovePage(page_hash_[k]);
  }
}

// ---- finding and decoding

Block* BlockCache::Lookup(const uint8_t* host, uint64_t rip, uint32_t mode) const {
  Block* b = hash_[Hash(host, rip, mode)];
  while (b && (b->host != host || b->rip != rip || b->mode != mode)) b = b->hash_next;
  return b;
}

Block* BlockCache::Find(Cpu& c, uint32_t mode) {
  const uint64_t linear = fetch_linear(c, c.rip);
  const CodeEntry& e = code_entry(c, linear);
  const uint8_t* host;
  uint64_t phys = ~0ull;
  if (e.page == (linear & ~kPageMask)) [[likely]] {
    host = reinterpret_cast<const uint8_t*>(linear + uint64_t(e.addend));
  } else {
    const CodePage page = fetch_page(c, nullptr, linear);
    if (!page.host) raise(c, nullptr, kUD);  // code in device memory reads as ones, which is an undefined opcode
    host = page.host + (linear & kPageMask);
    phys = page.phys + (linear & kPageMask);
  }
  if (Block* const b = Lookup(host, c.rip, mode)) {
    if (b->phys2 == ~0ull || fetch_page(c, nullptr, fetch_linear(c, c.rip + b->bytes - 1)).phys == (b->phys2 & ~kPageMask)) return b;
    // The second page is another one now.
    Drop(c, b);
    Unlist(b, b->phys, 0);
    Unlist(b, b->phys2, 1);
  }
  if (phys == ~0ull) phys = fetch_page(c, nullptr, linear).phys + (linear & kPageMask);
  return Decode(c, mode, host, phys);
}

Block* BlockCache::Decode(Cpu& c, uint32_t mode, const uint8_t* host, uint64_t phys) {
  const In in(c, kInTranslator);
  if (used_blocks_ == max_blocks_ || used_insns_ + kMaxBlockInsns + 1 > max_insns_ || used_links_ + 2 > max_links()) {
    Flush(c);
    c.block = nullptr;
  }
  const unsigned max_insns = mode & kModeStep ? 1 : kMaxBlockInsns;
  unsigned room = 0x1000 - (phys & kPageMask);  // bytes in the page, and in the code segment
  bool limited = false;
  if (!(mode & (kMode64 | kModeFlat))) {
    const uint32_t limit = c.seg[CS].limit;
    if (c.rip > limit) raise(c, nullptr, kGP, 0);
    if (limit - c.rip < room - 1) {
      room = unsigned(limit - c.rip + 1);
      limited = true;
    }
  }
  Page* const page = AddPage(c, phys);
  Block* const b = &blocks_[used_blocks_];
  Insn* const insns = &insns_[used_insns_];
  *b = Block{};
  b->rip = c.rip;
  b->phys = phys;
  b->mode = mode;
  b->phys2 = ~0ull;
  b->host = host;
  b->valid = true;

  unsigned n = 0, at = 0, after_shadow = 0;
  while (n < max_insns && at < room) {
    Insn* const i = &insns[n];
    uint32_t bits = 0;
    Decoded d = decode(tables_, mode, host + at, room - at, uint16_t(at), i, &bits);
    if (d == Decoded::kNeedMore) {
      if (n != 0) break;  // it begins the next block
      if (limited) {
        *i = Insn{};
        d = Decoded::kTooLong;
      } else {
        // Alone in its block, with bytes of two pages.
        uint8_t bytes[kMaxInsnBytes] = {};
        const uint64_t linear2 = fetch_linear(c, c.rip + room);
        const CodePage second = fetch_page(c, nullptr, linear2);
        if (!second.host) raise(c, nullptr, kUD);
        b->phys2 = second.phys;
        b->host2 = second.host;
        AddPage(c, second.phys);
        std::memcpy(bytes, host, room);
        std::memcpy(bytes + room, second.host, kMaxInsnBytes - room);
        d = decode(tables_, mode, bytes, kMaxInsnBytes, 0, i, &bits);
        bits |= kEnds;
        if (d == Decoded::kOk && i->len <= room) b->phys2 = ~0ull;  // the bytes have changed meanwhile
      }
    }
    if (d != Decoded::kOk) {
      *i = Insn{};
      i->fn = d == Decoded::kUndefined ? undefined_opcode : too_long;
      i->off = uint16_t(at);
      i->len = 1;
      bits = kEnds;
    }
    n++;
    at += i->len;
    if (bits & kEnds || after_shadow) break;
    after_shadow = bits & kShadow;
  }
  Fill(b, n, b->phys2 == ~0ull || at > room ? at : room + 1, 0);
  insns[n].off = uint16_t(at);
  if (translator_) {
    b->hot = translator_->enter_thunk();
    if (translates(mode)) b->code = count_heat;
  }
  used_blocks_++;
  c.stat_blocks++;

  Block*& head = hash_[Hash(host, b->rip, mode)];
  b->hash_next = head;
  head = b;
  Enlist(b, page, 0);
  if (b->phys2 != ~0ull) Enlist(b, FindPage(b->phys2), 1);
  return b;
}

void BlockCache::Fill(Block* b, unsigned count, unsigned bytes, unsigned sides) {
  Insn* const insns = &insns_[used_insns_];
  insns[count] = Insn{};
  insns[count].fn = end_of_block;
  insns[count].off = uint16_t(bytes);
  b->insns = insns;
  b->count = uint16_t(count);
  b->bytes = uint16_t(bytes);
  b->code = insns[0].fn;
  used_insns_ += count + 1;
  b->links = &links_[used_links_];
  b->sides = uint8_t(sides);
  for (unsigned k = 0; k < 2 + sides; k++) {
    b->links[k] = {};
    b->links[k].exit = &exits_[used_links_ + k];
  }
  used_links_ += 2 + sides;
  if (Page* const page = FindPage(b->phys)) page->granules |= block_granules(*b, 0);
}

bool invalidate_range(Cpu& c, uint64_t phys, unsigned size) { return c.blocks->Invalidate(c, phys, size); }
bool invalidate_page(Cpu& c, uint64_t phys) { return c.blocks->Invalidate(c, phys & ~kPageMask, 0x1000); }
uint64_t code_granules(const Cpu& c, uint64_t phys) { return c.blocks->Granules(phys); }
void flush_blocks(Cpu& c) { c.blocks->Flush(c); }

}  // namespace nyx::soft
