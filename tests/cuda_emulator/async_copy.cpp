// cp.async: copies of a thread from global to shared memory, in groups. They land at the wait that
// asks for them, the latest moment that CUDA allows, or in eager mode at once.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include <tests/cuda_emulator/block.h>
#include <tests/cuda_emulator/memory.h>
#include <tests/cuda_emulator/options.h>
#include <tests/cuda_emulator/race.h>
#include <tests/cuda_emulator/report.h>

namespace olm::cuda_emulator {
namespace {

constexpr size_t kBytes = 16;

struct Copy {
  void* shared;
  const void* global;
  bool valid;
};

/// A group ends before this copy.
struct GroupEnd {
  size_t copy;
};
/// What a thread has copied since nothing was in flight.
struct Queue {
  std::vector<Copy> copies;
  std::vector<GroupEnd> group_ends;
  size_t landed = 0, groups_landed = 0;

  void clear() {
    copies.clear();
    group_ends.clear();
    landed = groups_landed = 0;
  }
};
std::array<Queue, kMaxThreads>& queues = *new std::array<Queue, kMaxThreads>;
int64_t in_flight = 0;  // copies of all threads of the block

void land(const Copy& copy) {
  if (copy.valid) {
    race::note_read(copy.global, kBytes);
    std::memcpy(copy.shared, copy.global, kBytes);
  } else {
    std::memset(copy.shared, 0, kBytes);
  }
  race::note_write(copy.shared, kBytes);
}

void check(const void* shared, const void* global, bool valid) {
  const auto offset = uintptr_t(static_cast<const unsigned char*>(shared) - running.shared);
  if (offset % kBytes != 0 || (valid && reinterpret_cast<uintptr_t>(global) % kBytes != 0))
    fail_block("cp.async alignment",
               [&] { return std::string("cp.async: both addresses have to be aligned to 16"); });
  if (!kAddressSanitizer && offset + kBytes > running.grid->shared)
    fail_block("cp.async range",
               [&] { return std::string("cp.async writes outside the block's shared memory"); });
  if (valid && !running.is_device(global, kBytes))
    fail_block("cp.async source", [&] { return "cp.async reads " + describe_memory(global); });
}

}  // namespace

void copy_async(void* shared, const void* global, bool valid) {
  check(shared, global, valid);
  const Copy copy{shared, global, valid};
  if (options().eager) return land(copy);
  running.copies = true;
  race::note_write(shared, kBytes);  // from here on it may land
  queues[thread_number].copies.push_back(copy);
  ++in_flight;
}

void commit_copies() {
  running.copies = true;
  Queue& queue = queues[thread_number];
  queue.group_ends.push_back({queue.copies.size()});
}

void wait_for_copies(int kept) {
  Queue& queue = queues[thread_number];
  const size_t groups = queue.group_ends.size();
  if (groups - queue.groups_landed <= size_t(kept)) return;
  queue.groups_landed = groups - size_t(kept);
  const size_t end = queue.group_ends[queue.groups_landed - 1].copy;
  in_flight -= int64_t(end - queue.landed);
  while (queue.landed < end) land(queue.copies[queue.landed++]);
  if (queue.landed == queue.copies.size() && kept == 0) queue.clear();
}

void copies_after_exit() {
  Queue& queue = queues[thread_number];
  if (in_flight > 0 && queue.landed < queue.copies.size()) {
    report("cp.async in flight", [&] {
      return "the thread exits with " + std::to_string(queue.copies.size() - queue.landed) +
             " cp.async in flight";
    });
    in_flight -= int64_t(queue.copies.size() - queue.landed);
  }
  if (!queue.group_ends.empty() || !queue.copies.empty()) queue.clear();
}

void reset_copies() {
  for (Queue& queue : queues) queue.clear();
  in_flight = 0;
}

}  // namespace olm::cuda_emulator
