// GEMM over groups of rows: what is written, by what, and what is refused.
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/grouped_gemm.h>
#include <tests/kernels/gemm_values.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::kernels;
using namespace olm::test;

namespace {

constexpr int64_t kGroups = 4;

/// Matrices of groups one after another, and where each begins.
struct Matrices {
  Values values;
  std::vector<void*> list;
  Matrices(DType dtype, int64_t size, uint32_t seed) : values(make(dtype, kGroups * size, seed)) {
    for (int64_t g = 0; g < kGroups; ++g)
      list.push_back(values.bytes.data() + g * size * int64_t(size_of(dtype)));
  }
  const void* const* data() const { return list.data(); }
};

struct Dtypes {
  DType a, b, c;
};
constexpr Dtypes kDtypes[] = {
    {f32, f32, f32}, {f64, f64, f64}, {bf16, f32, bf16}, {bf16, bf16, f32}, {f16, f32, f16}};

void check_value(double got, double want, DType t, double terms) {
  CHECK(std::abs(got - want) <= 30 * epsilon(t) * std::sqrt(terms) * (1 + std::abs(want)));
}

/// Rows before the first group, none in the second, and capacity after the last.
void check_rows(const Dtypes& t, bool transpose_b, int64_t scale) {
  const int32_t s = int32_t(scale), offsets[] = {s, 4 * s, 4 * s, 7 * s, 12 * s};
  const int64_t rows = 14 * scale, n = 6 * scale, k = 5 * scale;
  Values a = make(t.a, rows * k, 1), c = make(t.c, rows * n, 3), z = make(t.c, rows * n, 4);
  const Matrices b(t.b, k * n, 2), bias(t.b, n, 5);
  run(Cpu{}, GroupedGemm{.a_dtype = t.a,
                         .b_dtype = t.b,
                         .c_dtype = t.c,
                         .a = a.data(),
                         .b_list = b.data(),
                         .c = c.data(),
                         .transpose_b = transpose_b,
                         .offsets = offsets,
                         .groups = kGroups,
                         .rows = rows,
                         .n = n,
                         .k = k,
                         .bias_list = bias.data(),
                         .bias_dtype = t.b,
                         .activation = Activation::relu,
                         .preactivation = z.data()});
  const auto y = read(c), zs = read(z);
  for (int64_t r = 0, g = 0; r < rows; ++r) {
    while (g < kGroups && r >= offsets[g + 1]) ++g;
    for (int64_t j = 0; j < n; j += scale) {
      const auto at = size_t(r * n + j);
      if (r < offsets[0] || g == kGroups) {
        CHECK(y[at] == c.exact[at]);
        CHECK(zs[at] == z.exact[at]);
        continue;
      }
      double want = bias.values.exact[size_t(g * n + j)];
      for (int64_t l = 0; l < k; ++l)
        want += a.exact[size_t(r * k + l)] *
                b.values.exact[size_t(g * k * n + (transpose_b ? j * k + l : l * n + j))];
      const DType worst = t.a == bf16 ? bf16 : t.c;
      check_value(zs[at], want, worst, double(k));
      check_value(y[at], std::max(want, 0.0), worst, double(k));
    }
  }
}

/// Gradients of the groups' matrices: one is added to, one is not wanted.
void check_depth(const Dtypes& t, int64_t scale) {
  const int32_t s = int32_t(scale), offsets[] = {s, 4 * s, 4 * s, 7 * s, 12 * s};
  const int64_t rows = 14 * scale, n = 6 * scale, k = 5 * scale;
  Values a = make(t.a, rows * k, 1), b = make(t.b, rows * n, 2);
  Matrices c(t.c, k * n, 3);
  const bool accumulate[] = {true, false, false, false};
  c.list[2] = nullptr;
  run(Cpu{}, GroupedGemm{.a_dtype = t.a,
                         .b_dtype = t.b,
                         .c_dtype = t.c,
                         .a = a.data(),
                         .b = b.data(),
                         .c_list = c.list.data(),
                         .by_depth = true,
                         .offsets = offsets,
                         .groups = kGroups,
                         .rows = rows,
                         .n = n,
                         .k = k,
                         .accumulate = accumulate});
  const auto y = read(c.values);
  for (int64_t g = 0; g < kGroups; ++g)
    for (int64_t i = 0; i < k; i += scale)
      for (int64_t j = 0; j < n; j += scale) {
        const auto at = size_t(g * k * n + i * n + j);
        double want = accumulate[g] || g == 2 ? c.values.exact[at] : 0;
        for (int64_t r = offsets[g]; g != 2 && r < offsets[g + 1]; ++r)
          want += a.exact[size_t(r * k + i)] * b.exact[size_t(r * n + j)];
        const DType worst = t.a == bf16 ? bf16 : t.c;
        check_value(y[at], want, worst, double(3 * scale));
      }
}

}  // namespace

TEST_SUITE("kernels/grouped_gemm") {
  TEST_CASE("each group has its matrix, bias and activation, and other rows stay") {
    for (const Dtypes& t : kDtypes)
      for (const bool transpose_b : {false, true})
        for (const int64_t scale : {1, 23}) check_rows(t, transpose_b, scale);
  }

  TEST_CASE("gradients by depth: a group without rows has 0, others are added to or left out") {
    for (const Dtypes& t : kDtypes)
      for (const int64_t scale : {1, 23}) check_depth(t, scale);
  }

  TEST_CASE("nothing is added to a gradient by a group without rows") {
    const int32_t offsets[] = {0, 0, 0};
    Values c = make(f32, 8, 3), first = make(f32, 8, 3);
    void* const list[] = {c.data(), out<float>(c.data()) + 4};
    const bool accumulate[] = {true, false};
    run(Cpu{}, GroupedGemm{.c_list = list,
                           .by_depth = true,
                           .offsets = offsets,
                           .groups = 2,
                           .n = 2,
                           .k = 2,
                           .accumulate = accumulate});
    const auto y = read(c);
    for (size_t i = 0; i < 8; ++i) CHECK(y[i] == (i < 4 ? first.exact[i] : 0));
  }

  TEST_CASE("one group with most rows gives the same bits for any number of threads") {
    const int64_t rows = 1000, n = 300, k = 200;
    const int32_t offsets[] = {0, 900, 900, 903, 1000};
    Values a = make(bf16, rows * k, 1);
    const Matrices b(f32, k * n, 2);
    Values c = make(bf16, rows * n, 3), first = c;
    const int before = num_threads();
    for (const int threads : {1, 2, 3, 4}) {
      set_threads(threads);
      run(Cpu{}, GroupedGemm{.a_dtype = bf16,
                             .c_dtype = bf16,
                             .a = a.data(),
                             .b_list = b.data(),
                             .c = c.data(),
                             .transpose_b = true,
                             .offsets = offsets,
                             .groups = kGroups,
                             .rows = rows,
                             .n = n,
                             .k = k});
      if (threads == 1) first = c;
      CHECK(first.bytes == c.bytes);
    }
    set_threads(before);
  }

  TEST_CASE("gradients that are large together have the bits of each alone") {
    const int64_t rows = 80, n = 1024, k = 512, size = k * n;  // 2 MiB each, 8 together
    const int32_t offsets[] = {0, 30, 31, 60, 80};
    Generator rng(1);
    const Tensor a = randn({rows, k}, rng), b = randn({rows, n}, rng);
    const Tensor together = zeros({kGroups, k, n}), alone = zeros({kGroups, k, n});
    std::vector<void*> list;
    for (int64_t g = 0; g < kGroups; ++g) {
      list.push_back(together.mutable_data<float>() + g * size);
      run(Cpu{}, Gemm{.a = a.data<float>() + offsets[g] * k,
                      .b = b.data<float>() + offsets[g] * n,
                      .c = alone.mutable_data<float>() + g * size,
                      .transpose_a = true,
                      .m = k,
                      .n = n,
                      .k = offsets[g + 1] - offsets[g]});
    }
    run(Cpu{}, GroupedGemm{.a = a.data(),
                           .b = b.data(),
                           .c_list = list.data(),
                           .by_depth = true,
                           .offsets = offsets,
                           .groups = kGroups,
                           .rows = rows,
                           .n = n,
                           .k = k});
    // The bits of OpenBLAS depend on the cut of a matrix, and that on how many there are.
    if (std::string(gemm_kernels(f32)) == "OpenBLAS")
      check_close(together, alone, f32, 30, "gradients");
    else
      check_same_bits(together, alone, "gradients");
  }

  TEST_CASE("sums of biases follow the groups") {
    const int32_t offsets[] = {1, 3, 3, 5, 9};
    const int64_t cols = 7, rows = 11;
    Values dy = make(f32, rows * cols, 1);
    Matrices sums(f32, cols, 2);
    sums.list[3] = nullptr;
    const bool accumulate[] = {true, true, false, false};
    run(Cpu{}, GroupedGemmEpilogueBackward{.dy = dy.data(),
                                           .dbias_list = sums.list.data(),
                                           .accumulate = accumulate,
                                           .offsets = offsets,
                                           .groups = kGroups,
                                           .rows = rows,
                                           .cols = cols});
    const auto y = read(sums.values);
    for (int64_t g = 0; g < kGroups; ++g)
      for (int64_t c = 0; c < cols; ++c) {
        const auto at = size_t(g * cols + c);
        double want = g == 2 ? 0 : sums.values.exact[at];
        for (int64_t r = offsets[g]; g < 3 && r < offsets[g + 1]; ++r)
          want += dy.exact[size_t(r * cols + c)];
        CHECK(y[at] == doctest::Approx(want).epsilon(1e-5));
      }
  }

  TEST_CASE("offsets and sizes that cannot be are refused") {
    Values a = make(f32, 64, 1), c = make(f32, 64, 3);
    const void* const bs[] = {a.data(), a.data()};
    const auto refuse = [&](std::vector<int32_t> offsets, auto&& change,
                            const std::vector<std::string>& parts) {
      GroupedGemm g{.a = a.data(),
                    .b_list = bs,
                    .c = c.data(),
                    .offsets = offsets.data(),
                    .groups = 2,
                    .rows = 4,
                    .n = 4,
                    .k = 4};
      change(g);
      check_error([&] { run(Cpu{}, g); }, parts);
    };
    const auto same = [](GroupedGemm&) {};
    refuse({0, 3, 2}, same, {"grouped_gemm", "offsets", "2 after 3"});
    refuse({-1, 1, 2}, same, {"grouped_gemm", "offsets", "-1 after 0"});
    refuse({0, 3, 5}, same, {"grouped_gemm", "5 of 4 rows"});
    refuse({0, 1, 2}, [](GroupedGemm& g) { g.k = -1; }, {"grouped_gemm", "4 x 4 x -1"});
    refuse({0, 1, 2}, [](GroupedGemm& g) { g.c_dtype = f64; }, {"grouped_gemm", "f64"});
  }
}
