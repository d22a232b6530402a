#include "loop.h"

namespace nyx {

void Callback::Set(napi_env env, napi_value function, const char* resource) {
  env_ = env;
  napi_create_reference(env, function, 1, &function_);
  napi_async_init(env, nullptr, FromText(env, resource), &context_);
}

void Callback::Clear() {
  if (function_ == nullptr) return;
  napi_delete_reference(env_, function_);
  napi_async_destroy(env_, context_);
  function_ = nullptr;
}

void Callback::Invoke(size_t argc, const napi_value* argv) const {
  if (function_ == nullptr) return;
  Scope scope(env_);
  napi_value function, global;
  if (napi_get_reference_value(env_, function_, &function) != napi_ok) return;
  napi_get_global(env_, &global);
  if (napi_make_callback(env_, context_, global, function, argc, argv, nullptr) != napi_pending_exception) return;
  napi_value error;
  if (napi_get_and_clear_last_exception(env_, &error) == napi_ok) napi_fatal_exception(env_, error);
}

LoopObject::LoopObject(napi_env env) : env_(env) {
  napi_get_uv_event_loop(env, &loop_);
  Ref();
  napi_add_async_cleanup_hook(
      env, [](napi_async_cleanup_hook_handle, void* data) { static_cast<LoopObject*>(data)->Close(); }, this, &hook_);
}

void LoopObject::Adopt(void* handle) {
  auto* h = static_cast<uv_handle_t*>(handle);
  h->data = this;
  handles_.push_back(h);
  open_++;
}

bool LoopObject::OpenTurns(Turns* t, int fd) {
  const int error = uv_poll_init(loop_, &t->poll, fd);
  if (error != 0) {
    const napi_env env = env_;
    Abandon();
    ThrowErrno(env, "epoll_ctl", -error);
    return false;
  }
  Adopt(&t->poll);
  uv_check_init(loop_, &t->check);
  Adopt(&t->check);
  uv_idle_init(loop_, &t->idle);
  Adopt(&t->idle);
  return true;
}

void LoopObject::StartTurns(Turns* t, uv_check_cb each) {
  uv_idle_start(&t->idle, [](uv_idle_t*) {});
  uv_check_start(&t->check, each);
}

void LoopObject::StopTurns(Turns* t) {
  uv_idle_stop(&t->idle);
  uv_check_stop(&t->check);
}

void LoopObject::Abandon() {
  napi_remove_async_cleanup_hook(hook_);
  Unref();
}

void LoopObject::Close() {
  if (closing_) return;
  closing_ = true;
  for (uv_handle_t* handle : handles_) {
    uv_close(handle, [](uv_handle_t* h) {
      auto* self = static_cast<LoopObject*>(h->data);
      if (--self->open_ > 0) return;
      self->OnClosed();
      napi_remove_async_cleanup_hook(self->hook_);
      self->Unref();
    });
  }
}

napi_value LoopObject::CloseMethod(napi_env) {
  Close();
  return nullptr;
}
napi_value LoopObject::RefMethod(napi_env) {
  if (!closing_ && !handles_.empty()) uv_ref(handles_[0]);
  return nullptr;
}
napi_value LoopObject::UnrefMethod(napi_env) {
  if (!closing_ && !handles_.empty()) uv_unref(handles_[0]);
  return nullptr;
}

void LoopObject::SetLifecycle(napi_value object) {
  SetMethod(env_, object, "close", this, Member0<LoopObject, &LoopObject::CloseMethod>);
  SetMethod(env_, object, "ref", this, Member0<LoopObject, &LoopObject::RefMethod>);
  SetMethod(env_, object, "unref", this, Member0<LoopObject, &LoopObject::UnrefMethod>);
}

}  // namespace nyx
