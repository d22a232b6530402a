#pragma once
#include <node_api.h>

namespace nyx {
void ExportRingDriver(napi_env env, napi_value exports);
}
