#include "tools/bench/roofline.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <fstream>
#include <vector>

#include <olm/engine/tensor.h>

#include "tools/bench/bench.h"

namespace olm::tools {

namespace {

#if defined(__x86_64__)
/// Products of bf16 pairs on registers alone; the result of an operand of zeros stays zero.
__attribute__((target("avx512f"))) void burn_dot(int64_t iterations) {
  typedef float Vec __attribute__((vector_size(64)));
  const Vec a = Vec{}, b = Vec{};
#define OLM_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define OLM_START(k) Vec x##k = Vec{}, y##k = Vec{};
#define OLM_STEP(k)                                                   \
  asm volatile("vdpbf16ps %2, %1, %0" : "+v"(x##k) : "v"(a), "v"(b)); \
  asm volatile("vdpbf16ps %2, %1, %0" : "+v"(y##k) : "v"(a), "v"(b));
  OLM_CHAINS(OLM_START)
  for (int64_t i = 0; i < iterations; ++i) {
    OLM_CHAINS(OLM_STEP)
  }
#undef OLM_CHAINS
#undef OLM_START
#undef OLM_STEP
}
constexpr double kDotFlop = 24.0 * 16 * 4;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

/// Four products of 16 x 32 by 32 x 16 tiles that stay in their registers.
void burn_amx(int64_t iterations) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
  asm volatile("ldtilecfg %0" ::"m"(config));
  asm volatile(
      "tilezero %tmm0\n tilezero %tmm1\n tilezero %tmm2\n tilezero %tmm3\n"
      "tilezero %tmm4\n tilezero %tmm5\n tilezero %tmm6\n tilezero %tmm7");
  for (int64_t i = 0; i < iterations; ++i)
    asm volatile(
        "tdpbf16ps %tmm6, %tmm4, %tmm0\n tdpbf16ps %tmm7, %tmm4, %tmm1\n"
        "tdpbf16ps %tmm6, %tmm5, %tmm2\n tdpbf16ps %tmm7, %tmm5, %tmm3");
  asm volatile("tilerelease");
}
constexpr double kAmxFlop = 4.0 * 2 * 16 * 16 * 32;

bool has_dot() { return __builtin_cpu_supports("avx512bf16"); }

/// The CPU's tiles for bf16, and the system's permission to use them.
bool has_amx() {
  std::ifstream file("/proc/cpuinfo");
  bool flag = false;
  for (std::string line; !flag && std::getline(file, line);)
    flag = line.starts_with("flags") && line.find(" amx_bf16") != std::string::npos;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return flag && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

/// What a stream loop works on: up to four arrays of n floats, n a multiple of 64.
struct Streams {
  float* a[4] = {};
  int64_t n = 0;
};

typedef float Vec __attribute__((vector_size(64)));

/// Asks for memory a page ahead, as kernels do.
inline void fetch_ahead(const float* p) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + 4096));
}

template <Traffic traffic, bool ahead>
inline __attribute__((always_inline)) void stream(const Streams& s) {
  constexpr int kRead = traffic == Traffic::update ? 4 : traffic == Traffic::axpy ? 2 : 1;
  const auto at = [&](int array, int64_t i) -> Vec& {
    return *reinterpret_cast<Vec*>(s.a[array] + i);
  };
  Vec sums[4] = {};
  for (int64_t i = 0; i < s.n; i += 64)
    for (int64_t u = 0; u < 4; ++u) {
      const int64_t k = i + 16 * u;
      for (int array = 0; ahead && array < kRead; ++array) fetch_ahead(s.a[array] + k);
      if constexpr (traffic == Traffic::read) sums[u] += at(0, k);
      if constexpr (traffic == Traffic::copy) at(1, k) = at(0, k);
      if constexpr (traffic == Traffic::axpy) at(1, k) += at(0, k) * 0.999f;
      if constexpr (traffic == Traffic::update) {
        at(1, k) = at(1, k) * 0.9f + at(0, k) * 0.1f;
        at(2, k) = at(2, k) * 0.9f + at(0, k) * at(0, k) * 0.1f;
        at(3, k) = at(3, k) - at(1, k) * at(2, k) * 1e-3f;
      }
    }
  // Memory is said to change, so that no pass over it is left out.
  const Vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  asm volatile("" ::"m"(sum), "r"(s.a[0]) : "memory");
}

template <Traffic traffic, bool ahead>
void stream_baseline(const Streams& s) {
  stream<traffic, ahead>(s);
}
#if defined(__x86_64__)
template <Traffic traffic, bool ahead>
__attribute__((target("avx512f"))) void stream_avx512(const Streams& s) {
  stream<traffic, ahead>(s);
}
template <Traffic traffic, bool ahead>
__attribute__((target("avx2"))) void stream_avx2(const Streams& s) {
  stream<traffic, ahead>(s);
}

/// A copy by non-temporal stores: the lines of its result need not be read first.
void copy_past_caches(const Streams& s) {
  for (int64_t i = 0; i < s.n; i += 16) {
    fetch_ahead(s.a[0] + i);
    for (int64_t k = i; k < i + 16; k += 4) _mm_stream_ps(s.a[1] + k, _mm_load_ps(s.a[0] + k));
  }
  _mm_sfence();
}
#endif

struct StreamKind {
  Traffic traffic;
  double bytes;  // of one element
  void (*run)(const Streams&);
};

template <Traffic traffic, bool ahead>
auto widest_stream() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return stream_avx512<traffic, ahead>;
  if (__builtin_cpu_supports("avx2")) return stream_avx2<traffic, ahead>;
#endif
  return stream_baseline<traffic, ahead>;
}

/// Ways of each traffic, of which the fastest counts.
std::vector<StreamKind> stream_kinds() {
  std::vector<StreamKind> kinds;
  const auto add = [&]<Traffic traffic>(double bytes) {
    kinds.push_back({traffic, bytes, widest_stream<traffic, false>()});
    kinds.push_back({traffic, bytes, widest_stream<traffic, true>()});
  };
  add.template operator()<Traffic::read>(4);
  add.template operator()<Traffic::copy>(8);
  add.template operator()<Traffic::axpy>(12);
  add.template operator()<Traffic::update>(28);
#if defined(__x86_64__)
  kinds.push_back({Traffic::copy, 8, copy_past_caches});
#endif
  return kinds;
}

double median_of(Gate& gate, const Series& how, const std::function<double()>& take) {
  take();
  return spread_of(sample_series(gate, how, take).values).median;
}

double burning(int threads, Gate& gate, const Series& how, void (*burn)(int64_t),
               double flop_per_iteration) {
  constexpr int64_t kIterations = 200'000;
  return median_of(gate, how, [&] {
    const double seconds = run_pinned(threads, [&](int) { burn(kIterations); });
    return flop_per_iteration * double(kIterations) * threads / seconds / 1e9;
  });
}

/// GB/s over four arrays of `bytes` together, gone through often enough to last a while.
Bandwidth bandwidth(int threads, Gate& gate, const Series& how, size_t bytes) {
  const int64_t n = int64_t(bytes) / 16 / threads / 64 * 64;
  const Tensor memory = zeros({4, threads, n});
  float* base = memory.mutable_data<float>();
  const auto repeats = std::max<int64_t>(1, int64_t(64e6 / double(bytes)));
  Bandwidth result;
  for (const StreamKind& kind : stream_kinds()) {
    const double rate = median_of(gate, how, [&] {
      const double seconds = run_pinned(threads, [&](int thread) {
        Streams s{.n = n};
        for (int i = 0; i < 4; ++i) s.a[i] = base + (i * threads + thread) * n;
        for (int64_t r = 0; r < repeats; ++r) kind.run(s);
      });
      return kind.bytes * double(n * threads * repeats) / seconds / 1e9;
    });
    double& best = result.of[size_t(kind.traffic)];
    best = std::max(best, rate);
  }
  return result;
}

}  // namespace

const char* name_of(Traffic traffic) {
  constexpr const char* kNames[] = {"read", "copy", "axpy", "update"};
  return kNames[size_t(traffic)];
}

Roof Roofs::arithmetic(DType dtype, bool gemm) const {
  Roof best{"f32 FMA", f32_fma};
  if (dtype == f32 || !gemm) return best;
  if (bf16_dot > best.rate) best = {"bf16 dot", bf16_dot};
  if (bf16_amx > best.rate) best = {"AMX", bf16_amx};
  return best;
}

Roof Roofs::memory(Traffic traffic, double bytes, bool cold) const {
  const bool fits = !cold && bytes <= double(llc_bytes);
  return {fmt::format("{} {}", fits ? "LLC" : "DRAM", name_of(traffic)),
          (fits ? llc : dram).at(traffic)};
}

Json Roofs::json() const {
  Json j = Json::object();
  j["f32_fma_gflops"] = rounded(f32_fma);
  j["bf16_dot_gflops"] = rounded(bf16_dot);
  j["bf16_amx_gflops"] = rounded(bf16_amx);
  for (const Traffic t : {Traffic::read, Traffic::copy, Traffic::axpy, Traffic::update}) {
    j[fmt::format("dram_{}_gbps", name_of(t))] = rounded(dram.at(t));
    j[fmt::format("llc_{}_gbps", name_of(t))] = rounded(llc.at(t));
  }
  j["llc_bytes"] = llc_bytes;
  return j;
}

std::string Roofs::text() const {
  std::string s = fmt::format("roofs: f32 FMA {:.0f}", f32_fma);
  if (bf16_dot > 0) s += fmt::format(", bf16 dot {:.0f}", bf16_dot);
  if (bf16_amx > 0) s += fmt::format(", AMX {:.0f}", bf16_amx);
  s += " GFLOP/s";
  for (const auto& [name, b] : {std::pair("DRAM", &dram), std::pair("LLC", &llc)})
    s += fmt::format("; {} read {:.1f}, copy {:.1f}, axpy {:.1f}, 4 reads 3 writes {:.1f} GB/s",
                     name, b->of[0], b->of[1], b->of[2], b->of[3]);
  return s + fmt::format("; LLC of {} MiB", llc_bytes >> 20);
}

size_t last_level_cache() {
  size_t largest = 0;
  for (int i = 0; i < 8; ++i) {
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/size", i));
    size_t kib = 0;
    if (file >> kib) largest = std::max(largest, kib << 10);
  }
  return largest > 0 ? largest : size_t(32) << 20;
}

Roofs measure_roofs(int threads, Gate& gate, const Series& how) {
  Roofs roofs{.llc_bytes = last_level_cache()};
  roofs.f32_fma = median_of(gate, how, [&] { return fma_gflops(threads, 2'000'000); });
#if defined(__x86_64__)
  if (has_dot()) roofs.bf16_dot = burning(threads, gate, how, burn_dot, kDotFlop);
  if (has_amx()) roofs.bf16_amx = burning(threads, gate, how, burn_amx, kAmxFlop);
#endif
  const size_t large = std::clamp(8 * roofs.llc_bytes, size_t(256) << 20, size_t(1) << 30);
  roofs.dram = bandwidth(threads, gate, how, large);
  roofs.llc = bandwidth(threads, gate, how, roofs.llc_bytes / 2);
  return roofs;
}

}  // namespace olm::tools
