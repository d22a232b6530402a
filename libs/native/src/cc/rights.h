#pragma once
#include <node_api.h>

namespace nyx {

void ExportRights(napi_env env, napi_value exports);

}  // namespace nyx
