#include "description.h"

#include <algorithm>
#include <cstring>

namespace nyx {
namespace {

using std::to_string;

// Pages that a region may span at most; keeps all arithmetic on addresses within 52 bits.
constexpr uint64_t kMaxAddress = uint64_t{1} << 52;

template <typename T>
const uint8_t* Take(const uint8_t* at, unsigned count, std::vector<T>* out) {
  out->resize(count);
  if (count) memcpy(out->data(), at, count * sizeof(T));
  return at + count * sizeof(T);
}

struct Span {
  uint64_t base, length;
  const char* what;
  size_t index;
};

// Text about two spans that overlap, or empty.
std::string Overlap(std::vector<Span> spans) {
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.base < b.base; });
  for (size_t i = 1; i < spans.size(); i++) {
    const Span &a = spans[i - 1], &b = spans[i];
    if (b.base - a.base < a.length) {
      return std::string(a.what) + " " + to_string(a.index) + " overlaps " + b.what + " " + to_string(b.index);
    }
  }
  return {};
}

class Checker {
 public:
  Checker(const Description& d, size_t fds, std::string* error) : d_(d), fds_(fds), error_(error) {}

  bool Run() { return Header() && Memories() && Processes() && Devices() && Ranges() && Routes() && Functions(); }

 private:
  bool Fail(std::string text) {
    *error_ = std::move(text);
    return false;
  }
  bool Fd(const char* what, size_t index, uint16_t fd) {
    if (fd < fds_) return true;
    return Fail(std::string(what) + " " + to_string(index) + " names descriptor " + to_string(fd) + " of " + to_string(fds_));
  }

  bool Header() {
    const auto& h = d_.header;
    if (h.accel > machine::Accel::kSoft) return Fail("accel is " + to_string(h.accel) + ", known are 0..2");
    if (h.boot_mode > machine::BootMode::kPvh32) return Fail("bootMode is " + to_string(h.boot_mode) + ", known are 0..2");
    if (h.cpus < 1 || h.cpus > machine::kMaxCpus) return Fail("cpus is " + to_string(h.cpus) + ", must be 1..64");
    if (h.soft_mode > machine::SoftMode::kLockstep) return Fail("softMode is " + to_string(h.soft_mode) + ", known are 0..2");
    if (h.flags & ~7u) return Fail("flags has undefined bits");
    if (!Fd("vmPage", 0, h.vm_page_fd)) return false;
    if (h.page_map_fd != machine::kNone && !Fd("pageMap", 0, h.page_map_fd)) return false;
    if (h.pic_device != machine::kNone && h.pic_device >= h.devices) return Fail("picDevice is no device");
    if (h.ioapic_device != machine::kNone && h.ioapic_device >= h.devices) return Fail("ioapicDevice is no device");
    return true;
  }

  bool Memories() {
    if (d_.memories.empty() || d_.memories.size() > 64) return Fail("memories must be 1..64");
    std::vector<Span> spans;
    for (size_t i = 0; i < d_.memories.size(); i++) {
      const auto& m = d_.memories[i];
      if (!Fd("memory", i, m.fd)) return false;
      if (m.size == 0 || (m.gpa | m.size | m.fd_offset) & 0xfff) {
        return Fail("memory " + to_string(i) + ": address, size and offset must be multiples of 4096, size not 0");
      }
      if (m.gpa >= kMaxAddress || m.size > kMaxAddress || m.fd_offset >= kMaxAddress) {
        return Fail("memory " + to_string(i) + " lies above 2^52");
      }
      if (m.flags & ~1u) return Fail("memory " + to_string(i) + " has undefined flags");
      spans.push_back({m.gpa, m.size, "memory", i});
    }
    if (auto text = Overlap(std::move(spans)); !text.empty()) return Fail(text);
    return true;
  }

  bool Processes() {
    for (size_t i = 0; i < d_.processes.size(); i++) {
      const auto& p = d_.processes[i];
      if (!Fd("process", i, p.ring_fd) || !Fd("process", i, p.kick_fd) || !Fd("process", i, p.irq_page_fd) ||
          !Fd("process", i, p.irq_event_fd)) {
        return false;
      }
      if (p.name[sizeof p.name - 1]) return Fail("name of process " + to_string(i) + " is not NUL-terminated");
    }
    return true;
  }

  bool Devices() {
    std::vector<Span> entries, indices;
    for (size_t i = 0; i < d_.devices.size(); i++) {
      const auto& v = d_.devices[i];
      if (v.process >= d_.processes.size()) return Fail("device " + to_string(i) + " is of process " + to_string(v.process) + ", which is not there");
      if (!Fd("device", i, v.state_fd)) return false;
      if (v.index >= machine::kMaxDevices) return Fail("device " + to_string(i) + " has index " + to_string(v.index));
      if (uint32_t{v.irq_base} + v.irq_count > 0x8000) return Fail("device " + to_string(i) + " has too many interrupts");
      if (v.name[sizeof v.name - 1]) return Fail("name of device " + to_string(i) + " is not NUL-terminated");
      const uint64_t process = uint64_t{v.process} << 32;
      indices.push_back({process | v.index, 1, "index of device", i});
      if (v.irq_count) entries.push_back({process | v.irq_base, v.irq_count, "interrupts of device", i});
    }
    if (auto text = Overlap(std::move(indices)); !text.empty()) return Fail(text);
    if (auto text = Overlap(std::move(entries)); !text.empty()) return Fail(text);
    return true;
  }

  bool Ranges() {
    std::vector<Span> pio, mmio;
    for (size_t i = 0; i < d_.ranges.size(); i++) {
      const auto& r = d_.ranges[i];
      if (r.device >= d_.devices.size()) return Fail("range " + to_string(i) + " is of no device");
      if (r.space != wire::Space::kPio && r.space != wire::Space::kMmio && r.space != wire::Space::kEcam) {
        return Fail("range " + to_string(i) + " has space " + to_string(r.space));
      }
      const uint64_t end = r.space == wire::Space::kPio ? 0x10000 : kMaxAddress;
      if (r.length == 0 || r.base >= end || r.length > end - r.base) {
        return Fail("range " + to_string(i) + " is empty or ends beyond its address space");
      }
      (r.space == wire::Space::kPio ? pio : mmio).push_back({r.base, r.length, "range", i});
    }
    for (size_t i = 0; i < d_.memories.size(); i++) mmio.push_back({d_.memories[i].gpa, d_.memories[i].size, "memory", i});
    if (auto text = Overlap(std::move(pio)); !text.empty()) return Fail(text);
    if (auto text = Overlap(std::move(mmio)); !text.empty()) return Fail(text);
    return true;
  }

  bool Routes() {
    std::vector<Span> seen;
    for (size_t i = 0; i < d_.routes.size(); i++) {
      const auto& r = d_.routes[i];
      if (r.device >= d_.devices.size() || r.entry >= d_.devices[r.device].irq_count) {
        return Fail("route " + to_string(i) + " names no interrupt of a device");
      }
      if (r.kind > machine::RouteKind::kNmi) return Fail("route " + to_string(i) + " has kind " + to_string(r.kind));
      if (r.kind == machine::RouteKind::kGsi && r.gsi > 255) return Fail("route " + to_string(i) + " has GSI " + to_string(r.gsi));
      seen.push_back({uint64_t{r.device} << 16 | r.entry, 1, "route", i});
    }
    if (auto text = Overlap(std::move(seen)); !text.empty()) return Fail(text);
    return true;
  }

  bool Functions() {
    std::vector<Span> seen;
    for (size_t i = 0; i < d_.functions.size(); i++) {
      const auto& f = d_.functions[i];
      if (f.device >= d_.devices.size()) return Fail("function " + to_string(i) + " is of no device");
      seen.push_back({f.bdf, 1, "function", i});
    }
    if (auto text = Overlap(std::move(seen)); !text.empty()) return Fail(text);
    return true;
  }

  const Description& d_;
  const size_t fds_;
  std::string* error_;
};

}  // namespace

bool ParseDescription(const uint8_t* data, size_t bytes, size_t fds, Description* out, std::string* error) {
  if (bytes < sizeof(machine::MachineHeader)) {
    *error = "description has " + to_string(bytes) + " bytes, its header alone has 128";
    return false;
  }
  machine::MachineHeader& h = out->header;
  memcpy(&h, data, sizeof h);
  if (h.magic != machine::kMagic || h.version != machine::kVersion) {
    *error = "description has magic " + to_string(h.magic) + " version " + to_string(h.version);
    return false;
  }
  if (h.processes > machine::kMaxProcesses || h.devices > machine::kMaxDevices) {
    *error = to_string(h.processes) + " processes and " + to_string(h.devices) + " devices; at most 32 and 128";
    return false;
  }
  const size_t expected = sizeof h + h.memories * sizeof(machine::MachineMemory) + h.processes * sizeof(machine::MachineProcess) +
                          h.devices * sizeof(machine::MachineDevice) + h.ranges * sizeof(machine::MachineRange) +
                          h.routes * sizeof(machine::MachineRoute) + h.functions * sizeof(machine::MachineFunction);
  if (h.bytes != bytes || expected != bytes) {
    *error = "description has " + to_string(bytes) + " bytes, says " + to_string(h.bytes) + ", its tables need " + to_string(expected);
    return false;
  }
  if (h.fds != fds) {
    *error = "description says " + to_string(h.fds) + " descriptors, " + to_string(fds) + " came";
    return false;
  }
  const uint8_t* at = data + sizeof h;
  at = Take(at, h.memories, &out->memories);
  at = Take(at, h.processes, &out->processes);
  at = Take(at, h.devices, &out->devices);
  at = Take(at, h.ranges, &out->ranges);
  at = Take(at, h.routes, &out->routes);
  Take(at, h.functions, &out->functions);
  return Checker(*out, fds, error).Run();
}

}  // namespace nyx
