#include <olm/kernels/base/math.h>
#include <olm/kernels/base/parallel.h>

#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <mutex>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace olm {
namespace {

// What precedes what, told to the thread sanitizer, which does not see inside the pool's library.
#if defined(__SANITIZE_THREAD__)
void precede(void* what) { __tsan_release(what); }
void follow(void* what) { __tsan_acquire(what); }
#else
void precede(void*) {}
void follow(void*) {}
#endif

/// The pool's library has no more workers than the machine has cores, and prints a warning where
/// more are asked for.
struct Pool {
  explicit Pool(int n) : threads(n), arena(std::min(n, tbb::info::default_concurrency())) {}
  int threads;
  tbb::task_arena arena;
};

int default_threads() {
  if (const char* text = std::getenv("OLM_NUM_THREADS")) {
    const char* end = text + std::strlen(text);
    int n = 0;
    const auto [at, error] = std::from_chars(text, end, n);
    require(error == std::errc() && at == end && n >= 1 && n <= 4096,
            "OLM_NUM_THREADS: wants 1 to 4096, got \"", text, "\"");
    return n;
  }
  return std::max(1, tbb::info::default_concurrency());
}

std::mutex pool_mutex;

std::shared_ptr<Pool>& pool_slot() {
  static std::shared_ptr<Pool> pool = std::make_shared<Pool>(default_threads());
  return pool;
}

std::shared_ptr<Pool> current_pool() {
  std::lock_guard lock(pool_mutex);
  return pool_slot();
}

}  // namespace

void set_threads(int n) {
  require(n >= 1 && n <= 4096, "set_threads: wanted 1 to 4096 threads, got ", n);
  auto pool = std::make_shared<Pool>(n);
  std::lock_guard lock(pool_mutex);
  pool_slot().swap(pool);
}

int num_threads() { return current_pool()->threads; }

namespace kernels {

void parallel_for(int64_t n, int64_t grain, RangeFunction body) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t ranges = ceil_div(n, grain);
  char begun = 0, done = 0;
  const auto call = [&](int64_t i) {
    follow(&begun);
    body(i * grain, std::min(n, (i + 1) * grain));
    precede(&done);
  };
  if (ranges == 1) return call(0);
  const std::shared_ptr<Pool> pool = current_pool();
  precede(&begun);
  pool->arena.execute([&] {
    if (pool->threads == 1) {
      for (int64_t i = 0; i < ranges; ++i) call(i);
      return;
    }
    tbb::parallel_for(tbb::blocked_range<int64_t>(0, ranges), [&](const auto& part) {
      for (int64_t i = part.begin(); i != part.end(); ++i) call(i);
    });
  });
  follow(&done);
}

}  // namespace kernels
}  // namespace olm
