// The fabric standing still: what it has seen and told, out and in.
#include "fabric.h"
#include "state.h"

namespace nyx {

void Fabric::Freeze() {
  // With the lock: a turn that is under way ends first.
  std::lock_guard lock(mutex_);
  frozen_.store(true);
}

void Fabric::Thaw() {
  if (!frozen_.exchange(false)) return;
  look_.store(~0u);
  Look(0);
}

bool Fabric::Idle() {
  std::lock_guard lock(mutex_);
  bool idle = true;
  for (Producer& p : producers_) idle &= p.channel()->isolated() || p.Idle();
  return idle;
}

void Fabric::Discard() {
  std::lock_guard lock(mutex_);
  for (Producer& p : producers_) p.Discard();
}

void Fabric::SaveState(StateWriter* to) {
  std::lock_guard lock(mutex_);
  state::FabricState s{};
  memcpy(s.lines, lines_.data(), sizeof s.lines);
  static_assert(sizeof s.told == sizeof controllers_[0].told * std::tuple_size_v<decltype(controllers_)>);
  for (size_t i = 0; i < controllers_.size(); i++) memcpy(s.told + i * kGsis, controllers_[i].told.data(), sizeof controllers_[i].told);
  std::vector<uint8_t> bytes(sizeof s);
  for (size_t p = 0; p < sources_.size(); p++) {
    for (const Source& source : sources_[p]) {
      state::FabricSource f{};
      f.process = static_cast<uint16_t>(p);
      f.entry = source.entry;
      f.seen = source.seen;
      bytes.insert(bytes.end(), reinterpret_cast<uint8_t*>(&f), reinterpret_cast<uint8_t*>(&f) + sizeof f);
      s.sources++;
    }
  }
  memcpy(bytes.data(), &s, sizeof s);
  to->Add(state::StatePart::kFabric, machine::kNone, bytes.data(), bytes.size());
}

// The sources must be those of this machine, in their order.
std::string Fabric::CheckState(const StateReader& from) {
  size_t sources = 0;
  for (const auto& all : sources_) sources += all.size();
  const size_t bytes = sizeof(state::FabricState) + sources * sizeof(state::FabricSource);
  const auto* section = from.Find(state::StatePart::kFabric, machine::kNone);
  if (!section || section->bytes != bytes) return StateReader::Wrong(state::StatePart::kFabric, machine::kNone, section, bytes);
  state::FabricState s;
  memcpy(&s, section->data, sizeof s);
  const uint8_t* at = section->data + sizeof s;
  bool same = s.sources == sources;
  for (size_t p = 0; p < sources_.size(); p++) {
    for (const Source& source : sources_[p]) {
      state::FabricSource f;
      memcpy(&f, at, sizeof f);
      at += sizeof f;
      same &= f.process == p && f.entry == source.entry;
    }
  }
  return same ? "" : "machine state: the interrupt sources are those of another machine";
}

void Fabric::LoadState(const StateReader& from) {
  std::lock_guard lock(mutex_);
  const auto* section = from.Find(state::StatePart::kFabric, machine::kNone);
  state::FabricState s;
  memcpy(&s, section->data, sizeof s);
  memcpy(lines_.data(), s.lines, sizeof s.lines);
  for (size_t i = 0; i < controllers_.size(); i++) memcpy(controllers_[i].told.data(), s.told + i * kGsis, sizeof controllers_[i].told);
  const uint8_t* at = section->data + sizeof s;
  for (auto& all : sources_) {
    for (Source& source : all) {
      state::FabricSource f;
      memcpy(&f, at, sizeof f);
      at += sizeof f;
      source.seen = f.seen;
    }
  }
}

}  // namespace nyx
