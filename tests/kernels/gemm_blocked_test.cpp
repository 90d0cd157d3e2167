// GEMM by blocks: every microkernel this CPU has, and that of AMX over emulated tiles.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <olm/kernels/cpu/gemm/blocked.h>

#include "tests/kernels/gemm_emulated_amx.h"

using namespace olm;
using namespace olm::kernels;
using namespace olm::kernels::gemm;

namespace {

/// A matrix of random values that its dtype holds, and the same in f64.
struct Values {
  Values(DType t, int64_t n, unsigned seed) : dtype(t), exact(size_t(n)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (double& v : exact) {
      const float f = normal(random);
      narrow.push_back(bfloat16_t(f));
      wide.push_back(t == bf16 ? float(narrow.back()) : f);
      v = wide.back();
    }
  }
  void* data() { return dtype == bf16 ? static_cast<void*>(narrow.data()) : wide.data(); }
  double at(size_t i) const { return dtype == bf16 ? double(float(narrow[i])) : double(wide[i]); }
  DType dtype;
  std::vector<double> exact;
  std::vector<bfloat16_t> narrow;
  std::vector<float> wide;
};

struct Case {
  int64_t m = 0, n = 0, k = 0;
  bool ta = false, tb = false;
  DType a = bf16, b = bf16, c = f32;
  double alpha = 1;
  bool accumulate = false, bias = false;
};

void check(const MicroKernel& kernel, const Case& t) {
  CAPTURE(std::string(kernel.name));
  CAPTURE(t.m);
  CAPTURE(t.n);
  CAPTURE(t.k);
  CAPTURE(t.ta);
  CAPTURE(t.tb);
  CAPTURE(t.accumulate);
  const int64_t lda = (t.ta ? t.m : t.k) + 2, ldb = (t.tb ? t.k : t.n) + 1, ldc = t.n + 2;
  Values a(t.a, (t.ta ? t.k : t.m) * lda, 1), b(t.b, (t.tb ? t.n : t.k) * ldb, 2);
  Values c(t.c, t.m * ldc, 3), bias(f32, t.n, 4);
  Problem p{.a = {a.data(), t.a, lda, t.ta}, .b = {b.data(), t.b, ldb, t.tb}};
  p.m = t.m;
  p.n = t.n;
  p.k = t.k;
  p.alpha = t.alpha;
  p.epilogue = {.dtype = t.c,
                .c = c.data(),
                .bias = t.bias ? bias.data() : nullptr,
                .ldc = ldc,
                .accumulate = t.accumulate};
  run_blocked(kernel, p, {});
  // Rounding an f32 operand to the bf16 of the tiles, of the sums (a chain of k: a walk whose steps
  // grow as the sum does), and of the result.
  const bool rounded = kernel.packed == bf16 && (t.a == f32 || t.b == f32);
  const double tolerance = (rounded ? 0x1p-7 : 0) + (4 + std::sqrt(double(t.k))) * 0x1p-23 +
                           (t.c == bf16 ? 2 * 0x1p-8 : 0);
  double worst = 0;
  const int64_t row_step = t.m > 200 ? 37 : 1, column_step = t.n > 200 ? 41 : 1;
  for (int64_t i = 0; i < t.m; i += row_step)
    for (int64_t j = 0; j < t.n; j += column_step) {
      double sum = 0;
      for (int64_t l = 0; l < t.k; ++l)
        sum += a.exact[size_t(t.ta ? l * lda + i : i * lda + l)] *
               b.exact[size_t(t.tb ? j * ldb + l : l * ldb + j)];
      const size_t at = size_t(i * ldc + j);
      const double want =
          t.alpha * sum + (t.bias ? bias.exact[size_t(j)] : 0) + (t.accumulate ? c.exact[at] : 0);
      worst = std::max(worst,
                       std::fabs(c.at(at) - want) / (1 + std::sqrt(double(t.k)) + std::fabs(want)));
    }
  CHECK(worst < tolerance);
  for (int64_t i = 0; i < t.m; ++i)  // between the rows nothing is written
    for (int64_t j = t.n; j < ldc; ++j)
      REQUIRE(c.at(size_t(i * ldc + j)) == c.exact[size_t(i * ldc + j)]);
}

/// The microkernels there are here for these dtypes: that of f32 takes all of them, those of bf16
/// take one where it is bf16, and with them AMX's emulation, which packs as they do.
std::vector<const MicroKernel*> microkernels(DType a, DType b) {
  std::vector<const MicroKernel*> found;
  if (const MicroKernel* kernel = best_microkernel(f32)) found.push_back(kernel);
  const MicroKernel* pairs = bf16_microkernel();
  if (pairs && (a == bf16 || b == bf16)) found.insert(found.end(), {pairs, &kEmulated});
  return found;
}

constexpr DType kPairs[][2] = {{f32, f32}, {bf16, bf16}, {bf16, f32}, {f32, bf16}};

}  // namespace

TEST_SUITE("kernels/gemm_blocked") {
  TEST_CASE("odd sizes, layouts and dtypes, with rows or columns as the longer side") {
    const int64_t sizes[][3] = {{8, 8, 1},     {33, 31, 65}, {31, 33, 64}, {97, 40, 30},
                                {40, 97, 129}, {64, 96, 32}, {96, 64, 64}, {32, 70, 96}};
    for (const auto& d : kPairs)
      for (const MicroKernel* kernel : microkernels(d[0], d[1]))
        for (const auto& s : sizes)
          for (int bits = 0; bits < 8; ++bits)
            check(*kernel, {.m = s[0],
                            .n = s[1],
                            .k = s[2],
                            .ta = (bits & 1) != 0,
                            .tb = (bits & 2) != 0,
                            .a = d[0],
                            .b = d[1],
                            .accumulate = (bits & 4) != 0});
  }

  TEST_CASE("K beyond KC, with sums in C and beside it") {
    for (const auto& d : kPairs)
      for (const MicroKernel* kernel : microkernels(d[0], d[1]))
        for (const DType c : {f32, bf16})
          for (const bool longer : {false, true})
            for (const double alpha : {1.0, 0.5})
              check(*kernel, {.m = longer ? 300 : 70,
                              .n = longer ? 70 : 300,
                              .k = 2 * kernel->kc + 39,
                              .tb = true,
                              .a = d[0],
                              .b = d[1],
                              .c = c,
                              .alpha = alpha,
                              .accumulate = true,
                              .bias = c == bf16});
  }

  TEST_CASE("more tasks and panels than one") {
    for (const auto& d : kPairs)
      for (const MicroKernel* kernel : microkernels(d[0], d[1])) {
        if (kernel == &kEmulated) continue;  // slow, and the same loops
        check(*kernel, {.m = 2100, .n = 700, .k = 20, .a = d[0], .b = d[1], .bias = true});
        check(*kernel, {.m = 700, .n = 2100, .k = 20, .a = d[0], .b = d[1], .bias = true});
        check(*kernel, {.m = 8300, .n = 8230, .k = 8, .ta = true, .a = d[0], .b = d[1]});
      }
  }

  TEST_CASE("a large result is the same whether its stores are non-temporal or not") {
    const int64_t m = 1601, n = 2080, k = 24;  // 6 MiB in bf16 too
    for (const auto& d : kPairs)
      for (const MicroKernel* kernel : microkernels(d[0], d[1]))
        for (const DType type : {f32, bf16})
          for (const bool finished : {false, true}) {
            if (d[0] != d[1] || (kernel == &kEmulated && !finished)) continue;  // slow
            Values a(d[0], m * k, 1), b(d[1], k * n, 2);
            Problem p{.a = {a.data(), d[0], k, false}, .b = {b.data(), d[1], n, false}};
            p.m = m;
            p.n = n;
            p.k = k;
            const size_t size = size_of(type), bytes = size_t(m * n) * size;
            std::vector<char> memory(2 * bytes + 256), results[2];
            const auto past_line = reinterpret_cast<uintptr_t>(memory.data()) % 64;
            for (const size_t shift : {size_t(0), size}) {  // only whole lines are written so
              char* c = memory.data() + (64 - past_line) + shift;
              p.epilogue = {.dtype = type, .c = c, .ldc = n};
              if (finished) {
                p.epilogue.activation = Activation::relu;
                p.epilogue.preactivation = c + bytes;
              }
              run_blocked(*kernel, p, {});
              results[shift != 0].assign(c, c + (finished ? 2 : 1) * bytes);
              std::fill(memory.begin(), memory.end(), char(0xff));
            }
            CHECK(results[0] == results[1]);
          }
  }

  TEST_CASE("a microkernel that must be entered is entered and left in every task") {
    if (!bf16_microkernel()) return;
    check(kEmulated, {.m = 100, .n = 300, .k = 64});
    CHECK(entered == 0);
  }

  TEST_CASE("values that are not finite stay in their rows and columns") {
    for (const auto& d : kPairs)
      for (const MicroKernel* kernel : microkernels(d[0], d[1])) {
        Values a(d[0], 40 * 50, 1), b(d[1], 50 * 45, 2), c(f32, 40 * 45, 3);
        a.narrow[7 * 50 + 3] = bfloat16_t(a.wide[7 * 50 + 3] = INFINITY);
        b.narrow[9 * 45 + 44] = bfloat16_t(b.wide[9 * 45 + 44] = NAN);
        Problem p{.a = {a.data(), d[0], 50, false}, .b = {b.data(), d[1], 45, false}};
        p.m = 40;
        p.n = 45;
        p.k = 50;
        p.epilogue = {.c = c.data(), .ldc = 45};
        run_blocked(*kernel, p, {});
        for (int64_t i = 0; i < 40; ++i)
          for (int64_t j = 0; j < 45; ++j)
            REQUIRE(std::isfinite(c.wide[size_t(i * 45 + j)]) == (i != 7 && j != 44));
      }
  }
}
