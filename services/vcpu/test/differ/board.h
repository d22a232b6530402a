// The machine of differ.h: 128 KiB of RAM with the tables of every mode, handlers that step over what faults, and ports that
// answer with a hash.
#pragma once
#include <cstring>
#include <memory>
#include <thread>

#include "lapic.h"
#include "soft/soft.h"

namespace differ {

using namespace nyx;

inline constexpr uint64_t kRam = 0x20000, kCode = 0x10000, kData = 0x13000, kStack = 0xbf00, kMmio = 0xd0000000;
// Guest code is in pages 0x10..0x12, data from 0x13 on. The last pages have rights of their own (see board.cc), and linear
// pages behind RAM are: 0x20 the first code page again, 0x21 a device, 0x22 nothing.

class TestBus final : public Bus {
 public:
  uint64_t hash = 0;  // of all accesses
  uint32_t PioRead(uint16_t port, unsigned width) override { return uint32_t(Take(port, width)); }
  void PioWrite(uint16_t port, unsigned width, uint32_t value) override { Take(port + (uint64_t{value} << 16), width); }
  void PioReadBurst(uint16_t port, unsigned width, uint32_t count, void* data) override;
  void PioWriteBurst(uint16_t port, unsigned width, uint32_t count, const void* data) override;
  uint64_t MmioRead(uint64_t gpa, unsigned width) override { return Take(gpa, width); }
  void MmioWrite(uint64_t gpa, unsigned width, uint64_t value) override { Take(gpa ^ value << 13, width); }
  int IntAck() override { return -1; }
  void Eoi(uint8_t) override {}

 private:
  uint64_t Take(uint64_t what, unsigned width);
};

// Stops the vCPU when its time is over: guest nanoseconds are instructions.
class Limit final : public Pacer {
 public:
  Limit(std::atomic<uint32_t>* attention) : attention_(attention) {}
  uint64_t at = 0;
  void Settle() override { attention_->fetch_or(uint32_t(wire::Attention::kStop)); }
  uint64_t Next() const override { return at; }

 private:
  std::atomic<uint32_t>* const attention_;
};

enum Mode : uint8_t { kReal, kProt16, kFlat32, kPaged32, kUser32, kSegments32, kLong, kLongUser, kLongSmap, kCompat, kModes };

struct Setup {
  Mode mode;
  uint8_t flags, control, place;  // options
  uint32_t seed;
  const uint8_t* code;
  size_t bytes;
};

class Board {
 public:
  // A guest that runs for longer than `patience` tenths of a millisecond is given up.
  Board(uint32_t soft_mode, bool paced, unsigned patience);
  ~Board();
  // Makes memory and CPU what `s` says, and runs at most `limit` instructions when paced.
  void Run(const Setup& s, uint64_t limit);
  soft::Cpu& cpu() { return static_cast<soft::SoftVcpu&>(accel_->vcpu(0)).cpu(); }
  uint8_t* ram() { return ram_; }
  uint64_t io() const { return bus_.hash; }
  bool stopped_early() const { return gave_up_; }

 private:
  void Watch();
  void Memory(const Setup& s);
  void Registers(const Setup& s);
  template <class T>
  void Put(uint64_t at, T v) { std::memcpy(ram_ + at, &v, sizeof v); }

  const bool paced_;
  const unsigned patience_;
  uint8_t* ram_;
  MemoryMap memory_;
  wire::VmPage page_{};
  Clock clock_;
  ApicBus apics_;
  TestBus bus_;
  alignas(64) wire::AttentionLine attention_{};
  std::atomic<uint32_t>* const word_;
  Lapic lapic_;
  Limit limit_;
  VcpuContext context_;
  std::unique_ptr<Accel> accel_;
  // Odd while the vCPU runs.
  std::atomic<uint32_t> turn_{0};
  std::atomic<bool> quit_{false}, gave_up_{false};
  std::thread watcher_;
};

}  // namespace differ
