// A process's part in saving pages before it writes to them (page_store.h).
#pragma once
#include "call.h"

namespace nyx {

void ExportPageSaver(napi_env env, napi_value exports);

}  // namespace nyx
