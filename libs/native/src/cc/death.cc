#include "death.h"

#include <pthread.h>
#include <signal.h>

#include <cerrno>

#include "call.h"
#include "futex.h"
#include "loop.h"
#include "shared.h"

namespace nyx {
namespace {

// What the kernel reads when the thread dies. It has one list head for a thread, which so far was libc's: for robust mutexes,
// which nobody here uses. The entry is private memory, the word is not: the distance between them is the list's.
struct Telling {
  robust_list_head head;
  robust_list entry;
  wire::ProcessControl* control;
  int32_t in_flight;
};

// Never deleted: the kernel reads it when everything else of the thread is gone.
Telling& Mine() {
  static thread_local Telling* const mine = new Telling();
  return *mine;
}

void SetList(bool told) {
  Telling& t = Mine();
  t.head.list_op_pending = nullptr;
  t.head.list.next = told ? &t.entry : &t.head.list;
  t.entry.next = &t.head.list;
  t.head.futex_offset = told ? reinterpret_cast<char*>(&t.control->holder) - reinterpret_cast<char*>(&t.entry) : 0;
  // Refused by a jail: then nobody is told, and a pidfd has to do.
  syscall(SYS_set_robust_list, &t.head, sizeof t.head);
}

}  // namespace

void TellDeath(wire::ProcessControl& control) {
  Telling& t = Mine();
  t.control = &control;
  StoreRelaxed(control.in_flight, static_cast<uint32_t>(t.in_flight));
  StoreRelease(control.holder, static_cast<uint32_t>(syscall(SYS_gettid)) | FUTEX_WAITERS);
  SetList(true);
}

void ForgetDeath(wire::ProcessControl& control) {
  Telling& t = Mine();
  if (t.control != &control) return;
  SetList(false);
  t.control = nullptr;
  StoreRelease(control.holder, 0u);
}

void CountInFlight(int32_t change) {
  Telling& t = Mine();
  t.in_flight += change;
  if (t.control != nullptr) StoreRelaxed(t.control->in_flight, static_cast<uint32_t>(t.in_flight));
}

namespace {

// linux/futex.h of Linux 5.16; declared here, because the call may be unknown where this is built.
struct Waiter {
  uint64_t value;
  uint64_t address;
  uint32_t flags;
  uint32_t reserved;
};
constexpr long kFutexWaitv = 449;
constexpr uint32_t kFutex32 = 2;

// A thread that waits for such a word, made before a jail forbids threads. It ends when it has told.
class DeathWatch : public LoopObject {
 public:
  static napi_value Create(napi_env env, napi_callback_info info) {
    Call call(env, info);
    if (!call.Function(0, "died")) return nullptr;
    auto* self = new DeathWatch(env);
    int error = uv_async_init(self->loop(), &self->async_, [](uv_async_t* h) { Owner<DeathWatch>(h)->OnDeath(); });
    if (error != 0) {
      self->Abandon();
      return ThrowErrno(env, "uv_async_init", -error);
    }
    self->Adopt(&self->async_);
    self->callback_.Set(env, call.arg(0), "nyx:death");
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStack);
    // Signals are the main thread's.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    error = pthread_create(
        &self->thread_, &attributes, [](void* p) -> void* { return static_cast<DeathWatch*>(p)->Wait(), nullptr; }, self);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    self->running_ = error == 0;
    if (error != 0) {
      self->Close();
      return ThrowErrno(env, "pthread_create", error);
    }
    napi_value object;
    napi_create_object(env, &object);
    self->SetLifecycle(object);
    SetMethod(env, object, "start", self, Member<DeathWatch, &DeathWatch::Start>);
    return object;
  }

 private:
  static constexpr size_t kStack = 64 * 1024;
  enum State : uint32_t { kIdle, kWatching, kStopped };

  explicit DeathWatch(napi_env env) : LoopObject(env) {}

  napi_value Start(Call& call) {
    Span span;
    if (!call.Buffer(0, "rings", &span)) return nullptr;
    if (span.size < wire::kRingBase) return Throw(call.env(), "EINVAL", "rings: this is not a ring memfd");
    if (closed() || LoadRelaxed(state_) != kIdle) return Throw(call.env(), "EINVAL", "start comes once");
    hold_ = HoldMemory(call.arg(0));
    control_ = reinterpret_cast<wire::ProcessControl*>(span.data);
    Move(kWatching);
    return nullptr;
  }

  void Move(State state) {
    StoreRelease(state_, static_cast<uint32_t>(state));
    FutexWake(&state_, INT32_MAX);
  }

  // In the thread. The process that is watched writes the word: any value but the one that the kernel leaves is no news.
  void Wait() {
    while (LoadAcquire(state_) == kIdle) FutexWait(&state_, kIdle, INFINITY);
    while (LoadAcquire(state_) == kWatching) {
      const uint32_t holder = LoadAcquire(control_->holder);
      if (holder == (FUTEX_WAITERS | FUTEX_OWNER_DIED)) {
        uv_async_send(&async_);
        return;
      }
      if ((holder & FUTEX_WAITERS) == 0 || (holder & FUTEX_OWNER_DIED) != 0) return;
      Waiter waiters[] = {{kWatching, reinterpret_cast<uintptr_t>(&state_), kFutex32, 0},
                          {holder, reinterpret_cast<uintptr_t>(&control_->holder), kFutex32, 0}};
      if (syscall(kFutexWaitv, waiters, 2u, 0u, nullptr, 0) < 0 && errno != EAGAIN && errno != EINTR) return;
    }
  }

  void OnDeath() {
    Scope scope(env());
    const napi_value in_flight = FromNumber(env(), LoadRelaxed(control_->in_flight));
    callback_.Invoke(1, &in_flight);
  }

  void OnClosed() override {
    Move(kStopped);
    if (running_) pthread_join(thread_, nullptr);
    callback_.Clear();
  }

  uint32_t state_ = kIdle;
  bool running_ = false;
  wire::ProcessControl* control_ = nullptr;
  std::shared_ptr<void> hold_;
  pthread_t thread_;
  uv_async_t async_;
  Callback callback_;
};

}  // namespace

void ExportDeath(napi_env env, napi_value exports) { SetFunction(env, exports, "createDeathWatch", DeathWatch::Create); }

}  // namespace nyx
