// Atomic access to fields of shared memory that is described by plain structures.
#pragma once
#include <atomic>

namespace nyx {

template <class T>
T LoadAcquire(const T& field) {
  return std::atomic_ref<T>(const_cast<T&>(field)).load(std::memory_order_acquire);
}
template <class T>
T LoadRelaxed(const T& field) {
  return std::atomic_ref<T>(const_cast<T&>(field)).load(std::memory_order_relaxed);
}
template <class T>
void StoreRelease(T& field, T value) {
  std::atomic_ref<T>(field).store(value, std::memory_order_release);
}
template <class T>
void StoreRelaxed(T& field, T value) {
  std::atomic_ref<T>(field).store(value, std::memory_order_relaxed);
}
// Full fence on both sides.
template <class T>
T Swap(T& field, T value) {
  return std::atomic_ref<T>(field).exchange(value, std::memory_order_seq_cst);
}
inline void FullFence() { std::atomic_thread_fence(std::memory_order_seq_cst); }

}  // namespace nyx
