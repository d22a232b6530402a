// SSE, translated.
#include "soft/translation.h"

namespace nyx::soft {

bool Translation::simd(const OpName&) { return false; }

}  // namespace nyx::soft
