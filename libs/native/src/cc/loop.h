// Objects with libuv handles, and calls from the event loop into JavaScript.
#pragma once
#include <uv.h>

#include <vector>

#include "call.h"

namespace nyx {

// A JavaScript function that the event loop calls. An exception in it becomes 'uncaughtException'.
class Callback {
 public:
  void Set(napi_env env, napi_value function, const char* resource);
  void Clear();
  bool set() const { return function_ != nullptr; }
  void Invoke(size_t argc = 0, const napi_value* argv = nullptr) const;

 private:
  napi_env env_ = nullptr;
  napi_ref function_ = nullptr;
  napi_async_context context_ = nullptr;
};

// A scope for values that are made in the event loop.
class Scope {
 public:
  explicit Scope(napi_env env) : env_(env) { napi_open_handle_scope(env, &scope_); }
  ~Scope() { napi_close_handle_scope(env_, scope_); }

 private:
  napi_env env_;
  napi_handle_scope scope_;
};

// Lives while its handles are open: until Close() or until the environment (main or worker thread) ends.
class LoopObject : public Object {
 protected:
  explicit LoopObject(napi_env env);
  napi_env env() const { return env_; }
  uv_loop_t* loop() const { return loop_; }
  // After its uv_*_init: the handle will be closed with the object. Sets handle->data to the LoopObject.
  void Adopt(void* handle);
  bool closed() const { return closing_; }
  // A descriptor that is watched, and turns of the event loop that do not block while there is work.
  struct Turns {
    uv_poll_t poll;
    uv_check_t check;
    uv_idle_t idle;
  };
  // Opens all three. False: `fd` cannot be watched, this object is gone, and an error is pending.
  bool OpenTurns(Turns* t, int fd);
  // `each` is called in every turn until they stop.
  void StartTurns(Turns* t, uv_check_cb each);
  void StopTurns(Turns* t);
  // Instead of Close when no handle could be opened: deletes the object.
  void Abandon();
  // Closes all handles; OnClosed follows. Idempotent.
  void Close();
  // All handles are closed, nothing of the event loop comes any more.
  virtual void OnClosed() {}
  // Adds close, ref and unref.
  void SetLifecycle(napi_value object);

 private:
  napi_value CloseMethod(napi_env env);
  napi_value RefMethod(napi_env env);
  napi_value UnrefMethod(napi_env env);

  napi_env env_;
  uv_loop_t* loop_ = nullptr;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  std::vector<uv_handle_t*> handles_;
  size_t open_ = 0;
  bool closing_ = false;
};

// The object behind a handle whose data Adopt has set.
template <class T, class H>
T* Owner(H* handle) {
  return static_cast<T*>(static_cast<LoopObject*>(handle->data));
}

}  // namespace nyx
