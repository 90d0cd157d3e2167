#pragma once
// The core of every device's allocator. Small requests come in size classes with a free list each;
// large ones are cut from big segments, best fit, and merge with their neighbours when freed.
// Nothing goes back to the system before empty_cache.
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <olm/engine/allocator.h>

namespace olm {

/// What differs between devices, in bytes.
struct CachingOptions {
  const char* name = "";  ///< of the device, for messages
  size_t max_small = 0;   ///< up to here a request is served from a size class
  size_t granule = 4096;  ///< larger ones are rounded up to its multiples
  size_t segment = size_t(32) << 20, segment_granule = size_t(2) << 20;
};

class CachingAllocator : public Allocator {
 public:
  explicit CachingAllocator(CachingOptions options);
  void* take(size_t bytes) override;
  void give_back(void* p) noexcept override;
  MemoryStats stats() const override;
  void reset_peak() override;
  void empty_cache() override;

 protected:
  /// Memory of the system, or null where there is not enough.
  virtual void* system_memory(size_t bytes) = 0;
  virtual void release_system_memory(void* p, size_t bytes) noexcept = 0;
  /// Told when memory is handed out, and when it comes from the system or back.
  virtual void on_take(void*, size_t) {}
  virtual void on_give_back(void*, size_t) noexcept {}
  /// What to say beside the numbers when the system has no more.
  virtual std::string describe_system() const { return {}; }

 private:
  struct Taken {
    void* data;
    size_t size;
  };
  struct Block {
    char* data;
    size_t size;
    bool free;
    bool segment_start;
  };
  using Blocks = std::map<char*, Block>;
  Taken take_small(size_t size);
  Taken take_large(size_t size);
  void free_large(char* data);
  void merge(Blocks::iterator at, Blocks::iterator next);
  /// `preferred` bytes, or where the system has not so many, `least`, for a request of `wanted`.
  Taken from_system(size_t preferred, size_t least, size_t wanted);
  void release_free();

  CachingOptions options_;
  mutable std::mutex mutex_;
  MemoryStats stats_;
  std::unordered_map<void*, size_t> size_;   // of small blocks, and large ones in use
  std::vector<std::vector<void*>> small_;    // free ones, by class
  Blocks blocks_;                            // large ones, by address
  std::set<std::pair<size_t, char*>> free_;  // large free ones, by size
};

}  // namespace olm
