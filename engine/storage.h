#pragma once
// The bytes behind tensors.
#include <atomic>
#include <functional>
#include <memory>

#include <olm/engine/allocator.h>

namespace olm {

/// A block of memory on a device. `version` counts writes, so that a value saved for backward can
/// tell whether it was overwritten.
class OLM_API Storage {
 public:
  /// Memory of `device`'s allocator; none on `meta`.
  Storage(size_t bytes, Device device);
  /// Memory that somebody else owns, such as a mapped file; `release` runs when the last user goes.
  Storage(void* data, size_t bytes, Device device, std::function<void()> release);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  uint64_t version() const { return version_.load(std::memory_order_relaxed); }
  void bump_version() { version_.fetch_add(1, std::memory_order_relaxed); }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  Device device_;
  Allocator* allocator_ = nullptr;
  std::function<void()> release_;
  std::atomic<uint64_t> version_{0};
};

}  // namespace olm
