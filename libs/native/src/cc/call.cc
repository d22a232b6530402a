#include "call.h"

#include <cerrno>
#include <cmath>
#include <cstring>

namespace nyx {

std::string ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : "E" + std::to_string(error);
}

static napi_value MakeError(napi_env env, const std::string& code, const std::string& message) {
  napi_value c, m, e;
  napi_create_string_utf8(env, code.c_str(), code.size(), &c);
  napi_create_string_utf8(env, message.c_str(), message.size(), &m);
  napi_create_error(env, c, m, &e);
  return e;
}

napi_value Throw(napi_env env, const char* code, const std::string& message) {
  napi_throw(env, MakeError(env, code, message));
  return nullptr;
}

napi_value MakeErrno(napi_env env, const char* syscall, int error) {
  const std::string name = ErrnoName(error);
  napi_value e = MakeError(env, name, std::string(syscall) + ": " + name + ", " + strerror(error));
  napi_set_named_property(env, e, "syscall", FromText(env, syscall));
  napi_set_named_property(env, e, "errno", FromInt(env, error));
  return e;
}

napi_value ThrowErrno(napi_env env, const char* syscall, int error) {
  napi_throw(env, MakeErrno(env, syscall, error));
  return nullptr;
}

static napi_valuetype TypeOf(napi_env env, napi_value value) {
  napi_valuetype type = napi_undefined;
  if (value != nullptr) napi_typeof(env, value, &type);
  return type;
}

bool Call::Fail(const char* name, const std::string& expected) const {
  napi_throw(env_, MakeError(env_, "ERR_INVALID_ARG", std::string(name) + " must be " + expected));
  return false;
}

bool Call::Has(size_t i) const { return TypeOf(env_, arg(i)) != napi_undefined; }

static std::string Shown(double value) {
  char text[32];
  snprintf(text, sizeof text, "%.17g", value);
  return text;
}

static bool CheckNumber(const Call& call, napi_value value, const char* name, double low, double high, double* out) {
  if (TypeOf(call.env(), value) != napi_number) return call.Fail(name, "a number");
  napi_get_value_double(call.env(), value, out);
  if (!(*out >= low && *out <= high)) {
    Throw(call.env(), "EINVAL",
          std::string(name) + " is " + Shown(*out) + ", expected " + Shown(low) + ".." + Shown(high));
    return false;
  }
  return true;
}

bool Call::Number(size_t i, const char* name, double low, double high, double* out) const {
  return CheckNumber(*this, arg(i), name, low, high, out);
}

bool Call::NumberOr(size_t i, const char* name, double low, double high, double otherwise, double* out) const {
  *out = otherwise;
  return !Has(i) || Number(i, name, low, high, out);
}

bool Call::Int(size_t i, const char* name, double low, double high, int64_t* out) const {
  double value;
  if (!Number(i, name, low, high, &value)) return false;
  if (value != std::floor(value)) {
    Throw(env_, "EINVAL", std::string(name) + " is " + Shown(value) + ", expected an integer");
    return false;
  }
  *out = static_cast<int64_t>(value);
  return true;
}

bool Call::Fd(size_t i, int* out) const {
  int64_t fd;
  if (!Int(i, "fd", 0, INT32_MAX, &fd)) return false;
  *out = static_cast<int>(fd);
  return true;
}

static bool ReadText(napi_env env, napi_value value, std::string* out) {
  if (TypeOf(env, value) != napi_string) return false;
  size_t length = 0;
  napi_get_value_string_utf8(env, value, nullptr, 0, &length);
  out->resize(length);
  napi_get_value_string_utf8(env, value, out->data(), length + 1, &length);
  return out->find('\0') == std::string::npos;
}

bool Call::Text(size_t i, const char* name, std::string* out) const {
  return ReadText(env_, arg(i), out) || Fail(name, "a string without NUL");
}

bool Call::Buffer(size_t i, const char* name, Span* out) const {
  bool is = false;
  if (arg(i) != nullptr) napi_is_arraybuffer(env_, arg(i), &is);
  if (!is) return Fail(name, "an ArrayBuffer");
  void* data;
  napi_get_arraybuffer_info(env_, arg(i), &data, &out->size);
  out->data = static_cast<uint8_t*>(data);
  return true;
}

bool Call::Range(size_t i, const char* name, uint8_t** data, size_t* length) const {
  Span span;
  int64_t offset, bytes;
  if (!Buffer(i, name, &span) || !Int(i + 1, "byteOffset", 0, 0x1p53, &offset) ||
      !Int(i + 2, "length", 0, 0x1p53, &bytes))
    return false;
  if (!span.Holds(static_cast<double>(offset), static_cast<double>(bytes))) {
    Throw(env_, "EINVAL", std::string(name) + ": " + std::to_string(bytes) + " bytes at " + std::to_string(offset) +
                              " lie outside its " + std::to_string(span.size));
    return false;
  }
  *data = span.data + offset;
  *length = static_cast<size_t>(bytes);
  return true;
}

bool Call::Float64(size_t i, const char* name, double** data, size_t* length) const {
  bool is = false;
  if (arg(i) != nullptr) napi_is_typedarray(env_, arg(i), &is);
  napi_typedarray_type type = napi_uint8_array;
  void* bytes = nullptr;
  if (is) napi_get_typedarray_info(env_, arg(i), &type, length, &bytes, nullptr, nullptr);
  if (type != napi_float64_array) return Fail(name, "a Float64Array");
  *data = static_cast<double*>(bytes);
  return true;
}

bool IsFunction(napi_env env, napi_value value) { return TypeOf(env, value) == napi_function; }

bool Call::Function(size_t i, const char* name) const {
  return IsFunction(env_, arg(i)) || Fail(name, "a function");
}

napi_value Call::Option(size_t i, const char* name) const {
  if (TypeOf(env_, arg(i)) != napi_object) return nullptr;
  napi_value value;
  if (napi_get_named_property(env_, arg(i), name, &value) != napi_ok) return nullptr;
  return TypeOf(env_, value) == napi_undefined ? nullptr : value;
}

bool Call::OptionNumber(size_t i, const char* name, double low, double high, double* value) const {
  napi_value option = Option(i, name);
  return option == nullptr || CheckNumber(*this, option, name, low, high, value);
}

bool Call::OptionBool(size_t i, const char* name, bool* value) const {
  napi_value option = Option(i, name);
  if (option == nullptr) return true;
  return napi_get_value_bool(env_, option, value) == napi_ok || Fail(name, "a boolean");
}

bool Call::TextList(napi_value list, const char* name, std::vector<std::string>* out) const {
  bool is = false;
  if (list != nullptr) napi_is_array(env_, list, &is);
  if (!is) return Fail(name, "an array of strings");
  uint32_t length;
  napi_get_array_length(env_, list, &length);
  for (uint32_t i = 0; i < length; i++) {
    napi_value item;
    napi_get_element(env_, list, i, &item);
    std::string text;
    if (!ReadText(env_, item, &text)) return Fail(name, "an array of strings");
    out->push_back(text);
  }
  return true;
}

napi_value FromNumber(napi_env env, double value) {
  napi_value out;
  napi_create_double(env, value, &out);
  return out;
}
napi_value FromInt(napi_env env, int32_t value) {
  napi_value out;
  napi_create_int32(env, value, &out);
  return out;
}
napi_value FromBool(napi_env env, bool value) {
  napi_value out;
  napi_get_boolean(env, value, &out);
  return out;
}
napi_value FromText(napi_env env, const char* text) {
  napi_value out;
  napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &out);
  return out;
}
napi_value Undefined(napi_env env) {
  napi_value out;
  napi_get_undefined(env, &out);
  return out;
}

static napi_value MakeFunction(napi_env env, const char* name, Object* object, napi_callback callback) {
  napi_value function;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, object, &function);
  if (object != nullptr) {
    object->Ref();
    napi_add_finalizer(
        env, function, object, [](napi_env, void* data, void*) { static_cast<Object*>(data)->Unref(); }, nullptr,
        nullptr);
  }
  return function;
}

void SetMethod(napi_env env, napi_value target, const char* name, Object* object, napi_callback callback) {
  napi_set_named_property(env, target, name, MakeFunction(env, name, object, callback));
}

void SetGetter(napi_env env, napi_value target, const char* name, Object* object, napi_callback callback) {
  // The getter's data needs its own reference: the function behind it is made by the engine.
  object->Ref();
  napi_property_descriptor property = {name,    nullptr,         nullptr, callback, nullptr,
                                       nullptr, napi_enumerable, object};
  napi_define_properties(env, target, 1, &property);
  napi_add_finalizer(
      env, target, object, [](napi_env, void* data, void*) { static_cast<Object*>(data)->Unref(); }, nullptr, nullptr);
}

void SetFunction(napi_env env, napi_value target, const char* name, napi_callback callback) {
  napi_set_named_property(env, target, name, MakeFunction(env, name, nullptr, callback));
}

}  // namespace nyx
