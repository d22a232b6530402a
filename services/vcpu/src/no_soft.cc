// Stands in for src/soft/soft.cc in a build without it; a strong definition replaces it.
#include "accel.h"

namespace nyx {

__attribute__((weak)) std::unique_ptr<Accel> make_soft(const AccelConfig&, std::string* error) {
  *error = "this nyx-vcpu was built without the software CPU";
  return nullptr;
}

}  // namespace nyx
