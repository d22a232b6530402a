// Builds a machine from its description: memory, pages, devices, engine.
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "machine.h"

namespace nyx {

using machine::kNone;

// Below this many instructions a second KVM only emulates, and our own CPU is faster.
constexpr uint64_t kFastEnough = 50'000'000;

std::unique_ptr<Machine> Machine::Create(Description description, std::vector<int> fds, Control* control, std::string* error) {
  std::unique_ptr<Machine> m(new Machine(std::move(description), std::move(fds), control));
  if (!m->Build(error)) return nullptr;
  return m;
}

Machine::Machine(Description description, std::vector<int> fds, Control* control)
    : description_(std::move(description)), fds_(std::move(fds)), control_(control) {
  event_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

bool Machine::Build(std::string* error) {
  if (!MapMemory(error) || !MapPages(error) || !BuildDevices(error) || !BuildEngine(error)) return false;
  fabric_ = std::make_unique<Fabric>(description_, &devices_, &channels_, &accel_->interrupts());
  if (deterministic()) {
    cpus_[0]->bus->set_fabric(fabric_.get());
    fabric_->Pace([this] {
      cpus_[0]->attention->fetch_or(wire::Attention::kOutside);
      accel_->vcpu(0).Kick();
    });
  }
  if (!fabric_->Attach(fds_, error)) return false;
  BootState();
  map_->Rebuild();
  fabric_->Start();
  // The threads park at once and read cpus_ only under the mutex.
  std::lock_guard lock(mutex_);
  for (auto& c : cpus_) c->thread = std::thread([this, cpu = c.get()] { Run(*cpu); });
  return true;
}

bool MemoryMap::Add(const Region& region) {
  if (count_ == kMaxRegions) return false;
  regions_[count_++] = region;
  std::sort(regions_, regions_ + count_, [](const Region& a, const Region& b) { return a.size > b.size; });
  return true;
}

bool Machine::MapMemory(std::string* error) {
  // RAM is the file of the first writable region; only its pages are in the page map.
  uint16_t ram = kNone;
  for (const auto& m : description_.memories) {
    if (ram == kNone && !(m.flags & 1)) ram = m.fd;
  }
  for (size_t i = 0; i < description_.memories.size(); i++) {
    const auto& m = description_.memories[i];
    const bool read_only = m.flags & 1, is_ram = m.fd == ram && !read_only;
    auto mapping = std::make_unique<Mapping>();
    std::string text;
    if (!mapping->Map(fds_[m.fd], m.fd_offset, m.size, !read_only, &text)) {
      *error = "memory " + std::to_string(i) + ": " + text;
      return false;
    }
    memory_.Add({m.gpa, m.size, mapping->data(), read_only, is_ram ? m.fd_offset / 4096 : MemoryMap::kNoPage});
    if (is_ram) {
      ram_fd_ = fds_[ram];
      pages_ = std::max(pages_, (m.fd_offset + m.size) / 4096);
    }
    mappings_.push_back(std::move(mapping));
  }
  return true;
}

bool Machine::MapPages(std::string* error) {
  const auto& h = description_.header;
  std::string text;
  auto vm = std::make_unique<Mapping>();
  if (!vm->MapAll(fds_[h.vm_page_fd], true, &text) || vm->size() < sizeof(wire::VmPage)) {
    *error = "VM page: " + (text.empty() ? "it is too small" : text);
    return false;
  }
  vm_page_ = reinterpret_cast<wire::VmPage*>(vm->data());
  mappings_.push_back(std::move(vm));
  vm_page_->magic = wire::kVmMagic;
  vm_page_->version = wire::kVersion;
  vm_page_->cpus = h.cpus;
  clock_ = std::make_unique<Clock>(vm_page_, h.wall_clock, deterministic());

  if (h.page_map_fd == kNone) {
    own_attention_.resize(h.cpus);
    pages_ = 0;
    return true;
  }
  auto map = std::make_unique<Mapping>();
  if (!map->MapAll(fds_[h.page_map_fd], true, &text)) {
    *error = "page map: " + text;
    return false;
  }
  auto* page = reinterpret_cast<wire::PageMap*>(map->data());
  const uint64_t bytes = (pages_ + 7) / 8;
  const auto outside = [&](uint64_t at) { return at < sizeof(wire::PageMap) || at > map->size() || bytes > map->size() - at; };
  const uint32_t code = map->size() < sizeof(wire::PageMap) ? 0 : Load(page->code_at);
  const uint32_t dirty = map->size() < sizeof(wire::PageMap) ? 0 : Load(page->dirty_at);
  if (outside(code) || outside(dirty) || Load(page->magic) != wire::kPageMapMagic || Load(page->pages) < pages_) {
    *error = "page map: magic, page count or offsets do not fit " + std::to_string(pages_) + " pages of RAM";
    return false;
  }
  code_bitmap_ = map->data() + code;
  dirty_bitmap_ = map->data() + dirty;
  if (const uint32_t store = Load(page->store_at); store % 4096 == 0 && !outside(store) && Load(page->pages) == pages_) {
    saved_ = std::make_unique<SavedRam>();
    if (!saved_->Open(&page->store[0], map->data() + store, map->size() - store, fds_[h.page_map_fd], store, pages_)) saved_.reset();
  }
  mappings_.push_back(std::move(map));
  return true;
}

bool Machine::BuildDevices(std::string* error) {
  for (size_t p = 0; p < description_.processes.size(); p++) {
    const auto& d = description_.processes[p];
    auto memory = std::make_unique<Mapping>();
    auto channel = std::make_unique<Channel>();
    std::string text;
    if (!memory->MapAll(fds_[d.ring_fd], true, &text)) {
      *error = "process " + std::to_string(p) + ": " + text;
      return false;
    }
    if (const char* bad = channel->Attach(static_cast<unsigned>(p), memory->data(), memory->size(),
                                          description_.header.cpus + 1u, fds_[d.kick_fd], this)) {
      *error = "process " + std::to_string(p) + ": " + bad;
      return false;
    }
    mappings_.push_back(std::move(memory));
    channels_.push_back(std::move(channel));
  }
  for (size_t i = 0; i < description_.devices.size(); i++) {
    auto device = std::make_unique<Device>();
    device->description = description_.devices[i];
    device->channel = channels_[device->description.process].get();
    std::string text;
    if (!device->block.Attach(fds_[device->description.state_fd], &text)) {
      *error = "device " + std::to_string(i) + ": " + text;
      return false;
    }
    devices_.push_back(std::move(device));
  }
  map_ = std::make_unique<AddressMap>(&devices_, description_.ranges, description_.functions);
  return true;
}

bool Machine::BuildEngine(std::string* error) {
  const auto& h = description_.header;
  bool kvm = h.accel == machine::Accel::kKvm;
  if (deterministic() && (kvm || h.cpus != 1)) {
    *error = "a deterministic machine has the software CPU, and one of it";
    return false;
  }
  if (!deterministic() && h.accel == machine::Accel::kAuto) {
    measured_ = MeasureKvm();
    kvm = measured_ >= kFastEnough;
  }
  auto* page = code_bitmap_ ? reinterpret_cast<wire::PageMap*>(mappings_.back()->data()) : nullptr;
  for (auto& m : mappings_) {
    // The page map is the mapping that holds the code bitmap.
    if (code_bitmap_ && code_bitmap_ > m->data() && code_bitmap_ < m->data() + m->size()) {
      page = reinterpret_cast<wire::PageMap*>(m->data());
    }
  }
  const BusConfig bus{map_.get(), &devices_, &channels_, clock_.get(), h.pic_device, h.ioapic_device,
                      deterministic()};
  for (unsigned i = 0; i < h.cpus; i++) {
    auto cpu = std::make_unique<Cpu>();
    cpu->machine = this;
    cpu->index = i;
    auto& line = page ? page->attention[i] : own_attention_[i];
    cpu->attention = reinterpret_cast<std::atomic<uint32_t>*>(&line.word);
    cpu->attention->store(0);
    wire::VcpuStats& stats = vm_page_->vcpu[i];
    stats = {};
    if (!kvm) {
      cpu->lapic = std::make_unique<Lapic>(i, clock_.get(), cpu->attention, &apics_);
      apics_.Add(cpu->lapic.get());
    }
    cpu->bus = std::make_unique<VcpuBus>(bus, i, cpu.get(), cpu->lapic.get(), &stats);
    if (cpu->lapic) cpu->lapic->set_bus(cpu->bus.get());
    contexts_.push_back({i, h.cpus, cpu->bus.get(), cpu->lapic.get(), &memory_, clock_.get(), &stats, cpu->attention,
                         code_bitmap_, dirty_bitmap_, code_bitmap_ ? pages_ : 0,
                         deterministic() ? cpu->bus.get() : nullptr});
    cpus_.push_back(std::move(cpu));
  }
  const AccelConfig config{h.cpus, contexts_.data(), &memory_, clock_.get(), kvm ? nullptr : &apics_, h.soft_mode, saved_.get()};
  std::string text;
  accel_ = kvm ? make_kvm(config, &text) : make_soft(config, &text);
  if (!accel_) {
    *error = std::string("accelerator ") + (kvm ? "kvm" : "soft") + ": " + text;
    return false;
  }
  vm_page_->accel = accel_->kind();
  return true;
}

// All vCPUs stopped: as after power-on, or as firmware would have left them for a kernel that is booted directly.
void Machine::BootState() {
  for (auto& c : cpus_) {
    c->attention->fetch_and(static_cast<uint32_t>(wire::Attention::kStop));
    if (c->lapic) {
      c->lapic->Reset();
      if (description_.header.boot_mode != machine::BootMode::kReset) c->lapic->SetVirtualWire();
    }
    accel_->vcpu(c->index).SetBootState(description_.header);
  }
}

}  // namespace nyx
