// The CPU's caching allocator. Small requests come in size classes with a free list each; large
// ones are cut from big segments (huge pages where the system has them), best fit, and merge with
// their neighbours when freed. Nothing goes back to the system before empty_cache.
#include <olm/engine/allocator.h>
#include <olm/engine/meta_memory.h>
#include <olm/kernels/base/math.h>

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <unordered_map>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)0)
#endif

namespace olm {
namespace {

constexpr size_t kAlign = 64, kSmall = size_t(1) << 20, kHugePage = size_t(2) << 20,
                 kSegment = size_t(32) << 20;

using kernels::round_up;

/// Size classes: multiples of 64 up to 512, then eight steps to each power of two.
size_t class_size(size_t bytes) {
  if (bytes <= 512) return round_up(std::max(bytes, size_t(1)), kAlign);
  return round_up(bytes, std::bit_floor(bytes - 1) / 8);
}
/// Number of a class, by its size.
constexpr size_t class_index(size_t size) {
  if (size <= 512) return size / kAlign;
  const size_t power = std::bit_floor(size - 1), steps = (size - power) / (power / 8);
  return 8 * size_t(std::countr_zero(power) - 9) + 8 + steps;
}
constexpr size_t kClasses = class_index(kSmall) + 1;

void* system_memory(size_t bytes) {
  void* p = ::operator new(bytes, std::align_val_t(bytes >= kHugePage ? kHugePage : kAlign),
                           std::nothrow);
  if (p && bytes >= kHugePage) madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}
void release_system_memory(void* p, size_t bytes) {
  ASAN_UNPOISON_MEMORY_REGION(p, bytes);
  ::operator delete(p, std::align_val_t(bytes >= kHugePage ? kHugePage : kAlign));
}

struct Block {
  char* data;
  size_t size;
  bool free;
  bool segment_start;
};

class CpuAllocator final : public Allocator {
 public:
  void* take(size_t bytes) override {
    std::lock_guard lock(mutex_);
    const auto [p, size] =
        bytes <= kSmall ? take_small(class_size(bytes)) : take_large(round_up(bytes, 4096));
    stats_.allocations += 1;
    stats_.in_use += size;
    stats_.peak = std::max(stats_.peak, stats_.in_use);
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    return p;
  }

  void give_back(void* p) noexcept override {
    if (!p) return;
    std::lock_guard lock(mutex_);
    const auto found = size_.find(p);
    const size_t size = found->second;
    stats_.in_use -= size;
    ASAN_POISON_MEMORY_REGION(p, size);
    if (size <= kSmall) return small_[class_index(size)].push_back(p);
    size_.erase(found);
    free_large(static_cast<char*>(p));
  }

  MemoryStats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_peak() override {
    std::lock_guard lock(mutex_);
    stats_.peak = stats_.in_use;
  }
  void empty_cache() override {
    std::lock_guard lock(mutex_);
    release_free();
  }

 private:
  struct Taken {
    void* data;
    size_t size;
  };

  Taken take_small(size_t size) {
    std::vector<void*>& list = small_[class_index(size)];
    if (list.empty()) {
      void* p = from_system(size);
      size_[p] = size;
      return {p, size};
    }
    void* p = list.back();
    list.pop_back();
    return {p, size};
  }

  Taken take_large(size_t size) {
    auto fit = free_.lower_bound({size, nullptr});
    if (fit == free_.end()) {
      const size_t segment = round_up(std::max(size, kSegment), kHugePage);
      auto* data = static_cast<char*>(from_system(segment));
      blocks_[data] = {data, segment, true, true};
      fit = free_.insert({segment, data}).first;
    }
    char* data = fit->second;
    free_.erase(fit);
    Block& block = blocks_[data];
    block.free = false;
    if (block.size - size > kSmall) {  // split: what is left stays large
      char* rest = data + size;
      blocks_[rest] = {rest, block.size - size, true, false};
      free_.insert({block.size - size, rest});
      block.size = size;
    }
    size_[data] = block.size;
    return {data, block.size};
  }

  void free_large(char* data) {
    auto at = blocks_.find(data);
    at->second.free = true;
    const auto next = std::next(at);
    if (next != blocks_.end() && next->second.free && !next->second.segment_start) merge(at, next);
    if (!at->second.segment_start) {
      const auto previous = std::prev(at);
      if (previous->second.free) {
        free_.erase({previous->second.size, previous->first});
        previous->second.size += at->second.size;
        blocks_.erase(at);
        at = previous;
      }
    }
    free_.insert({at->second.size, at->first});
  }

  using Blocks = std::map<char*, Block>;
  void merge(Blocks::iterator at, Blocks::iterator next) {
    free_.erase({next->second.size, next->first});
    at->second.size += next->second.size;
    blocks_.erase(next);
  }

  void* from_system(size_t bytes) {
    void* p = system_memory(bytes);
    if (!p) {
      release_free();
      p = system_memory(bytes);
    }
    require(p != nullptr, "cpu allocator: out of memory: ", bytes, " bytes asked for, ",
            stats_.in_use, " in use, ", stats_.reserved, " reserved");
    stats_.reserved += bytes;
    stats_.system_allocations += 1;
    ASAN_POISON_MEMORY_REGION(p, bytes);
    return p;
  }

  void release_free() {
    for (std::vector<void*>& list : small_) {
      for (void* p : list) {
        const auto found = size_.find(p);
        stats_.reserved -= found->second;
        release_system_memory(p, found->second);
        size_.erase(found);
      }
      list.clear();
    }
    for (auto at = blocks_.begin(); at != blocks_.end();) {
      const auto next = std::next(at);
      const bool whole = at->second.segment_start && at->second.free &&
                         (next == blocks_.end() || next->second.segment_start);
      if (whole) {
        free_.erase({at->second.size, at->first});
        release_system_memory(at->first, at->second.size);
        stats_.reserved -= at->second.size;
        blocks_.erase(at);
      }
      at = next;
    }
  }

  mutable std::mutex mutex_;
  MemoryStats stats_;
  std::unordered_map<void*, size_t> size_;               // of small blocks, and large ones in use
  std::array<std::vector<void*>, kClasses> small_ = {};  // free ones, by class
  Blocks blocks_;                                        // large ones, by address
  std::set<std::pair<size_t, char*>> free_;              // large free ones, by size
};

}  // namespace

Allocator& allocator_of(Device device) {
  require_device(device);
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
  ptrdiff_t peak = meta_peak;
  while (now > peak && !meta_peak.compare_exchange_weak(peak, now)) continue;
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
