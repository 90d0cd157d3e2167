// Vector clocks, cut into intervals. A stamp counts up at each block and at each barrier of a whole
// block, so two accesses of one block with different stamps are ordered, and only within one stamp
// do clocks matter, which __syncwarp and barriers of fewer threads advance. Blocks of one launch
// are never ordered, launches always are.
#include <tests/cuda_emulator/race.h>

#include <array>
#include <string>

#include <tests/cuda_emulator/block.h>
#include <tests/cuda_emulator/memory.h>
#include <tests/cuda_emulator/report.h>
#include <tests/cuda_emulator/shadow.h>

namespace olm::cuda_emulator {

void note_atomic(void* memory, size_t bytes) { race::note_update(memory, bytes); }

#if OLM_EMULATOR_RACE
namespace race {
namespace {

using shadow::Access;
using shadow::Cell;

uint32_t stamp = 1, first_of_block = 1, first_of_grid = 1;

/// What a thread knows of the others' clocks, valid while `stamp` is the current one: before, it
/// knows nothing but its own, which is 1.
struct Clocks {
  uint32_t stamp = 0;
  bool beyond_warp = false;  ///< it has met threads of other warps
  std::array<uint16_t, kMaxThreads> known;
};
std::array<Clocks, kMaxThreads>& clocks = *new std::array<Clocks, kMaxThreads>;
/// Each thread's own clock, apart from the rest because every access asks for it.
struct OwnClock {
  uint32_t stamp = 0;
  uint16_t clock = 1;
};
std::array<OwnClock, kMaxThreads> own_clocks;

Clocks& clocks_of(unsigned thread) {
  Clocks& mine = clocks[thread];
  if (mine.stamp != stamp) {
    mine.stamp = stamp;
    mine.beyond_warp = false;
    mine.known.fill(0);
    mine.known[thread] = 1;
  }
  return mine;
}
uint16_t own_clock(unsigned thread) {
  const OwnClock& mine = own_clocks[thread];
  return mine.stamp == stamp ? mine.clock : uint16_t(1);
}

/// Where an access is judged: what is older than `floor` does not matter to this memory.
struct Place {
  const void* memory;
  uint32_t floor;
  bool shared;
};

/// True if nothing orders an earlier access before the running thread's.
bool is_unordered(const Access& access, uint32_t floor) {
  if (access.stamp < floor) return false;
  if (access.stamp < first_of_block) return true;
  if (access.stamp < stamp || access.thread == thread_number) return false;
  const Clocks& mine = clocks[thread_number];
  return mine.stamp != stamp || mine.known[access.thread] < access.clock;
}

std::string who(const Access& access) {
  if (access.stamp < first_of_block) return "another block";
  return "thread " + std::to_string(access.thread);
}

std::string where(const Place& place) {
  if (!place.shared) return describe_memory(place.memory);
  const auto* p = static_cast<const unsigned char*>(place.memory);
  return "shared memory + " + std::to_string(p - running.shared);
}

void report_race(const char* kind, const Access& other, const Place& place) {
  report(kind, [&] {
    return std::string("race: ") + kind + " by " + who(other) +
           ", with nothing to order them, at " + where(place);
  });
}

Access mine_now() { return {stamp, uint16_t(thread_number), own_clock(thread_number)}; }

/// True if the access is in order.
bool read(Cell& cell, const Place& place) {
  const Access me = mine_now();
  if (cell.reads[0] == me || cell.reads[1] == me) return true;  // a write would have cleared them
  if (is_unordered(cell.write, place.floor)) {
    report_race("reads what was written", cell.write, place);
    cell = {};
    return false;
  }
  if (cell.first_read < place.floor) cell.first_read = stamp;
  for (Access& slot : cell.reads)
    if (slot.thread == thread_number || !is_unordered(slot, place.floor)) {
      slot = me;
      return true;
    }
  cell.reads[cell.next_slot++ % cell.reads.size()] = me;
  return true;
}

bool write(Cell& cell, const Place& place, bool atomic) {
  const Access* other = nullptr;
  const char* kind = "writes what was read";
  const Access by_block{cell.first_read, 0, 0};
  if (cell.first_read < first_of_block && is_unordered(by_block, place.floor)) other = &by_block;
  for (const Access& access : cell.reads)
    if (is_unordered(access, place.floor)) other = &access;
  if (is_unordered(cell.write, place.floor) && !(atomic && cell.atomic)) {
    other = &cell.write;
    kind = "writes what was written";
  }
  if (other) report_race(kind, *other, place);
  cell = {};
  if (other) return false;
  cell.write = mine_now();
  cell.atomic = atomic;
  return true;
}

/// f for the cells of an access; nothing for memory that has no shadow.
template <class F>
void for_each_cell(const void* memory, size_t bytes, F&& f) {
  const bool shared = running.is_shared(memory);
  if (!shared && !running.is_device(memory, bytes)) return;
  const Place place{memory, shared ? first_of_block : first_of_grid, shared};
  const auto* p = static_cast<const unsigned char*>(memory);
  shadow::for_each_cell(shared ? shadow::of_shared : shadow::of_device,
                        size_t(p - (shared ? running.shared : running.arena)), bytes,
                        [&](Cell& cell) { return f(cell, place); });
}

void meet_within(int first, int last, const uint16_t* members, const bool* waits, int count,
                 bool beyond) {
  static std::array<uint16_t, kMaxThreads> all;
  for (int t = first; t < last; ++t) all[size_t(t)] = 0;
  for (int i = 0; i < count; ++i) {
    const Clocks& one = clocks_of(members[i]);
    for (int t = first; t < last; ++t)
      all[size_t(t)] = std::max(all[size_t(t)], one.known[size_t(t)]);
  }
  for (int i = 0; i < count; ++i) {
    Clocks& one = clocks[members[i]];
    if (waits[i]) {
      std::copy(all.begin() + first, all.begin() + last, one.known.begin() + first);
      one.beyond_warp = one.beyond_warp || beyond;
    }
    own_clocks[members[i]] = {stamp, ++one.known[members[i]]};
  }
}

}  // namespace

void begin_grid(const Grid& grid) {
  first_of_grid = stamp + 1;
  shadow::open(grid.device);
}

void begin_block() { first_of_block = ++stamp; }

void full_barrier() { ++stamp; }

void join(const uint16_t* members, const bool* waits, int count) {
  const int warp = members[0] / kWarp;
  bool beyond = false;
  for (int i = 0; i < count; ++i)
    beyond = beyond || members[i] / kWarp != warp || clocks_of(members[i]).beyond_warp;
  if (beyond)
    meet_within(0, running.threads, members, waits, count, true);
  else
    meet_within(warp * kWarp, warp * kWarp + kWarp, members, waits, count, false);
}

void note_read(const void* memory, size_t bytes) { for_each_cell(memory, bytes, read); }
void note_write(const void* memory, size_t bytes) {
  for_each_cell(memory, bytes,
                [](Cell& cell, const Place& place) { return write(cell, place, false); });
}
void note_update(const void* memory, size_t bytes) {
  for_each_cell(memory, bytes,
                [](Cell& cell, const Place& place) { return write(cell, place, true); });
}

}  // namespace race
#endif

}  // namespace olm::cuda_emulator
