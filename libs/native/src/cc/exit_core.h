#pragma once
#include <node_api.h>

namespace nyx {

void ExportExitCore(napi_env env, napi_value exports);

}  // namespace nyx
