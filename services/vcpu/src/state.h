// State of a machine as sections of bytes (gen/state.h has the format). Written in one go while all vCPUs stand still; read in two
// steps: everything is checked, then everything is taken.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "gen/machine.h"
#include "gen/state.h"

namespace nyx {

class StateWriter {
 public:
  StateWriter() : bytes_(sizeof(state::StateHeader)) {}
  void Add(uint32_t part, unsigned cpu, const void* data, size_t bytes);
  template <typename T>
  void Add(uint32_t part, unsigned cpu, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    Add(part, cpu, &value, sizeof value);
  }
  // What is missing in `header` is filled in.
  std::vector<uint8_t> Finish(state::StateHeader header);

 private:
  std::vector<uint8_t> bytes_;
  uint32_t sections_ = 0;
};

class StateReader {
 public:
  struct Section {
    uint16_t part;
    uint16_t cpu;
    uint32_t bytes;
    const uint8_t* data;
    mutable bool known;
  };
  // Checks magic, version, lengths and CRC. False: `error` says what is wrong.
  bool Parse(std::vector<uint8_t> bytes, std::string* error);
  const state::StateHeader& header() const { return header_; }
  // Null: there is none.
  const Section* Find(uint32_t part, unsigned cpu) const;
  // Empty, or what is wrong: the section must be there and as long as T.
  template <typename T>
  std::string Get(uint32_t part, unsigned cpu, T* out) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const Section* s = Find(part, cpu);
    if (!s || s->bytes != sizeof *out) return Wrong(part, cpu, s, sizeof *out);
    memcpy(out, s->data, sizeof *out);
    return {};
  }
  // A section that nobody has asked for; null: none.
  const Section* Unknown() const;
  static std::string Wrong(uint32_t part, unsigned cpu, const Section* section, size_t bytes);

 private:
  std::vector<uint8_t> bytes_;
  state::StateHeader header_{};
  std::vector<Section> sections_;
};

}  // namespace nyx
