// Shared mappings that other processes may write at any time. Every read of them goes through Load/Store below, once.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>

namespace nyx {

// A mapping of (part of) a memfd. The file must be sealed against shrinking: otherwise its other owner could
// truncate it, and reading it would end this process with SIGBUS.
class Mapping {
 public:
  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();
  // False and a text in `error` when the descriptor is no memfd, not sealed, or smaller than offset + bytes.
  bool Map(int fd, uint64_t offset, uint64_t bytes, bool writable, std::string* error);
  bool MapAll(int fd, bool writable, std::string* error);
  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

// Size of a sealed memfd, or -1.
int64_t SealedSize(int fd, std::string* error);

template <typename T>
inline T Load(const T& field, std::memory_order order = std::memory_order_relaxed) {
  return std::atomic_ref<T>(const_cast<T&>(field)).load(order);
}
template <typename T>
inline void Store(T& field, T value, std::memory_order order = std::memory_order_relaxed) {
  std::atomic_ref<T>(field).store(value, order);
}

}  // namespace nyx
