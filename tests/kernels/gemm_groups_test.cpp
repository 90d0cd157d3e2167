// Batches of GEMM whose members are groups of rows or of K, and what GEMM refuses.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <olm/kernels/gemm.h>
#include <tests/kernels/gemm_values.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::kernels;
using namespace olm::test;

TEST_SUITE("kernels/gemm_groups") {
  TEST_CASE("groups of rows and of K") {
    const int64_t n = 6, k = 5, offsets[] = {0, 3, 3, 10};
    Values a = make(f32, 10 * k, 1), b = make(f32, 3 * k * n, 2), c = make(f32, 10 * n, 3);
    run(Cpu{}, Gemm{.a = a.data(),
                    .b = b.data(),
                    .c = c.data(),
                    .n = n,
                    .k = k,
                    .batch = 3,
                    .b_stride = k * n,
                    .m_offsets = offsets});
    const auto y = read(c);
    for (int64_t g = 0; g < 3; ++g)
      for (int64_t i = offsets[g]; i < offsets[g + 1]; ++i)
        for (int64_t j = 0; j < n; ++j) {
          double want = 0;
          for (int64_t l = 0; l < k; ++l)
            want += a.exact[size_t(i * k + l)] * b.exact[size_t(g * k * n + l * n + j)];
          CHECK(y[size_t(i * n + j)] == doctest::Approx(want).epsilon(1e-4));
        }
    // The gradient of each group's matrix: A of the group transposed, times C of the group.
    Values dw = make(f32, 3 * k * n, 4);
    run(Cpu{}, Gemm{.a = a.data(),
                    .b = c.data(),
                    .c = dw.data(),
                    .transpose_a = true,
                    .m = k,
                    .n = n,
                    .batch = 3,
                    .c_stride = k * n,
                    .k_offsets = offsets});
    const auto d = read(dw);
    for (int64_t g = 0; g < 3; ++g)
      for (int64_t l = 0; l < k; ++l)
        for (int64_t j = 0; j < n; ++j) {
          double want = 0;
          for (int64_t i = offsets[g]; i < offsets[g + 1]; ++i)
            want += a.exact[size_t(i * k + l)] * y[size_t(i * n + j)];
          CHECK(d[size_t(g * k * n + l * n + j)] == doctest::Approx(want).epsilon(1e-4));
        }
  }

  TEST_CASE("rows of groups are as long as all groups where no leading dimension is given") {
    const int64_t offsets[] = {2, 5, 5, 12}, all = 12, n = 6;
    for (const bool by_rows : {true, false})
      for (int bits = 0; bits < 4; ++bits) {
        const bool ta = bits & 1, tb = bits & 2;
        const int64_t m = by_rows ? all : 4, k = by_rows ? 5 : all;
        Values a = make(f64, m * k, 1), b = make(f64, k * n, 2), c = make(f64, 3 * m * n, 3);
        run(Cpu{}, Gemm{.a_dtype = f64,
                        .b_dtype = f64,
                        .c_dtype = f64,
                        .a = a.data(),
                        .b = b.data(),
                        .c = c.data(),
                        .transpose_a = ta,
                        .transpose_b = tb,
                        .m = by_rows ? 0 : m,
                        .n = n,
                        .k = by_rows ? k : 0,
                        .batch = 3,
                        .c_stride = by_rows ? 0 : m * n,
                        .m_offsets = by_rows ? offsets : nullptr,
                        .k_offsets = by_rows ? nullptr : offsets});
        const auto y = read(c);
        for (int64_t g = 0; g < 3; ++g)
          for (int64_t i = by_rows ? offsets[g] : 0; i < (by_rows ? offsets[g + 1] : m); ++i)
            for (int64_t j = 0; j < n; ++j) {
              double want = 0;
              for (int64_t l = by_rows ? 0 : offsets[g]; l < (by_rows ? k : offsets[g + 1]); ++l)
                want += a.exact[size_t(ta ? l * m + i : i * k + l)] *
                        b.exact[size_t(tb ? j * k + l : l * n + j)];
              const int64_t at = (by_rows ? 0 : g * m * n) + i * n + j;
              CHECK(y[size_t(at)] == doctest::Approx(want).epsilon(1e-12));
            }
      }
  }

  TEST_CASE("sizes, offsets and leading dimensions that cannot be are refused") {
    Values a = make(f32, 64, 1), b = make(f32, 64, 2), c = make(f32, 64, 3);
    const Gemm good{.a = a.data(), .b = b.data(), .c = c.data(), .m = 4, .n = 5, .k = 6};
    run(Cpu{}, good);
    const auto refuse = [&](auto&& change, const std::vector<std::string>& parts) {
      Gemm g = good;
      change(g);
      check_error([&] { run(Cpu{}, g); }, parts);
    };
    refuse([](Gemm& g) { g.lda = 5; }, {"lda 5", "6"});
    refuse([](Gemm& g) { g.lda = 3, g.transpose_a = true; }, {"lda 3", "4"});
    refuse([](Gemm& g) { g.ldb = 4; }, {"ldb 4", "5"});
    refuse([](Gemm& g) { g.ldc = -5; }, {"ldc -5", "5"});
    refuse([](Gemm& g) { g.k = -1; }, {"4 x 5 x -1"});
    refuse([](Gemm& g) { g.n = int64_t(1) << 31; }, {"4 x 2147483648 x 6"});
    const int64_t falling[] = {0, 3, 2}, negative[] = {-1, 1, 2};
    refuse([&](Gemm& g) { g.batch = 2, g.m_offsets = falling; }, {"offsets", "2 after 3"});
    refuse([&](Gemm& g) { g.batch = 2, g.k_offsets = negative; }, {"offsets", "-1 after 0"});
  }
}
