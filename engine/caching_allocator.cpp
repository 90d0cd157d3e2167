#include <olm/engine/caching_allocator_internal.h>

#include <algorithm>
#include <bit>

#include <olm/kernels/base/math.h>

namespace olm {
namespace {

using kernels::round_up;

/// Size classes: multiples of 64 up to 512, then eight steps to each power of two.
size_t class_size(size_t bytes) {
  if (bytes <= 512) return round_up(std::max(bytes, size_t(1)), 64);
  return round_up(bytes, std::bit_floor(bytes - 1) / 8);
}
/// Number of a class, by its size.
size_t class_index(size_t size) {
  if (size <= 512) return size / 64;
  const size_t power = std::bit_floor(size - 1), steps = (size - power) / (power / 8);
  return 8 * size_t(std::countr_zero(power) - 9) + 8 + steps;
}

}  // namespace

CachingAllocator::CachingAllocator(CachingOptions options) : options_(options) {
  small_.resize(options.max_small ? class_index(options.max_small) + 1 : 0);
}

void* CachingAllocator::take(size_t bytes) {
  std::lock_guard lock(mutex_);
  const auto [p, size] = std::max(bytes, size_t(1)) <= options_.max_small
                             ? take_small(class_size(bytes))
                             : take_large(round_up(std::max(bytes, size_t(1)), options_.granule));
  stats_.allocations += 1;
  stats_.in_use += size;
  stats_.peak = std::max(stats_.peak, stats_.in_use);
  on_take(p, bytes);
  return p;
}

void CachingAllocator::give_back(void* p) noexcept {
  if (!p) return;
  std::lock_guard lock(mutex_);
  const auto found = size_.find(p);
  const size_t size = found->second;
  stats_.in_use -= size;
  on_give_back(p, size);
  if (size <= options_.max_small) return small_[class_index(size)].push_back(p);
  size_.erase(found);
  free_large(static_cast<char*>(p));
}

MemoryStats CachingAllocator::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void CachingAllocator::reset_peak() {
  std::lock_guard lock(mutex_);
  stats_.peak = stats_.in_use;
}

void CachingAllocator::empty_cache() {
  std::lock_guard lock(mutex_);
  release_free();
}

CachingAllocator::Taken CachingAllocator::take_small(size_t size) {
  std::vector<void*>& list = small_[class_index(size)];
  if (list.empty()) {
    void* p = from_system(size, size, size).data;
    size_[p] = size;
    return {p, size};
  }
  void* p = list.back();
  list.pop_back();
  return {p, size};
}

CachingAllocator::Taken CachingAllocator::take_large(size_t size) {
  auto fit = free_.lower_bound({size, nullptr});
  if (fit == free_.end()) {
    const size_t least = round_up(size, options_.segment_granule);
    const Taken segment = from_system(std::max(least, options_.segment), least, size);
    auto* data = static_cast<char*>(segment.data);
    blocks_[data] = {data, segment.size, true, true};
    fit = free_.insert({segment.size, data}).first;
  }
  char* data = fit->second;
  free_.erase(fit);
  Block& block = blocks_[data];
  block.free = false;
  if (block.size - size > options_.max_small) {  // split: what is left stays large
    char* rest = data + size;
    blocks_[rest] = {rest, block.size - size, true, false};
    free_.insert({block.size - size, rest});
    block.size = size;
  }
  size_[data] = block.size;
  return {data, block.size};
}

void CachingAllocator::free_large(char* data) {
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

void CachingAllocator::merge(Blocks::iterator at, Blocks::iterator next) {
  free_.erase({next->second.size, next->first});
  at->second.size += next->second.size;
  blocks_.erase(next);
}

CachingAllocator::Taken CachingAllocator::from_system(size_t preferred, size_t least,
                                                      size_t wanted) {
  size_t bytes = preferred;
  void* p = system_memory(bytes);
  if (!p) {
    release_free();
    p = system_memory(bytes);
  }
  if (!p && least < preferred) p = system_memory(bytes = least);
  require(p != nullptr, options_.name, " allocator: out of memory: ", wanted, " bytes asked for, ",
          stats_.in_use, " in use, ", stats_.reserved, " reserved", describe_system());
  stats_.reserved += bytes;
  stats_.system_allocations += 1;
  on_give_back(p, bytes);
  return {p, bytes};
}

void CachingAllocator::release_free() {
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

}  // namespace olm
