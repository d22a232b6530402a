#pragma once
#include <node_api.h>

#include "call.h"

namespace nyx {

// CLONE_NEW* of an array of names; false after a wrong one, with the exception set.
bool NamespaceFlags(const Call& call, size_t argument, int* flags);
void ExportJail(napi_env env, napi_value exports);

}  // namespace nyx
