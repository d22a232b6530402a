#pragma once
#include <node_api.h>

namespace nyx {

void ExportProcess(napi_env env, napi_value exports);
void ExportSpawn(napi_env env, napi_value exports);

}  // namespace nyx
