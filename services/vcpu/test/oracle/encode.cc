// Random instances of instruction forms.
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>

#include "oracle.h"

namespace oracle {
namespace {

struct Spec {
  uint8_t mandatory = 0;  // 66, F2, F3
  std::vector<uint8_t> opcode;
  int modrm = -1;  // 0..7: /n, 8: /r
  bool plus_r = false;
  std::vector<std::string> immediates;
};

const Spec& parse(const char* text) {
  static std::map<std::string, Spec> known;
  auto [it, fresh] = known.try_emplace(text);
  if (!fresh) return it->second;
  Spec& s = it->second;
  std::istringstream in(text);
  for (std::string w; in >> w;) {
    if (w == "+r") s.plus_r = true;
    else if (w == "/r") s.modrm = 8;
    else if (w[0] == '/') s.modrm = w[1] - '0';
    else if (std::isxdigit(static_cast<unsigned char>(w[0])) && std::isxdigit(static_cast<unsigned char>(w[1])) && w.size() == 2) {
      const auto b = uint8_t(std::strtoul(w.c_str(), nullptr, 16));
      if (s.opcode.empty() && !s.mandatory && (b == 0x66 || b == 0xf2 || b == 0xf3)) s.mandatory = b;
      else s.opcode.push_back(b);
    } else s.immediates.push_back(w);
  }
  return s;
}

constexpr int kRax = 0, kRcx = 1, kRdx = 2, kRbx = 3, kRsp = 4, kRbp = 5, kRsi = 6, kRdi = 7;

class Maker {
 public:
  Maker(const Form& form, Mode mode, Rng& rng) : f_(form), s_(parse(form.spec)), rng_(rng) {
    c_.form = &form;
    c_.mode = mode;
  }
  Case make();

 private:
  bool chance(unsigned percent) { return rng_() % 100 < percent; }
  uint64_t below(uint64_t n) { return rng_() % n; }
  bool long_mode() const { return c_.mode == kLong; }
  bool segmented() const { return c_.mode == kSeg32 || c_.mode == kSeg16; }
  bool has(uint32_t bit) const { return f_.bits & bit; }
  uint64_t data_base() const { return segmented() ? kData : 0; }

  void byte(unsigned b) { c_.bytes[c_.length++] = uint8_t(b); }
  void number(uint64_t v, unsigned bytes) {
    for (unsigned k = 0; k < bytes; k++) byte(unsigned(v >> (8 * k)));
  }
  void set(int r, uint64_t v) {
    c_.in.gpr[r] = v;
    pinned_ |= 1u << r;
  }
  uint64_t data_address();
  uint64_t code_target();
  void choose_size();
  void pin_registers();
  void choose_memory();
  void memory_16();
  void prefixes();
  void immediates();
  void solve();
  void couple();

  const Form& f_;
  const Spec& s_;
  Rng& rng_;
  Case c_{};
  unsigned size_ = 4;         // operand bytes
  unsigned addr_ = 8;         // address bytes
  bool addr_prefix_ = false, size_prefix_ = false, gs_ = false, memory_ = false;
  unsigned rex_ = 0;
  unsigned reg_ = 0, rm_ = 0, mod_ = 3;
  int base_ = -1, index_ = -1;
  unsigned scale_ = 0;
  bool relative_ = false;
  unsigned disp_bytes_ = 0, disp_at_ = 0;
  int64_t disp_ = 0;
  uint64_t address_ = 0;
  uint32_t pinned_ = 0;
};

uint64_t Maker::data_address() {
  if (chance(2)) return kData - 1 - below(16);
  if (chance(2)) return kData + kDataBytes - 1 - below(16);
  uint64_t at = chance(15) ? kData + 0x1000 - below(16) : kData + 64 + below(kDataBytes - 192);
  if (has(kBitString)) at = kData + kDataBytes / 2 - 64 + below(128);
  if (has(kAlign16) && !chance(5)) at &= ~15ull;
  return at;
}
// Among the INT3 around the instruction, not in itself.
uint64_t Maker::code_target() {
  for (;;) {
    const uint64_t at = (segmented() ? 0 : kCode) + 0x40 + below(0x1f00);
    if (at - c_.in.rip >= 20) return at;
  }
}

void Maker::choose_size() {
  const unsigned natural = c_.mode == kSeg16 ? 2 : 4;
  if (has(kByteOp)) {
    size_ = 1;
    size_prefix_ = chance(3);
    if (long_mode() && chance(5)) rex_ |= 0x48;
  } else if (has(kWordOp)) {
    size_ = natural;
    if (chance(35) && !has(kNoOpSize)) {
      size_prefix_ = true;
      size_ = natural ^ 6;
    }
    if (long_mode() && chance(50)) {
      rex_ |= 0x48;
      size_ = 8;
    } else if (long_mode() && has(kStack) && !size_prefix_) {
      size_ = 8;
    }
  } else {
    size_ = natural;
    if (long_mode() && (has(kStack) || has(kBranch))) size_ = 8;
  }
  addr_ = long_mode() ? 8 : natural;
  if (chance(has(kRepeat) || has(kBranch) ? 20 : 10)) {
    const unsigned other = long_mode() ? 4 : addr_ ^ 6;
    // 16-bit addresses reach the data through a segment only.
    if (other != 2 || segmented()) {
      addr_prefix_ = true;
      addr_ = other;
    }
  }
}

// Registers with an implied use.
void Maker::pin_registers() {
  const uint64_t mask = addr_ == 2 ? 0xffff : addr_ == 4 ? 0xffffffff : ~0ull;
  const auto pointer = [&](uint64_t linear) { return ((linear - data_base()) & mask) | (random_value(rng_) & ~mask); };
  if (has(kStack)) {
    const uint64_t sp = chance(3) ? data_address() : chance(10) ? kData + 0x1000 + below(16) - 8 : kData + 0x800 + below(0x800);
    set(kRsp, sp - data_base());
    if (s_.opcode[0] == 0xc8 || s_.opcode[0] == 0xc9) set(kRbp, kData + 0x600 + below(0x900) - data_base());
  }
  if (has(kRepeat)) {
    const uint64_t from = data_address();
    set(kRsi, pointer(from));
    // Also overlapping operands.
    set(kRdi, pointer(chance(30) ? from + below(24) - 12 : data_address()));
    const uint64_t n = chance(10) ? 0 : chance(80) ? below(12) : below(600);
    set(kRcx, (n & mask) | (random_value(rng_) & ~mask));
  }
  if (has(kTable)) set(kRbx, pointer(kData + 64 + below(kDataBytes - 512)));
  if (has(kDivide)) {
    const unsigned kind = unsigned(below(10));
    if (size_ > 1 && kind < 7) set(kRdx, kind < 3 ? 0 : kind < 5 ? ~0ull : below(1u << 12));
    if (size_ == 1 && kind < 7) set(kRax, below(0x400));
  }
  if (!segmented() && has(kBranch) && s_.modrm < 0 && chance(50)) set(kRcx, below(3));
}

void Maker::memory_16() {
  static constexpr int kBase[8] = {kRbx, kRbx, kRbp, kRbp, -1, -1, kRbp, kRbx};
  static constexpr int kIndex[8] = {kRsi, kRdi, kRsi, kRdi, kRsi, kRdi, -1, -1};
  rm_ = unsigned(below(8));
  mod_ = unsigned(below(3));
  if (mod_ == 0 && rm_ == 6) {
    disp_bytes_ = 2;
    return;
  }
  base_ = kBase[rm_];
  index_ = kIndex[rm_];
  disp_bytes_ = mod_;
}

// Registers and displacement of the memory operand; solve() gives them values.
void Maker::choose_memory() {
  address_ = data_address();
  gs_ = long_mode() && chance(10);
  if (addr_ == 2) {
    memory_16();
    return;
  }
  const unsigned shape = unsigned(below(10)), regs = long_mode() ? 16 : 8;
  mod_ = unsigned(below(3));
  if (shape == 0) {  // absolute, or relative to RIP
    mod_ = 0;
    rm_ = 5;
    disp_bytes_ = 4;
    relative_ = long_mode();
    return;
  }
  if (shape == 1) {  // SIB without base
    mod_ = 0;
    rm_ = 4;
    disp_bytes_ = 4;
  } else {
    do base_ = int(below(regs));
    while (mod_ == 0 && (base_ & 7) == 5);
    rm_ = unsigned(base_);
    disp_bytes_ = mod_ == 2 ? 4 : mod_;
  }
  if (rm_ % 8 == 4 || chance(40)) {  // SIB
    rm_ = 4;
    if (chance(70)) {
      do index_ = int(below(regs));
      while (index_ == kRsp || index_ == base_ || (pinned_ >> index_ & 1));
      scale_ = unsigned(below(4));
    }
  }
}

// Gives base, or displacement when the base has its value already, what makes the operand be at address_.
void Maker::solve() {
  const uint64_t wanted = address_ - data_base() - (gs_ ? kGsBase : 0);
  const uint64_t mask = addr_ == 2 ? 0xffff : addr_ == 4 ? 0xffffffff : ~0ull;
  if (index_ >= 0 && base_ < 0) {  // a small index, so that the displacement can do the rest
    if (!(pinned_ >> index_ & 1)) set(index_, (below(256) & mask) | (random_value(rng_) & ~mask));
  }
  const uint64_t index = index_ >= 0 ? c_.in.gpr[index_] << scale_ : 0;
  if (disp_bytes_) disp_ = disp_bytes_ == 1 ? int64_t(below(256)) - 128 : int64_t(below(1 << 16)) - (1 << 15);
  if (relative_) {
    disp_ = int64_t(wanted - (c_.in.rip + c_.length));
  } else if (base_ < 0 || (pinned_ >> base_ & 1)) {
    const uint64_t rest = wanted - index - (base_ < 0 ? 0 : c_.in.gpr[base_]);
    disp_ = disp_bytes_ == 1 ? int8_t(rest) : int64_t(rest);
  } else {
    const uint64_t v = wanted - index - uint64_t(disp_);
    set(base_, (v & mask) | (random_value(rng_) & ~mask));
  }
  for (unsigned k = 0; k < disp_bytes_; k++) c_.bytes[disp_at_ + k] = uint8_t(uint64_t(disp_) >> (8 * k));
}

void Maker::prefixes() {
  if (chance(3)) byte(long_mode() ? (const uint8_t[]){0x26, 0x2e, 0x36, 0x3e}[below(4)] : (const uint8_t[]){0x26, 0x36, 0x3e}[below(3)]);
  if (has(kRepeat) && chance(60)) byte(chance(50) ? 0xf2 : 0xf3);
  else if (!has(kRepeat) && s_.opcode[0] != 0x0f && !has(kFx | kBranch) && chance(3)) byte(chance(50) ? 0xf2 : 0xf3);
  if (size_prefix_) byte(0x66);
  if (addr_prefix_) byte(0x67);
  if (gs_) byte(0x65);
  if (chance(has(kLockOk) && memory_ ? 20 : 1)) byte(0xf0);
  if (s_.mandatory) byte(s_.mandatory);
  if (chance(1) && !has(kUndefined)) {  // an instruction of up to 18 bytes
    const unsigned n = unsigned(below(13));
    for (unsigned k = 0; k < n; k++) byte(0x3e);
    if (s_.mandatory && n) byte(s_.mandatory);
  }
}

void Maker::immediates() {
  for (const std::string& kind : s_.immediates) {
    const uint64_t v = random_value(rng_);
    if (kind == "ib") number(v, 1);
    else if (kind == "iw") number(v, 2);
    else if (kind == "iz") number(v, size_ == 2 ? 2 : 4);
    else if (kind == "iv") number(v, size_);
    else if (kind == "frame") number(below(0x180), 2);
    else if (kind == "moffs") {
      number(address_ - data_base() - (gs_ ? kGsBase : 0), addr_);
    } else if (kind == "rel8" || kind == "relz") {
      const unsigned bytes = kind == "rel8" ? 1 : long_mode() || size_ == 4 ? 4 : 2;
      const uint64_t end = c_.in.rip + c_.length + bytes;
      uint64_t distance = code_target() - end;
      while (bytes == 1 && int8_t(distance) <= 0 && int8_t(distance) >= -20) distance = rng_();
      number(distance, bytes);
    } else {
      std::fprintf(stderr, "oracle: unknown immediate in \"%s\"\n", f_.spec);
      std::exit(2);
    }
  }
}

// Makes operands meet: equal accumulator and destination, targets of branches, bit offsets within the data.
void Maker::couple() {
  uint64_t* const gpr = c_.in.gpr;
  const bool there = memory_ && address_ >= kData && address_ + 16 <= kData + kDataBytes;
  const auto* const at = reinterpret_cast<const uint8_t*>(address_);
  const bool compares = s_.opcode.size() == 2 && s_.opcode[0] == 0x0f && (s_.opcode[1] & 0xfe) == 0xb0;
  if (compares && chance(50)) {
    if (there && !(pinned_ & 1)) std::memcpy(&gpr[kRax], at, size_);
    else if (!memory_ && rm_ != kRax) gpr[kRax] = gpr[rm_];
  }
  if (s_.opcode.size() == 2 && s_.opcode[1] == 0xc7 && there && chance(60) && !(pinned_ & 5)) {
    std::memcpy(&gpr[kRax], at, rex_ & 8 ? 8 : 4);
    std::memcpy(&gpr[kRdx], at + (rex_ & 8 ? 8 : 4), rex_ & 8 ? 8 : 4);
  }
  if (has(kBitString) && memory_ && s_.modrm == 8 && !(pinned_ >> reg_ & 1) && !chance(5)) gpr[reg_] = below(24000) - 12000;
  if (has(kBranch)) {
    const uint64_t target = chance(5) ? random_value(rng_) : code_target();
    if (s_.opcode[0] == 0xff) {
      if (!memory_ && !(pinned_ >> rm_ & 1)) gpr[rm_] = target;
      if (there) c_.poke_at = address_, c_.poke_value = target, c_.poke_bytes = size_;
    } else if (s_.opcode[0] == 0xc3 || s_.opcode[0] == 0xc2) {
      const uint64_t sp = gpr[kRsp] + data_base();
      if (sp >= kData && sp + 8 <= kData + kDataBytes) c_.poke_at = sp, c_.poke_value = target, c_.poke_bytes = size_;
    }
  }
}

Case Maker::make() {
  for (uint64_t& r : c_.in.gpr) r = random_value(rng_);
  c_.in.flags = uint32_t(rng_()) & kFlagMask;
  if (!has(kRepeat)) c_.in.flags &= ~0x400u;
  const uint64_t code = segmented() ? 0 : kCode;
  // Sometimes across the border of the two code pages.
  c_.in.rip = code + (chance(15) ? 0x1000 - below(16) : 0x400 + below(0x100));

  choose_size();
  if (has(kFx)) {
    for (unsigned k = 0; k < sizeof(c_.in.fx); k += 8) {
      const uint64_t v = random_value(rng_);
      std::memcpy(c_.in.fx + k, &v, 8);
    }
    const uint32_t control = 0x37f, mxcsr = 0x1f80, mask = 0xffff;
    std::memset(c_.in.fx, 0, 32);
    std::memcpy(c_.in.fx, &control, 2);
    std::memcpy(c_.in.fx + 24, &mxcsr, 4);
    std::memcpy(c_.in.fx + 28, &mask, 4);
  }
  pin_registers();
  const unsigned regs = long_mode() ? 16 : 8;
  reg_ = s_.modrm == 8 ? unsigned(below(regs)) : s_.modrm >= 0 ? unsigned(s_.modrm) : 0;
  rm_ = unsigned(below(regs));
  memory_ = (s_.modrm >= 0 && has(kMemory) && (!has(kRegister) || chance(60)));
  if (memory_) choose_memory();
  if (!s_.immediates.empty() && s_.immediates[0] == "moffs") {
    address_ = data_address();
    gs_ = long_mode() && chance(10);
  }
  prefixes();
  if (long_mode()) {
    if (s_.modrm == 8 && reg_ >= 8) rex_ |= 0x44;
    if (memory_) {
      if (base_ >= 8) rex_ |= 0x41;
      if (index_ >= 8) rex_ |= 0x42;
    } else if ((s_.modrm >= 0 || s_.plus_r) && rm_ >= 8) {
      rex_ |= 0x41;
    }
    if (chance(10)) rex_ |= 0x40;
    if (rex_) byte(rex_);
  }
  for (size_t k = 0; k < s_.opcode.size(); k++) byte(s_.opcode[k] | (s_.plus_r && k + 1 == s_.opcode.size() ? rm_ & 7 : 0));
  if (s_.modrm >= 0) {
    byte(memory_ ? mod_ << 6 | (reg_ & 7) << 3 | (rm_ & 7) : 0xc0 | (reg_ & 7) << 3 | (rm_ & 7));
    if (memory_ && addr_ != 2 && (rm_ & 7) == 4)
      byte(scale_ << 6 | unsigned(index_ < 0 ? 4 : index_ & 7) << 3 | unsigned(base_ < 0 ? 5 : base_ & 7));
    disp_at_ = c_.length;
    c_.length += disp_bytes_;
  }
  immediates();
  if (memory_) solve();
  couple();
  if (!long_mode()) {
    for (int r = 0; r < 16; r++) c_.in.gpr[r] = r < 8 ? uint32_t(c_.in.gpr[r]) : 0;
  }
  return c_;
}

}  // namespace

uint64_t random_value(Rng& rng) {
  static constexpr uint64_t kCorners[] = {0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
                                          0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0xfffffffffffffffe};
  switch (rng() % 6) {
    case 0: return kCorners[rng() % 16];
    case 1: return rng() % 256;
    case 2: return 0 - rng() % 256;
    case 3: return rng() >> (rng() % 64);
    default: return rng();
  }
}

Case make_case(const Form& form, Mode mode, Rng& rng) { return Maker(form, mode, rng).make(); }

}  // namespace oracle
