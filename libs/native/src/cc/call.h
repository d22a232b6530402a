// The few helpers over Node-API that every export uses: validated arguments, coded errors, counted objects.
#pragma once
#include <node_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nyx {

// Throws an Error with `code`; returns nullptr so that a caller can `return Throw(...)`.
napi_value Throw(napi_env env, const char* code, const std::string& message);
// Throws an Error for a failed system call: code = name of errno, syscall, errno.
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
class Call {
 public:
  Call(napi_env env, napi_callback_info info) : env_(env) {
    napi_get_cb_info(env, info, &argc_, argv_, nullptr, &data_);
    // What was passed, which may be more than fits.
    if (argc_ > kMaxArgs) argc_ = kMaxArgs;
  }
  napi_env env() const { return env_; }
  void* data() const { return data_; }
  napi_value arg(size_t i) const { return i < argc_ ? argv_[i] : nullptr; }
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
  // Property of the object in argument i; nullptr when absent or undefined.
  napi_value Option(size_t i, const char* name) const;
  bool OptionNumber(size_t i, const char* name, double low, double high, double* value) const;
  bool OptionBool(size_t i, const char* name, bool* value) const;
  // Strings of an array.
  bool TextList(napi_value list, const char* name, std::vector<std::string>* out) const;
  bool Fail(const char* name, const std::string& expected) const;

 private:
  napi_env env_;
  void* data_ = nullptr;
  static constexpr size_t kMaxArgs = 12;
  size_t argc_ = kMaxArgs;
  napi_value argv_[kMaxArgs];
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
  return (static_cast<T*>(static_cast<Object*>(call.data()))->*kMethod)(call);
}

// The same without arguments, for hot paths.
template <class T, napi_value (T::*kMethod)(napi_env)>
napi_value Member0(napi_env env, napi_callback_info info) {
  void* data;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  return (static_cast<T*>(static_cast<Object*>(data))->*kMethod)(env);
}

}  // namespace nyx
