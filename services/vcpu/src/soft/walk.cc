// Page-table walks in all paging modes (Intel SDM vol. 3, 4.3 to 4.8) and TLB maintenance (4.10).
#include "soft/walk.h"

#include "accel.h"
#include "soft/coherence.h"

namespace nyx::soft {
namespace {

constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4, kAccessed = 0x20, kDirty = 0x40, kLarge = 0x80, kGlobal = 0x100;
constexpr uint64_t kNx = 1ull << 63;
constexpr uint64_t kAddress = kPhysMask & ~0xfffull;

// One paging-structure entry and where it lies. Entries outside of RAM read as all ones.
struct Entry {
  uint8_t* host;
  uint64_t value;
};

template <class T>
uint64_t read_entry(Cpu& c, uint64_t at, uint8_t** host) {
  const MemoryMap::Region* r = c.memory->Find(at);
  if (!r) {
    *host = nullptr;
    return T(~uint64_t{0});
  }
  uint8_t* p = r->host + (at - r->gpa);
  *host = r->read_only ? nullptr : p;
  return std::atomic_ref<T>(*reinterpret_cast<T*>(p)).load(std::memory_order_relaxed);
}

// Sets accessed/dirty bits; false when the entry has changed since it was read.
template <class T>
bool set_bits(const Entry& e, uint64_t bits) {
  if (!e.host || (e.value & bits) == bits) return true;
  T expected = T(e.value);
  return std::atomic_ref<T>(*reinterpret_cast<T*>(e.host)).compare_exchange_strong(expected, T(e.value | bits));
}

unsigned page_hash(uint64_t page_number) { return unsigned(page_number * 0x9e3779b97f4a7c15ull >> 52); }
void remember_code_page(Cpu& c, uint64_t key) { c.code_pages[page_hash(key) >> 6] |= 1ull << (page_hash(key) & 63); }
bool was_code_page(const Cpu& c, uint64_t key) { return c.code_pages[page_hash(key) >> 6] >> (page_hash(key) & 63) & 1; }
// A large page is remembered by its gigabyte, too: INVLPG may name another part of it.
uint64_t large_key(uint64_t linear) { return ~(linear >> 30); }

template <class F>
void each_used(Tlb& t, F f) {
  for (unsigned word = 0; word < kTlbEntries / 64; word++) {
    for (uint64_t bits = t.used[word]; bits; bits &= bits - 1) f(word * 64 + unsigned(__builtin_ctzll(bits)));
  }
}

void clear(Tlb& t, unsigned n) {
  t.entries[n] = {kTlbInvalid, kTlbInvalid, kTlbInvalid, 0};
  t.used[n >> 6] &= ~(1ull << (n & 63));
  t.global[n >> 6] &= ~(1ull << (n & 63));
  t.large[n >> 6] &= ~(1ull << (n & 63));
}

// Links between blocks are void; pages that can still be executed without a walk stay remembered.
void bump(Cpu& c) {
  c.map_gen++;
  std::memset(c.code_pages, 0, sizeof c.code_pages);
  for (unsigned k = 0; k < 2; k++) {
    Tlb& t = c.tlbs[k];
    each_used(t, [&](unsigned n) {
      const uint64_t exec = t.entries[n].exec;
      if (exec == kTlbInvalid) return;
      remember_code_page(c, exec >> 12);
      if (t.large[n >> 6] >> (n & 63) & 1) remember_code_page(c, large_key(exec));
    });
  }
}

template <class T>
bool walk_tables(Cpu& c, uint64_t linear, Access a, bool user, Walk* out) {
  constexpr bool wide = sizeof(T) == 8;
  constexpr unsigned index_bits = wide ? 9 : 10;
  const bool lma = c.efer & kEferLMA, nxe = c.efer & kEferNXE;
  const uint32_t code = (a == Access::kWrite ? 2 : 0) | (user ? 4 : 0) |
                        (a == Access::kExec && ((wide && nxe) || (c.cr4 & kCr4SMEP)) ? 16 : 0);
  // Bits that must be 0 in every entry.
  const uint64_t reserved = !wide ? 0 : (lma ? 0x000fffffffffffffull & ~kPhysMask : 0x7fffffffffffffffull & ~kPhysMask) |
                                            (nxe ? 0 : kNx);
  for (;;) {
    Entry path[4];
    int depth = 0;
    uint64_t table;
    int level;
    if (lma) {
      table = c.cr3 & kAddress;
      level = 4;
    } else if (wide) {
      const uint64_t e = c.pdpte[linear >> 30 & 3];
      if (!(e & kPresent)) return out->error = code, false;
      table = e & kAddress;
      level = 2;
    } else {
      table = c.cr3 & 0xfffff000;
      level = 2;
    }
    bool u = true, w = true, x = true, large = false;
    uint64_t e;
    unsigned shift;
    for (;; level--) {
      shift = 12 + (unsigned(level) - 1) * index_bits;
      Entry& at = path[depth++];
      e = at.value = read_entry<T>(c, table + (linear >> shift & ((1u << index_bits) - 1)) * sizeof(T), &at.host);
      if (!(e & kPresent)) return out->error = code, false;
      large = level > 1 && (e & kLarge) && (wide ? level <= 3 : (c.cr4 & kCr4PSE) != 0);
      uint64_t bad = e & reserved;
      if (wide && level == 4) bad |= e & kLarge;
      if (large) bad |= wide ? e & ((1ull << shift) - 1) & ~0x1fffull : e & (1u << 21);
      if (bad) return out->error = code | 9, false;
      u = u && (e & kUser);
      w = w && (e & kWritable);
      x = x && !(wide && (e & kNx));
      if (level == 1 || large) break;
      table = wide ? e & kAddress : e & 0xfffff000;
    }
    const bool may_write = w || (!user && !(c.cr0 & kCr0WP));
    const bool may_exec = x && (user || !u || !(c.cr4 & kCr4SMEP));
    if ((user && !u) || (a == Access::kWrite && !may_write) || (a == Access::kExec && !may_exec))
      return out->error = code | 1, false;

    bool same = true;
    for (int k = 0; k < depth && same; k++) {
      const bool leaf = k == depth - 1;
      same = set_bits<T>(path[k], kAccessed | (leaf && a == Access::kWrite ? kDirty : 0));
    }
    if (!same) continue;  // another CPU changed an entry under the walk

    const uint64_t inside = linear & ((1ull << shift) - 1) & ~0xfffull;
    uint64_t base = wide ? e & kAddress : e & 0xfffff000;
    if (large) base = wide ? e & kAddress & ~((1ull << shift) - 1) : (e & 0xffc00000) | (e >> 13 & 0xff) << 32;
    out->phys = base | inside;
    out->write = may_write && (a == Access::kWrite || (e & kDirty));
    out->exec = may_exec;
    out->global = (e & kGlobal) && (c.cr4 & kCr4PGE);
    out->large = large;
    return true;
  }
}

}  // namespace

bool walk(Cpu& c, uint64_t linear, Access a, bool user, Walk* w) {
  if (!(c.cr0 & kCr0PG)) {
    *w = {linear & 0xfffff000, 0, true, true, false, false};
    return true;
  }
  return c.cr4 & kCr4PAE ? walk_tables<uint64_t>(c, linear, a, user, w) : walk_tables<uint32_t>(c, linear, a, user, w);
}

void tlb_fill(Cpu& c, unsigned which, uint64_t page, const Walk& w) {
  Tlb& t = c.tlbs[which];
  const unsigned n = page >> 12 & (kTlbEntries - 1);
  const uint64_t bit = 1ull << (n & 63);
  TlbEntry& e = t.entries[n];
  t.used[n >> 6] |= bit;
  t.global[n >> 6] = w.global ? t.global[n >> 6] | bit : t.global[n >> 6] & ~bit;
  t.large[n >> 6] = w.large ? t.large[n >> 6] | bit : t.large[n >> 6] & ~bit;
  const MemoryMap::Region* r = c.memory->Find(w.phys);
  if (!r) {
    e = {page | kTagIo, w.write ? page | kTagIo : kTlbInvalid, kTlbInvalid, intptr_t(w.phys - page)};
    return;
  }
  uint8_t* host = r->host + (w.phys - r->gpa);
  const uint64_t slow = r->read_only ? kTagRom : is_code(c, *r, w.phys) ? kTagCode : 0;
  e = {page, w.write ? page | slow : kTlbInvalid, w.exec ? page : kTlbInvalid, intptr_t(uint64_t(host) - page)};
  if (w.exec) {
    remember_code_page(c, page >> 12);
    if (w.large) remember_code_page(c, large_key(page));
  }
}

bool load_pdptes(Cpu& c, uint64_t cr3) {
  uint64_t loaded[4];
  for (unsigned k = 0; k < 4; k++) {
    uint8_t* host;
    loaded[k] = read_entry<uint64_t>(c, (cr3 & 0xffffffe0) + 8 * k, &host);
    if ((loaded[k] & kPresent) && (loaded[k] & (~kPhysMask | 0x1e6))) return false;
  }
  std::memcpy(c.pdpte, loaded, sizeof loaded);
  return true;
}

uint64_t phys_of_host(const Cpu& c, const uint8_t* host) {
  for (unsigned k = 0; k < c.memory->count(); k++) {
    const MemoryMap::Region& r = c.memory->regions()[k];
    if (uint64_t(host - r.host) < r.size) return r.gpa + uint64_t(host - r.host);
  }
  return ~uint64_t{0};
}

void tlb_flush_all(Cpu& c) {
  for (Tlb& t : c.tlbs) each_used(t, [&](unsigned n) { clear(t, n); });
  bump(c);
}

void tlb_flush_nonglobal(Cpu& c) {
  for (unsigned k = 0; k < 2; k++) {
    Tlb& t = c.tlbs[k];
    each_used(t, [&](unsigned n) {
      if (!(t.global[n >> 6] >> (n & 63) & 1)) clear(t, n);
    });
  }
  bump(c);
}

void tlb_flush_page(Cpu& c, uint64_t linear) {
  for (unsigned k = 0; k < 2; k++) {
    Tlb& t = c.tlbs[k];
    const unsigned n = linear >> 12 & (kTlbEntries - 1);
    if ((t.entries[n].read ^ linear) >> 12 == 0) clear(t, n);
    for (unsigned word = 0; word < kTlbEntries / 64; word++) {
      for (uint64_t bits = t.large[word]; bits; bits &= bits - 1) {
        const unsigned m = word * 64 + unsigned(__builtin_ctzll(bits));
        if ((t.entries[m].read ^ linear) >> 30 == 0) clear(t, m);
      }
    }
  }
  if (was_code_page(c, linear >> 12) || was_code_page(c, large_key(linear))) bump(c);
}

void tlb_mark_code(Cpu& c, const uint8_t* host, bool code) {
  for (unsigned k = 0; k < 2; k++) {
    Tlb& t = c.tlbs[k];
    each_used(t, [&](unsigned n) {
      TlbEntry& e = t.entries[n];
      const uint64_t page = e.write & ~0xfffull, flags = e.write & 0xfff;
      if (flags != (code ? 0 : kTagCode) || page + uint64_t(e.addend) != uint64_t(host)) return;
      e.write = page | (code ? kTagCode : 0);
    });
  }
}

void tlb_drop_writes(Cpu& c) {
  for (unsigned k = 0; k < 2; k++) {
    Tlb& t = c.tlbs[k];
    each_used(t, [&](unsigned n) {
      if ((t.entries[n].write & 0xfff) == 0) t.entries[n].write = kTlbInvalid;
    });
  }
}

}  // namespace nyx::soft
