// What every export uses beside node-addon-api: validated arguments, coded errors, counted objects.
#pragma once
#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nyx {

// An Error with `code`. Where exports return one, it is thrown: each throws and returns nullptr.
napi_value Throw(napi_env env, const char* code, const std::string& message);
// For a failed system call: code = name of errno, syscall, errno.
napi_value ThrowErrno(napi_env env, const char* syscall, int error);
// The same as a value, to be handed to a callback.
napi_value MakeErrno(napi_env env, const char* syscall, int error);
// "EINVAL" for EINVAL; "E<number>" for one without a name.
std::string ErrnoName(int error);

// Bytes of an ArrayBuffer, and what keeps them mapped.
struct Span {
  uint8_t* data = nullptr;
  size_t size = 0;
  bool Holds(double offset, double length) const {
    return offset >= 0 && length >= 0 && offset + length <= static_cast<double>(size);
  }
};

// The arguments of one call. Each getter throws (and returns false) when the argument is not what it must be.
class Call : public Napi::CallbackInfo {
 public:
  using CallbackInfo::CallbackInfo;
  napi_env env() const { return Env(); }
  // A missing argument is undefined.
  Napi::Value arg(size_t i) const { return (*this)[i]; }
  bool Has(size_t i) const;
  bool Number(size_t i, const char* name, double low, double high, double* out) const;
  // Number with a default.
  bool NumberOr(size_t i, const char* name, double low, double high, double otherwise, double* out) const;
  bool Int(size_t i, const char* name, double low, double high, int64_t* out) const;
  bool Fd(size_t i, int* out) const;
  bool Text(size_t i, const char* name, std::string* out) const;
  // An ArrayBuffer.
  bool Buffer(size_t i, const char* name, Span* out) const;
  // `length` bytes at `offset` of the ArrayBuffer in argument i; offset and length are the next arguments.
  bool Range(size_t i, const char* name, uint8_t** data, size_t* length) const;
  bool Float64(size_t i, const char* name, double** data, size_t* length) const;
  bool Function(size_t i, const char* name) const;
  // Property of the object in argument i; empty when absent or undefined.
  Napi::Value Option(size_t i, const char* name) const;
  bool OptionNumber(size_t i, const char* name, double low, double high, double* value) const;
  bool OptionBool(size_t i, const char* name, bool* value) const;
  // Strings of an array.
  bool TextList(napi_value list, const char* name, std::vector<std::string>* out) const;
  bool Fail(const char* name, const std::string& expected) const;
};

napi_value FromNumber(napi_env env, double value);
napi_value FromInt(napi_env env, int32_t value);
napi_value FromBool(napi_env env, bool value);
napi_value FromText(napi_env env, const char* text);
napi_value Undefined(napi_env env);
bool IsFunction(napi_env env, napi_value value);

// Keeps the memory of an ArrayBuffer mapped, also after it was detached or collected.
std::shared_ptr<void> HoldMemory(napi_value array_buffer);

// What a JavaScript object of the addon stands on. Each of its functions holds a reference, and so does the
// object itself while it is open; the last one deletes it.
class Object {
 public:
  void Ref() { references_++; }
  void Unref() {
    if (--references_ == 0) delete this;
  }

 protected:
  Object() = default;
  virtual ~Object() = default;

 private:
  int references_ = 0;
};

// Sets `name` of `target` to a function that gets `object` as its data and keeps it alive.
void SetMethod(napi_env env, napi_value target, const char* name, Object* object, napi_callback callback);
void SetGetter(napi_env env, napi_value target, const char* name, Object* object, napi_callback callback);
void SetFunction(napi_env env, napi_value target, const char* name, napi_callback callback);

// Turns a member function into a callback.
template <class T, napi_value (T::*kMethod)(Call&)>
napi_value Member(napi_env env, napi_callback_info info) {
  Call call(env, info);
  return (static_cast<T*>(static_cast<Object*>(call.Data()))->*kMethod)(call);
}

// The same without arguments, for hot paths.
template <class T, napi_value (T::*kMethod)(napi_env)>
napi_value Member0(napi_env env, napi_callback_info info) {
  void* data;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  return (static_cast<T*>(static_cast<Object*>(data))->*kMethod)(env);
}

}  // namespace nyx
