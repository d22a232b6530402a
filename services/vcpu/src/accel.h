// The interface between an engine (kvm, soft) and the machine. An engine runs guest instructions; everything
// else is the machine's: addresses, devices, interrupts, time, control. Layering: an engine includes accel.h,
// lapic.h, clock.h, exits.h and gen/, nothing more.
//
// Threads: the machine starts one thread per vCPU and calls Vcpu::Run in it. Bus, Lapic methods marked "vCPU
// thread" and the stats of a vCPU are used by that thread only. Vcpu::Kick comes from any thread.
//
// Attention (wire.ts): one word per vCPU, the only thing a running engine polls (at block borders).
//   kDma        a device process wrote to a page that code was decoded from: look at the dirty bitmap
//   kInterrupt  something in the local APIC changed: ask Lapic (see lapic.h)
//   kTimer      the local APIC timer expired: call Lapic::RunTimer
//   kFlush      the memory map changed: drop TLB and decoded code
//   kOutside    deterministic mode: somebody outside changed a device: call Pacer::Settle
//   kStop       return from Run with kStopped; the machine sets and clears this bit, the engine never clears it
// An engine clears a bit with fetch_and BEFORE it acts on it, so that no event is lost. Device processes may set
// any bit at any time: a bit that turns out to mean nothing is ignored.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "clock.h"
#include "gen/machine.h"
#include "gen/wire.h"

namespace nyx {

class Lapic;
class ApicBus;
class SavedRam;
class StateReader;
class StateWriter;

// Guest-physical memory, fixed for the life of the process. Lookup is lock-free.
class MemoryMap {
 public:
  static constexpr uint64_t kNoPage = ~uint64_t{0};
  static constexpr unsigned kMaxRegions = 64;
  struct Region {
    uint64_t gpa;   // multiple of 4096
    uint64_t size;  // bytes, multiple of 4096
    uint8_t* host;
    bool read_only;       // ROM: writes are dropped (they do not reach a device)
    uint64_t first_page;  // bit index of the first page in the bitmaps of PageMap; kNoPage: not in them
  };
  // The region that holds `gpa`, or null: then the address is the bus's.
  const Region* Find(uint64_t gpa) const {
    for (unsigned i = 0; i < count_; i++) {
      if (gpa - regions_[i].gpa < regions_[i].size) return &regions_[i];
    }
    return nullptr;
  }
  // Host address of `bytes` at `gpa`, all in one region; null otherwise, or for a write to ROM.
  uint8_t* Host(uint64_t gpa, uint64_t bytes, bool write) const {
    const Region* r = Find(gpa);
    if (!r || gpa - r->gpa + bytes > r->size || (write && r->read_only)) return nullptr;
    return r->host + (gpa - r->gpa);
  }
  const Region* regions() const { return regions_; }
  unsigned count() const { return count_; }
  // Largest regions first, so that Find hits early. False when full. Used while the machine is built.
  bool Add(const Region& region);

 private:
  Region regions_[kMaxRegions];
  unsigned count_ = 0;
};

// What a vCPU reaches outside its memory. One object per vCPU, vCPU thread only. A call may block for as long
// as a device process takes to answer (or to be replaced); it also returns, with all ones, when the machine
// wants the vCPU to stop for good (reset, quit). Pausing is invisible here: a waiting call just goes on waiting.
// After any call the attention word may have kStop set (the access reset the machine, say): the engine completes
// the instruction, then returns from Run.
class Bus {
 public:
  virtual ~Bus() = default;
  // Ports. width 1, 2 or 4. Accesses that cross devices are cut by the bus. Value zero-extended.
  virtual uint32_t PioRead(uint16_t port, unsigned width) = 0;
  virtual void PioWrite(uint16_t port, unsigned width, uint32_t value) = 0;
  // rep ins / rep outs: `count` elements of `width` bytes, any count; `data` is packed little-endian. The engine
  // may cut a string at page borders, and faults of the guest buffer are the engine's to find beforehand.
  virtual void PioReadBurst(uint16_t port, unsigned width, uint32_t count, void* data) = 0;
  virtual void PioWriteBurst(uint16_t port, unsigned width, uint32_t count, const void* data) = 0;
  // Memory-mapped I/O: addresses for which MemoryMap::Find is null, except the local APIC page, which an engine
  // with its own Lapic serves itself. width 1, 2, 4 or 8, `gpa` a multiple of nothing in particular; an access
  // larger than 8 or across a 4 KiB page is cut by the engine.
  virtual uint64_t MmioRead(uint64_t gpa, unsigned width) = 0;
  virtual void MmioWrite(uint64_t gpa, unsigned width, uint64_t value) = 0;
  // Interrupt acknowledge cycle to the PIC, when Lapic::Deliverable says kExtInt: the vector (0..255), or -1 when
  // the PIC has withdrawn its request meanwhile (nothing is injected then).
  virtual int IntAck() = 0;
  // EOI broadcast for a level-triggered vector. (Lapic calls it itself; only KVM's EOI exit needs it.)
  virtual void Eoi(uint8_t vector) = 0;
};

// Deterministic mode, one vCPU: devices do nothing by themselves. They act in answer to an access, and when guest time
// reaches what they asked for; the engine sees to it that this is always at the same instruction. vCPU thread only.
class Pacer {
 public:
  virtual ~Pacer() = default;
  // What is due at Clock::Now() happens, and every interrupt that devices raised is delivered.
  virtual void Settle() = 0;
  // Guest ns at which something is due next; ~0: never.
  virtual uint64_t Next() const = 0;
};

// All that an engine's vCPU has of the machine. Lives as long as the machine.
struct VcpuContext {
  unsigned index;
  unsigned cpus;
  Bus* bus;
  Lapic* lapic;  // null when the engine has the LAPIC in the kernel
  const MemoryMap* memory;
  Clock* clock;
  wire::VcpuStats* stats;  // written by this vCPU's thread only, never read back as truth
  std::atomic<uint32_t>* attention;
  // The bitmaps of PageMap: bit (page & 7) of byte page / 8. Devices set dirty bits with an atomic OR; set code
  // bits the same way (std::atomic_ref<uint8_t>), since vCPUs share them. Null without a page map.
  uint8_t* code_bitmap;
  uint8_t* dirty_bitmap;
  uint64_t pages;
  Pacer* pacer = nullptr;  // deterministic mode
};

enum class RunResult {
  kStopped,        // attention kStop was seen; Run may be called again
  kTripleFault,    // the machine stops
  kInternalError,  // the engine cannot go on; error() says why
};

struct EngineError {
  uint32_t exit_code = 0;  // exits.h
  uint32_t fault = 0;      // machine::EngineFault
  uint64_t rip = 0;
  std::string text;  // for people: what was expected, what came
};

class Vcpu {
 public:
  virtual ~Vcpu() = default;
  // vCPU thread. Runs the guest until kStop; HLT and wait-for-SIPI are inside (Lapic::Wait).
  virtual RunResult Run() = 0;
  // Any thread: make Run look at its attention word soon, even if it is in the kernel. The bits are set already.
  virtual void Kick() = 0;
  // Stopped vCPUs only. Registers at power-on (vCPU 0: header.boot_mode with its fields; others: wait for SIPI)
  // and empties TLB, decoded code and pending events. The machine resets the Lapic. Used at start and at reset.
  virtual void SetBootState(const machine::MachineHeader& header) = 0;
  // Address of the current or next instruction (linear is fine), for reports.
  virtual uint64_t rip() const = 0;
  // Stopped vCPUs only: registers for people, one name and value a word.
  virtual std::string Registers() = 0;
  // Stopped vCPUs only: all state of the vCPU, with its local APIC (state.h).
  virtual void Save(StateWriter* to) const = 0;
  // Empty, or why it cannot be taken. Changes nothing.
  virtual std::string Check(const StateReader& from) const = 0;
  // After Check. Empties TLB and decoded code. Empty, or what the host refused: the vCPU is of no use then.
  virtual std::string Load(const StateReader& from) = 0;
  const EngineError& error() const { return error_; }

 protected:
  EngineError error_;
};

// Where interrupts of devices go: ApicBus (lapic.h) for engines with our local APICs, the kernel for kvm. Any thread.
class InterruptSink {
 public:
  virtual ~InterruptSink() = default;
  // Message as a device writes it: address 0xFEExxxxx, data (Intel SDM 3A 11.11). Anything else is dropped.
  virtual void Msi(uint64_t address, uint32_t data) = 0;
  // Output of the PIC, wired to LINT0 of vCPU 0.
  virtual void ExtInt(bool level) = 0;
  virtual void Nmi(unsigned cpu) = 0;
};

class Accel {
 public:
  virtual ~Accel() = default;
  virtual const char* name() const = 0;
  virtual uint32_t kind() const = 0;  // machine::Accel
  virtual Vcpu& vcpu(unsigned index) = 0;
  virtual InterruptSink& interrupts() = 0;
  // All vCPUs stopped: guest time is about to stand still or to go on.
  virtual void Pause() {}
  virtual void Resume() {}
  // All vCPUs stopped: from here on whatever the guest writes is to be saved first (AccelConfig::saved).
  virtual void ProtectRam() {}
  // What the engine has beside its vCPUs; as there.
  virtual void Save(StateWriter*) const {}
  virtual std::string Check(const StateReader&) const { return {}; }
  virtual void Load(const StateReader&) {}
};

// What an engine is made from. `vcpus` are `cpus` contexts; all pointers outlive the engine.
struct AccelConfig {
  unsigned cpus;
  VcpuContext* vcpus;
  const MemoryMap* memory;
  Clock* clock;
  ApicBus* apics;  // null for kvm
  uint32_t soft_mode = machine::SoftMode::kTranslate;
  SavedRam* saved = nullptr;  // the last checkpoint; null: there will be none
};

// Null when the engine cannot work here; `error` then says why.
std::unique_ptr<Accel> make_soft(const AccelConfig& config, std::string* error);  // src/soft/soft.cc
std::unique_ptr<Accel> make_kvm(const AccelConfig& config, std::string* error);   // src/kvm/kvm.cc

}  // namespace nyx
