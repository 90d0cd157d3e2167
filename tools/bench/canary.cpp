#include "tools/bench/canary.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

#include <olm/kernels/base/error.h>

namespace olm::tools {

namespace {

using Clock = std::chrono::steady_clock;

/// The cores this process may use.
std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) cores.push_back(i);
  return cores;
}

void pin_to(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // refused: it runs unpinned
}

// Ten chains: enough for two units of four or five cycles. Values stay near 1e-3, far from
// subnormal numbers, which would be a hundred times slower.
#define OLM_TEN_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)

#if defined(__x86_64__)
#define OLM_FMA_LOOP                         \
  Vec a = Vec{} + 1e-3f, b = a;              \
  OLM_TEN_CHAINS(OLM_START)                  \
  for (int64_t i = 0; i < iterations; ++i) { \
    OLM_TEN_CHAINS(OLM_STEP)                 \
  }
#define OLM_START(k) Vec x##k = a;
#define OLM_STEP(k) asm volatile("vfmadd213ps %2, %1, %0" : "+v"(x##k) : "v"(a), "v"(b));

__attribute__((target("avx512f"))) void burn_avx512(int64_t iterations) {
  typedef float Vec __attribute__((vector_size(64)));
  OLM_FMA_LOOP
}
__attribute__((target("avx2,fma"))) void burn_avx2(int64_t iterations) {
  typedef float Vec __attribute__((vector_size(32)));
  OLM_FMA_LOOP
}
#undef OLM_FMA_LOOP
#undef OLM_START
#undef OLM_STEP
#endif

void burn_scalar(int64_t iterations) {
#define OLM_START(k) float x##k = 1e-3f;
#define OLM_STEP(k)            \
  x##k = x##k * 1e-3f + 1e-3f; \
  asm volatile("" : "+m"(x##k));
  OLM_TEN_CHAINS(OLM_START)
  for (int64_t i = 0; i < iterations; ++i) {
    OLM_TEN_CHAINS(OLM_STEP)
  }
#undef OLM_START
#undef OLM_STEP
}

struct Burner {
  void (*run)(int64_t);
  int lanes;
};

Burner widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return {burn_avx512, 16};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {burn_avx2, 8};
#endif
  return {burn_scalar, 1};
}

}  // namespace

double run_pinned(int threads, const std::function<void(int)>& body) {
  static const std::vector<int> cores = allowed_cores();
  std::atomic<int> ready{0};
  std::atomic<bool> all_started{true};
  std::vector<Clock::time_point> begins(static_cast<size_t>(threads)), ends(begins);
  const auto work = [&](int t) {
    if (!cores.empty()) pin_to(cores[size_t(t) % cores.size()]);
    ready.fetch_add(1);
    while (ready.load() < threads && all_started.load()) std::this_thread::yield();
    if (!all_started.load()) return;
    begins[size_t(t)] = Clock::now();
    body(t);
    ends[size_t(t)] = Clock::now();
  };
  {
    std::vector<std::jthread> pool;
    try {
      for (int t = 0; t < threads; ++t) pool.emplace_back(work, t);
    } catch (const std::system_error& e) {  // those that run already do not wait for the others
      all_started.store(false);
      fail("bench: of ", threads, " threads only ", pool.size(), " could be started: ", e.what());
    }
  }
  return std::chrono::duration<double>(*std::max_element(ends.begin(), ends.end()) -
                                       *std::min_element(begins.begin(), begins.end()))
      .count();
}

double fma_gflops(int threads, int64_t iterations) {
  const Burner burner = widest();
  const double seconds = run_pinned(threads, [&](int) { burner.run(iterations); });
  return 20.0 * burner.lanes * double(iterations) * threads / seconds / 1e9;
}

extern "C" double olm_canary_gflops(int threads) {
  // Workers of a thread pool spin for a moment before they sleep.
  std::this_thread::sleep_for(std::chrono::milliseconds(3));
  return fma_gflops(threads, 600'000);
}

Gate::Gate(int threads, double limit) : threads_(threads), limit_(limit) {
  require(limit >= 0, "--gate: wants a fraction of the best canary, or GFLOP/s above 1, got ",
          limit);
}

double Gate::probe() {
  const double now = olm_canary_gflops(threads_);
  best_ = std::max(best_, now);
  return now;
}

}  // namespace olm::tools
