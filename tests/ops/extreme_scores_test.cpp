// Scores and logits so large that a logarithm of their sum keeps no digits of what differs.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cross_entropy.h>
#include <olm/autograd/ops/flash_attention.h>
#include <olm/autograd/ops/linear_cross_entropy.h>
#include <olm/autograd/ops/reduce.h>
#include <tests/support/checks.h>
#include <tests/support/targets.h>

using namespace olm;
using namespace olm::test;

namespace {

struct Attended {
  Tensor y, dq, dk, dv;
};

/// On the device under test, but for f64.
Attended attend(const Tensors& qkv, FlashAttentionOptions o, const Tensor& dy) {
  Tensors leaves;
  for (const Tensor& t : qkv) leaves.push_back(detach(on_test_device(t)));
  for (const Tensor& t : leaves) set_requires_grad(t);
  for (Tensor* t : {&o.mask, &o.sink})
    if (t->defined()) *t = raw::to(*t, leaves[0].device());
  const Tensor y = flash_attention(leaves[0], leaves[1], leaves[2], o);
  const Tensors d = gradients({y}, {raw::to(raw::cast(dy, y.dtype()), y.device())}, leaves);
  const auto here = [](const Tensor& t) { return raw::to(detach(t), cpu); };
  return {here(y), here(d[0]), here(d[1]), here(d[2])};
}

Tensor random(const Shape& shape, Generator& g, DType dtype, double offset = 0) {
  return raw::cast(randn(shape, g, {.dtype = f64}) + offset, dtype);
}

double largest(const Tensor& t) {
  double most = 0;
  for (const double v : to_host<double>(t)) most = std::isnan(v) ? v : std::max(most, std::abs(v));
  return most;
}

/// |got - want| / |want|, of vectors.
double distance(const Tensor& got, const Tensor& want) { return difference(got, want).relative_l2; }

}  // namespace

TEST_SUITE("ops/extreme_scores") {
  TEST_CASE("a row masked by any finite number averages its values") {
    for_each_target([](const std::string& target) {
      for (const DType dtype : {f32, bf16, f64})
        for (const double masked : {-1e9, -1e30, -1e38, -3e38, -3.4028234663852886e38})
          for (const int64_t keys : {1, 5, 130}) {
            if (dtype == f64 && masked == -1e9) continue;  // keeps the digits of the scores
            INFO(name_of(dtype), " ", masked, " ", keys, " ", target);
            Generator g(3);
            const Tensors qkv{random({1, 1, 2, 8}, g, dtype), random({1, keys, 2, 8}, g, dtype),
                              random({1, keys, 2, 8}, g, dtype)};
            const Tensor dy = full({1, 1, 2, 8}, 1.0);
            const Tensor mask = full({keys}, masked, {.dtype = dtype == f64 ? f64 : f32});
            const Attended got = attend(qkv, {.mask = mask}, dy);
            const Tensor mean_value = mean(raw::cast(qkv[2], f64), {1}, {.keepdim = true});
            check_close(got.y, mean_value, dtype, double(keys), "y", 0.1);
            const Tensor shares = sum(raw::cast(got.dv, f64), {1}, {.keepdim = true});
            check_close(shares, raw::cast(dy, f64), dtype, double(keys), "sum of dv");
            CHECK(std::isfinite(largest(got.dq)));
            CHECK(std::isfinite(largest(got.dk)));
          }
    });
  }

  TEST_CASE("one score far above the others takes all, and passes nothing to q and k") {
    for_each_target([](const std::string& target) {
      for (const DType dtype : {f32, bf16, f64})
        for (const double a : {1e4, 3e4, 123456.7, 1e8, 1e15}) {
          INFO(name_of(dtype), " ", a, " ", target);
          const auto of = [&](const std::vector<double>& v) {
            return raw::cast(from_host(v, {1, int64_t(v.size()), 1, 1}), dtype);
          };
          const Attended got =
              attend({of({a}), of({a, 1}), of({1, 2})}, {.scale = 0.9}, full({1, 1, 1, 1}, 1.0));
          CHECK(to_host<double>(got.y) == std::vector<double>{1});
          CHECK(to_host<double>(got.dv) == std::vector<double>{1, 0});
          CHECK(largest(got.dq) == 0);
          CHECK(largest(got.dk) == 0);
        }
    });
  }

  TEST_CASE("a sink is weighed against scores of any size") {
    for (const DType dtype : {f32, f64})
      for (const double size : {0.0, 1e3, 1e6, 1e12}) {
        INFO(name_of(dtype), " ", size);
        const auto one = [&](const Shape& shape, double value, DType of) {
          return on_test_device(full(shape, value, {.dtype = of}));
        };
        const Shape single{1, 1, 1, 1};
        const Tensor q = one(single, size, dtype), k = one(single, 1, dtype);
        const Tensor v = one(single, 3, dtype), sink = one({1}, size, acc_dtype(dtype));
        for (const Tensor& t : {q, v, sink}) set_requires_grad(t);
        const Tensor y = flash_attention(q, k, v, {.scale = 1, .sink = sink});
        const Tensors d = gradients({y}, {one(y.shape(), 1, dtype)}, {q, v, sink});
        CHECK(to_host<double>(y)[0] == doctest::Approx(1.5).epsilon(1e-6));
        CHECK(to_host<double>(d[0])[0] == doctest::Approx(0.75).epsilon(1e-6));
        CHECK(to_host<double>(d[1])[0] == doctest::Approx(0.5).epsilon(1e-6));
        CHECK(to_host<double>(d[2])[0] == doctest::Approx(-0.75).epsilon(1e-6));
      }
  }

  TEST_CASE("a sink far above all scores leaves nothing, one far below changes nothing") {
    for (const double sink : {-1e30, -300.0, 300.0, 1e30}) {
      INFO(sink);
      Generator g(7);
      const Tensors qkv{random({1, 3, 1, 4}, g, f32), random({1, 3, 1, 4}, g, f32),
                        random({1, 3, 1, 4}, g, f32)};
      const Tensor dy = random({1, 3, 1, 4}, g, f32);
      const Attended plain = attend(qkv, {}, dy);
      const Attended got = attend(qkv, {.sink = full({1}, sink)}, dy);
      const double left = sink < 0 ? 1 : 0;
      check_close(got.y, raw::cast(plain.y, f64) * left, f32, 8, "y", 0.1);
      check_close(got.dq, raw::cast(plain.dq, f64) * left, f32, 16, "dq", 0.1);
      check_close(got.dv, raw::cast(plain.dv, f64) * left, f32, 8, "dv", 0.1);
    }
  }

  TEST_CASE("a sink of any size leaves a query without keys at 0, and NaN as one reaches all") {
    for (const double sink : {-1e30, -1e10, -1e3, 1e3, 1e10, 1e30, double(NAN)})
      for (const int64_t dim : {4, 8}) {  // whose scale is a power of two, and is none
        INFO(sink, " ", dim);
        const Tensor x = on_test_device(full({1, 2, 1, dim}, 1.0));
        const Tensor s = on_test_device(full({1}, sink));
        for (const Tensor& t : {x, s}) set_requires_grad(t);
        const FlashAttentionOptions none{.causal = true, .offset = -5, .sink = s};
        const FlashAttentionOptions all{.sink = s};
        for (const FlashAttentionOptions& o : {none, all}) {
          const Tensor y = flash_attention(x, x, x, o);
          const Tensors d = gradients({y}, {on_test_device(full(y.shape(), 1.0))}, {x, s});
          const double left = o.causal || sink > 0 ? 0 : 1;
          for (const double v : to_host<double>(y))
            CHECK((std::isnan(sink) ? std::isnan(v) : v == doctest::Approx(left)));
          CHECK((std::isnan(sink) ? std::isnan(to_host<double>(d[1])[0]) : largest(d[1]) == 0));
        }
      }
  }

  TEST_CASE("an infinite sink leaves nothing and gets no gradient") {
    for (const double infinite : {-double(INFINITY), double(INFINITY)}) {
      const Tensor x = on_test_device(full({1, 2, 1, 4}, 1.0));
      const Tensor sink = on_test_device(full({1}, infinite));
      set_requires_grad(sink);
      const Tensor y = flash_attention(x, x, x, {.sink = sink});
      for (const double v : to_host<double>(y)) CHECK(v == doctest::Approx(infinite < 0 ? 1 : 0));
      const Tensor ones = on_test_device(full(y.shape(), 1.0));
      CHECK(largest(gradients({y}, {ones}, {sink})[0]) == 0);
    }
  }

  TEST_CASE("an offset of the values costs bf16 attention no digits") {
    for_each_target([](const std::string& target) {
      for (const double offset : {0.0, 3.0, 30.0})
        for (const double sharpness : {1.0, 8.0}) {
          INFO(offset, " ", sharpness, " ", target);
          Generator g(5);
          const Shape shape{1, 130, 2, 64};
          const Tensor q = random(shape, g, f64) * sharpness;
          Tensors narrow{raw::cast(q, bf16), random(shape, g, bf16),
                         random(shape, g, bf16, offset)};
          Tensors wide;
          for (const Tensor& t : narrow) wide.push_back(raw::cast(t, f64));
          const Tensor dy = random(shape, g, bf16);
          const Attended got = attend(narrow, {.causal = true}, dy);
          const Attended want = attend(wide, {.causal = true}, dy);
          // Weights and score gradients are rounded to bf16, each by up to 2^-9.
          CHECK(distance(got.y, want.y) < 0x1p-8);
          CHECK(distance(got.dq, want.dq) < 0x1p-8);
          CHECK(distance(got.dk, want.dk) < 0x1p-8);
          CHECK(distance(got.dv, want.dv) < 0x1p-8);
        }
    });
  }

  TEST_CASE("cross-entropy does not depend on a shift of the logits") {
    for_each_target([](const std::string& target) {
      for (const double shift : {1e4, 1e6, 1e9, -1e9}) {
        INFO(shift, " ", target);
        // Steps that every shift leaves exact.
        const double step = std::abs(shift) > 1e8 ? 64 : 1;
        const std::vector<double> steps{0, -step, step, -2 * step, 0, -3 * step, -step};
        Tensor x = from_host(steps, {1, 7}), moved = raw::cast(x + shift, f32);
        const Tensor t = from_host<int64_t>({1}, {1});
        set_requires_grad(x);
        set_requires_grad(moved);
        const Tensor want = gradients({cross_entropy(x, t)}, {full({}, 1, {.dtype = f64})}, {x})[0];
        const Tensor got = gradients({cross_entropy(moved, t)}, {full({}, 1)}, {moved})[0];
        check_close(got, want, f32, 7, "cross_entropy");
        const Tensor of_sum = gradients({logsumexp(moved)}, {full({}, 1)}, {moved})[0];
        const Tensor of_wide = gradients({logsumexp(x)}, {full({}, 1, {.dtype = f64})}, {x})[0];
        check_close(of_sum, of_wide, f32, 7, "logsumexp");
      }
    });
  }

  TEST_CASE("linear_cross_entropy does not depend on a shift of the logits") {
    for (const double shift : {1e4, 1e6, 1e9}) {
      INFO(shift);
      const double step = shift > 1e8 ? 64 : 1;
      const std::vector<double> steps{0, -step, step, -2 * step};
      const Tensor targets = from_host<int64_t>({1}, {1}), x = full({1, 1}, 1.0);
      const Tensor plain = from_host(steps, {4, 1}), moved = raw::cast(plain + shift, f32);
      set_requires_grad(plain);
      set_requires_grad(moved);
      const Tensor want = gradients({linear_cross_entropy(raw::cast(x, f64), plain, targets)},
                                    {full({}, 1, {.dtype = f64})}, {plain})[0];
      const Tensor got =
          gradients({linear_cross_entropy(x, moved, targets)}, {full({}, 1)}, {moved})[0];
      check_close(got, want, f32, 4, "dweight");
    }
  }

  TEST_CASE("logsumexp of nothing but -infinity passes no gradient, and bf16 loses no digits") {
    const Tensor none = full({2, 3}, -INFINITY);
    set_requires_grad(none);
    CHECK(largest(gradients({logsumexp(none, 1)}, {full({2}, 1)}, {none})[0]) == 0);
    const Tensor x = raw::cast(from_host<double>({300, 302, 299}, {3}), bf16);
    const Tensor wide = raw::cast(x, f64);
    set_requires_grad(x);
    set_requires_grad(wide);
    const Tensor got = gradients({logsumexp(x)}, {full({}, 1, {.dtype = bf16})}, {x})[0];
    const Tensor want = gradients({logsumexp(wide)}, {full({}, 1, {.dtype = f64})}, {wide})[0];
    check_close(got, want, bf16, 3, "dx");
  }

  TEST_CASE("a variance that is in range does not overflow on the way") {
    const std::vector<float> v{1e19f, -1e19f, 1.2e19f, -1.1e19f, 1e19f, -9e18f};
    const Tensor x = from_host(v, {6});
    check_close(var(x), var(raw::cast(x, f64)), f32, 6, "var");
    const Tensor far = from_host<float>({3e38f, -3e38f}, {2});
    CHECK(std::isinf(var(far).item<float>()));
    const Tensor mixed = from_host<float>({1e19f, 1, -1e19f, 2, 1e19f, 3, -1e19f, 4}, {4, 2});
    const auto columns = to_host<double>(var(mixed, 0));
    CHECK(columns[0] == doctest::Approx(4e38 / 3).epsilon(1e-6));
    CHECK(columns[1] == doctest::Approx(5.0 / 3).epsilon(1e-6));
  }
}
