#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/reduce.h>
#include <tests/support/cases/reduce.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

namespace {

using Ints = std::vector<int64_t>;

}  // namespace

OLM_OP_SUITE("ops/reduce", reduce_cases())

TEST_SUITE("ops/reduce") {
  TEST_CASE("shapes follow dims and keepdim") {
    const Tensor x = ones({2, 3, 4});
    CHECK(sum(x).shape() == Shape{});
    CHECK(sum(x).item<float>() == 24);
    CHECK(sum(x, 1).shape() == Shape{2, 4});
    CHECK(sum(x, -1, {.keepdim = true}).shape() == Shape{2, 3, 1});
    CHECK(mean(x, {0, 2}).shape() == Shape{3});
    CHECK(max(x, {-1, 0}, {.keepdim = true}).shape() == Shape{1, 3, 1});
    CHECK(argmax(x).shape() == Shape{});
    CHECK(argmin(x, 1, {.keepdim = true}).shape() == Shape{2, 1, 4});
    CHECK(sum(empty({5, 6}, {.device = meta}), 0).shape() == Shape{6});
  }

  TEST_CASE("dimensions that do not lie together are summed together") {
    const Tensor x = from_host<float>({1, 2, 3, 4, 5, 6, 7, 8}, {2, 2, 2});
    CHECK(to_host<float>(sum(x, {0, 2})) == std::vector<float>{14, 22});
    CHECK(to_host<float>(max(x, {0, 2})) == std::vector<float>{6, 8});
  }

  TEST_CASE("equal extremes share the gradient") {
    const Tensor x = from_host<float>({3, 1, 3, 2, 2, 2}, {2, 3});
    set_requires_grad(x);
    backward(max(x, 1), {.gradient = from_host<float>({4, 6}, {2})});
    CHECK(to_host<float>(grad(x)) == std::vector<float>{2, 0, 2, 2, 2, 2});
    zero_grad(x);
    backward(min(x), {.gradient = from_host<float>({4}, {})});
    CHECK(to_host<float>(grad(x)) == std::vector<float>{0, 4, 0, 0, 0, 0});
  }

  TEST_CASE("argmax and argmin give the first index") {
    const Tensor x = from_host<float>({3, 1, 3, 2, 2, 2}, {2, 3});
    CHECK(argmax(x).dtype() == i64);
    CHECK(to_host<int64_t>(argmax(x, 1)) == Ints{0, 0});
    CHECK(to_host<int64_t>(argmin(x, 1)) == Ints{1, 0});
    CHECK(to_host<int64_t>(argmax(x, 0)) == Ints{0, 1, 0});
    CHECK(argmin(x).item<int64_t>() == 1);
    CHECK(argmax(raw::cast(x, i64), 0).size(0) == 3);
    Generator g(2);
    std::vector<float> v = to_host<float>(randn({4099}, g));
    v[4000] = 100;
    CHECK(argmax(raw::cast(from_host(v, {4099}), bf16)).item<int64_t>() == 4000);
  }

  TEST_CASE("NaN is the extreme and infinities survive logsumexp") {
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = INFINITY;
    const Tensor x =
        from_host<float>({1, nan, 2, 3, inf, 4, -inf, 5, -inf, -inf, -inf, -inf}, {4, 3});
    for_each_target([&](const std::string& name) {
      CAPTURE(name);
      CHECK(std::isnan(to_host<float>(max(x, 1))[0]));
      CHECK(std::isnan(to_host<float>(min(x, 1))[0]));
      CHECK(to_host<int64_t>(argmax(x, 1)) == Ints{1, 1, 1, 0});
      const std::vector<float> y = to_host<float>(logsumexp(x, 1));
      CHECK(std::isnan(y[0]));
      CHECK(y[1] == inf);
      CHECK(y[2] == 5);
      CHECK(y[3] == -inf);
    });
  }

  TEST_CASE("long sums stay accurate, and large values do not overflow") {
    const Tensor x = full({1 << 20}, 0.1);
    CHECK(sum(x).item<double>() == doctest::Approx(104857.6).epsilon(1e-6));
    CHECK(mean(raw::cast(full({70000}, 1), bf16)).item<double>() == 1);
    CHECK(logsumexp(full({4}, 1000), 0).item<double>() ==
          doctest::Approx(1000 + std::log(4)).epsilon(1e-7));
    Generator g(4);
    const Tensor far = randn({4099}, g) + 1e5;  // a single pass loses all digits here
    const double wanted = var(raw::cast(far, f64)).item<double>();
    CHECK(var(far).item<double>() == doctest::Approx(wanted).epsilon(1e-4));
  }

  TEST_CASE("integers and bool sum to i64") {
    const Tensor x = from_host<int32_t>({1, 0, 5, -2}, {2, 2});
    CHECK(sum(x).dtype() == i64);
    CHECK(to_host<int64_t>(sum(x, 0)) == Ints{6, -2});
    CHECK(sum(raw::cast(x, boolean)).item<int64_t>() == 3);
    CHECK(to_host<int64_t>(max(x, 1)) == Ints{1, 5});
    CHECK(max(x).dtype() == i32);
  }

  TEST_CASE("sums over nothing are 0, and there is no largest of none") {
    const Tensor x = empty({2, 0});
    CHECK(to_host<float>(sum(x, 1)) == std::vector<float>{0, 0});
    CHECK(std::isnan(mean(x).item<float>()));
    CHECK(logsumexp(x, 1).shape() == Shape{2});
    CHECK(max(x, 0).shape() == Shape{0});
    check_error([&] { max(x, 1); }, {"max", "at least one", "[2,0]"});
    check_error([&] { argmin(x); }, {"argmin", "at least one", "[2,0]"});
  }

  TEST_CASE("what does not fit is refused") {
    const Tensor x = ones({2, 3});
    check_error([&] { sum(x, 2); }, {"sum", "2"});
    check_error([&] { mean(x, {0, -2}); }, {"mean", "twice"});
    check_error([&] { mean(arange(3)); }, {"mean", "i64"});
    check_error([&] { var(arange(3), 0); }, {"var", "i64"});
    check_error([&] { logsumexp(arange(3), 0); }, {"logsumexp", "i64"});
  }
}
