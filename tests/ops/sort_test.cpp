#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <olm/autograd/ops/sort.h>
#include <tests/support/cases/sort.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

namespace {

/// Values with many ties.
std::vector<float> with_ties(size_t n) {
  std::vector<float> x(n);
  for (size_t i = 0; i < n; ++i) x[i] = float((i * 7919) % 13) - 6;
  return x;
}

}  // namespace

OLM_OP_SUITE("ops/sort", topk_case(), sort_case(false), sort_case(true))

TEST_SUITE("ops/sort") {
  TEST_CASE("sorting is stable in both directions, in any dtype") {
    const auto x = with_ties(500);
    for (const bool descending : {false, true}) {
      std::vector<int64_t> order(x.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return descending ? x[size_t(a)] > x[size_t(b)] : x[size_t(a)] < x[size_t(b)];
      });
      for (const DType dtype : {f32, bf16, f16, f64, i32, i64}) {
        const Tensor t = raw::cast(from_host(x, {500}), dtype);
        const Sorted s = sort(t, 0, descending);
        CHECK(to_host<int64_t>(s.indices) == order);
        CHECK(to_host<int64_t>(argsort(t, 0, descending)) == order);
        CHECK(s.values.dtype() == dtype);
        const auto values = to_host<float>(s.values);
        for (size_t i = 0; i < order.size(); ++i) REQUIRE(values[i] == x[size_t(order[i])]);
      }
    }
  }

  TEST_CASE("topk is the front of the sorted elements for any k") {
    const Tensor x = from_host(with_ties(400), {2, 200});
    const Sorted all = sort(x, 1, true);
    for (const int64_t k : {0, 1, 5, 24, 25, 100, 199, 200}) {
      const Sorted top = topk(x, k);
      CHECK(to_host<float>(top.values) == to_host<float>(raw::slice(all.values, 1, 0, k)));
      CHECK(to_host<int64_t>(top.indices) == to_host<int64_t>(raw::slice(all.indices, 1, 0, k)));
    }
  }

  TEST_CASE("NaN is the largest and -0 equals 0") {
    const Tensor x = from_host<float>({1, NAN, -0.0f, 0, INFINITY, -INFINITY, -NAN, 0}, {8});
    CHECK(to_host<int64_t>(topk(x, 4).indices) == std::vector<int64_t>{1, 6, 4, 0});
    CHECK(to_host<int64_t>(argsort(x)) == std::vector<int64_t>{5, 2, 3, 7, 0, 4, 1, 6});
    CHECK(to_host<int64_t>(argsort(raw::cast(x, f64), 0, true)) ==
          std::vector<int64_t>{1, 6, 4, 0, 2, 3, 7, 5});
  }

  TEST_CASE("the gradient goes to the chosen elements") {
    const Tensor x = from_host<float>({1, 5, 3, 4, 9, 2}, {2, 3});
    set_requires_grad(x);
    const Sorted top = topk(x, 2);
    CHECK(!requires_grad(top.indices));
    backward(top.values, {.gradient = from_host<float>({10, 20, 30, 40}, {2, 2})});
    CHECK(to_host<float>(grad(x)) == std::vector<float>{0, 10, 20, 40, 30, 0});
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g);
    check_error([&] { topk(x, 4); }, {"topk", "4", "3"});
    check_error([&] { topk(x, -1); }, {"topk", "-1"});
    check_error([&] { sort(x, 2); }, {"sort", "2"});
    check_error([&] { argsort(x, -3); }, {"argsort", "-3"});
  }
}
