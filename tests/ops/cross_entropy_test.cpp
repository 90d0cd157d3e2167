#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/cross_entropy.h>
#include <tests/support/cases/cross_entropy.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

namespace {

double reference(const std::vector<double>& x, size_t target, double smoothing, double z) {
  double sum = 0, mean = 0;
  for (const double v : x) sum += std::exp(v), mean += v / double(x.size());
  const double lse = std::log(sum);
  return (1 - smoothing) * (lse - x[target]) + smoothing * (lse - mean) + z * lse * lse;
}

}  // namespace

OLM_OP_SUITE("ops/cross_entropy", cross_entropy_cases())

TEST_SUITE("ops/cross_entropy") {
  TEST_CASE("the formula holds") {
    Generator g(2);
    const Tensor x = randn({3, 5}, g, {.dtype = f64});
    const std::vector<double> v = to_host<double>(x);
    const Tensor targets = from_host<int32_t>({4, -100, 0}, {3});
    const std::vector<double> first(v.begin(), v.begin() + 5), last(v.begin() + 10, v.end());
    const double a = reference(first, 4, 0.2, 0.01), b = reference(last, 0, 0.2, 0.01);
    CrossEntropyOptions o{.label_smoothing = 0.2, .z_loss = 0.01};
    CHECK(cross_entropy(x, targets, o).item<double>() == doctest::Approx((a + b) / 2));
    o.reduction = Reduction::sum;
    CHECK(cross_entropy(x, targets, o).item<double>() == doctest::Approx(a + b));
    o.reduction = Reduction::none;
    const std::vector<double> each = to_host<double>(cross_entropy(x, targets, o));
    CHECK(each[0] == doctest::Approx(a));
    CHECK(each[1] == 0);
    CHECK(each[2] == doctest::Approx(b));
  }

  TEST_CASE("the loss of narrow logits is f32") {
    Generator g(2);
    const Tensor x = randn({3, 5}, g, {.dtype = bf16});
    CHECK(cross_entropy(x, randint(0, 5, {3}, g)).dtype() == f32);
  }

  TEST_CASE("without a target that counts, loss and gradient are 0") {
    Generator g(2);
    const Tensor x = randn({3, 5}, g), targets = full({3}, -100, {.dtype = i64});
    set_requires_grad(x);
    const Tensor loss = cross_entropy(x, targets, {.z_loss = 1});
    CHECK(loss.item<float>() == 0);
    backward(loss);
    for (const float v : to_host<float>(grad(x))) CHECK(v == 0);
    CHECK(cross_entropy(randn({0, 5}, g), zeros({0}, {.dtype = i64})).item<float>() == 0);
  }

  TEST_CASE("large logits lose no digits, masked classes weigh nothing") {
    const float inf = INFINITY;
    const Tensor x = from_host<float>({30000, 30001, -inf, 3e38f, 0, -3e38f}, {2, 3});
    set_requires_grad(x);
    const Tensor loss =
        cross_entropy(x, from_host<int64_t>({0, 0}, {2}), {.reduction = Reduction::none});
    const std::vector<float> l = to_host<float>(loss);
    CHECK(l[0] == doctest::Approx(1.3132617).epsilon(1e-6));
    CHECK(l[1] == 0);
    backward(loss, {.gradient = from_host<float>({1, 1}, {2})});
    const std::vector<float> dx = to_host<float>(grad(x));
    CHECK(dx[1] == doctest::Approx(0.7310586).epsilon(1e-6));
    for (const size_t i : {2, 3, 4, 5}) CHECK(dx[i] == 0);
  }

  // Subnormal gradients would slow the matrix products that follow by two orders.
  TEST_CASE("improbable classes get gradient 0, never a subnormal one") {
    std::vector<float> v;
    for (int i = 0; i < 120; ++i) v.push_back(float(-i));
    const Tensor x = from_host(v, {1, 120});
    set_requires_grad(x);
    backward(cross_entropy(x, from_host<int64_t>({0}, {1})));
    const std::vector<float> dx = to_host<float>(grad(x));
    CHECK(dx[50] == doctest::Approx(std::exp(-50) * (1 - std::exp(-1.0))));
    for (size_t i = 60; i < 120; ++i) CHECK(dx[i] == 0);
  }

  TEST_CASE("NaN is not hidden") {
    const Tensor x = from_host<float>({NAN, 0, 0, 0, 0, 0, 0, 0, 0}, {1, 9});
    CHECK(std::isnan(cross_entropy(x, from_host<int64_t>({3}, {1})).item<float>()));
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g);
    const auto ids = [](int64_t a, int64_t b) { return from_host<int64_t>({a, b}, {2}); };
    check_error([&] { cross_entropy(x, ids(0, 3)); }, {"target 3 at position 1", "[0, 3)"});
    check_error([&] { cross_entropy(x, ids(-1, 0)); }, {"target -1 at position 0"});
    check_error([&] { cross_entropy(x, arange(3)); }, {"cross_entropy", "[3]", "[2,3]"});
    check_error([&] { cross_entropy(x, randn({2}, g)); }, {"cross_entropy", "f32"});
    check_error([&] { cross_entropy(ids(0, 1), ids(0, 1)); }, {"cross_entropy", "i64"});
    check_error([&] { cross_entropy(x, ids(0, 1), {.label_smoothing = 2}); },
                {"label_smoothing", "2"});
  }
}
