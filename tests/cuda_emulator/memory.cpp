#include <tests/cuda_emulator/memory.h>

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>

#include <tests/cuda_emulator/options.h>
#include <tests/cuda_emulator/statistics.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) (void(p), void(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) (void(p), void(n))
#endif

namespace olm::cuda_emulator {

int64_t allocation_version = 0;

namespace {

constexpr size_t kPage = 4096, kHugePage = size_t(2) << 20;
constexpr int kPoison = 0xff;

struct Allocation {
  size_t bytes;   ///< as asked for
  size_t mapped;  ///< whole pages, behind which one is left free
};

struct Arena {
  char* base = nullptr;
  std::map<char*, Allocation> allocations;
  size_t in_use = 0;
  char* end = nullptr;  ///< nothing has been given out from here on
  int opened = 0;
};
std::array<Arena, kMaxDeviceCount>& arenas = *new std::array<Arena, kMaxDeviceCount>;
std::map<char*, size_t>& pinned = *new std::map<char*, size_t>;

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

Arena& arena(int device) {
  Arena& found = arenas[size_t(device)];
  if (!found.base) arena_of(device);
  return found;
}

/// All addresses in use at once: huge pages make that cheap, and they must not be cut.
void protect(Arena& of, int protection) {
  const size_t bytes = size_t(of.end - of.base);
  mprotect(of.base, (bytes + kHugePage - 1) / kHugePage * kHugePage, protection);
}

/// The first gap between allocations that holds `bytes`.
char* find_gap(Arena& of, size_t bytes) {
  char* at = of.base;
  for (const auto& [data, allocation] : of.allocations) {
    if (size_t(data - at) >= bytes) break;
    at = data + allocation.mapped + kPage;
  }
  return at;
}

/// The allocation that holds p, of one map or the other.
template <class Map>
auto find_in(Map& map, const void* p) {
  auto* address = const_cast<char*>(static_cast<const char*>(p));
  auto after = map.upper_bound(address);
  return after == map.begin() ? map.end() : std::prev(after);
}

}  // namespace

char* arena_of(int device) {
  Arena& of = arenas[size_t(device)];
  if (!of.base) [[unlikely]] {
    void* memory = mmap(nullptr, kArenaBytes + kHugePage, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    const size_t offset = reinterpret_cast<size_t>(memory) % kHugePage;
    of.base = of.end = static_cast<char*>(memory) + kHugePage - offset;
    madvise(of.base, kArenaBytes, MADV_HUGEPAGE);
  }
  return of.base;
}

void* allocate_device(int device, size_t bytes) {
  Arena& of = arena(device);
  const size_t mapped = whole_pages(std::max(bytes, size_t(1)));
  if (mapped > options().memory || of.in_use > options().memory - mapped) return nullptr;
  char* data = find_gap(of, mapped + kPage);
  if (data + mapped + kPage > of.base + kArenaBytes - kHugePage) return nullptr;
  of.end = std::max(of.end, data + mapped + kPage);
  {
    const OpenDevice open(device);
    ASAN_UNPOISON_MEMORY_REGION(data, mapped + kPage);
    std::memset(data, kPoison, mapped + kPage);
    ASAN_POISON_MEMORY_REGION(data + bytes, mapped - bytes + kPage);
  }
  of.allocations[data] = {bytes, mapped};
  of.in_use += mapped;
  ++allocation_version;
  size_t all = 0;
  for (const Arena& each : arenas) all += each.in_use;
  counts.allocations += 1;
  counts.peak_bytes = std::max(counts.peak_bytes, int64_t(all));
  return data;
}

bool free_device(void* memory) {
  const int device = device_of(memory);
  if (device < 0) return false;
  Arena& of = arena(device);
  const auto found = of.allocations.find(static_cast<char*>(memory));
  if (found == of.allocations.end()) return false;
  const size_t mapped = found->second.mapped;
  if (mapped >= kHugePage) {
    madvise(memory, mapped, MADV_DONTNEED);
  } else {
    const OpenDevice open(device);
    ASAN_UNPOISON_MEMORY_REGION(memory, mapped);
    std::memset(memory, kPoison, mapped);
  }
  ASAN_POISON_MEMORY_REGION(memory, mapped);
  of.in_use -= mapped;
  ++allocation_version;
  of.allocations.erase(found);
  return true;
}

size_t device_bytes_in_use(int device) { return arenas[size_t(device)].in_use; }

int device_of(const void* memory) {
  for (int d = 0; d < kMaxDeviceCount; ++d) {
    const Arena& of = arenas[size_t(d)];
    if (of.base && size_t(static_cast<const char*>(memory) - of.base) < kArenaBytes) return d;
  }
  return -1;
}

AllocatedBytes allocation_of(const void* memory) {
  const int device = device_of(memory);
  if (device < 0) return {nullptr, 0};
  const auto found = find_in(arena(device).allocations, memory);
  if (found == arena(device).allocations.end()) return {nullptr, 0};
  return {found->first, found->second.bytes};
}

bool is_allocated(const void* memory, size_t bytes) {
  const AllocatedBytes found = allocation_of(memory);
  const auto offset = size_t(static_cast<const char*>(memory) - found.data);
  return found.data && offset <= found.bytes && bytes <= found.bytes - offset;
}

void* allocate_pinned(size_t bytes) {
  const size_t mapped = whole_pages(std::max(bytes, size_t(1)));
  auto* data = static_cast<char*>(std::aligned_alloc(kPage, mapped));
  if (!data) return nullptr;
  std::memset(data, 0xff, mapped);
  pinned[data] = bytes;
  return data;
}

bool free_pinned(void* memory) {
  const auto found = pinned.find(static_cast<char*>(memory));
  if (found == pinned.end()) return false;
  pinned.erase(found);
  std::free(memory);
  return true;
}

bool is_pinned(const void* memory, size_t bytes) {
  const auto found = find_in(pinned, memory);
  if (found == pinned.end()) return false;
  const auto offset = size_t(static_cast<const char*>(memory) - found->first);
  return offset < found->second && bytes <= found->second - offset;
}

std::string describe_memory(const void* memory) {
  char address[32];
  std::snprintf(address, sizeof(address), "0x%zx", reinterpret_cast<size_t>(memory));
  const int device = device_of(memory);
  if (device < 0) {
    if (!memory) return "a null pointer";
    if (reinterpret_cast<uintptr_t>(memory) < kPage)
      return std::string("almost a null pointer, ") + address;
    return std::string(is_pinned(memory, 1) ? "pinned" : "host") + " memory at " + address;
  }
  if (const AllocatedBytes found = allocation_of(memory); is_allocated(memory, 1))
    return "byte " + std::to_string(static_cast<const char*>(memory) - found.data) + " of the " +
           std::to_string(found.bytes) + " bytes of device memory at " + address;
  return std::string("memory of device ") + std::to_string(device) + " that is not allocated, at " +
         address;
}

OpenDevice::OpenDevice(int device) : device_(device) {
  if (arena(device).opened++ == 0) protect(arena(device), PROT_READ | PROT_WRITE);
}
OpenDevice::~OpenDevice() {
  if (--arena(device_).opened == 0) protect(arena(device_), PROT_NONE);
}

}  // namespace olm::cuda_emulator
