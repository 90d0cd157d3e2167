// Barriers of a block: __syncthreads, which is barrier 0 of all threads, and named ones, in which
// some threads may arrive without waiting.
#include <array>
#include <string>

#include <tests/cuda_emulator/block.h>
#include <tests/cuda_emulator/race.h>
#include <tests/cuda_emulator/report.h>

namespace olm::cuda_emulator {
namespace {

struct Barrier {
  int threads = 0;  ///< that it is for; 0: all of the block
  int arrived = 0, waiting = 0;
  int true_count = 0, result = 0;
  std::array<uint16_t, kMaxThreads> members = {};  ///< in the order of their arrival
  std::array<bool, kMaxThreads> waits = {};        ///< by place in members
};
std::array<Barrier, 16> barriers;

const char* name_of(int id) { return id == 0 ? "__syncthreads" : "a named barrier"; }

void release(Barrier& barrier) {
  const bool everybody = barrier.waiting == running.threads;
  if (everybody)
    race::full_barrier();
  else
    race::join(barrier.members.data(), barrier.waits.data(), barrier.arrived);
  for (int i = 0; i < barrier.arrived; ++i)
    if (barrier.waits[size_t(i)] && barrier.members[size_t(i)] != thread_number)
      make_ready(barrier.members[size_t(i)]);
  barrier.result = barrier.true_count;
  barrier.arrived = barrier.waiting = barrier.true_count = 0;
  --running.barriers;
}

void report_exited() {
  report("barrier after exit", [] {
    ThreadRanges exited;
    for (int t = 0; t < running.threads; ++t)
      if (has_exited(t)) exited.add(t);
    return "__syncthreads is passed by " + std::to_string(running.live) +
           " threads while threads " + exited.text() + " have exited";
  });
}

void arrive(Barrier& barrier, int id, int threads, bool waits) {
  if (barrier.arrived == 0) {
    barrier.threads = threads;
    ++running.barriers;
  } else if (barrier.threads != threads) {
    fail_block("barrier counts", [&] {
      return "barrier " + std::to_string(id) + " is for " + std::to_string(barrier.threads) +
             " threads, this one says " + std::to_string(threads);
    });
  }
  barrier.members[size_t(barrier.arrived)] = uint16_t(thread_number);
  barrier.waits[size_t(barrier.arrived)] = waits;
  ++barrier.arrived;
  barrier.waiting += waits;
  const int needed = threads == 0 ? running.live : threads;
  if (barrier.arrived == needed) {
    if (threads == 0 && running.live < running.threads) report_exited();
    release(barrier);
  } else if (waits) {
    wait_here(name_of(id), unsigned(id));
  }
}

}  // namespace

void barrier(int id, int threads, bool waits) {
  if (id < 0 || id > 15)
    fail_block("barrier id",
               [&] { return "barriers are numbered 0 to 15, got " + std::to_string(id); });
  if (threads % kWarp != 0 || threads < 0 || threads > running.threads)
    fail_block("barrier size", [&] {
      return "a barrier is for whole warps of the block, got " + std::to_string(threads) +
             " threads";
    });
  arrive(barriers[size_t(id)], id, threads, waits);
}

int barrier_count(bool predicate) {
  barriers[0].true_count += predicate;
  arrive(barriers[0], 0, 0, true);
  return barriers[0].result;
}

void barriers_after_exit() {
  Barrier& all = barriers[0];
  if (all.arrived == 0 || all.threads != 0 || all.arrived != running.live) return;
  report_exited();
  release(all);
}

void reset_barriers() {
  for (Barrier& barrier : barriers) barrier.arrived = barrier.waiting = barrier.true_count = 0;
  running.barriers = 0;
}

}  // namespace olm::cuda_emulator
