// Asynchronous file I/O into mapped memory: the JavaScript face of an IoEngine.
#include "io_queue.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "death.h"
#include "io_engine.h"
#include "io_inline.h"
#include "loop.h"

namespace nyx {
namespace {

// op, id, fd, fileOffset, segmentCount.
constexpr uint32_t kRequestFields = 5;

class IoQueue : public LoopObject {
 public:
  static napi_value Create(napi_env env, napi_callback_info info);

 private:
  explicit IoQueue(napi_env env) : LoopObject(env) {}
  napi_value AddMemory(Call& call);
  napi_value Queue(napi_env env);
  napi_value Submit(napi_env env);
  napi_value Harvest(napi_env env);
  napi_value InFlight(Call& call) { return FromInt(call.env(), static_cast<int32_t>(in_flight_)); }
  napi_value Mapped(Call& call) { return FromNumber(call.env(), static_cast<double>(inline_.mapped())); }
  bool Segments(napi_env env, uint32_t count, iovec* iov);
  void OnEvent() {
    uint64_t count;
    if (read(engine_->event_fd(), &count, 8) == 8) on_ready_.Invoke();
  }
  uint32_t HarvestEngine(int32_t* pairs, uint32_t max) {
    const uint32_t n = engine_->Harvest(pairs, max);
    if (n != 0) CountInFlight(-static_cast<int32_t>(n));
    return n;
  }
  // Requests completed during Submit: unless they are harvested before, the event loop tells of them in its next turn.
  void SetLate(bool late) {
    if (late == late_) return;
    late_ = late;
    if (late) {
      StartTurns(&turns_, [](uv_check_t* h) {
        auto* self = Owner<IoQueue>(h);
        self->SetLate(false);
        self->on_ready_.Invoke();
      });
    } else {
      StopTurns(&turns_);
    }
  }
  void OnClosed() override {
    // The kernel may still write into the memory that we hold: wait for it.
    in_flight_ -= done_count_;
    while (in_flight_ > 0) {
      engine_->Submit();
      engine_->WaitOne();
      in_flight_ -= HarvestEngine(completions_, entries_);
    }
    engine_.reset();
    memories_.clear();
    on_ready_.Clear();
    napi_delete_reference(env(), completions_ref_);
    napi_delete_reference(env(), segments_ref_);
  }

  struct Memory {
    Span span;
    std::shared_ptr<void> hold;
  };
  std::unique_ptr<IoEngine> engine_;
  IoInline inline_;
  // What was done inline and is not harvested: pairs as in `completions_`.
  std::vector<int32_t> done_;
  uint32_t done_count_ = 0;
  std::vector<Memory> memories_;
  uint32_t entries_ = 0;
  uint32_t in_flight_ = 0;
  // Of the request being queued: its numbers, then where its bytes are.
  double* request_ = nullptr;
  double* segments_ = nullptr;
  int32_t* completions_ = nullptr;
  napi_ref segments_ref_ = nullptr, completions_ref_ = nullptr;
  Turns turns_;
  bool late_ = false;
  Callback on_ready_;
};

// A text property of the first argument; `*value` stays when there is none.
bool TextOption(const Call& call, const char* name, std::string* value) {
  const napi_value option = call.Option(0, name);
  if (option == nullptr) return true;
  napi_value list;
  napi_create_array_with_length(call.env(), 1, &list);
  napi_set_element(call.env(), list, 0, option);
  std::vector<std::string> texts;
  if (!call.TextList(list, name, &texts)) return false;
  *value = texts[0];
  return true;
}

napi_value IoQueue::Create(napi_env env, napi_callback_info info) {
  Call call(env, info);
  double entries = 0;
  std::string engine = "auto", mode = "cached";
  if (call.Option(0, "entries") == nullptr) return call.Fail("entries", "a number"), nullptr;
  if (!call.OptionNumber(0, "entries", 1, 4096, &entries)) return nullptr;
  const auto count = static_cast<uint32_t>(entries);
  if (count != entries || (count & (count - 1)) != 0) return Throw(env, "EINVAL", "entries must be a power of two");
  const napi_value on_ready = call.Option(0, "onReady");
  if (on_ready == nullptr || !IsFunction(env, on_ready)) return call.Fail("onReady", "a function"), nullptr;
  if (!TextOption(call, "engine", &engine) || !TextOption(call, "inline", &mode)) return nullptr;
  if (engine != "auto" && engine != "io_uring" && engine != "threads")
    return call.Fail("engine", "'auto', 'io_uring' or 'threads'"), nullptr;

  if (mode != "none" && mode != "cached" && mode != "all")
    return call.Fail("inline", "'none', 'cached' or 'all'"), nullptr;

  std::unique_ptr<IoEngine> made;
  if (engine != "threads") made = MakeIoUring(count);
  if (made == nullptr && engine == "io_uring") return ThrowErrno(env, "io_uring_setup", errno);
  if (made == nullptr) made = MakeIoThreads(count);

  auto* self = new IoQueue(env);
  self->engine_ = std::move(made);
  self->entries_ = count;
  self->inline_.set_mode(mode == "none"     ? IoInline::Mode::kNone
                         : mode == "cached" ? IoInline::Mode::kCached
                                               : IoInline::Mode::kAll);
  self->done_.resize(2 * count);
  if (!self->OpenTurns(&self->turns_, self->engine_->event_fd())) return nullptr;
  self->on_ready_.Set(env, on_ready, "nyx:io");
  uv_poll_start(&self->turns_.poll, UV_READABLE, [](uv_poll_t* h, int, int) { Owner<IoQueue>(h)->OnEvent(); });

  napi_value object, buffer, array;
  void* data;
  napi_create_object(env, &object);
  napi_set_named_property(env, object, "engine", FromText(env, self->engine_->name()));
  constexpr size_t kRequestBytes = kRequestFields * sizeof(double);
  napi_create_arraybuffer(env, kRequestBytes + 3 * kMaxSegments * sizeof(double), &data, &buffer);
  self->request_ = static_cast<double*>(data);
  self->segments_ = self->request_ + kRequestFields;
  napi_create_reference(env, buffer, 1, &self->segments_ref_);
  napi_create_typedarray(env, napi_float64_array, kRequestFields, buffer, 0, &array);
  napi_set_named_property(env, object, "request", array);
  napi_create_typedarray(env, napi_float64_array, 3 * kMaxSegments, buffer, kRequestBytes, &array);
  napi_set_named_property(env, object, "segments", array);
  napi_create_arraybuffer(env, 2 * count * sizeof(int32_t), &data, &buffer);
  self->completions_ = static_cast<int32_t*>(data);
  napi_create_reference(env, buffer, 1, &self->completions_ref_);
  napi_create_typedarray(env, napi_int32_array, 2 * count, buffer, 0, &array);
  napi_set_named_property(env, object, "completions", array);
  self->SetLifecycle(object);
  SetMethod(env, object, "addMemory", self, Member<IoQueue, &IoQueue::AddMemory>);
  SetMethod(env, object, "queueRequest", self, Member0<IoQueue, &IoQueue::Queue>);
  SetMethod(env, object, "submit", self, Member0<IoQueue, &IoQueue::Submit>);
  SetMethod(env, object, "harvest", self, Member0<IoQueue, &IoQueue::Harvest>);
  SetGetter(env, object, "inFlight", self, Member<IoQueue, &IoQueue::InFlight>);
  SetGetter(env, object, "mapped", self, Member<IoQueue, &IoQueue::Mapped>);
  return object;
}

napi_value IoQueue::AddMemory(Call& call) {
  Span span;
  if (!call.Buffer(0, "buffer", &span)) return nullptr;
  memories_.push_back({span, HoldMemory(call.arg(0))});
  return FromInt(call.env(), static_cast<int32_t>(memories_.size() - 1));
}

bool IoQueue::Segments(napi_env env, uint32_t count, iovec* iov) {
  for (uint32_t i = 0; i < count; i++) {
    const double memory = segments_[3 * i], offset = segments_[3 * i + 1], length = segments_[3 * i + 2];
    if (!(memory >= 0 && memory < static_cast<double>(memories_.size())) ||
        !memories_[static_cast<size_t>(memory)].span.Holds(offset, length) || length > 0x7ffff000) {
      Throw(env, "EINVAL", "segment " + std::to_string(i) + " lies outside its memory");
      return false;
    }
    iov[i] = {memories_[static_cast<size_t>(memory)].span.data + static_cast<size_t>(offset),
              static_cast<size_t>(length)};
  }
  return true;
}

napi_value IoQueue::Queue(napi_env env) {
  if (closed()) return ThrowErrno(env, "queue", EBADF);
  // op, id, fd, fileOffset, segmentCount: numbers of JavaScript, so each may be anything.
  constexpr struct {
    const char* name;
    double high;
  } kFields[kRequestFields] = {
      {"op", kIoOps - 1}, {"id", INT32_MAX}, {"fd", INT32_MAX}, {"fileOffset", 0x1p53}, {"segmentCount", kMaxSegments}};
  for (uint32_t i = 0; i < kRequestFields; i++)
    if (!(request_[i] >= 0 && request_[i] <= kFields[i].high))
      return Throw(env, "EINVAL", std::string(kFields[i].name) + " is " + std::to_string(request_[i]));
  const double op = request_[0], id = request_[1], fd = request_[2], offset = request_[3], count = request_[4];
  if (in_flight_ >= entries_) return FromBool(env, false);
  const auto segments = static_cast<uint32_t>(count);
  IoRequest request = {static_cast<uint32_t>(op),      static_cast<uint32_t>(id), static_cast<int>(fd),
                       static_cast<uint64_t>(offset), 0,                         nullptr,
                       segments};
  iovec iov[kMaxSegments];
  if (request.op <= kIoWrite) {
    if (segments == 0) return Throw(env, "EINVAL", "segmentCount is 0: nothing to read or write");
    if (!Segments(env, segments, iov)) return nullptr;
    request.iov = iov;
  } else {
    const double length = segments_[2];
    if (request.op >= kIoPunchHole && !(length > 0 && length <= 0x1p53))
      return Throw(env, "EINVAL", "length must be in segments[2]");
    request.length = request.op >= kIoPunchHole ? static_cast<uint64_t>(length) : 0;
    request.segments = 0;
    request.iov = iov;
  }
  int32_t result;
  if (inline_.Try(request, &result)) {
    done_[2 * done_count_] = static_cast<int32_t>(request.id);
    done_[2 * done_count_ + 1] = result;
    done_count_++;
  } else {
    // Before the kernel can know of it.
    CountInFlight(1);
    engine_->Queue(request);
  }
  in_flight_++;
  return FromBool(env, true);
}

napi_value IoQueue::Submit(napi_env env) {
  if (closed()) return ThrowErrno(env, "submit", EBADF);
  engine_->Submit();
  const bool ready = done_count_ > 0 || engine_->Ready();
  SetLate(ready);
  return FromBool(env, ready);
}

napi_value IoQueue::Harvest(napi_env env) {
  if (closed()) return FromInt(env, 0);
  inline_.Turn();
  uint32_t n = done_count_;
  if (n > 0) memcpy(completions_, done_.data(), 2 * n * sizeof(int32_t));
  done_count_ = 0;
  n += HarvestEngine(completions_ + 2 * n, entries_ - n);
  in_flight_ -= n;
  SetLate(false);
  return FromInt(env, static_cast<int32_t>(n));
}

// The budget alone, for its tests.
class Budget : public Object {
 public:
  static napi_value Create(napi_env env, napi_callback_info) {
    auto* self = new Budget();
    napi_value object;
    napi_create_object(env, &object);
    SetMethod(env, object, "allows", self, Member<Budget, &Budget::Allows>);
    SetMethod(env, object, "spent", self, Member<Budget, &Budget::Spent>);
    return object;
  }

 private:
  napi_value Allows(Call& call) {
    double now;
    if (!call.Number(0, "nowNs", 0, 0x1p53, &now)) return nullptr;
    return FromBool(call.env(), budget_.Allows(static_cast<uint64_t>(now)));
  }
  napi_value Spent(Call& call) {
    double began, ended, bytes;
    if (!call.Number(0, "beganNs", 0, 0x1p53, &began) || !call.Number(1, "endedNs", began, 0x1p53, &ended) ||
        !call.Number(2, "bytes", 0, 0x1p40, &bytes))
      return nullptr;
    budget_.Spent(static_cast<uint64_t>(began), static_cast<uint64_t>(ended), static_cast<uint64_t>(bytes));
    return nullptr;
  }
  StallBudget budget_;
};

}  // namespace

void ExportIoQueue(napi_env env, napi_value exports) {
  SetFunction(env, exports, "createIoQueue", IoQueue::Create);
  SetFunction(env, exports, "createStallBudget", Budget::Create);
}

}  // namespace nyx
