#include <tests/cuda_emulator/block.h>

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <numeric>
#include <vector>

#include <tests/cuda_emulator/options.h>
#include <tests/cuda_emulator/race.h>
#include <tests/cuda_emulator/report.h>
#include <tests/cuda_emulator/statistics.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) (void(p), void(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) (void(p), void(n))
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace olm::cuda_emulator {

unsigned thread_number = 0;
Running running;
constinit thread_local bool runs_kernel = false;

namespace {

struct Thread {
  uint3 index = {};
  Fiber* fiber = nullptr;  ///< where it waits; null before it has waited
  const char* place = "";
  unsigned detail = 0;
  bool exited = false;
};

/// Threads that can run: each at most once, so the ring never overflows.
class ReadyQueue {
 public:
  void clear() { head_ = tail_ = 0; }
  void fill(int threads) {
    for (int t = 0; t < threads; ++t) ring_[t] = uint16_t(t);
    head_ = 0;
    tail_ = unsigned(threads);
  }
  void push(int thread) { ring_[tail_++ % kMaxThreads] = uint16_t(thread); }
  int pop() {  // -1: nobody
    if (head_ == tail_) return -1;
    if (running.at_random)
      std::swap(ring_[head_ % kMaxThreads], ring_[(head_ + draw(tail_ - head_)) % kMaxThreads]);
    return ring_[head_++ % kMaxThreads];
  }

 private:
  std::array<uint16_t, kMaxThreads> ring_ = {};
  unsigned head_ = 0, tail_ = 0;
};

std::array<Thread, kMaxThreads> threads;
ReadyQueue ready;
Fiber host;  // the OS thread's own stack
std::vector<Fiber*>& fibers = *new std::vector<Fiber*>;
std::vector<Fiber*>& idle_fibers = *new std::vector<Fiber*>;
bool abandoned = false;

/// The order of blocks: as numbered, or with a seed i · stride + first modulo their number.
struct BlockOrder {
  uint64_t count = 0, next = 0, stride = 1, first = 0;
} order;
int64_t reports_before = 0;

[[noreturn]] void work();

Fiber* take_fiber() {
  if (idle_fibers.empty()) {
    fibers.push_back(make_fiber());
    prepare(*fibers.back(), int(fibers.size()) - 1, work);
    return fibers.back();
  }
  Fiber* fiber = idle_fibers.back();
  idle_fibers.pop_back();
  return fiber;
}

void enter(int thread) {
  thread_number = unsigned(thread);
  threadIdx = threads[size_t(thread)].index;
}

void go_to(Fiber& to) {
  Fiber& from = *running.fiber;
  running.fiber = &to;
  switch_fiber(from, to);
}

std::string describe_waiting() {
  std::map<std::string, ThreadRanges> places;
  ThreadRanges exited;
  for (int t = 0; t < running.threads; ++t) {
    const Thread& thread = threads[size_t(t)];
    if (thread.exited) {
      exited.add(t);
      continue;
    }
    char detail[32] = "";
    if (thread.detail != 0) std::snprintf(detail, sizeof(detail), " (0x%x)", thread.detail);
    places[thread.place + std::string(detail)].add(t);
  }
  std::string text;
  for (const auto& [place, who] : places)
    text += (text.empty() ? "threads " : "; threads ") + who.text() + " wait at " + place;
  if (!exited.text().empty()) text += "; threads " + exited.text() + " have exited";
  return text;
}

int next_thread() {
  const int next = ready.pop();
  if (next < 0) {
    running.inside = false;  // the report is about the block
    fail_block("deadlock", [&] {
      return "block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
             std::to_string(blockIdx.z) + "): deadlock: " + describe_waiting();
    });
  }
  return next;
}

/// False when the grid has ended.
bool begin_block() {
  if (order.next == order.count || count_reports() != reports_before) return false;
  const Grid& grid = *running.grid;
  const uint64_t b = (order.next++ * order.stride + order.first) % order.count;
  blockIdx = {unsigned(b % grid.blocks.x), unsigned(b / grid.blocks.x % grid.blocks.y),
              unsigned(b / grid.blocks.x / grid.blocks.y)};
  std::memset(running.shared, 0xff, grid.shared);  // reads as NaN
  race::begin_block();
  ready.fill(running.threads);
  for (int t = 0; t < running.threads; ++t) threads[size_t(t)].exited = false;
  running.live = running.threads;
  running.copies = false;
  return true;
}

void exit_thread() {
  Thread& thread = threads[thread_number];
  thread.exited = true;
  thread.fiber = nullptr;
  --running.live;
  if (running.copies) copies_after_exit();
  if (running.barriers > 0 && running.live > 0) barriers_after_exit();
}

/// The body of every fibre: runs threads one after another, as long as none has to wait.
[[noreturn]] void work() {
  enter_fiber();
  for (;;) {
    running.grid->call->run();
    exit_thread();
    if (running.live == 0 && !begin_block()) {
      idle_fibers.push_back(running.fiber);
      go_to(host);
      continue;  // in another grid, whose first thread is set
    }
    const int next = next_thread();
    enter(next);
    if (Fiber* waiting = threads[size_t(next)].fiber) {
      idle_fibers.push_back(running.fiber);
      go_to(*waiting);
    }
  }
}

void set_threads(dim3 shape) {
  static dim3 set(0, 0, 0);
  blockDim = shape;
  running.threads = int(shape.x * shape.y * shape.z);
  if (set.x == shape.x && set.y == shape.y && set.z == shape.z) return;
  set = shape;
  for (int t = 0; t < running.threads; ++t) {
    const unsigned n = unsigned(t);
    threads[size_t(t)].index = {n % shape.x, n / shape.x % shape.y, n / (shape.x * shape.y)};
  }
}

void set_order(uint64_t count) {
  order = {.count = count};
  if (!running.at_random) return;
  order.first = draw(count);
  order.stride = 1 + draw(count);
  while (std::gcd(order.stride, count) != 1) ++order.stride;
}

/// Every fibre starts anew: those of a block that ended early are in the middle of a kernel.
void clean_up() {
  idle_fibers.clear();
  for (size_t i = fibers.size(); i-- > 0;) {
    prepare(*fibers[i], int(i), work);
    idle_fibers.push_back(fibers[i]);
  }
  for (Thread& thread : threads) thread.fiber = nullptr;
  ready.clear();
  reset_barriers();
  reset_collectives();
  reset_copies();
}

}  // namespace

Running::Running()
    : shared(static_cast<unsigned char*>(mmap(nullptr, kSharedArena, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
unsigned char* shared_memory() { return running.shared; }

void wait_here(const char* place, unsigned detail) {
  const int me = int(thread_number);
  Thread& thread = threads[thread_number];
  thread.place = place;
  thread.detail = detail;
  const int next = next_thread();
  if (next == me) return;
  thread.fiber = running.fiber;
  enter(next);
  Fiber* waiting = threads[size_t(next)].fiber;
  go_to(waiting ? *waiting : *take_fiber());
}

void make_ready(int thread) { ready.push(thread); }
bool has_exited(int thread) { return threads[size_t(thread)].exited; }

void abandon_block() {
  abandoned = true;
  Fiber& from = *running.fiber;
  running.fiber = &host;
  switch_fiber(from, host, true);
  __builtin_unreachable();
}

void trap() {
  fail_block("trap", [&] { return std::string("the kernel stopped itself with __trap()"); });
}

void check_alignment(const void* memory, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(memory) % bytes != 0)
    report("alignment", [&] {
      return "an access of " + std::to_string(bytes) +
             " bytes at an address that is not a multiple of that";
    });
}

void run_grid(const Grid& grid) {
  running.grid = &grid;
  running.arena = reinterpret_cast<unsigned char*>(arena_of(grid.device));
  gridDim = grid.blocks;
  set_threads(grid.threads);
  running.at_random = options().seed != 0;
  set_order(uint64_t(grid.blocks.x) * grid.blocks.y * grid.blocks.z);
  reports_before = count_reports();
  counts.launches += 1;
  counts.blocks += int64_t(order.count);
  counts.threads += int64_t(order.count) * running.threads;
  ASAN_UNPOISON_MEMORY_REGION(running.shared, grid.shared);
  ASAN_POISON_MEMORY_REGION(running.shared + grid.shared, kSharedArena - grid.shared);
  race::begin_grid(grid);
  if (begin_block()) {
    enter(next_thread());
    running.fiber = &host;
    running.inside = runs_kernel = true;
    go_to(*take_fiber());
    running.inside = runs_kernel = false;
  }
  if (std::exchange(abandoned, false)) clean_up();
  running.grid = nullptr;
}

}  // namespace olm::cuda_emulator
