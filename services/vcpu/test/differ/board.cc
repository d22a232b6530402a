#include "board.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <thread>

#include "soft/run.h"
#include "soft/segment.h"
#include "soft/simd.h"

// The machine's, which this program does without.
bool nyx::MemoryMap::Add(const Region& region) {
  if (count_ == kMaxRegions) return false;
  regions_[count_++] = region;
  return true;
}

namespace differ {
namespace {

using namespace nyx::soft;

constexpr uint64_t kTables = 0x1000, kGdt = 0x5000, kTss = 0x5800, kIdt = 0x6000, kHandlers = 0x7000, kCounter = 0x70f0, kKernelStack = 0x9f00;
// Selectors. The third to last have the level of the user.
enum : uint16_t { kCode32 = 0x08, kData32 = 0x10, kCode64 = 0x18, kCode16 = 0x20, kData16 = 0x28, kUser32Code = 0x33, kUserData = 0x3b, kUser64 = 0x43, kSmall = 0x4b };
constexpr uint64_t kDescriptors[] = {0,
                                     0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff, 0x00009b000000ffff, 0x000093000000ffff,
                                     0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff,
                                     0x0040f30100001fff};  // base 0x10000, 8 KiB

uint64_t mix(uint64_t v) {
  v = (v ^ v >> 31) * 0x7fb5d329728ea185u;
  v = (v ^ v >> 27) * 0x81dadef4bc2dd44du;
  return v ^ v >> 33;
}

bool wide(Mode m) { return m == kLong || m == kLongUser || m == kLongSmap || m == kCompat; }
bool user(Mode m) { return m == kUser32 || m == kSegments32 || m == kLongUser || m == kCompat; }
bool paging(Mode m) { return m >= kPaged32; }

// Rights of a page of RAM, as bits of its entry.
uint64_t rights(Mode m, unsigned page) {
  const uint64_t u = page >= 0x10 && (user(m) || m == kLongSmap) && !(m == kLongSmap && page < 0x18) ? 4 : 0;
  const uint64_t key = wide(m) ? uint64_t{page >= 0x1a ? page & 3 : 0} << 59 : 0;
  switch (page) {
    case 0x1c: return 3 | u | key;  // neither accessed nor dirty
    case 0x1d: return 0x63 | u | key | (wide(m) ? 1ull << 63 : 0);
    case 0x1e: return 0x61 | u | key;  // read-only
    case 0x1f: return 0x63 | (u ^ 4) | key;
    default: return 0x63 | u | key;
  }
}

}  // namespace

uint64_t TestBus::Take(uint64_t what, unsigned width) {
  hash = mix(hash + what * 8 + width);
  return width == 8 ? hash : hash & ((uint64_t{1} << 8 * width) - 1);
}
void TestBus::PioReadBurst(uint16_t port, unsigned width, uint32_t count, void* data) {
  for (uint32_t k = 0; k < count; k++) {
    const uint64_t v = Take(port, width);
    std::memcpy(static_cast<uint8_t*>(data) + k * width, &v, width);
  }
}
void TestBus::PioWriteBurst(uint16_t port, unsigned width, uint32_t count, const void* data) {
  for (uint32_t k = 0; k < count; k++) {
    uint64_t v = 0;
    std::memcpy(&v, static_cast<const uint8_t*>(data) + k * width, width);
    Take(port + (v << 16), width);
  }
}

Board::Board(uint32_t soft_mode, bool paced, unsigned patience)
    : paced_(paced),
      patience_(patience),
      clock_(&page_, 1, true),
      word_(reinterpret_cast<std::atomic<uint32_t>*>(&attention_.word)),
      lapic_(0, &clock_, word_, &apics_),
      limit_(word_) {
  // Nothing is mapped around RAM.
  auto* const space = static_cast<uint8_t*>(mmap(nullptr, 3 * kRam, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ram_ = space + kRam;
  if (space == MAP_FAILED || mprotect(ram_, kRam, PROT_READ | PROT_WRITE) != 0) std::abort();
  memory_.Add({0, kRam, ram_, false, 0});
  lapic_.set_bus(&bus_);
  apics_.Add(&lapic_);
  context_ = {0, 1, &bus_, &lapic_, &memory_, &clock_, &page_.vcpu[0], word_, nullptr, nullptr, 0};
  context_.pacer = paced ? &limit_ : nullptr;
  std::string error;
  accel_ = make_soft({1, &context_, &memory_, &clock_, &apics_, soft_mode}, &error);
  if (!accel_) std::abort();
  cpu().hot_count = 1;
  watcher_ = std::thread([this] { Watch(); });
}

void Board::Memory(const Setup& s) {
  std::memset(ram_, 0, kRam);
  // Handlers count, and after eight end the run; else they step over a byte.
  const auto put = [&](uint64_t at, std::initializer_list<uint8_t> bytes) {
    for (const uint8_t b : bytes) ram_[at++] = b;
    return at;
  };
  uint64_t at = kHandlers;
  if (s.mode == kReal) {
    put(at, {0x2e, 0xff, 0x06, 0xf0, 0x00, 0x2e, 0x83, 0x3e, 0xf0, 0x00, 8, 0x77, 8,  // inc/cmp word cs:[0xf0]; ja
             0x55, 0x89, 0xe5, 0xff, 0x46, 2, 0x5d, 0xcf,                               // push bp; mov bp, sp; inc word [bp + 2]; pop bp; iret
             0xfa, 0xf4, 0xeb, 0xfd});                                                  // cli; hlt; jmp
    for (unsigned v = 0; v < 256; v++) Put<uint32_t>(4 * v, kHandlers << 12);
  } else {
    for (unsigned error = 0; error < 2; error++) {
      at = kHandlers + 0x40 * error;
      if (wide(s.mode)) {
        if (error) at = put(at, {0x48, 0x8d, 0x64, 0x24, 8});                                     // lea rsp, [rsp + 8]
        put(at, {0xff, 0x04, 0x25, 0xf0, 0x70, 0, 0, 0x83, 0x3c, 0x25, 0xf0, 0x70, 0, 0, 8, 0x77, 6,  // inc/cmp dword [kCounter]; ja
                 0x48, 0xff, 0x04, 0x24, 0x48, 0xcf, 0xfa, 0xf4, 0xeb, 0xfd});                        // inc qword [rsp]; iretq; cli; hlt; jmp
      } else {
        if (error) at = put(at, {0x8d, 0x64, 0x24, 4});
        put(at, {0xff, 0x05, 0xf0, 0x70, 0, 0, 0x83, 0x3d, 0xf0, 0x70, 0, 0, 8, 0x77, 4, 0xff, 0x04, 0x24, 0xcf, 0xfa, 0xf4, 0xeb, 0xfd});
      }
    }
    for (unsigned v = 0; v < 256; v++) {
      const bool error = v == 8 || (v >= 10 && v <= 14) || v == 17;
      const uint64_t handler = kHandlers + (error ? 0x40 : 0);
      // Users may call all of them; in long mode they have a stack of their own.
      const uint64_t gate = (handler & 0xffff) | uint64_t{wide(s.mode) ? kCode64 : kCode32} << 16 | uint64_t{wide(s.mode) ? 0xee01u : 0xee00u} << 32;
      Put(kIdt + (wide(s.mode) ? 16 : 8) * v, gate);
    }
    std::memcpy(ram_ + kGdt, kDescriptors, sizeof kDescriptors);
    if (wide(s.mode)) {
      for (unsigned k = 0; k < 3; k++) Put<uint64_t>(kTss + 4 + 8 * k, kKernelStack);
      Put<uint64_t>(kTss + 0x24, kKernelStack - 0x400);
    } else {
      Put<uint32_t>(kTss + 4, kKernelStack);
      Put<uint16_t>(kTss + 8, kData32);
    }
    Put<uint16_t>(kTss + 102, 104);
  }
  if (paging(s.mode)) {
    const unsigned entry = wide(s.mode) ? 8 : 4;
    const uint64_t levels = wide(s.mode) ? 4 : 2;
    for (uint64_t k = 0; k + 1 < levels; k++) Put<uint32_t>(kTables + 0x1000 * k, uint32_t(kTables + 0x1000 * (k + 1)) | 7);
    const uint64_t leaf = kTables + 0x1000 * (levels - 1);
    const auto map = [&](unsigned page, uint64_t e) { std::memcpy(ram_ + leaf + entry * page, &e, entry); };
    for (unsigned page = 0; page < 0x20; page++) map(page, uint64_t{page} << 12 | rights(s.mode, page));
    map(0x20, kCode | rights(s.mode, 0x10));
    map(0x21, kMmio | rights(s.mode, 0x10));
  }
  uint64_t random = s.seed;
  for (uint64_t k = kData; k < kRam; k += 8) Put(k, random = mix(random + k));
  // Behind the code is what ends it.
  std::memset(ram_ + kCode, 0xf4, kData - kCode);
  const uint64_t begin = s.place & 1 ? 0x1000 - (s.place >> 1 & 0x3f) : 0;  // over the end of a page
  std::memcpy(ram_ + kCode + begin, s.code, std::min<size_t>(s.bytes, kData - kCode - begin));
}

void Board::Registers(const Setup& s) {
  Cpu& c = cpu();
  const Mode m = s.mode;
  uint64_t random = mix(s.seed + 1);
  for (unsigned r = 0; r < 16; r++) {
    random = mix(random + r);
    const uint64_t off = random >> 8 & 0xffff;
    const uint64_t base = m == kSegments32 ? 0 : m == kReal || m == kProt16 ? 0x3000 : kData;
    switch (random & 7) {
      case 0: case 1: case 2: c.gpr[r] = base + off % 0x1800; break;
      case 3: c.gpr[r] = base + 0x1000 * (off & 15) + 0xff8 + (off >> 4 & 7); break;
      case 4: c.gpr[r] = off & 31; break;
      case 5: c.gpr[r] = kCode + (off & 0xff); break;
      default: c.gpr[r] = mix(random) >> (off & 63); break;
    }
    if (!wide(m) || m == kCompat) c.gpr[r] = uint32_t(c.gpr[r]);
  }
  c.gpr[RSP] = m == kReal || m == kProt16 ? 0x1e00 : m == kSegments32 ? 0x1f00 : user(m) ? kData + 0x3f00 : kStack;
  c.rip = (s.place & 1 ? 0x1000 - (s.place >> 1 & 0x3f) : 0) + (m == kReal || m == kProt16 ? 0 : kCode);
  // DF, AC, CF .. OF, ID; TF rarely; IF.
  uint64_t flags = 2 | (s.flags & 1 ? kDF : 0) | (s.flags & 2 ? kAC : 0) | (s.flags & 4 ? kIF : 0) | (mix(random) & kArith) | (s.flags >> 6 == 3 ? kTF : 0);
  if (s.flags & 8) flags |= kIOPL;
  const auto segment = [&](uint16_t selector) {
    Segment g = unpack(Descriptor{kDescriptors[selector >> 3], 0, 0}, selector);
    return g;
  };
  c.cr0 = kCr0ET | kCr0NE | kCr0MP;
  c.cr4 = 0;
  c.efer = 0;
  c.cpl = 0;
  if (m == kReal) {
    for (const SegReg r : {ES, SS, DS, FS, GS}) c.seg[r] = Segment{kCode, 0xffff, uint16_t(kCode >> 4), 0x93};
    c.seg[CS] = Segment{kCode, 0xffff, uint16_t(kCode >> 4), 0x9b};
    c.idtr = {0, 0x3ff};
  } else {
    c.cr0 |= kCr0PE | (s.control & 1 ? kCr0WP : 0) | (s.control & 2 ? kCr0AM : 0);
    uint16_t code = kCode32, data = kData32;
    if (m == kProt16) code = kCode16, data = kData16;
    if (user(m)) code = kUser32Code, data = kUserData;
    if (m == kLong || m == kLongSmap) code = kCode64;
    if (m == kLongUser) code = kUser64;
    c.seg[CS] = segment(code);
    for (const SegReg r : {ES, SS, DS, FS, GS}) c.seg[r] = segment(m == kSegments32 ? uint16_t{kSmall} : data);
    if (m == kProt16) {
      for (const SegReg r : {ES, CS, SS, DS, FS, GS}) c.seg[r].base = kCode;
    }
    c.cpl = user(m) ? 3 : 0;
    c.gdtr = {kGdt, sizeof kDescriptors - 1};
    c.idtr = {kIdt, wide(m) ? 0xfffu : 0x7ff};
    c.seg[TR] = Segment{kTss, 103, 0x50, 0x8b};
    c.seg[LDTR] = Segment{0, 0, 0, 0};
    if (paging(m)) {
      c.cr0 |= kCr0PG;
      c.cr3 = kTables;
    }
    if (wide(m)) {
      c.cr4 |= kCr4PAE | kCr4FSGSBASE | kCr4PKE;
      c.efer = kEferLME | kEferLMA | kEferNXE | kEferSCE;
      c.lstar = c.cstar = kHandlers;
      c.sfmask = s.seed & 0x47700;
      c.star = uint64_t{kCode64} << 32 | uint64_t{0x33} << 48;
      c.pkru = m == kLongUser || m == kLongSmap ? s.seed & 0xfc : 0;
      if (m == kLongSmap) c.cr4 |= kCr4SMAP | kCr4SMEP;
      c.seg[FS].base = kData;
      c.seg[GS].base = kData + 0x800;
    }
  }
  if (s.control & 4) c.cr0 |= kCr0TS;
  if (!(s.control & 8)) c.cr4 |= kCr4OSFXSR | kCr4OSXMMEXCPT | kCr4OSXSAVE;
  for (unsigned k = 160; k < 416; k += 8) {
    const uint64_t v = random = mix(random + k);
    std::memcpy(c.fx.bytes + k, &v, 8);
  }
  // Exceptions are masked, mostly, or nothing of x87 would be translated.
  const uint16_t control = s.seed & 0x70000 ? 0x37f : 0x340;
  std::memcpy(c.fx.bytes + kFxCw, &control, 2);
  for (unsigned k = 0; k < 8; k++) {
    const uint64_t v[2] = {mix(random + k) | 1ull << 63, 0x3fe0 + (s.seed >> k & 63)};
    std::memcpy(c.fx.bytes + kFxSt + 16 * k, v, 16);
  }
  c.fx.bytes[kFxTw] = uint8_t(random);
  set_rflags(c, flags);
  update_mode(c);
}

void Board::Run(const Setup& s, uint64_t limit) {
  Memory(s);
  Cpu& c = cpu();
  lapic_.Reset();
  accel_->vcpu(0).SetBootState(machine::MachineHeader{});
  Registers(s);
  word_->store(0);
  bus_.hash = 0;
  c.icount = 0;
  // Virtual time never goes back: it goes on from where the last guest left it.
  c.time_offset = clock_.Now();
  limit_.at = c.time_offset + limit;
  c.deadline = paced_ ? 0 : ~uint64_t{0};
  c.tsc_offset = -int64_t(clock_.Tsc());
  gave_up_ = false;
  turn_.fetch_add(1);
  accel_->vcpu(0).Run();
  turn_.fetch_add(1);
}

// A guest that runs for longer than any needs, or waits for an interrupt that cannot come, is ended.
void Board::Watch() {
  const Cpu& c = cpu();
  uint32_t turn = 0;
  for (unsigned looks = 0; !quit_.load();) {
    const timespec t{0, 100'000};
    nanosleep(&t, nullptr);
    const uint32_t now = turn_.load();
    if (now != turn) looks = 0;
    turn = now;
    if (!(turn & 1)) continue;
    // What a halted CPU shows stays as it is.
    const bool asleep = page_.vcpu[0].state != 1 && (c.wait_sipi || (c.halted && !(paced_ && (c.eflags & kIF))));
    if (!asleep && ++looks < patience_) continue;
    if (!asleep) gave_up_ = true;
    word_->fetch_or(uint32_t(wire::Attention::kStop));
    accel_->vcpu(0).Kick();
  }
}

Board::~Board() {
  quit_.store(true);
  watcher_.join();
}

}  // namespace differ
