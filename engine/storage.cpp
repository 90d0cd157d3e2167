#include <olm/engine/storage.h>

#include <olm/engine/meta_memory.h>

#include <utility>

namespace olm {

Storage::Storage(size_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (device.kind == DeviceKind::meta) {
    count_on_meta(ptrdiff_t(bytes));
    return;
  }
  allocator_ = &allocator_of(device);
  data_ = allocator_->take(bytes);
}

Storage::Storage(void* data, size_t bytes, Device device, std::function<void()> release)
    : data_(data), bytes_(bytes), device_(device), release_(std::move(release)) {}

Storage::~Storage() {
  if (allocator_) allocator_->give_back(data_);
  if (device_.kind == DeviceKind::meta) count_on_meta(-ptrdiff_t(bytes_));
  if (release_) release_();
}

}  // namespace olm
