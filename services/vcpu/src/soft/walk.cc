// Page-table walks in all paging modes (Intel SDM vol. 3, 4.3 to 4.8) and TLB maintenance (4.10).
#include "soft/walk.h"

#include "accel.h"
#include "saved_ram.h"
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
  uint64_t phys;
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
bool set_bits(Cpu& c, const Entry& e, uint64_t bits) {
  if (!e.host || (e.value & bits) == bits) return true;
  save_page(c, e.phys);
  T expected = T(e.value);
  return std::atomic_ref<T>(*reinterpret_cast<T*>(e.host)).compare_exchange_strong(expected, T(e.value | bits));
}

uint64_t gigabyte(uint64_t linear) { return 1ull << (linear >> 30 & 63); }

template <unsigned N, class F>
void each(const uint64_t (&bits)[N], F f) {
  for (unsigned word = 0; word < N; word++) {
    for (uint64_t left = bits[word]; left; left &= left - 1) f(word * 64 + unsigned(__builtin_ctzll(left)));
  }
}
template <class F>
void each_used(Tlb& t, F f) {
  each(t.bits.used, f);
}

void forget(TlbEntry& e) { e = {kTlbInvalid, kTlbInvalid, 0}; }
void forget(CodeEntry& e) { e = {kTlbInvalid, 0}; }
uint64_t tag(const TlbEntry& e) { return e.read; }
uint64_t tag(const CodeEntry& e) { return e.page; }

// There is a checkpoint, and the page of RAM at `phys` has not been saved for it.
bool unsaved(const Cpu& c, const MemoryMap::Region& r, uint64_t phys) {
  const SavedRam* s = c.engine->saved;
  if (!s || !s->armed()) return false;
  return r.first_page != MemoryMap::kNoPage && !s->Saved(r.first_page + ((phys - r.gpa) >> 12));
}

// The following work on either kind of entries.
template <class E, unsigned N>
void clear(E* entries, TlbBits<N>& bits, unsigned n) {
  const uint64_t keep = ~(1ull << (n & 63));
  forget(entries[n]);
  bits.used[n >> 6] &= keep;
  bits.global[n >> 6] &= keep;
  bits.large[n >> 6] &= keep;
}
template <class E, unsigned N>
void clear_all(E* entries, TlbBits<N>& bits) {
  each(bits.used, [&](unsigned n) { forget(entries[n]); });
  bits = {};
}
template <class E, unsigned N>
void clear_nonglobal(E* entries, TlbBits<N>& bits) {
  for (unsigned word = 0; word < N / 64; word++) {
    for (uint64_t left = bits.used[word] & ~bits.global[word]; left; left &= left - 1)
      forget(entries[word * 64 + unsigned(__builtin_ctzll(left))]);
    bits.used[word] &= bits.global[word];
    bits.large[word] &= bits.global[word];
  }
}
template <class E, unsigned N>
void clear_page(E* entries, TlbBits<N>& bits, uint64_t linear) {
  const unsigned n = linear >> 12 & (N - 1);
  if ((tag(entries[n]) ^ linear) >> 12 == 0) clear(entries, bits, n);
  if (!(bits.gigabytes & gigabyte(linear))) return;
  each(bits.large, [&](unsigned m) {
    if ((tag(entries[m]) ^ linear) >> 30 == 0) clear(entries, bits, m);
  });
}
template <unsigned N>
void note(TlbBits<N>& bits, uint64_t page, const Walk& w) {
  const unsigned n = page >> 12 & (N - 1);
  const uint64_t bit = 1ull << (n & 63);
  bits.used[n >> 6] |= bit;
  bits.global[n >> 6] = w.global ? bits.global[n >> 6] | bit : bits.global[n >> 6] & ~bit;
  bits.large[n >> 6] = w.large ? bits.large[n >> 6] | bit : bits.large[n >> 6] & ~bit;
  if (w.large) bits.gigabytes |= gigabyte(page);
}

// Keys of which any of the two bits is set.
uint32_t keys_of(uint32_t bits) {
  uint32_t keys = 0;
  for (unsigned k = 0; k < 16; k++) keys |= uint32_t((bits >> 2 * k & 3) != 0) << k;
  return keys;
}

// AD (bit 0) and WD (bit 1) of a protection key, for a user or supervisor page (SDM vol. 3, 4.6.2).
unsigned key_denies(const Cpu& c, bool user_page, unsigned key) {
  if (!(c.cr4 & (user_page ? kCr4PKE : kCr4PKS))) return 0;
  return (user_page ? c.pkru : c.pkrs) >> 2 * key & 3;
}

template <class T>
bool walk_tables(Cpu& c, uint64_t linear, Access a, Rights rights, Walk* out) {
  const bool user = rights == Rights::kUser;
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
      at.phys = table + (linear >> shift & ((1u << index_bits) - 1)) * sizeof(T);
      e = at.value = read_entry<T>(c, at.phys, &at.host);
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
    const bool data = a != Access::kExec, smap = !user && u && (c.cr4 & kCr4SMAP);
    const unsigned key = lma ? e >> 59 & 15 : 0, denied = lma ? key_denies(c, u, key) : 0;
    // WD binds the supervisor while CR0.WP is set.
    const bool may_read_key = !(denied & 1), may_write_key = !denied || (denied == 2 && !user && !(c.cr0 & kCr0WP));
    const bool key_fault = data && !(a == Access::kWrite ? may_write_key : may_read_key);
    const bool smap_fault = smap && data && !(rights == Rights::kSupervisor && ac_open(c));
    if ((user && !u) || (a == Access::kWrite && !may_write) || (a == Access::kExec && !may_exec) || key_fault || smap_fault)
      return out->error = code | 1 | (key_fault ? 32 : 0), false;

    bool same = true;
    for (int k = 0; k < depth && same; k++) {
      const bool leaf = k == depth - 1;
      same = set_bits<T>(c, path[k], kAccessed | (leaf && a == Access::kWrite ? kDirty : 0));
    }
    if (!same) continue;  // another CPU changed an entry under the walk

    const uint64_t inside = linear & ((1ull << shift) - 1) & ~0xfffull;
    uint64_t base = wide ? e & kAddress : e & 0xfffff000;
    if (large) base = wide ? e & kAddress & ~((1ull << shift) - 1) : (e & 0xffc00000) | (e >> 13 & 0xff) << 32;
    out->phys = base | inside;
    // With SMAP the user's TLB gets a user page's data rights, which are the user's, and the supervisor's TLB none.
    const bool others = smap && data;
    out->which = user || others;
    out->key = uint8_t(key | (u ? 0 : 16));
    out->write = (others ? w && !denied : may_write && may_write_key) && (a == Access::kWrite || (e & kDirty));
    out->global = (e & kGlobal) && (c.cr4 & kCr4PGE);
    out->large = large;
    return true;
  }
}

}  // namespace

bool walk(Cpu& c, uint64_t linear, Access a, Rights r, Walk* w) {
  if (!(c.cr0 & kCr0PG)) {
    *w = {linear & 0xfffff000, 0, r == Rights::kUser, 0, true, false, false};
    return true;
  }
  return c.cr4 & kCr4PAE ? walk_tables<uint64_t>(c, linear, a, r, w) : walk_tables<uint32_t>(c, linear, a, r, w);
}

TlbEntry make_entry(Cpu& c, uint64_t page, const Walk& w) {
  const MemoryMap::Region* r = c.memory->Find(w.phys);
  if (!r) return {page | kTagIo, w.write ? page | kTagIo : kTlbInvalid, intptr_t(w.phys - page)};
  uint8_t* host = r->host + (w.phys - r->gpa);
  const uint64_t slow = r->read_only ? kTagRom : is_code(c, *r, w.phys) ? kTagCode : 0;
  return {page, w.write && !unsaved(c, *r, w.phys) ? page | slow : kTlbInvalid, intptr_t(uint64_t(host) - page)};
}

void tlb_fill(Cpu& c, uint64_t page, const Walk& w) {
  Tlb& t = c.tlbs[w.which];
  const unsigned n = page >> 12 & (kTlbEntries - 1);
  note(t.bits, page, w);
  t.key[n] = w.key;
  t.entries[n] = make_entry(c, page, w);
}

bool tlb_fill_code(Cpu& c, uint64_t page, const Walk& w) {
  Tlb& t = c.tlbs[w.which];
  const MemoryMap::Region* r = c.memory->Find(w.phys);
  if (!r) return false;
  note(t.code_bits, page, w);
  t.code[page >> 12 & (kCodeEntries - 1)] = {page, intptr_t(uint64_t(r->host + (w.phys - r->gpa)) - page)};
  return true;
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
  for (Tlb& t : c.tlbs) {
    clear_all(t.entries, t.bits);
    clear_all(t.code, t.code_bits);
  }
}

void tlb_flush_nonglobal(Cpu& c) {
  for (unsigned k = 0; k < 2; k++) {
    clear_nonglobal(c.tlbs[k].entries, c.tlbs[k].bits);
    clear_nonglobal(c.tlbs[k].code, c.tlbs[k].code_bits);
  }
}

void tlb_flush_page(Cpu& c, uint64_t linear) {
  for (unsigned k = 0; k < 2; k++) {
    clear_page(c.tlbs[k].entries, c.tlbs[k].bits, linear);
    clear_page(c.tlbs[k].code, c.tlbs[k].code_bits, linear);
  }
}

void tlb_drop_keys(Cpu& c, uint32_t keys) {
  // Of data: keys are no matter of fetches.
  for (unsigned k = 0; k < 2; k++) {
    Tlb& t = c.tlbs[k];
    each_used(t, [&](unsigned n) {
      if (keys >> t.key[n] & 1) clear(t.entries, t.bits, n);
    });
  }
}

void set_pkru(Cpu& c, uint32_t v) {
  const uint32_t changed = c.pkru ^ v;
  c.pkru = v;
  if (changed && (c.cr4 & kCr4PKE)) tlb_drop_keys(c, keys_of(changed));
}

void set_pkrs(Cpu& c, uint32_t v) {
  const uint32_t changed = c.pkrs ^ v;
  c.pkrs = v;
  if (changed && (c.cr4 & kCr4PKS)) tlb_drop_keys(c, keys_of(changed) << 16);
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

void tlb_protect(Cpu& c) {
  for (unsigned k = 0; k < 2; k++) {
    Tlb& t = c.tlbs[k];
    each_used(t, [&](unsigned n) {
      uint64_t& tag = t.entries[n].write;
      if ((tag & 0xfff & ~kTagCode) == 0) tag = kTlbInvalid;
    });
  }
}

void save_page(Cpu& c, uint64_t phys) {
  SavedRam* const s = c.engine->saved;
  if (!s || !s->armed()) [[likely]] return;
  const MemoryMap::Region* r = c.memory->Find(phys);
  if (!r || r->read_only || r->first_page == MemoryMap::kNoPage) return;
  const uint64_t inside = (phys - r->gpa) >> 12;
  s->Save(r->first_page + inside, r->host + (inside << 12), &c.engine->peers[c.index].spare);
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
