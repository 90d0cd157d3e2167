// GEMM on the device under test against plain loops in f64: by cuBLASLt with its epilogue and with
// ours, and by the kernel for what the library does not take.
#include <doctest/doctest.h>

#include <olm/kernels/base/run.h>
#include <tests/kernels/cuda/placed.h>

using namespace olm;
using namespace olm::kernels;
using namespace olm::test;

namespace {

struct Case {
  DType a = f32, b = f32, c = f32, bias_dtype = f32;
  bool ta = false, tb = false;
  int64_t m = 0, n = 0, k = 0;
  int64_t pad = 0;  ///< elements between rows
  double alpha = 1;
  bool accumulate = false, bias = false, residual = false, preactivation = false;
  Activation activation = Activation::none;
};

struct Operands {
  explicit Operands(const Case& t)
      : lda((t.ta ? t.m : t.k) + t.pad),
        ldb((t.tb ? t.k : t.n) + t.pad),
        ldc(t.n + t.pad),
        a(t.a, (t.ta ? t.k : t.m) * lda, 1),
        b(t.b, (t.tb ? t.n : t.k) * ldb, 2),
        c(t.c, t.m * ldc, 3),
        z(t.c, t.preactivation ? t.m * ldc : 0, 4),
        r(t.c, t.residual ? t.m * ldc : 0, 5),
        bias(t.bias_dtype, t.n, 6) {}
  int64_t lda, ldb, ldc;
  Placed a, b, c, z, r, bias;
};

Gemm gemm_of(const Case& t, const Operands& o) {
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
          .bias_dtype = t.bias_dtype,
          .activation = t.activation,
          .preactivation = t.preactivation ? o.z.data() : nullptr,
          .residual = t.residual ? o.r.data() : nullptr,
          .stream = o.a.stream()};
}

/// Element (i, j) of alpha · op(A) · op(B) + bias.
double product_at(const Case& t, const Operands& o, int64_t i, int64_t j) {
  double sum = 0;
  for (int64_t l = 0; l < t.k; ++l)
    sum += o.a.exact(t.ta ? l * o.lda + i : i * o.lda + l) *
           o.b.exact(t.tb ? j * o.ldb + l : l * o.ldb + j);
  return t.alpha * sum + (t.bias ? o.bias.exact(j) : 0);
}

double tolerance_of(const Case& t) {
  const DType narrow = t.a == bf16 || t.b == bf16 ? bf16 : f16;
  const bool rounds = t.a != t.b || (t.bias && t.bias_dtype != t.c);
  return 2 * epsilon(t.c) + (4 + std::sqrt(double(t.k))) * epsilon(f32) +
         (rounds ? 2 * epsilon(narrow) : 0);
}

void check_case(const Case& t) {
  INFO(t.m, " x ", t.n, " x ", t.k, " padded by ", t.pad, ", ", t.ta, t.tb, ", ", t.a, " ", t.b,
       " ", t.c, ", ", name_of(t.activation), t.bias, t.residual, t.accumulate, t.preactivation);
  const Operands o(t);
  run(test_device().kind, gemm_of(t, o));
  const std::vector<double> y = o.c.read(), pre = o.z.read();
  double worst = 0, worst_pre = 0;
  for (int64_t i = 0; i < t.m; ++i)
    for (int64_t j = 0; j < o.ldc; ++j) {
      const int64_t at = i * o.ldc + j;
      if (j >= t.n) {  // between the rows nothing is written
        REQUIRE(y[size_t(at)] == o.c.exact(at));
        continue;
      }
      const double value = product_at(t, o, i, j);
      double want = activated(t.activation, value) + (t.residual ? o.r.exact(at) : 0);
      if (t.accumulate) want += o.c.exact(at);
      const double scale = 1 + std::sqrt(double(t.k)) + std::fabs(want);
      keep_worst(worst, std::fabs(y[size_t(at)] - want) / scale);
      if (t.preactivation) keep_worst(worst_pre, std::fabs(pre[size_t(at)] - value) / scale);
    }
  CHECK(worst < tolerance_of(t));
  CHECK(worst_pre < tolerance_of(t));
}

bool on_card() { return test_device().kind == DeviceKind::cuda; }

}  // namespace

TEST_SUITE("kernels/cuda/gemm") {
  TEST_CASE("dtypes, transposes and leading dimensions agree with plain loops") {
    if (!on_card()) return;
    const DType triples[][3] = {{f32, f32, f32},   {bf16, bf16, bf16}, {bf16, bf16, f32},
                                {bf16, f32, bf16}, {f32, bf16, f32},   {f16, f16, f16},
                                {f16, f32, f32},   {f32, f32, bf16},   {bf16, f16, f16},
                                {f16, f16, bf16}};
    for (const auto& [a, b, c] : triples)
      for (const bool ta : {false, true})
        for (const bool tb : {false, true}) {
          const Case t{.a = a, .b = b, .c = c, .ta = ta, .tb = tb, .m = 40, .n = 24, .k = 48};
          Case odd = t, even = t;
          odd.m = 67, odd.n = 71, odd.k = 35, odd.pad = 3, odd.alpha = 0.5;
          even.pad = 2, even.accumulate = true;
          for (const Case& each : {t, odd, even}) check_case(each);
        }
  }

  TEST_CASE("every epilogue agrees with plain loops") {
    if (!on_card()) return;
    const DType dtypes[][2] = {{f32, f32}, {bf16, f32}, {bf16, bf16}, {f16, f32}};
    for (const auto& [t, bias] : dtypes)
      for (const Activation act : kActivations)
        for (int flags = 0; flags < 16; ++flags)
          for (const int64_t n : {24, 9})
            check_case({.a = t,
                        .b = t,
                        .c = t,
                        .bias_dtype = bias,
                        .tb = true,
                        .m = 13,
                        .n = n,
                        .k = 16,
                        .accumulate = (flags & 1) != 0,
                        .bias = (flags & 2) != 0,
                        .residual = (flags & 4) != 0,
                        .preactivation = (flags & 8) != 0,
                        .activation = act});
  }

  TEST_CASE("without depth the epilogue has zeros") {
    if (!on_card()) return;
    for (const bool accumulate : {false, true})
      check_case({.m = 5,
                  .n = 6,
                  .k = 0,
                  .accumulate = accumulate,
                  .bias = true,
                  .residual = true,
                  .activation = Activation::silu});
    check_case({.m = 0, .n = 6, .k = 4});
    check_case({.m = 5, .n = 0, .k = 4});
  }

  TEST_CASE("sums beyond a panel come panel by panel") {
    if (!on_card()) return;
    check_case({.m = 2100, .n = 4104, .k = 1, .activation = Activation::relu});
  }

  TEST_CASE("members of a batch lie at strides or where lists say") {
    if (!on_card()) return;
    const int64_t m = 20, n = 16, k = 24, batch = 3;
    for (const DType t : {f32, bf16})
      for (const bool lists : {false, true})
        for (const Activation act : {Activation::none, Activation::tanh}) {
          const Placed a(f32, batch * m * k, 1), b(t, k * n, 2), c(t, batch * m * n, 3);
          Gemm g{.b_dtype = t,
                 .c_dtype = t,
                 .a = a.data(),
                 .b = b.data(),
                 .c = c.data(),
                 .m = m,
                 .n = n,
                 .k = k,
                 .batch = batch,
                 .a_stride = m * k,
                 .c_stride = m * n,
                 .activation = act,
                 .stream = a.stream()};
          // Backwards, so that strides would be wrong.
          const void* a_list[] = {a.at(2 * m * k), a.at(m * k), a.at(0)};
          void* c_list[] = {c.at(2 * m * n), c.at(m * n), c.at(0)};
          if (lists) {
            g.a_list = a_list;
            g.c_list = c_list;
          }
          run(test_device().kind, g);
          const std::vector<double> y = c.read();
          double worst = 0;
          for (int64_t i = 0; i < batch * m * n; ++i) {
            double sum = 0;
            for (int64_t l = 0; l < k; ++l) sum += a.exact(i / n * k + l) * b.exact(l * n + i % n);
            keep_worst(worst, std::fabs(y[size_t(i)] - activated(act, sum)));
          }
          CHECK(worst < (t == f32 ? 1e-5 : 0.1));
        }
  }

  TEST_CASE("what cannot be is refused") {
    if (!on_card()) return;
    const Placed x(f32, 16, 1);
    Gemm g{.a = x.data(), .b = x.data(), .c = x.data(), .m = 4, .n = 4, .k = 4, .lda = 3};
    check_error([&] { run(test_device().kind, g); }, {"gemm", "lda 3", "4"});
    g.lda = 0;
    g.a_dtype = g.b_dtype = g.c_dtype = f64;
    check_error([&] { run(test_device().kind, g); }, {"cuda", "f64"});
  }
}
