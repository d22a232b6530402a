// From a handler back to the opcode that it stands for: the first one in the tables that has it.
#include <unordered_map>

#include "soft/tables.h"
#include "soft/translate.h"

namespace nyx::soft {
namespace {

using Names = std::unordered_map<Handler, OpName>;

void add(Names& names, const OpEntry& e, OpName name) {
  for (int k = 0; k < 4; k++) {
    name.size = uint8_t(k);
    name.memory = false;
    if (e.reg[k]) names.emplace(e.reg[k], name);
    name.memory = true;
    if (e.mem[k]) names.emplace(e.mem[k], name);
  }
}

Names make() {
  Names names;
  const OpTables& t = op_tables();
  for (int map = 0; map < 4; map++) {
    for (int row = 0; row < 4; row++) {
      for (int opcode = 0; opcode < 256; opcode++) {
        const OpEntry& e = t.map[map][row][opcode];
        OpName name{uint8_t(map), uint8_t(row), uint8_t(opcode), -1, 0, false};
        if (!(e.bits & kGroup)) {
          add(names, e, name);
          continue;
        }
        for (int n = 0; n < 8; n++) {
          name.n = int8_t(n);
          add(names, e.group[n], name);
        }
        // 0F 01 with a ModRM of its own each: STAC, CLAC and others.
        for (int n = 0; n < 64 && map == 1 && opcode == 0x01; n++) {
          name.n = int8_t(0xc0 + n);
          add(names, e.group[8 + n], name);
        }
      }
    }
  }
  return names;
}

}  // namespace

const OpName* op_name(Handler fn) {
  static const Names names = make();
  const auto at = names.find(fn);
  return at == names.end() ? nullptr : &at->second;
}

}  // namespace nyx::soft
