#pragma GCC target("sse4.2")
#include "state.h"

#include "crc32c.h"

namespace nyx {
namespace {

constexpr uint16_t kPartVersion = 1;

size_t Padded(size_t bytes) { return (bytes + 7) & ~size_t{7}; }

}  // namespace

void StateWriter::Add(uint32_t part, unsigned cpu, const void* data, size_t bytes) {
  state::StateSection section{};
  section.part = static_cast<uint16_t>(part);
  section.version = kPartVersion;
  section.cpu = static_cast<uint16_t>(cpu);
  section.bytes = static_cast<uint32_t>(bytes);
  const size_t at = bytes_.size();
  bytes_.resize(at + sizeof section + Padded(bytes));
  memcpy(bytes_.data() + at, &section, sizeof section);
  memcpy(bytes_.data() + at + sizeof section, data, bytes);
  sections_++;
}

std::vector<uint8_t> StateWriter::Finish(state::StateHeader header) {
  header.magic = state::kMagic;
  header.version = state::kVersion;
  header.bytes = static_cast<uint32_t>(bytes_.size());
  header.sections = sections_;
  memcpy(bytes_.data(), &header, sizeof header);
  header.crc = Crc32c(bytes_.data() + sizeof header, bytes_.size() - sizeof header);
  memcpy(bytes_.data(), &header, sizeof header);
  return std::move(bytes_);
}

bool StateReader::Parse(std::vector<uint8_t> bytes, std::string* error) {
  bytes_ = std::move(bytes);
  const auto fail = [&](std::string text) {
    *error = "machine state: " + std::move(text);
    return false;
  };
  if (bytes_.size() < sizeof header_) return fail("shorter than its header");
  memcpy(&header_, bytes_.data(), sizeof header_);
  if (header_.magic != state::kMagic) return fail("wrong magic");
  if (header_.version != state::kVersion) {
    return fail("version " + std::to_string(state::kVersion) + " is known, not " + std::to_string(header_.version));
  }
  if (header_.bytes < sizeof header_ || header_.bytes > bytes_.size() || header_.bytes > state::kMaxBytes) {
    return fail(std::to_string(header_.bytes) + " bytes cannot be");
  }
  bytes_.resize(header_.bytes);
  if (Crc32c(bytes_.data() + sizeof header_, bytes_.size() - sizeof header_) != header_.crc) return fail("wrong checksum");
  size_t at = sizeof header_;
  while (at < bytes_.size()) {
    state::StateSection s;
    if (bytes_.size() - at < sizeof s) return fail("it ends inside of a section");
    memcpy(&s, bytes_.data() + at, sizeof s);
    at += sizeof s;
    if (Padded(s.bytes) > bytes_.size() - at) return fail("a section is longer than the rest");
    if (s.version != kPartVersion) return fail("part " + std::to_string(s.part) + " has version " + std::to_string(s.version));
    if (Find(s.part, s.cpu)) return fail("part " + std::to_string(s.part) + " is there twice");
    sections_.push_back({s.part, s.cpu, s.bytes, bytes_.data() + at, false});
    at += Padded(s.bytes);
  }
  for (const Section& s : sections_) s.known = false;
  if (sections_.size() != header_.sections) return fail("the number of sections is wrong");
  return true;
}

const StateReader::Section* StateReader::Find(uint32_t part, unsigned cpu) const {
  for (const Section& s : sections_) {
    if (s.part != part || s.cpu != cpu) continue;
    s.known = true;
    return &s;
  }
  return nullptr;
}

const StateReader::Section* StateReader::Unknown() const {
  for (const Section& s : sections_) {
    if (!s.known) return &s;
  }
  return nullptr;
}

std::string StateReader::Wrong(uint32_t part, unsigned cpu, const Section* section, size_t bytes) {
  const std::string of = cpu == machine::kNone ? "" : " of vCPU " + std::to_string(cpu);
  return "machine state: part " + std::to_string(part) + of +
         (section ? " has " + std::to_string(section->bytes) + " bytes, not " + std::to_string(bytes) : " is missing");
}

}  // namespace nyx
