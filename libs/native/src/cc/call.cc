#include "call.h"

#include <cerrno>
#include <cmath>
#include <cstring>

namespace nyx {

std::string ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : "E" + std::to_string(error);
}

static Napi::Error MakeError(napi_env env, const std::string& code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

napi_value Throw(napi_env env, const char* code, const std::string& message) {
  MakeError(env, code, message).ThrowAsJavaScriptException();
  return nullptr;
}

static Napi::Error SystemError(napi_env env, const char* syscall, int error) {
  const std::string name = ErrnoName(error);
  Napi::Error e = MakeError(env, name, std::string(syscall) + ": " + name + ", " + strerror(error));
  e.Set("syscall", Napi::String::New(env, syscall));
  e.Set("errno", Napi::Number::New(env, error));
  return e;
}

napi_value MakeErrno(napi_env env, const char* syscall, int error) { return SystemError(env, syscall, error).Value(); }

napi_value ThrowErrno(napi_env env, const char* syscall, int error) {
  SystemError(env, syscall, error).ThrowAsJavaScriptException();
  return nullptr;
}

bool Call::Fail(const char* name, const std::string& expected) const {
  Throw(Env(), "ERR_INVALID_ARG", std::string(name) + " must be " + expected);
  return false;
}

bool Call::Has(size_t i) const { return !arg(i).IsUndefined(); }

static std::string Shown(double value) {
  char text[32];
  snprintf(text, sizeof text, "%.17g", value);
  return text;
}

static bool CheckNumber(const Call& call, Napi::Value value, const char* name, double low, double high, double* out) {
  if (!value.IsNumber()) return call.Fail(name, "a number");
  *out = value.As<Napi::Number>().DoubleValue();
  if (!(*out >= low && *out <= high)) {
    Throw(call.Env(), "EINVAL",
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
    Throw(Env(), "EINVAL", std::string(name) + " is " + Shown(value) + ", expected an integer");
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

static bool ReadText(Napi::Value value, std::string* out) {
  if (!value.IsString()) return false;
  *out = value.As<Napi::String>().Utf8Value();
  return out->find('\0') == std::string::npos;
}

bool Call::Text(size_t i, const char* name, std::string* out) const {
  return ReadText(arg(i), out) || Fail(name, "a string without NUL");
}

bool Call::Buffer(size_t i, const char* name, Span* out) const {
  if (!arg(i).IsArrayBuffer()) return Fail(name, "an ArrayBuffer");
  auto buffer = arg(i).As<Napi::ArrayBuffer>();
  *out = {static_cast<uint8_t*>(buffer.Data()), buffer.ByteLength()};
  return true;
}

bool Call::Range(size_t i, const char* name, uint8_t** data, size_t* length) const {
  Span span;
  int64_t offset, bytes;
  if (!Buffer(i, name, &span) || !Int(i + 1, "byteOffset", 0, 0x1p53, &offset) ||
      !Int(i + 2, "length", 0, 0x1p53, &bytes))
    return false;
  if (!span.Holds(static_cast<double>(offset), static_cast<double>(bytes))) {
    Throw(Env(), "EINVAL", std::string(name) + ": " + std::to_string(bytes) + " bytes at " + std::to_string(offset) +
                              " lie outside its " + std::to_string(span.size));
    return false;
  }
  *data = span.data + offset;
  *length = static_cast<size_t>(bytes);
  return true;
}

bool Call::Float64(size_t i, const char* name, double** data, size_t* length) const {
  if (!arg(i).IsTypedArray() || arg(i).As<Napi::TypedArray>().TypedArrayType() != napi_float64_array)
    return Fail(name, "a Float64Array");
  auto array = arg(i).As<Napi::Float64Array>();
  *data = array.Data();
  *length = array.ElementLength();
  return true;
}

bool Call::Function(size_t i, const char* name) const { return arg(i).IsFunction() || Fail(name, "a function"); }

Napi::Value Call::Option(size_t i, const char* name) const {
  if (!arg(i).IsObject()) return {};
  Napi::MaybeOrValue<Napi::Value> value = arg(i).As<Napi::Object>().Get(name);
  return value.IsEmpty() || value.IsUndefined() ? Napi::Value() : value;
}

bool Call::OptionNumber(size_t i, const char* name, double low, double high, double* value) const {
  Napi::Value option = Option(i, name);
  return option.IsEmpty() || CheckNumber(*this, option, name, low, high, value);
}

bool Call::OptionBool(size_t i, const char* name, bool* value) const {
  Napi::Value option = Option(i, name);
  if (option.IsEmpty()) return true;
  if (!option.IsBoolean()) return Fail(name, "a boolean");
  *value = option.As<Napi::Boolean>();
  return true;
}

bool Call::TextList(napi_value value, const char* name, std::vector<std::string>* out) const {
  if (value == nullptr || !Napi::Value(Env(), value).IsArray()) return Fail(name, "an array of strings");
  const Napi::Array list(Env(), value);
  for (uint32_t i = 0; i < list.Length(); i++) {
    std::string text;
    if (!ReadText(list.Get(i), &text)) return Fail(name, "an array of strings");
    out->push_back(text);
  }
  return true;
}

napi_value FromNumber(napi_env env, double value) { return Napi::Number::New(env, value); }
napi_value FromInt(napi_env env, int32_t value) {
  // Not through a double, as Napi::Number goes: it is what hot calls return.
  napi_value out;
  napi_create_int32(env, value, &out);
  return out;
}
napi_value FromBool(napi_env env, bool value) { return Napi::Boolean::New(env, value); }
napi_value FromText(napi_env env, const char* text) { return Napi::String::New(env, text); }
napi_value Undefined(napi_env env) { return Napi::Env(env).Undefined(); }
bool IsFunction(napi_env env, napi_value value) { return Napi::Value(env, value).IsFunction(); }

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
