#include <tests/cuda_emulator/watch.h>

#if OLM_EMULATOR_RACE
#include <link.h>

#include <array>
#include <cstdint>
#include <vector>

#include <tests/cuda_emulator/block.h>
#include <tests/cuda_emulator/memory.h>
#include <tests/cuda_emulator/race.h>
#include <tests/cuda_emulator/report.h>

namespace olm::cuda_emulator {
namespace {

struct Range {
  const char* begin = nullptr;
  size_t size = 0;
  bool holds(const void* p, size_t bytes) const {
    const auto offset = size_t(static_cast<const char*>(p) - begin);
    return offset < size && bytes <= size - offset;
  }
};

/// Constants of the program and its libraries: segments that are never
/// writable, or only until the program is relocated.
std::vector<Range> find_constants() {
  std::vector<Range> ranges;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          const bool constant = (segment.p_type == PT_LOAD && !(segment.p_flags & PF_W)) ||
                                segment.p_type == PT_GNU_RELRO;
          if (constant)
            static_cast<std::vector<Range>*>(out)->push_back(
                {reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr),
                 segment.p_memsz});
        }
        return 0;
      },
      &ranges);
  return ranges;
}

bool is_constant(const void* p, size_t bytes) {
  static const std::vector<Range>& ranges = *new std::vector<Range>(find_constants());
  for (const Range& range : ranges)
    if (range.holds(p, bytes)) return true;
  return false;
}

template <class T>
bool is_part_of(const T& object, const void* p, size_t bytes) {
  return Range{reinterpret_cast<const char*>(&object), sizeof(T)}.holds(p, bytes);
}

/// What a kernel knows without being told: its indices and its arguments.
bool is_given(const void* p, size_t bytes) {
  const KernelCall* call = running.grid->call;
  return is_part_of(threadIdx, p, bytes) || is_part_of(blockIdx, p, bytes) ||
         is_part_of(blockDim, p, bytes) || is_part_of(gridDim, p, bytes) ||
         is_part_of(thread_number, p, bytes) ||
         Range{reinterpret_cast<const char*>(call), call->size()}.holds(p, bytes);
}

/// Allocations that were looked up lately are mostly the next ones, too.
struct Lately {
  std::array<Range, 4> ranges = {};
  size_t next = 0;
  int64_t version = -1;
} lately;

bool is_allocated_here(const void* p, size_t bytes) {
  if (lately.version != allocation_version) lately = {.version = allocation_version};
  for (const Range& range : lately.ranges)
    if (range.holds(p, bytes)) return true;
  if (!is_allocated(p, bytes)) return false;
  const AllocatedBytes found = allocation_of(p);
  lately.ranges[lately.next++ % lately.ranges.size()] = {found.data, found.bytes};
  return true;
}

void watch_elsewhere(const void* memory, size_t bytes, bool writes) {
  if (!writes && (is_given(memory, bytes) || is_constant(memory, bytes))) return;
  if (is_pinned(memory, bytes)) return;
  report(writes ? "host write" : "host read", [&] {
    const auto offset = size_t(static_cast<const unsigned char*>(memory) - running.shared);
    if (offset < (size_t(1) << 20))
      return std::string("accesses shared memory outside the block's");
    return (writes ? "writes " : "reads ") + describe_memory(memory);
  });
}

}  // namespace

void watch(const void* memory, size_t bytes, bool writes) {
  if (!runs_kernel || running.fiber->holds(memory)) return;
  const Pause pause;
  if (!running.is_shared(memory) &&
      !(running.is_device(memory, bytes) && is_allocated_here(memory, bytes)))
    return watch_elsewhere(memory, bytes, writes);
  if (writes)
    race::note_write(memory, bytes);
  else
    race::note_read(memory, bytes);
}

void watch_aligned(const void* memory, size_t bytes, bool writes) {
  if (!runs_kernel) return;
  if (reinterpret_cast<uintptr_t>(memory) & (bytes - 1)) check_alignment(memory, bytes);
  watch(memory, bytes, writes);
}

}  // namespace olm::cuda_emulator
#endif
