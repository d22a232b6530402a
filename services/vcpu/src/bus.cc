#include "bus.h"

#include <algorithm>
#include <cstring>

#include "lapic.h"

namespace nyx {
namespace {

constexpr uint64_t Ones(unsigned width) { return width >= 8 ? ~uint64_t{0} : (uint64_t{1} << (width * 8)) - 1; }

}  // namespace

VcpuBus::VcpuBus(const BusConfig& config, unsigned cpu, Waiter* waiter, Lapic* lapic, wire::VcpuStats* stats)
    : config_(config), lapic_(lapic), stats_(stats), producers_(config.channels->size()), waiter_(waiter),
      next_(config.channels->size()) {
  for (size_t p = 0; p < producers_.size(); p++) {
    producers_[p].Attach((*config.channels)[p].get(), cpu, cpu, waiter, stats);
  }
}

const Snapshot& VcpuBus::Map() {
  const uint32_t version = config_.map->version();
  if (version != version_) {
    snapshot_ = config_.map->snapshot();
    version_ = version;
    hint_ = 0;
  }
  return *snapshot_;
}

uint64_t VcpuBus::Ask(unsigned index, uint8_t kind, unsigned region, uint64_t offset, unsigned width) {
  Device& d = device(index);
  Request q{kind, static_cast<uint8_t>(width), d.description.index, static_cast<uint16_t>(region), 0, offset, 0};
  Reply reply;
  stats_->exits_sync++;
  const bool answered = producer(d).Call(q, &reply) == CallResult::kOk;
  Settle(d);
  if (!answered) return Ones(width);
  return (reply.status & 0xff) == wire::Status::kOk ? reply.value & Ones(width) : Ones(width);
}

void VcpuBus::Tell(unsigned index, uint8_t kind, unsigned region, uint64_t offset, unsigned width, uint64_t value, bool post) {
  Device& d = device(index);
  Request q{kind, static_cast<uint8_t>(width), d.description.index, static_cast<uint16_t>(region), 0, offset,
            value & Ones(width)};
  if (post && !config_.paced) {
    stats_->exits_posted++;
    producer(d).Post(q);
    return;
  }
  Reply reply;
  stats_->exits_sync++;
  producer(d).Call(q, &reply);
  Settle(d);
}

uint64_t VcpuBus::Read(const Target& t, uint64_t offset, unsigned width) {
  if (t.space == wire::Space::kEcam) return ConfigRead(static_cast<uint16_t>(offset >> 12), offset & 0xfff, width);
  if (const auto* e = snapshot_->classes(t.device).Find(t.region, offset, width)) {
    Device& d = device(t.device);
    // Posted writes come first, those of this vCPU and those that another has told it of; the register is then asked for
    // like any other.
    if (e->kind <= wire::ClassKind::kCounter && !d.channel->isolated() && producer(d).Idle() &&
        d.channel->OthersIdle(producer(d).ring())) {
      uint64_t value;
      if (e->kind == wire::ClassKind::kShadow && d.block.Shadow(e->source, width, &value)) {
        stats_->exits_shadow++;
        return value | (e->mask & Ones(width));
      }
      if (e->kind == wire::ClassKind::kCounter && d.block.CounterAt(e->source, config_.clock->Now(), &value)) {
        stats_->exits_counter++;
        return value & Ones(width);
      }
    }
  }
  return Ask(t.device, wire::ExitKind::kRead, t.region, offset, width);
}

void VcpuBus::Write(const Target& t, uint64_t offset, unsigned width, uint64_t value) {
  if (t.space == wire::Space::kEcam) return ConfigWrite(static_cast<uint16_t>(offset >> 12), offset & 0xfff, width, value);
  const auto* e = snapshot_->classes(t.device).Find(t.region, offset, width);
  // A doorbell is a posted write: the ring's kick is its eventfd.
  const bool post = e && (e->kind == wire::ClassKind::kPosted || e->kind == wire::ClassKind::kNotify);
  Tell(t.device, wire::ExitKind::kWrite, t.region, offset, width, value, post);
}

// ---- PCI configuration space

// 0xCFC..0xCFF with the enable bit set in 0xCF8 (PCI 3.0, 3.2.2.3.2).
bool VcpuBus::ConfigPort(uint16_t port, unsigned width, uint16_t* bdf, unsigned* reg) const {
  const uint32_t address = config_.map->config_address.load(std::memory_order_relaxed);
  if (port < 0xcfc || port + width > 0xd00 || !(address >> 31)) return false;
  *bdf = static_cast<uint16_t>(address >> 8);
  *reg = (address & 0xfc) | (port & 3u);
  return true;
}

uint64_t VcpuBus::ConfigRead(uint16_t bdf, unsigned reg, unsigned width) {
  if (width == 8 || (reg & 3) + width > 4) {
    uint64_t value = 0;
    for (unsigned i = 0; i < width; i++) value |= ConfigRead(bdf, (reg + i) & 0xfff, 1) << (i * 8);
    return value;
  }
  const auto f = config_.map->FunctionAt(bdf);
  if (f.device == machine::kNone) {
    stats_->exits_unclaimed++;
    return Ones(width);
  }
  return Ask(f.device, wire::ExitKind::kConfigRead, f.region, reg, width);
}

void VcpuBus::ConfigWrite(uint16_t bdf, unsigned reg, unsigned width, uint64_t value) {
  if (width == 8) {
    ConfigWrite(bdf, reg, 4, value & 0xffffffff);
    return ConfigWrite(bdf, (reg + 4) & 0xfff, 4, value >> 32);
  }
  if ((reg & 3) + width > 4) {
    for (unsigned i = 0; i < width; i++) ConfigWrite(bdf, (reg + i) & 0xfff, 1, (value >> (i * 8)) & 0xff);
    return;
  }
  const auto f = config_.map->FunctionAt(bdf);
  if (f.device == machine::kNone) {
    stats_->exits_unclaimed++;
    return;
  }
  Tell(f.device, wire::ExitKind::kConfigWrite, f.region, reg, width, value, false);
}

// ---- ports

void VcpuBus::NoPort(uint16_t port) {
  stats_->exits_unclaimed++;
  stats_->unmapped_ports++;
  stats_->last_port = port;
}

void VcpuBus::NoMmio(uint64_t gpa) {
  stats_->exits_unclaimed++;
  stats_->unmapped_mmio++;
  stats_->last_mmio = gpa;
}

uint32_t VcpuBus::PioRead(uint16_t port, unsigned width) {
  const Snapshot& map = Map();
  if ((port & 0xfff8) == 0xcf8) {
    uint16_t bdf;
    unsigned reg;
    if (port == 0xcf8 && width == 4) return config_.map->config_address.load(std::memory_order_relaxed);
    if (ConfigPort(port, width, &bdf, &reg)) return static_cast<uint32_t>(ConfigRead(bdf, reg, width));
  }
  const Target* t = map.Pio(port);
  if (t && port - t->base + width <= t->length) return static_cast<uint32_t>(Read(*t, port - t->base, width));
  if (width > 1) {
    // The access spans devices, or holes: each byte its own.
    uint32_t value = 0;
    bool any = t != nullptr;
    for (unsigned i = 1; i < width; i++) any |= map.Pio(static_cast<uint16_t>(port + i)) != nullptr;
    if (any) {
      for (unsigned i = 0; i < width; i++) value |= PioRead(static_cast<uint16_t>(port + i), 1) << (i * 8);
      return value;
    }
  }
  NoPort(port);
  return static_cast<uint32_t>(Ones(width));
}

void VcpuBus::PioWrite(uint16_t port, unsigned width, uint32_t value) {
  const Snapshot& map = Map();
  if ((port & 0xfff8) == 0xcf8) {
    uint16_t bdf;
    unsigned reg;
    if (port == 0xcf8 && width == 4) {
      // Reserved bits 30:24 and 1:0 read as zero.
      return config_.map->config_address.store(value & 0x80fffffc, std::memory_order_relaxed);
    }
    if (ConfigPort(port, width, &bdf, &reg)) return ConfigWrite(bdf, reg, width, value);
  }
  const Target* t = map.Pio(port);
  if (t && port - t->base + width <= t->length) return Write(*t, port - t->base, width, value);
  if (width > 1) {
    bool any = t != nullptr;
    for (unsigned i = 1; i < width; i++) any |= map.Pio(static_cast<uint16_t>(port + i)) != nullptr;
    if (any) {
      for (unsigned i = 0; i < width; i++) PioWrite(static_cast<uint16_t>(port + i), 1, (value >> (i * 8)) & 0xff);
      return;
    }
  }
  NoPort(port);
}

void VcpuBus::PioReadBurst(uint16_t port, unsigned width, uint32_t count, void* data) {
  auto* to = static_cast<uint8_t*>(data);
  const Target* t = Map().Pio(port);
  if ((port & 0xfff8) == 0xcf8 || !t || port - t->base + width > t->length) {
    for (uint32_t i = 0; i < count; i++, to += width) {
      const uint32_t value = PioRead(port, width);
      memcpy(to, &value, width);
    }
    return;
  }
  Device& d = device(t->device);
  Producer& p = producer(d);
  while (count) {
    const uint32_t n = std::min(count, 4096 / width);
    const Request q{wire::ExitKind::kReadBurst, static_cast<uint8_t>(width), d.description.index, t->region, n,
                    port - t->base, 0};
    Reply reply;
    stats_->exits_sync++;
    if (p.PrepareBurst() == CallResult::kOk && p.Call(q, &reply) == CallResult::kOk &&
        (reply.status & 0xff) == wire::Status::kOk) {
      memcpy(to, p.burst(), n * width);
    } else {
      memset(to, 0xff, n * width);
    }
    Settle(d);
    to += n * width;
    count -= n;
  }
}

void VcpuBus::PioWriteBurst(uint16_t port, unsigned width, uint32_t count, const void* data) {
  const auto* from = static_cast<const uint8_t*>(data);
  const Target* t = Map().Pio(port);
  if ((port & 0xfff8) == 0xcf8 || !t || port - t->base + width > t->length) {
    for (uint32_t i = 0; i < count; i++, from += width) {
      uint32_t value = 0;
      memcpy(&value, from, width);
      PioWrite(port, width, value);
    }
    return;
  }
  Device& d = device(t->device);
  Producer& p = producer(d);
  while (count) {
    const uint32_t n = std::min(count, 4096 / width);
    const Request q{wire::ExitKind::kWriteBurst, static_cast<uint8_t>(width), d.description.index, t->region, n,
                    port - t->base, 0};
    Reply reply;
    stats_->exits_sync++;
    if (p.PrepareBurst() == CallResult::kOk) {
      memcpy(p.burst(), from, n * width);
      p.Call(q, &reply);
    }
    Settle(d);
    from += n * width;
    count -= n;
  }
}

// ---- memory

uint64_t VcpuBus::MmioRead(uint64_t gpa, unsigned width) {
  const Target* t = Map().Mmio(gpa, &hint_);
  if (t && width <= t->length && gpa - t->base <= t->length - width) return Read(*t, gpa - t->base, width);
  if (t) {
    // Over the end of a range: the bytes inside, and ones.
    uint64_t value = 0;
    for (unsigned i = 0; i < width; i++) value |= MmioRead(gpa + i, 1) << (i * 8);
    return value;
  }
  NoMmio(gpa);
  return Ones(width);
}

void VcpuBus::MmioWrite(uint64_t gpa, unsigned width, uint64_t value) {
  const Target* t = Map().Mmio(gpa, &hint_);
  if (t && width <= t->length && gpa - t->base <= t->length - width) return Write(*t, gpa - t->base, width, value);
  if (t) {
    for (unsigned i = 0; i < width; i++) MmioWrite(gpa + i, 1, (value >> (i * 8)) & 0xff);
    return;
  }
  NoMmio(gpa);
}

// ---- interrupts

int VcpuBus::IntAck() {
  if (lapic_) lapic_->ExtIntTaken();
  if (config_.pic_device == machine::kNone) return -1;
  Device& d = device(config_.pic_device);
  const Request q{wire::ExitKind::kIntAck, 1, d.description.index, 0, 0, 0, 0};
  Reply reply;
  stats_->exits_sync++;
  const bool answered = producer(d).Call(q, &reply) == CallResult::kOk;
  Settle(d);
  if (!answered || (reply.status & 0xff) != wire::Status::kOk) return -1;
  return static_cast<int>(reply.value & 0xff);
}

void VcpuBus::Eoi(uint8_t vector) {
  if (config_.ioapic_device == machine::kNone) return;
  Tell(config_.ioapic_device, wire::ExitKind::kEoi, 0, 0, 1, vector, true);
}

bool VcpuBus::Idle() {
  bool idle = true;
  for (Producer& p : producers_) idle &= p.channel()->isolated() || p.Idle();
  return idle;
}

void VcpuBus::Discard() {
  for (Producer& p : producers_) p.Discard();
}

}  // namespace nyx
