// The CPU's allocator: huge pages for what is large, and memory that is not handed out is poisoned
// under AddressSanitizer.
#include <olm/engine/allocator.h>
#include <olm/engine/backend_internal.h>
#include <olm/engine/caching_allocator_internal.h>
#include <olm/engine/meta_memory.h>

#include <sys/mman.h>

#include <atomic>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)0)
#endif

namespace olm {
namespace {

constexpr size_t kAlign = 64, kHugePage = size_t(2) << 20;

std::align_val_t alignment(size_t bytes) {
  return std::align_val_t(bytes >= kHugePage ? kHugePage : kAlign);
}

class CpuAllocator final : public CachingAllocator {
 public:
  CpuAllocator() : CachingAllocator({.name = "cpu", .max_small = size_t(1) << 20}) {}

 private:
  void* system_memory(size_t bytes) override {
    void* p = ::operator new(bytes, alignment(bytes), std::nothrow);
    if (p && bytes >= kHugePage) madvise(p, bytes, MADV_HUGEPAGE);
    return p;
  }
  void release_system_memory(void* p, size_t bytes) noexcept override {
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    ::operator delete(p, alignment(bytes));
  }
  void on_take([[maybe_unused]] void* p, [[maybe_unused]] size_t bytes) override {
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
  }
  void on_give_back([[maybe_unused]] void* p, [[maybe_unused]] size_t bytes) noexcept override {
    ASAN_POISON_MEMORY_REGION(p, bytes);
  }
};

}  // namespace

Allocator& allocator_of(Device device) {
  require_device(device);
#if OLM_CUDA
  if (device.kind == DeviceKind::cuda) return cuda_backend::allocator(device.index);
#endif
  require(device.kind == DeviceKind::cpu, "allocator: ", device, " has no memory");
  // Never destroyed: tensors in static storage may outlive any order of destruction.
  static CpuAllocator& allocator = *new CpuAllocator;
  return allocator;
}

namespace {
std::atomic<ptrdiff_t> meta_in_use{0}, meta_peak{0};
}  // namespace

void count_on_meta(ptrdiff_t bytes) noexcept {
  const ptrdiff_t now = meta_in_use.fetch_add(bytes) + bytes;
  for (ptrdiff_t peak = meta_peak; now > peak && !meta_peak.compare_exchange_weak(peak, now);) {}
}

MemoryStats memory_stats(Device device) {
  if (device.kind != DeviceKind::meta) return allocator_of(device).stats();
  return {.in_use = size_t(meta_in_use), .peak = size_t(meta_peak)};
}
void reset_peak_memory(Device device) {
  if (device.kind != DeviceKind::meta) return allocator_of(device).reset_peak();
  meta_peak.store(meta_in_use);
}
void empty_cache(Device device) { allocator_of(device).empty_cache(); }

}  // namespace olm
