// Runs the software CPU alone, without the machine: RAM, a UART, a debug port and a few registers that programs look
// for. For bringing up the engine, for kvm-unit-tests and for profiles; `nyx run` is the way to run a guest.
//
//   soft_run [options] IMAGE
//     --bios           IMAGE is firmware, mapped below 4 GiB and copied below 1 MiB; starts at the reset vector
//     --flat16 ADDR    IMAGE is loaded at ADDR and entered in real mode (CS = ADDR >> 4)
//     --elf            IMAGE is a 32-bit ELF entered by the multiboot protocol (kvm-unit-tests)
//     --kernel         IMAGE is a bzImage, entered by the 64-bit boot protocol
//     --initrd FILE, --append TEXT, --mem MIB, --cpus N, --seconds N, --quiet (no statistics),
//     --soft translate|interpret|lockstep
//     --stats-at TEXT  after each console line with TEXT: what cpu0 has done so far, and the line, on stderr
//
// Exits with the status of the isa-debug-exit port 0xf4, 3 after a triple fault, 4 when the time is over.
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lapic.h"
#include "soft/soft.h"

using namespace nyx;

namespace {

struct Options {
  std::string mode, image, initrd, append, stats_at;
  uint64_t address = 0, mem = 256;
  unsigned cpus = 1, seconds = 60;
  bool quiet = false;
  uint32_t soft = machine::SoftMode::kTranslate;
};

struct Board {
  Options o;
  uint8_t* ram = nullptr;
  uint64_t ram_bytes = 0;
  MemoryMap memory;
  wire::VmPage* page = nullptr;
  Clock* clock = nullptr;
  ApicBus apics;
  std::vector<Lapic*> lapics;
  std::vector<VcpuContext> contexts;
  std::unique_ptr<Accel> accel;
  uint64_t start_ns = 0;
  std::string line;
  std::mutex mutex;

  void Report() {
    if (o.quiet) return;
    fflush(stdout);
    const double s = double(MonotonicNs() - start_ns) / 1e9;
    for (unsigned k = 0; k < o.cpus; k++) {
      const soft::Cpu& v = static_cast<soft::SoftVcpu&>(accel->vcpu(k)).cpu();
      fprintf(stderr, "cpu%u: %llu instructions, %.2f s, %.1f M/s; %llu blocks, %llu TLB misses, %llu interrupts, %llu halts, rip %llx\n", k,
              (unsigned long long)v.icount, s, double(v.icount) / s / 1e6, (unsigned long long)v.stat_blocks,
              (unsigned long long)v.stat_tlb_misses, (unsigned long long)v.stat_interrupts, (unsigned long long)v.stat_halts,
              (unsigned long long)accel->vcpu(k).rip());
      const wire::VcpuStats& w = *contexts[k].stats;
      const double all = std::max(1.0, s * 1e9 / wire::kSampleNs);
      fprintf(stderr, "cpu%u: %.1f %% translated, %.1f %% interpreter, %.1f %% translator, %.1f %% MMU, %.1f %% exits, %.1f %% halted\n", k,
              100 * w.in_translated / all, 100 * w.in_interpreter / all, 100 * w.in_translator / all, 100 * w.in_mmu / all,
              100 * w.in_exits / all, double(w.halted_ns) / s / 1e7);
    }
  }
  // By the thread of cpu0. Samples of its processor time: sampler.h.
  void Console(char c) {
    fputc(c, stdout);
    if (c != '\n') {
      if (line.size() < 200) line += c;
      return;
    }
    fflush(stdout);
    if (!o.stats_at.empty() && line.find(o.stats_at) != line.npos) {
      const wire::VcpuStats& w = *contexts[0].stats;
      fprintf(stderr, "stats %llu %llu %llu %llu %llu %llu %s\n", (unsigned long long)static_cast<soft::SoftVcpu&>(accel->vcpu(0)).cpu().icount,
              (unsigned long long)w.in_translated, (unsigned long long)w.in_interpreter, (unsigned long long)w.in_translator,
              (unsigned long long)w.in_mmu, (unsigned long long)w.in_exits, line.c_str());
    }
    line.clear();
  }
  [[noreturn]] void Exit(int status) {
    Report();
    fflush(stdout);
    _exit(status);
  }
};

Board board;

// Ports and device memory. Shared state is behind one lock: this is a test double.
class TestBus : public Bus {
 public:
  explicit TestBus(unsigned cpu) : cpu_(cpu) {}
  uint32_t PioRead(uint16_t port, unsigned width) override {
    std::lock_guard lock(board.mutex);
    switch (port) {
      case 0x3fd: return 0x60;  // transmitter empty
      case 0x3f8: case 0x3f9: case 0x3fa: case 0x3fc: case 0x3fe: return port == 0x3fa ? 1 : 0;
      case 0x3fb: return lcr_;
      case 0x3ff: return scratch_;
      case 0x402: return 0xe9;
      case 0x71: return Cmos();
      case 0x608: return uint32_t(static_cast<unsigned __int128>(board.clock->Now()) * 3579545 / 1'000'000'000) & 0xffffff;
      case 0xe0: return test_;
      case 0x511: return FwCfg();
      default: return width == 4 ? ~0u : (1u << width * 8) - 1;
    }
  }
  void PioWrite(uint16_t port, unsigned width, uint32_t value) override {
    std::lock_guard lock(board.mutex);
    switch (port) {
      case 0x3f8:
        if (lcr_ & 0x80) return;
        [[fallthrough]];
      case 0x402: case 0xe9: case 0xf1:
        for (unsigned k = 0; k < width; k++) board.Console(char(value >> 8 * k));
        return;
      case 0x3fb: lcr_ = uint8_t(value); return;
      case 0x3ff: scratch_ = uint8_t(value); return;
      case 0x70: cmos_ = value & 0x7f; return;
      case 0xe0: case 0xe1: case 0xe2: case 0xe3: test_ = value; return;
      case 0xf4: board.Exit(int(value << 1 | 1));
      case 0x20: case 0xa0: pic_init_ = value & 0x10; return;
      case 0x21: case 0xa1:  // ICW2 follows ICW1
        if (pic_init_) pic_base_[port >> 7] = uint8_t(value & 0xf8);
        pic_init_ = false;
        return;
      case 0x510: fw_selector_ = uint16_t(value); fw_at_ = 0; return;
      case 0x64:
        if (value == 0xfe) board.Exit(0);
        return;
      default: break;
    }
    if (port >= 0x2000 && port < 0x2010 && value) {  // raises an interrupt line: an edge at the PICs
      pic_request_ |= uint16_t(1u << (port - 0x2000));
      board.apics.ExtInt(true);
    }
  }
  void PioReadBurst(uint16_t port, unsigned width, uint32_t count, void* data) override {
    for (uint32_t k = 0; k < count; k++) {
      const uint32_t v = PioRead(port, width);
      std::memcpy(static_cast<uint8_t*>(data) + k * width, &v, width);
    }
  }
  void PioWriteBurst(uint16_t port, unsigned width, uint32_t count, const void* data) override {
    for (uint32_t k = 0; k < count; k++) {
      uint32_t v = 0;
      std::memcpy(&v, static_cast<const uint8_t*>(data) + k * width, width);
      PioWrite(port, width, v);
    }
  }
  // 64 KiB at 0xff000000 keep what is written: kvm-unit-tests access them as device memory.
  uint64_t MmioRead(uint64_t gpa, unsigned width) override {
    uint64_t v = ~uint64_t{0};
    if (gpa - kIoRam + width <= sizeof io_ram_) std::memcpy(&v, io_ram_ + (gpa - kIoRam), width);
    return width == 8 ? v : v & ((uint64_t{1} << width * 8) - 1);
  }
  void MmioWrite(uint64_t gpa, unsigned width, uint64_t value) override {
    if (gpa - kIoRam + width <= sizeof io_ram_) std::memcpy(io_ram_ + (gpa - kIoRam), &value, width);
  }
  int IntAck() override {
    std::lock_guard lock(board.mutex);
    if (!pic_request_) return -1;
    const int n = __builtin_ctz(pic_request_);
    pic_request_ &= uint16_t(pic_request_ - 1);
    board.apics.ExtInt(pic_request_ != 0);
    return pic_base_[n >> 3] + (n & 7);
  }
  void Eoi(uint8_t) override {}

 private:
  // RTC status and the memory size above 16 MiB in 64 KiB, as firmware reads it.
  uint8_t Cmos() const {
    const uint64_t high = (board.ram_bytes - (uint64_t{16} << 20)) >> 16;
    switch (cmos_) {
      case 0x0a: return 0x26;
      case 0x0b: return 2;
      case 0x0d: return 0x80;
      case 0x34: return uint8_t(high);
      case 0x35: return uint8_t(high >> 8);
      default: return 0;
    }
  }
  uint8_t FwCfg() {
    uint64_t v = 0;
    switch (fw_selector_) {
      case 0: v = 0x554d4551; break;  // "QEMU"
      case 1: v = 1; break;
      case 3: v = board.ram_bytes; break;
      case 5: case 15: v = board.o.cpus; break;
      default: break;
    }
    return fw_at_ < 8 ? uint8_t(v >> 8 * fw_at_++) : 0;
  }
  unsigned cpu_;
  static constexpr uint64_t kIoRam = 0xff000000;
  static inline uint8_t io_ram_[0x10000];
  static inline uint8_t lcr_, scratch_, cmos_;
  static inline uint32_t test_;
  // Two interrupt controllers without masks or priorities.
  static inline bool pic_init_;
  static inline uint8_t pic_base_[2] = {8, 0x70};
  static inline uint16_t pic_request_;
  static inline uint16_t fw_selector_;
  static inline unsigned fw_at_;
};

std::vector<uint8_t> ReadFile(const std::string& path) {
  std::ifstream f(path, std::ios::binary);
  if (!f) {
    fprintf(stderr, "soft_run: %s cannot be read\n", path.c_str());
    exit(2);
  }
  return {std::istreambuf_iterator<char>(f), {}};
}

template <class T>
void Put(uint64_t at, T v) {
  std::memcpy(board.ram + at, &v, sizeof v);
}

constexpr uint64_t kGdt = 0x500, kZeroPage = 0x7000, kTables = 0x9000, kCommand = 0x20000, kMultiboot = 0x6000;

void FlatGdt() {
  Put<uint64_t>(kGdt + 0x10, 0x00af9b000000ffff);
  Put<uint64_t>(kGdt + 0x18, 0x00cf93000000ffff);
}

// ACPI in its smallest form: the processors (MADT), no hardware (hardware-reduced FADT, empty DSDT).
void WriteAcpi() {
  constexpr uint64_t kRsdp = 0xf0000, kXsdt = 0xf0100, kFadt = 0xf0200, kDsdt = 0xf0400, kMadt = 0xf0500;
  const auto sum = [](uint64_t at, unsigned bytes) {
    uint8_t v = 0;
    for (unsigned k = 0; k < bytes; k++) v = uint8_t(v + board.ram[at + k]);
    return uint8_t(-v);
  };
  const auto finish = [&](uint64_t at, const char* name, uint8_t revision, uint32_t bytes) {
    std::memcpy(board.ram + at, name, 4);
    Put(at + 4, bytes);
    Put(at + 8, revision);
    std::memcpy(board.ram + at + 10, "NYX   SOFTRUN ", 14);
    Put<uint8_t>(at + 9, sum(at, bytes));
  };
  Put<uint32_t>(kMadt + 36, uint32_t(Lapic::kBase));
  for (unsigned k = 0; k < board.o.cpus; k++) {
    const uint64_t at = kMadt + 44 + 8 * k;
    Put<uint32_t>(at, 0x0800 | k << 16 | k << 24);
    Put<uint32_t>(at + 4, 1);
  }
  finish(kMadt, "APIC", 4, 44 + 8 * board.o.cpus);
  finish(kDsdt, "DSDT", 2, 36);
  Put<uint32_t>(kFadt + 112, 1u << 20);
  Put<uint8_t>(kFadt + 131, 0);
  Put(kFadt + 140, kDsdt);
  finish(kFadt, "FACP", 6, 276);
  Put(kXsdt + 36, kFadt);
  Put(kXsdt + 44, kMadt);
  finish(kXsdt, "XSDT", 1, 52);
  std::memcpy(board.ram + kRsdp, "RSD PTR ", 8);
  Put<uint8_t>(kRsdp + 15, 2);
  Put<uint32_t>(kRsdp + 20, 36);
  Put(kRsdp + 24, kXsdt);
  Put<uint8_t>(kRsdp + 8, sum(kRsdp, 20));
  Put<uint8_t>(kRsdp + 32, sum(kRsdp, 36));
}

void LoadKernel(machine::MachineHeader& h) {
  const auto image = ReadFile(board.o.image);
  const unsigned setup = (image[0x1f1] ? image[0x1f1] : 4) * 512 + 512;
  std::memcpy(board.ram + kZeroPage + 0x1f1, image.data() + 0x1f1, 0x290 - 0x1f1);
  uint64_t at;
  std::memcpy(&at, image.data() + 0x258, 8);
  std::memcpy(board.ram + at, image.data() + setup, image.size() - setup);
  Put<uint8_t>(kZeroPage + 0x210, 0xff);
  Put<uint8_t>(kZeroPage + 0x211, board.ram[kZeroPage + 0x211] | 1);
  Put<uint32_t>(kZeroPage + 0x228, kCommand);
  std::memcpy(board.ram + kCommand, board.o.append.c_str(), board.o.append.size() + 1);
  if (!board.o.initrd.empty()) {
    const auto initrd = ReadFile(board.o.initrd);
    const uint64_t where = (board.ram_bytes - initrd.size()) & ~uint64_t{0xfff};
    std::memcpy(board.ram + where, initrd.data(), initrd.size());
    Put<uint32_t>(kZeroPage + 0x218, uint32_t(where));
    Put<uint32_t>(kZeroPage + 0x21c, uint32_t(initrd.size()));
  }
  const struct { uint64_t base, size; uint32_t type; } map[] = {{0, 0x9fc00, 1}, {0x100000, board.ram_bytes - 0x100000, 1}};
  Put<uint8_t>(kZeroPage + 0x1e8, 2);
  for (unsigned k = 0; k < 2; k++) {
    Put(kZeroPage + 0x2d0 + 20 * k, map[k].base);
    Put(kZeroPage + 0x2d8 + 20 * k, map[k].size);
    Put(kZeroPage + 0x2e0 + 20 * k, map[k].type);
  }
  // 4 GiB, one to one.
  Put<uint64_t>(kTables, kTables + 0x1003);
  for (uint64_t k = 0; k < 4; k++) Put<uint64_t>(kTables + 0x1000 + 8 * k, k << 30 | 0x83);
  FlatGdt();
  WriteAcpi();
  h.boot_mode = machine::BootMode::kLong64;
  h.rip = at + 0x200;
  h.rsi = kZeroPage;
  h.cr3 = kTables;
  h.gdt_base = kGdt;
  h.gdt_limit = 0x1f;
  h.code_selector = 0x10;
  h.data_selector = 0x18;
}

void LoadElf(machine::MachineHeader& h) {
  const auto image = ReadFile(board.o.image);
  Elf32_Ehdr e;
  std::memcpy(&e, image.data(), sizeof e);
  for (unsigned k = 0; k < e.e_phnum; k++) {
    Elf32_Phdr p;
    std::memcpy(&p, image.data() + e.e_phoff + k * e.e_phentsize, sizeof p);
    if (p.p_type == PT_LOAD) std::memcpy(board.ram + p.p_paddr, image.data() + p.p_offset, p.p_filesz);
  }
  const std::string command = board.o.image + " " + board.o.append;
  std::memcpy(board.ram + kCommand, command.c_str(), command.size() + 1);
  Put<uint32_t>(kMultiboot, 0x45);  // memory, command line, map
  Put<uint32_t>(kMultiboot + 4, 639);
  Put<uint32_t>(kMultiboot + 8, uint32_t(board.ram_bytes / 1024 - 1024));
  Put<uint32_t>(kMultiboot + 16, kCommand);
  Put<uint32_t>(kMultiboot + 44, 48);
  Put<uint32_t>(kMultiboot + 48, kMultiboot + 0x100);
  const uint64_t map[2][2] = {{0, 0x9fc00}, {0x100000, board.ram_bytes - 0x100000}};
  for (unsigned k = 0; k < 2; k++) {
    Put<uint32_t>(kMultiboot + 0x100 + 24 * k, 20);
    Put<uint64_t>(kMultiboot + 0x104 + 24 * k, map[k][0]);
    Put<uint64_t>(kMultiboot + 0x10c + 24 * k, map[k][1]);
    Put<uint32_t>(kMultiboot + 0x114 + 24 * k, 1);
  }
  Put<uint64_t>(kGdt + 0x10, 0x00cf9b000000ffff);
  Put<uint64_t>(kGdt + 0x18, 0x00cf93000000ffff);
  h.boot_mode = machine::BootMode::kPvh32;
  h.rip = e.e_entry;
  h.rbx = kMultiboot;
  h.gdt_base = kGdt;
  h.gdt_limit = 0x1f;
  h.code_selector = 0x10;
  h.data_selector = 0x18;
}

void LoadBios() {
  const auto image = ReadFile(board.o.image);
  auto* rom = static_cast<uint8_t*>(aligned_alloc(4096, image.size()));
  std::memcpy(rom, image.data(), image.size());
  board.memory.Add({(uint64_t{1} << 32) - image.size(), image.size(), rom, true, MemoryMap::kNoPage});
  const size_t low = std::min<size_t>(image.size(), 0x40000);
  std::memcpy(board.ram + 0x100000 - low, image.data() + image.size() - low, low);
}

uint32_t SoftModeOf(const std::string& name) {
  if (name == "translate") return machine::SoftMode::kTranslate;
  if (name == "interpret") return machine::SoftMode::kInterpret;
  if (name == "lockstep") return machine::SoftMode::kLockstep;
  fprintf(stderr, "--soft %s: translate, interpret or lockstep\n", name.c_str());
  exit(2);
}

void Parse(int argc, char** argv) {
  Options& o = board.o;
  for (int k = 1; k < argc; k++) {
    const std::string a = argv[k];
    const auto value = [&] { return std::string(k + 1 < argc ? argv[++k] : ""); };
    if (a == "--bios" || a == "--elf" || a == "--kernel") o.mode = a;
    else if (a == "--flat16") o.mode = a, o.address = std::stoull(value(), nullptr, 0);
    else if (a == "--initrd") o.initrd = value();
    else if (a == "--append") o.append = value();
    else if (a == "--mem") o.mem = std::stoull(value());
    else if (a == "--cpus") o.cpus = unsigned(std::stoul(value()));
    else if (a == "--seconds") o.seconds = unsigned(std::stoul(value()));
    else if (a == "--quiet") o.quiet = true;
    else if (a == "--stats-at") o.stats_at = value();
    else if (a == "--soft") o.soft = SoftModeOf(value());
    else o.image = a;
  }
  if (o.mode.empty() || o.image.empty() || o.cpus == 0 || o.cpus > machine::kMaxCpus) {
    fprintf(stderr, "usage: soft_run --bios|--elf|--kernel|--flat16 ADDR [options] IMAGE\n");
    exit(2);
  }
}

}  // namespace

// The machine's, which this program does without.
bool nyx::MemoryMap::Add(const Region& region) {
  if (count_ == kMaxRegions) return false;
  regions_[count_++] = region;
  return true;
}

int main(int argc, char** argv) {
  Parse(argc, argv);
  const Options& o = board.o;
  board.ram_bytes = o.mem << 20;
  board.ram = static_cast<uint8_t*>(mmap(nullptr, board.ram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  board.memory.Add({0xc0000, board.ram_bytes - 0xc0000, board.ram + 0xc0000, false, 0xc0});
  board.memory.Add({0, 0xa0000, board.ram, false, 0});
  board.page = new wire::VmPage{};
  board.clock = new Clock(board.page, 0);
  auto* attention = new wire::AttentionLine[machine::kMaxCpus]{};
  machine::MachineHeader header{};
  header.boot_mode = machine::BootMode::kReset;
  if (o.mode == "--bios") LoadBios();
  if (o.mode == "--kernel") LoadKernel(header);
  if (o.mode == "--elf") LoadElf(header);

  board.contexts.resize(o.cpus);
  for (unsigned k = 0; k < o.cpus; k++) {
    auto* word = reinterpret_cast<std::atomic<uint32_t>*>(&attention[k].word);
    auto* bus = new TestBus(k);
    auto* lapic = new Lapic(k, board.clock, word, &board.apics);
    lapic->set_bus(bus);
    board.apics.Add(lapic);
    board.lapics.push_back(lapic);
    board.contexts[k] = {k, o.cpus, bus, lapic, &board.memory, board.clock, &board.page->vcpu[k], word, nullptr, nullptr, 0};
  }
  std::string error;
  board.accel = make_soft({o.cpus, board.contexts.data(), &board.memory, board.clock, &board.apics, o.soft}, &error);
  for (unsigned k = 0; k < o.cpus; k++) {
    board.lapics[k]->Reset();
    if (o.mode == "--kernel" || o.mode == "--elf") board.lapics[k]->SetVirtualWire();
    board.accel->vcpu(k).SetBootState(header);
  }
  soft::Cpu& boot = static_cast<soft::SoftVcpu&>(board.accel->vcpu(0)).cpu();
  if (o.mode == "--elf") boot.gpr[soft::RAX] = 0x2badb002;
  if (o.mode == "--flat16") {
    const auto image = ReadFile(o.image);
    std::memcpy(board.ram + o.address, image.data(), image.size());
    boot.seg[soft::CS].base = o.address;
    boot.seg[soft::CS].selector = uint16_t(o.address >> 4);
    boot.rip = 0;
  }
  board.clock->Resume();
  board.start_ns = MonotonicNs();
  std::vector<std::thread> threads;
  for (unsigned k = 0; k < o.cpus; k++) {
    threads.emplace_back([k] {
      Vcpu& v = board.accel->vcpu(k);
      for (;;) {
        const RunResult r = v.Run();
        if (r == RunResult::kStopped) return;
        fprintf(stderr, "soft_run: cpu%u %s at %llx\n", k, r == RunResult::kTripleFault ? "triple fault" : "internal error",
                (unsigned long long)v.rip());
        board.Exit(3);
      }
    });
  }
  for (unsigned k = 0; k < o.seconds * 10; k++) usleep(100'000);
  for (unsigned k = 0; k < o.cpus; k++) {
    board.contexts[k].attention->fetch_or(uint32_t(wire::Attention::kStop));
    board.accel->vcpu(k).Kick();
  }
  for (auto& t : threads) t.join();
  fprintf(stderr, "soft_run: time is over\n");
  board.Exit(4);
}
