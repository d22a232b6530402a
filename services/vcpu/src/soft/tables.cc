#include "soft/tables.h"

#include <memory>

namespace nyx::soft {

const OpTables& op_tables() {
  static const std::unique_ptr<const OpTables> tables = [] {
    auto t = std::make_unique<OpTables>();
    register_integer(*t);
    register_system(*t);
    register_simd(*t);
    register_x87(*t);
    return t;
  }();
  return *tables;
}

}  // namespace nyx::soft
