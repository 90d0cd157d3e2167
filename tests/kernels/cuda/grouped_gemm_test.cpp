// Grouped GEMM on the device under test against plain loops in f64: large and small tiles, rows
// that begin at multiples of 16 bytes and others, weights in f32 beside activations in 16 bits.
#include <doctest/doctest.h>

#include <olm/kernels/base/run.h>
#include <olm/kernels/grouped_gemm.h>
#include <tests/kernels/cuda/placed.h>

using namespace olm;
using namespace olm::kernels;
using namespace olm::test;

namespace {

bool on_card() { return test_device().kind == DeviceKind::cuda; }

struct Case {
  DType a = bf16, b = bf16, c = bf16;
  int64_t n = 0, k = 0;
  bool transpose_b = false;
  Activation activation = Activation::none;
};

/// Groups with rows before the first one, none in the second, and capacity after the last.
struct Groups {
  std::vector<int32_t> offsets;
  Tensor on_device;
  explicit Groups(std::vector<int32_t> all) : offsets(std::move(all)) {
    on_device = on_test_device(from_host(offsets, {int64_t(offsets.size())}));
  }
  int64_t count() const { return int64_t(offsets.size()) - 1; }
  int64_t rows() const { return offsets.back() + 3; }
};

double tolerance_of(const Case& t, int64_t depth) {
  const double rounding = t.a == t.b ? 0 : 2 * epsilon(t.a == f32 ? t.b : t.a);
  return 2 * epsilon(t.c) + (4 + std::sqrt(double(depth))) * epsilon(f32) + rounding;
}

void check_rows(const Case& t, const Groups& groups) {
  INFO(groups.rows(), " x ", t.n, " x ", t.k, " ", t.a, " ", t.b, " ", t.c, " ", t.transpose_b);
  const int64_t rows = groups.rows(), n = t.n, k = t.k, size = n * k;
  const Placed a(t.a, rows * k, 1), b(t.b, groups.count() * size, 2), c(t.c, rows * n, 3),
      z(t.c, rows * n, 4), bias(f32, groups.count() * n, 5);
  std::vector<const void*> b_list, bias_list;
  for (int64_t g = 0; g < groups.count(); ++g) {
    b_list.push_back(b.at(g * size));
    bias_list.push_back(bias.at(g * n));
  }
  const bool fused = t.activation != Activation::none;
  run(test_device().kind, GroupedGemm{.a_dtype = t.a,
                                      .b_dtype = t.b,
                                      .c_dtype = t.c,
                                      .a = a.data(),
                                      .b_list = b_list.data(),
                                      .c = c.data(),
                                      .transpose_b = t.transpose_b,
                                      .offsets = in<int32_t>(groups.on_device.data()),
                                      .groups = groups.count(),
                                      .rows = rows,
                                      .n = n,
                                      .k = k,
                                      .bias_list = fused ? bias_list.data() : nullptr,
                                      .activation = t.activation,
                                      .preactivation = fused ? z.data() : nullptr,
                                      .stream = a.stream()});
  const std::vector<double> y = c.read(), pre = z.read();
  double worst = 0;
  int64_t g = -1;
  for (int64_t r = 0; r < rows; ++r) {
    while (g + 1 < int64_t(groups.offsets.size()) && r >= groups.offsets[size_t(g + 1)]) ++g;
    for (int64_t j = 0; j < n; ++j) {
      const int64_t at = r * n + j;
      if (g < 0 || g >= groups.count()) {  // of no group: not written
        REQUIRE(y[size_t(at)] == c.exact(at));
        continue;
      }
      double sum = fused ? bias.exact(g * n + j) : 0;
      for (int64_t l = 0; l < k; ++l)
        sum += a.exact(r * k + l) * b.exact(g * size + (t.transpose_b ? j * k + l : l * n + j));
      const double scale = 1 + std::sqrt(double(k)) + std::fabs(sum);
      keep_worst(worst, std::fabs(y[size_t(at)] - activated(t.activation, sum)) / scale);
      if (fused) keep_worst(worst, std::fabs(pre[size_t(at)] - sum) / scale);
    }
  }
  CHECK(worst < tolerance_of(t, k));
}

void check_by_depth(const Case& t, const Groups& groups) {
  INFO(groups.rows(), " x ", t.n, " x ", t.k, " ", t.a, " ", t.b, " ", t.c);
  const int64_t rows = groups.rows(), n = t.n, k = t.k, size = n * k;
  const Placed a(t.a, rows * k, 1), b(t.b, rows * n, 2), c(t.c, groups.count() * size, 3);
  std::vector<void*> c_list;
  std::vector<char> accumulate;
  for (int64_t g = 0; g < groups.count(); ++g) {
    c_list.push_back(g == 2 ? nullptr : c.at(g * size));
    accumulate.push_back(g % 3 == 1);
  }
  run(test_device().kind,
      GroupedGemm{.a_dtype = t.a,
                  .b_dtype = t.b,
                  .c_dtype = t.c,
                  .a = a.data(),
                  .b = b.data(),
                  .c_list = c_list.data(),
                  .by_depth = true,
                  .offsets = in<int32_t>(groups.on_device.data()),
                  .groups = groups.count(),
                  .rows = rows,
                  .n = n,
                  .k = k,
                  .accumulate = reinterpret_cast<const bool*>(accumulate.data()),
                  .stream = a.stream()});
  const std::vector<double> y = c.read();
  double worst = 0;
  for (int64_t g = 0; g < groups.count(); ++g)
    for (int64_t i = 0; i < size; ++i) {
      const int64_t at = g * size + i, first = groups.offsets[size_t(g)],
                    end = groups.offsets[size_t(g + 1)];
      double sum = accumulate[size_t(g)] ? c.exact(at) : 0;
      for (int64_t r = first; r < end; ++r) sum += a.exact(r * k + i / n) * b.exact(r * n + i % n);
      if (!c_list[size_t(g)]) sum = c.exact(at);
      const double scale = 1 + std::sqrt(double(end - first)) + std::fabs(sum);
      keep_worst(worst, std::fabs(y[size_t(at)] - sum) / scale);
    }
  CHECK(worst < tolerance_of(t, rows));
}

const Case kTypes[] = {{.a = bf16, .b = bf16, .c = bf16}, {.a = bf16, .b = f32, .c = bf16},
                       {.a = f32, .b = bf16, .c = f32},   {.a = f16, .b = f16, .c = f32},
                       {.a = f16, .b = f32, .c = f16},    {.a = f32, .b = f32, .c = f32},
                       {.a = bf16, .b = f16, .c = f32}};

}  // namespace

TEST_SUITE("kernels/cuda/grouped_gemm") {
  TEST_CASE("large tiles agree with plain loops") {
    if (!on_card()) return;
    const Groups groups({5, 205, 205, 400});
    for (Case t : kTypes)
      for (const bool transpose_b : {false, true}) {
        t.n = 136, t.k = 72, t.transpose_b = transpose_b;
        check_rows(t, groups);
      }
    for (Case t : kTypes) {
      t.n = 136, t.k = 152;
      check_by_depth(t, Groups({5, 75, 75, 76, 146}));
    }
  }

  TEST_CASE("small tiles and rows at any address agree with plain loops") {
    if (!on_card()) return;
    const Groups groups({2, 40, 40, 41, 110});
    for (Case t : kTypes)
      for (const int64_t odd : {0, 1, 4})
        for (const bool transpose_b : {false, true}) {
          t.n = 72 + odd, t.k = 40 + odd, t.transpose_b = transpose_b;
          t.activation = odd == 1 ? Activation::gelu : Activation::none;
          check_rows(t, groups);
          if (transpose_b) continue;
          t.activation = Activation::none;
          check_by_depth(t, groups);
        }
  }

  TEST_CASE("there may be more groups than one launch has arguments for") {
    if (!on_card()) return;
    std::vector<int32_t> offsets{0};
    for (int32_t g = 0; g < 230; ++g) offsets.push_back(offsets.back() + g % 3);
    const Groups groups(offsets);
    for (const DType t : {f32, bf16}) {
      check_rows({.a = t, .b = t, .c = t, .n = 8, .k = 16}, groups);
      check_by_depth({.a = t, .b = t, .c = f32, .n = 8, .k = 8}, groups);
    }
  }

  TEST_CASE("without depth, rows are the epilogue of zeros") {
    if (!on_card()) return;
    for (const DType t : {f32, bf16})
      check_rows({.a = t, .b = t, .c = t, .n = 8, .k = 0, .activation = Activation::silu},
                 Groups({0, 3, 7}));
  }

  TEST_CASE("offsets that fall or lead too far are told") {
    if (!on_card()) return;
    for (const bool by_depth : {false, true}) {
      const Placed x(f32, 64, 1), w(f32, 64, 2);
      const Tensor offsets = on_test_device(from_host<int32_t>({0, 9, 4}, {3}));
      const void* b_list[] = {w.data(), w.data()};
      void* c_list[] = {w.data(), w.at(16)};
      run(test_device().kind, GroupedGemm{.a = x.data(),
                                          .b = x.data(),
                                          .b_list = b_list,
                                          .c = w.data(),
                                          .c_list = c_list,
                                          .by_depth = by_depth,
                                          .offsets = in<int32_t>(offsets.data()),
                                          .groups = 2,
                                          .rows = 4,
                                          .n = 4,
                                          .k = 4,
                                          .stream = x.stream()});
      check_error([&] { x.read(); }, {"grouped_gemm", "index 9", "[0, 5)"});
    }
  }
}
