// Generated from libs/protocol/src/machine.ts by tools/gen.mjs. Do not edit.
#pragma once
#include <cstddef>
#include <cstdint>

namespace nyx::machine {

inline constexpr uint32_t kMagic = 0x4d58594eu;
inline constexpr uint32_t kVersion = 0x1u;
inline constexpr uint32_t kMaxCpus = 0x40u;
inline constexpr uint32_t kMaxProcesses = 0x20u;
inline constexpr uint32_t kMaxDevices = 0x80u;
inline constexpr uint32_t kNone = 0xffffu;

struct Accel {
  enum : uint32_t {
    kAuto = 0,
    kKvm = 1,
    kSoft = 2,
  };
};

struct BootMode {
  enum : uint32_t {
    kReset = 0,
    kLong64 = 1,
    kPvh32 = 2,
  };
};

struct SoftMode {
  enum : uint32_t {
    kTranslate = 0,
    kInterpret = 1,
    kLockstep = 2,
  };
};

struct RouteKind {
  enum : uint32_t {
    kNone = 0,
    kGsi = 1,
    kMsi = 2,
    kExtint = 3,
    kNmi = 4,
  };
};

struct ControlOp {
  enum : uint32_t {
    kMachine = 1,
    kStart = 2,
    kPause = 3,
    kResume = 4,
    kReset = 5,
    kQuit = 6,
    kIsolate = 7,
    kReplaced = 8,
    kNmi = 9,
    kLook = 10,
    kRegisters = 11,
    kQuieten = 20,
    kSave = 21,
    kLoad = 22,
    kRelease = 23,
  };
};

struct ControlEvent {
  enum : uint32_t {
    kReady = 1,
    kStarted = 2,
    kPaused = 3,
    kResumed = 4,
    kMachineEvent = 5,
    kTripleFault = 6,
    kViolation = 7,
    kWaiting = 8,
    kAnswered = 9,
    kInternalError = 10,
    kRejected = 11,
    kResetDone = 12,
    kRegisters = 13,
    kQuiet = 20,
    kSaved = 21,
    kLoaded = 22,
  };
};

struct EngineFault {
  enum : uint32_t {
    kFailure = 0,
    kEmulation = 1,
    kEntry = 2,
    kExit = 3,
  };
};

struct VcpuError {
  enum : uint32_t {
    kBadStatus = 1,
    kBadTail = 2,
    kBadBlock = 3,
    kBadRange = 4,
  };
};

struct MachineHeader {
  uint32_t magic;
  uint32_t version;
  uint32_t bytes;  // of the whole description
  uint32_t fds;  // descriptors that come with it
  uint8_t accel;  // Accel
  uint8_t boot_mode;  // BootMode
  uint16_t cpus;  // 1..64
  uint16_t vm_page_fd;
  uint16_t pic_device;  // device that answers intAck; 0xffff: none
  uint16_t ioapic_device;  // device that gets eoi and line; 0xffff: none
  uint16_t flags;  // bit 0: start paused; 1: the guest ends with the control socket; 2: deterministic
  uint16_t memories;
  uint16_t processes;
  uint16_t devices;
  uint16_t ranges;
  uint16_t routes;
  uint16_t functions;
  uint64_t wall_clock;  // UTC seconds at guest ns 0; 0: now
  uint64_t rip;
  uint64_t rsp;
  uint64_t rsi;
  uint64_t rbx;
  uint64_t cr3;
  uint64_t gdt_base;
  uint32_t gdt_limit;
  uint16_t code_selector;
  uint16_t data_selector;
  uint16_t page_map_fd;
  uint8_t soft_mode;  // of the software CPU: SoftMode
  uint8_t pad0_[21];
};
static_assert(sizeof(MachineHeader) == 128);
static_assert(offsetof(MachineHeader, magic) == 0);
static_assert(offsetof(MachineHeader, version) == 4);
static_assert(offsetof(MachineHeader, bytes) == 8);
static_assert(offsetof(MachineHeader, fds) == 12);
static_assert(offsetof(MachineHeader, accel) == 16);
static_assert(offsetof(MachineHeader, boot_mode) == 17);
static_assert(offsetof(MachineHeader, cpus) == 18);
static_assert(offsetof(MachineHeader, vm_page_fd) == 20);
static_assert(offsetof(MachineHeader, pic_device) == 22);
static_assert(offsetof(MachineHeader, ioapic_device) == 24);
static_assert(offsetof(MachineHeader, flags) == 26);
static_assert(offsetof(MachineHeader, memories) == 28);
static_assert(offsetof(MachineHeader, processes) == 30);
static_assert(offsetof(MachineHeader, devices) == 32);
static_assert(offsetof(MachineHeader, ranges) == 34);
static_assert(offsetof(MachineHeader, routes) == 36);
static_assert(offsetof(MachineHeader, functions) == 38);
static_assert(offsetof(MachineHeader, wall_clock) == 40);
static_assert(offsetof(MachineHeader, rip) == 48);
static_assert(offsetof(MachineHeader, rsp) == 56);
static_assert(offsetof(MachineHeader, rsi) == 64);
static_assert(offsetof(MachineHeader, rbx) == 72);
static_assert(offsetof(MachineHeader, cr3) == 80);
static_assert(offsetof(MachineHeader, gdt_base) == 88);
static_assert(offsetof(MachineHeader, gdt_limit) == 96);
static_assert(offsetof(MachineHeader, code_selector) == 100);
static_assert(offsetof(MachineHeader, data_selector) == 102);
static_assert(offsetof(MachineHeader, page_map_fd) == 104);
static_assert(offsetof(MachineHeader, soft_mode) == 106);
inline constexpr uint32_t MachineHeaderHash = 0xe7d7af77u;

struct MachineMemory {
  uint64_t gpa;
  uint64_t size;  // bytes, multiple of 4096
  uint64_t fd_offset;
  uint16_t fd;
  uint16_t flags;  // bit 0: read-only (ROM: writes are dropped)
  uint8_t pad0_[4];
};
static_assert(sizeof(MachineMemory) == 32);
static_assert(offsetof(MachineMemory, gpa) == 0);
static_assert(offsetof(MachineMemory, size) == 8);
static_assert(offsetof(MachineMemory, fd_offset) == 16);
static_assert(offsetof(MachineMemory, fd) == 24);
static_assert(offsetof(MachineMemory, flags) == 26);
inline constexpr uint32_t MachineMemoryHash = 0x673221b4u;

struct MachineProcess {
  uint16_t ring_fd;
  uint16_t kick_fd;  // eventfd to wake the process
  uint16_t irq_page_fd;
  uint16_t irq_event_fd;  // eventfd by which it reports interrupt changes
  uint8_t name[24];  // NUL-padded
};
static_assert(sizeof(MachineProcess) == 32);
static_assert(offsetof(MachineProcess, ring_fd) == 0);
static_assert(offsetof(MachineProcess, kick_fd) == 2);
static_assert(offsetof(MachineProcess, irq_page_fd) == 4);
static_assert(offsetof(MachineProcess, irq_event_fd) == 6);
static_assert(offsetof(MachineProcess, name) == 8);
inline constexpr uint32_t MachineProcessHash = 0x56ed153du;

struct MachineDevice {
  uint16_t process;
  uint16_t index;  // index within its process: ExitSlot.device
  uint16_t state_fd;
  uint16_t irq_base;  // first entry in the irq page of its process
  uint16_t irq_count;
  uint16_t flags;
  uint8_t pad0_[4];
  uint8_t name[16];  // NUL-padded
};
static_assert(sizeof(MachineDevice) == 32);
static_assert(offsetof(MachineDevice, process) == 0);
static_assert(offsetof(MachineDevice, index) == 2);
static_assert(offsetof(MachineDevice, state_fd) == 4);
static_assert(offsetof(MachineDevice, irq_base) == 6);
static_assert(offsetof(MachineDevice, irq_count) == 8);
static_assert(offsetof(MachineDevice, flags) == 10);
static_assert(offsetof(MachineDevice, name) == 16);
inline constexpr uint32_t MachineDeviceHash = 0xad6c26a2u;

struct MachineRange {
  uint8_t space;  // Space
  uint8_t region;
  uint16_t device;
  uint8_t pad0_[4];
  uint64_t base;
  uint64_t length;
};
static_assert(sizeof(MachineRange) == 24);
static_assert(offsetof(MachineRange, space) == 0);
static_assert(offsetof(MachineRange, region) == 1);
static_assert(offsetof(MachineRange, device) == 2);
static_assert(offsetof(MachineRange, base) == 8);
static_assert(offsetof(MachineRange, length) == 16);
inline constexpr uint32_t MachineRangeHash = 0xe4ef92d7u;

struct MachineRoute {
  uint16_t device;
  uint16_t entry;
  uint8_t kind;  // RouteKind
  uint8_t pad0_[3];
  uint32_t gsi;
};
static_assert(sizeof(MachineRoute) == 12);
static_assert(offsetof(MachineRoute, device) == 0);
static_assert(offsetof(MachineRoute, entry) == 2);
static_assert(offsetof(MachineRoute, kind) == 4);
static_assert(offsetof(MachineRoute, gsi) == 8);
inline constexpr uint32_t MachineRouteHash = 0x52ca4dbeu;

struct MachineFunction {
  uint16_t bdf;
  uint16_t device;
  uint16_t region;  // function index of the device
  uint8_t pad0_[2];
};
static_assert(sizeof(MachineFunction) == 8);
static_assert(offsetof(MachineFunction, bdf) == 0);
static_assert(offsetof(MachineFunction, device) == 2);
static_assert(offsetof(MachineFunction, region) == 4);
inline constexpr uint32_t MachineFunctionHash = 0xa05c187du;

struct ControlMessage {
  uint32_t op;  // ControlOp or ControlEvent
  uint32_t length;
  uint64_t a;
  uint64_t b;
  uint64_t c;
};
static_assert(sizeof(ControlMessage) == 32);
static_assert(offsetof(ControlMessage, op) == 0);
static_assert(offsetof(ControlMessage, length) == 4);
static_assert(offsetof(ControlMessage, a) == 8);
static_assert(offsetof(ControlMessage, b) == 16);
static_assert(offsetof(ControlMessage, c) == 24);
inline constexpr uint32_t ControlMessageHash = 0x670e3cbdu;

}  // namespace nyx::machine
