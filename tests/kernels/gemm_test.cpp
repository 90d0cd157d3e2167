#include <olm/kernels/gemm.h>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include <olm/kernels/base/parallel.h>
#include <tests/kernels/gemm_values.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::kernels;
using namespace olm::test;

namespace {

struct Case {
  DType a = f32, b = f32, c = f32;
  bool ta = false, tb = false;
  int64_t m = 0, n = 0, k = 0;
  double alpha = 1;
  bool accumulate = false, bias = false, residual = false, preactivation = false;
  Activation activation = Activation::none;
  bool residual_is_c = false;
};

/// The matrices of a case, with room between their rows.
struct Operands {
  explicit Operands(const Case& t)
      : lda((t.ta ? t.m : t.k) + 3),
        ldb((t.tb ? t.k : t.n) + 2),
        ldc(t.n + 1),
        a(make(t.a, (t.ta ? t.k : t.m) * lda, 1)),
        b(make(t.b, (t.tb ? t.n : t.k) * ldb, 2)),
        c(make(t.c, t.m * ldc, 3)),
        z(make(t.c, t.m * ldc, 4)),
        r(make(t.c, t.m * ldc, 5)),
        bias(make(t.c == f64 ? f64 : f32, t.n, 6)) {}
  int64_t lda, ldb, ldc;
  Values a, b, c, z, r, bias;
};

Gemm gemm_of(const Case& t, Operands& o) {
  return {.a_dtype = t.a,
          .b_dtype = t.b,
          .c_dtype = t.c,
          .a = o.a.data(),
          .b = o.b.data(),
          .c = o.c.data(),
          .transpose_a = t.ta,
          .transpose_b = t.tb,
          .m = t.m,
          .n = t.n,
          .k = t.k,
          .lda = o.lda,
          .ldb = o.ldb,
          .ldc = o.ldc,
          .alpha = t.alpha,
          .accumulate = t.accumulate,
          .bias = t.bias ? o.bias.data() : nullptr,
          .bias_dtype = o.bias.dtype,
          .activation = t.activation,
          .preactivation = t.preactivation ? o.z.data() : nullptr,
          .residual = t.residual_is_c ? o.c.data()
                      : t.residual    ? o.r.data()
                                      : nullptr};
}

/// Element (i, j) of alpha · op(A) · op(B) + bias, in f64.
double product_at(const Case& t, const Operands& o, int64_t i, int64_t j) {
  double sum = 0;
  for (int64_t l = 0; l < t.k; ++l)
    sum += o.a.exact[size_t(t.ta ? l * o.lda + i : i * o.lda + l)] *
           o.b.exact[size_t(t.tb ? j * o.ldb + l : l * o.ldb + j)];
  return t.alpha * sum + (t.bias ? o.bias.exact[size_t(j)] : 0);
}

void check(const Case& t) {
  CAPTURE(t.m);
  CAPTURE(t.n);
  CAPTURE(t.k);
  CAPTURE(t.ta);
  CAPTURE(t.tb);
  CAPTURE(int(t.a));
  CAPTURE(int(t.c));
  CAPTURE(name_of(t.activation));
  CAPTURE(t.accumulate);
  Operands o(t);
  run(Cpu{}, gemm_of(t, o));
  const std::vector<double> y = read(o.c), pre = read(o.z);
  double worst = 0, worst_pre = 0;
  for (int64_t i = 0; i < t.m; ++i)
    for (int64_t j = 0; j < o.ldc; ++j) {
      const size_t at = size_t(i * o.ldc + j);
      if (j == t.n) {  // between the rows nothing is written
        REQUIRE(y[at] == o.c.exact[at]);
        continue;
      }
      const double value = product_at(t, o, i, j);
      double want = activated(t.activation, value) + (t.residual ? o.r.exact[at] : 0);
      if (t.accumulate) want += o.c.exact[at];
      if (t.residual_is_c) want += o.c.exact[at];
      const double scale = 1 + std::sqrt(double(t.k)) + std::fabs(want);
      worst = std::max(worst, std::fabs(y[at] - want) / scale);
      if (t.preactivation)
        worst_pre = std::max(worst_pre, std::fabs(pre[at] - value) / (scale + std::fabs(value)));
    }
  // Of the result, of the sums (a chain of k: a walk whose steps grow as the sum does), and of an
  // f32 operand that may have been rounded to the bf16 of the other.
  const bool rounded = (t.a == bf16) != (t.b == bf16);
  const double tolerance = 2 * epsilon(t.c) +
                           (4 + std::sqrt(double(t.k))) * epsilon(acc_dtype(t.c)) +
                           (rounded ? 2 * epsilon(bf16) : 0);
  CHECK(worst < tolerance);
  CHECK(worst_pre < tolerance);
}

}  // namespace

TEST_SUITE("kernels/gemm") {
  TEST_CASE("the result may take the place of the residual") {
    for (const DType c : {f32, bf16, f64})
      for (const bool accumulate : {false, true})
        for (const int64_t n : {1, 5, 70})
          check({.a = c == f64 ? f64 : f32,
                 .b = c == f64 ? f64 : f32,
                 .c = c,
                 .m = 40,
                 .n = n,
                 .k = n == 5 ? 0 : 30,
                 .accumulate = accumulate,
                 .activation = n == 70 ? Activation::relu : Activation::none,
                 .residual_is_c = true});
  }

  TEST_CASE("transposes, dtypes and odd sizes agree with plain loops") {
    const DType triples[][3] = {{f32, f32, f32},   {f64, f64, f64},   {bf16, bf16, bf16},
                                {bf16, bf16, f32}, {bf16, f32, bf16}, {f32, bf16, f32},
                                {f16, f16, f16},   {f16, f32, f32}};
    const int64_t sizes[][3] = {{1, 1, 1},     {1, 33, 31},   {33, 1, 130}, {31, 33, 1},
                                {130, 31, 33}, {33, 130, 31}, {64, 64, 64}};
    for (const auto& d : triples)
      for (const auto& s : sizes)
        for (const bool ta : {false, true})
          for (const bool tb : {false, true})
            check({.a = d[0],
                   .b = d[1],
                   .c = d[2],
                   .ta = ta,
                   .tb = tb,
                   .m = s[0],
                   .n = s[1],
                   .k = s[2]});
  }

  TEST_CASE("sizes that are cut into panels") {
    for (const DType t : {f32, bf16, f64})
      for (const bool trans : {false, true}) {
        check({.a = t,
               .b = t,
               .c = t,
               .ta = trans,
               .tb = !trans,
               .m = 1030,
               .n = 65,
               .k = 40,
               .bias = true,
               .residual = true,
               .preactivation = true,
               .activation = Activation::silu});
        check({.a = t,
               .b = t,
               .c = t,
               .ta = trans,
               .tb = trans,
               .m = 65,
               .n = 2100,
               .k = 33,
               .accumulate = true,
               .bias = true,
               .residual = true,
               .preactivation = true,
               .activation = Activation::gelu});
        check({.a = t,
               .b = t,
               .c = t,
               .ta = trans,
               .tb = trans,
               .m = 1,
               .n = 1300,
               .k = 500,
               .bias = true});
        check({.a = t,
               .b = t,
               .c = t,
               .ta = trans,
               .tb = trans,
               .m = 1300,
               .n = 1,
               .k = 500,
               .accumulate = true});
      }
  }

  TEST_CASE("epilogues") {
    for (const DType t : {f32, bf16, f16, f64})
      for (const Activation act : kActivations)
        for (const int64_t n : {1, 31, 33, 130})
          for (int bits = 0; bits < 16; ++bits)
            check({.a = t,
                   .b = t,
                   .c = t,
                   .tb = true,
                   .m = 5,
                   .n = n,
                   .k = 7,
                   .alpha = 0.5,
                   .accumulate = (bits & 1) != 0,
                   .bias = (bits & 2) != 0,
                   .residual = (bits & 4) != 0,
                   .preactivation = (bits & 8) != 0,
                   .activation = act});
  }

  TEST_CASE("empty sizes: without K the sums are zero") {
    for (const bool accumulate : {false, true})
      for (const DType t : {f32, bf16}) {
        check({.a = t, .b = t, .c = t, .m = 3, .n = 4, .k = 0, .accumulate = accumulate});
        check({.a = t,
               .b = t,
               .c = t,
               .m = 3,
               .n = 4,
               .k = 0,
               .accumulate = accumulate,
               .bias = true,
               .activation = Activation::sigmoid});
        check({.a = t, .b = t, .c = t, .m = 0, .n = 4, .k = 2});
        check({.a = t, .b = t, .c = t, .m = 3, .n = 0, .k = 2});
      }
  }

  TEST_CASE("batches by stride, broadcast and pointer list give the same") {
    const int64_t m = 9, n = 5, k = 7, batch = 4;
    Values a = make(f32, batch * m * k, 1), b = make(f32, k * n, 2),
           c = make(f32, batch * m * n, 3);
    Gemm g{.a = a.data(),
           .b = b.data(),
           .c = c.data(),
           .m = m,
           .n = n,
           .k = k,
           .batch = batch,
           .a_stride = m * k,
           .b_stride = 0,
           .c_stride = m * n};
    run(Cpu{}, g);
    Values whole = make(f32, batch * m * n, 4);
    run(Cpu{},
        Gemm{.a = a.data(), .b = b.data(), .c = whole.data(), .m = batch * m, .n = n, .k = k});
    const auto y = read(c), w = read(whole);
    for (size_t i = 0; i < y.size(); ++i) CHECK(y[i] == doctest::Approx(w[i]).epsilon(1e-5));

    const void *as[batch], *bs[batch];
    void* cs[batch];
    Values listed = make(f32, batch * m * n, 5);
    for (int64_t i = 0; i < batch; ++i) {
      as[i] = in<float>(a.data()) + i * m * k;
      bs[i] = b.data();
      cs[i] = out<float>(listed.data()) + i * m * n;
    }
    run(Cpu{},
        Gemm{.m = m, .n = n, .k = k, .batch = batch, .a_list = as, .b_list = bs, .c_list = cs});
    CHECK(std::memcmp(listed.data(), c.data(), c.bytes.size()) == 0);
  }

  TEST_CASE("results do not depend on the number of threads") {
    for (const DType t : {f32, bf16}) {
      Values a = make(t, 1100 * 200, 1), b = make(t, 300 * 200, 2);
      Values one = make(t, 1100 * 300, 3), many = make(t, 1100 * 300, 4);
      Gemm g{.a_dtype = t,
             .b_dtype = t,
             .c_dtype = t,
             .a = a.data(),
             .b = b.data(),
             .transpose_b = true,
             .m = 1100,
             .n = 300,
             .k = 200,
             .activation = Activation::gelu};
      const int before = num_threads();
      set_threads(1);
      g.c = one.data();
      run(Cpu{}, g);
      set_threads(2);
      g.c = many.data();
      run(Cpu{}, g);
      set_threads(before);
      CHECK(std::memcmp(one.data(), many.data(), one.bytes.size()) == 0);
    }
  }

  TEST_CASE("sizes and leading dimensions that cannot be are refused") {
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
  }

  TEST_CASE("f64 does not mix") {
    float x[4] = {};
    CHECK_THROWS_WITH_AS(
        run(Cpu{}, Gemm{.b_dtype = f64, .a = x, .b = x, .c = x, .m = 1, .n = 1, .k = 1}),
        "gemm: f64 goes only with f64, got f32, f64 and f32", Error);
  }
}
