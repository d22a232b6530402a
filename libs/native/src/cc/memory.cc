// Shared memory: sealed memfds, mappings as ArrayBuffers, futexes, copies, checksums.
#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "call.h"
#include "crc32c.h"
#include "futex.h"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <v8.h>
#pragma GCC diagnostic pop

namespace nyx {
namespace {

constexpr double kMaxBytes = 0x1p47;

// Node-API values are V8 handles; Node-API itself cannot make buffers beyond 4 GiB nor hold their memory.
v8::Local<v8::ArrayBuffer> AsV8(napi_value value) {
  static_assert(sizeof(v8::Local<v8::Value>) == sizeof(napi_value));
  v8::Local<v8::Value> local;
  memcpy(static_cast<void*>(&local), &value, sizeof value);
  return local.As<v8::ArrayBuffer>();
}

// A mapping stays until `munmap`, and until native objects that use it are gone. V8 could unmap it by a deleter when its
// ArrayBuffer is collected, but counts memory that has one as its heap's: it collects all garbage whenever a large one
// is made, 30 ms in the midst of an attach.
struct Mapping {
  void* at;
  size_t size;
  ~Mapping() { munmap(at, size); }
};

std::mutex mappings_mutex;
std::unordered_map<void*, std::shared_ptr<Mapping>> mappings;

napi_value NewBuffer(void* at, size_t size) {
  {
    const std::lock_guard lock(mappings_mutex);
    mappings[at].reset(new Mapping{at, size});
  }
  auto store = v8::ArrayBuffer::NewBackingStore(at, size, v8::BackingStore::EmptyDeleter, nullptr);
  v8::Local<v8::Value> buffer = v8::ArrayBuffer::New(v8::Isolate::GetCurrent(), std::move(store));
  napi_value out;
  memcpy(&out, static_cast<void*>(&buffer), sizeof out);
  return out;
}

napi_value MemfdCreate(napi_env env, napi_callback_info info) {
  Call call(env, info);
  std::string name;
  int64_t size;
  bool seal = true, huge = false;
  if (!call.Text(0, "name", &name) || !call.Int(1, "size", 1, kMaxBytes, &size) || !call.OptionBool(2, "seal", &seal) ||
      !call.OptionBool(2, "hugePages", &huge))
    return nullptr;
  const int fd = memfd_create(name.c_str(), MFD_CLOEXEC | (seal ? MFD_ALLOW_SEALING : 0u) | (huge ? MFD_HUGETLB : 0u));
  if (fd < 0) return ThrowErrno(env, "memfd_create", errno);
  const char* failed = nullptr;
  if (ftruncate(fd, size) != 0) failed = "ftruncate";
  else if (seal && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) failed = "fcntl(F_ADD_SEALS)";
  if (failed != nullptr) {
    const int error = errno;
    close(fd);
    return ThrowErrno(env, failed, error);
  }
  return FromInt(env, fd);
}

napi_value Mmap(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int fd;
  int64_t length;
  double offset = 0;
  bool write = true, sealed = false;
  if (!call.Fd(0, &fd) || !call.Int(1, "length", 1, kMaxBytes, &length) ||
      !call.OptionNumber(2, "offset", 0, kMaxBytes, &offset) || !call.OptionBool(2, "write", &write) ||
      !call.OptionBool(2, "sealed", &sealed))
    return nullptr;
  struct stat st;
  if (fstat(fd, &st) != 0) return ThrowErrno(env, "fstat", errno);
  if (offset + static_cast<double>(length) > static_cast<double>(st.st_size))
    return Throw(env, "EINVAL",
                 "mmap of " + std::to_string(length) + " bytes at " + std::to_string(static_cast<int64_t>(offset)) +
                     " goes beyond the file's " + std::to_string(st.st_size));
  if (sealed) {
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
      return Throw(env, "EPERM", "mmap: the file must be sealed against shrinking (F_SEAL_SHRINK)");
  }
  const auto size = static_cast<size_t>(length);
  void* at = mmap(nullptr, size, PROT_READ | (write ? PROT_WRITE : 0), MAP_SHARED, fd, static_cast<off_t>(offset));
  if (at == MAP_FAILED) return ThrowErrno(env, "mmap", errno);
  return NewBuffer(at, size);
}

// Address space without memory, into which files are mapped piece by piece: several of them look like one buffer.
napi_value CreateWindow(napi_env env, napi_callback_info info) {
  Call call(env, info);
  int64_t length;
  if (!call.Int(0, "length", 4096, kMaxBytes, &length)) return nullptr;
  const auto size = static_cast<size_t>(length);
  void* at = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return ThrowErrno(env, "mmap", errno);
  return NewBuffer(at, size);
}

// The place of arguments 1 (at) and 2 (length) in the window of argument 0.
bool Place(const Call& call, uint8_t** at, size_t* length) {
  Span window;
  int64_t offset, bytes;
  if (!call.Buffer(0, "window", &window) || !call.Int(1, "at", 0, kMaxBytes, &offset) ||
      !call.Int(2, "length", 1, kMaxBytes, &bytes))
    return false;
  if (offset % 4096 != 0 || !window.Holds(static_cast<double>(offset), static_cast<double>(bytes))) {
    Throw(call.env(), "EINVAL", "at must be a multiple of 4096, and the range inside the window");
    return false;
  }
  const std::lock_guard lock(mappings_mutex);
  const auto found = mappings.find(window.data);
  if (found == mappings.end() || found->second->size != window.size) {
    Throw(call.env(), "EINVAL", "not a buffer of createWindow");
    return false;
  }
  *at = window.data + offset;
  *length = static_cast<size_t>(bytes);
  return true;
}

napi_value MapInto(napi_env env, napi_callback_info info) {
  Call call(env, info);
  uint8_t* at;
  size_t length;
  int fd;
  int64_t offset;
  if (!Place(call, &at, &length) || !call.Fd(3, &fd) || !call.Int(4, "offset", 0, kMaxBytes, &offset)) return nullptr;
  struct stat st;
  if (fstat(fd, &st) != 0) return ThrowErrno(env, "fstat", errno);
  if (!S_ISREG(st.st_mode) || offset + static_cast<int64_t>(length) > st.st_size)
    return Throw(env, "EINVAL", "the file ends before " + std::to_string(offset + static_cast<int64_t>(length)));
  if (mmap(at, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset) == MAP_FAILED)
    return ThrowErrno(env, "mmap", errno);
  return nullptr;
}

napi_value UnmapFrom(napi_env env, napi_callback_info info) {
  Call call(env, info);
  uint8_t* at;
  size_t length;
  if (!Place(call, &at, &length)) return nullptr;
  if (mmap(at, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
    return ThrowErrno(env, "mmap", errno);
  return nullptr;
}

napi_value Munmap(napi_env env, napi_callback_info info) {
  Call call(env, info);
  Span span;
  if (!call.Buffer(0, "buffer", &span)) return nullptr;
  if (!AsV8(call.arg(0))->Detach(v8::Local<v8::Value>()).FromMaybe(false))
    return Throw(env, "EINVAL", "munmap: this ArrayBuffer cannot be detached");
  const std::lock_guard lock(mappings_mutex);
  mappings.erase(span.data);
  return nullptr;
}

napi_value Memcpy(napi_env env, napi_callback_info info) {
  Call call(env, info);
  Span to, from;
  double to_offset, from_offset, length;
  if (!call.Buffer(0, "to", &to) || !call.Number(1, "toOffset", 0, kMaxBytes, &to_offset) ||
      !call.Buffer(2, "from", &from) || !call.Number(3, "fromOffset", 0, kMaxBytes, &from_offset) ||
      !call.Number(4, "length", 0, kMaxBytes, &length))
    return nullptr;
  if (!to.Holds(to_offset, length) || !from.Holds(from_offset, length))
    return Throw(env, "EINVAL", "memcpy: the range lies outside a buffer");
  memmove(to.data + static_cast<size_t>(to_offset), from.data + static_cast<size_t>(from_offset),
          static_cast<size_t>(length));
  return nullptr;
}

napi_value Crc(napi_env env, napi_callback_info info) {
  Call call(env, info);
  uint8_t* data;
  size_t length;
  double seed;
  if (!call.Range(0, "buffer", &data, &length) || !call.NumberOr(3, "seed", 0, UINT32_MAX, 0, &seed)) return nullptr;
  return FromNumber(env, Crc32c(data, length, static_cast<uint32_t>(seed)));
}

// The futex word of arguments 0 (buffer) and 1 (byteOffset).
bool Word(const Call& call, uint8_t** word) {
  Span span;
  int64_t offset;
  if (!call.Buffer(0, "buffer", &span) || !call.Int(1, "byteOffset", 0, kMaxBytes, &offset)) return false;
  if (offset % 4 != 0 || !span.Holds(static_cast<double>(offset), 4)) {
    Throw(call.env(), "EINVAL", "futex: byteOffset must be a multiple of 4 inside the buffer");
    return false;
  }
  *word = span.data + offset;
  return true;
}

napi_value Wait(napi_env env, napi_callback_info info) {
  Call call(env, info);
  uint8_t* word;
  double expected, timeout;
  if (!Word(call, &word) || !call.Number(2, "expected", 0, UINT32_MAX, &expected) ||
      !call.Number(3, "timeoutNs", 0, INFINITY, &timeout))
    return nullptr;
  if (FutexWait(word, static_cast<uint32_t>(expected), timeout) == 0 || errno == EINTR) return FromInt(env, 0);
  if (errno == EAGAIN) return FromInt(env, 1);
  if (errno == ETIMEDOUT) return FromInt(env, 2);
  return ThrowErrno(env, "futex", errno);
}

napi_value Wake(napi_env env, napi_callback_info info) {
  Call call(env, info);
  uint8_t* word;
  int64_t count;
  if (!Word(call, &word) || !call.Int(2, "count", 1, INT32_MAX, &count)) return nullptr;
  const long woken = FutexWake(word, static_cast<int>(count));
  if (woken < 0) return ThrowErrno(env, "futex", errno);
  return FromInt(env, static_cast<int32_t>(woken));
}

}  // namespace

std::shared_ptr<void> HoldMemory(napi_value array_buffer) {
  auto store = AsV8(array_buffer)->GetBackingStore();
  const std::lock_guard lock(mappings_mutex);
  const auto found = mappings.find(store->Data());
  if (found != mappings.end()) return found->second;
  return store;
}

void ExportMemory(napi_env env, napi_value exports) {
  SetFunction(env, exports, "memfdCreate", MemfdCreate);
  SetFunction(env, exports, "mmap", Mmap);
  SetFunction(env, exports, "munmap", Munmap);
  SetFunction(env, exports, "createWindow", CreateWindow);
  SetFunction(env, exports, "mapInto", MapInto);
  SetFunction(env, exports, "unmapFrom", UnmapFrom);
  SetFunction(env, exports, "memcpy", Memcpy);
  SetFunction(env, exports, "crc32c", Crc);
  SetFunction(env, exports, "futexWait", Wait);
  SetFunction(env, exports, "futexWake", Wake);
}

}  // namespace nyx
