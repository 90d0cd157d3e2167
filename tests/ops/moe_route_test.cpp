#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include <tests/support/cases/moe_route.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/moe_route", moe_route_cases())

namespace {

using Ids = std::vector<int64_t>;

Ids experts_of(const Tensor& logits, const MoERouteOptions& options, const Tensor& bias = {}) {
  return to_host<int64_t>(moe_route(logits, options, bias).experts);
}

/// Every token has different experts, all of them in range.
void check_experts(const Tensor& experts, int64_t num_experts) {
  const Ids ids = to_host<int64_t>(experts);
  const auto k = size_t(experts.size(-1));
  for (size_t n = 0; n < ids.size(); n += k) {
    const std::set<int64_t> different(ids.begin() + int64_t(n), ids.begin() + int64_t(n + k));
    CHECK(different.size() == k);
    CHECK(*different.begin() >= 0);
    CHECK(*different.rbegin() < num_experts);
  }
}

}  // namespace

TEST_SUITE("ops/moe_route") {
  TEST_CASE("of equal experts the lower index comes first") {
    const Tensor x = from_host<float>({1, 2, 2, 1, 2}, {1, 5});
    CHECK(experts_of(x, {.top_k = 5}) == Ids{1, 2, 4, 0, 3});
    CHECK(experts_of(zeros({2, 4}), {.top_k = 2}) == Ids{0, 1, 0, 1});
  }

  TEST_CASE("a bias changes the choice and its order, not the weights") {
    const Tensor x = from_host<float>({0, 1, 2, 3}, {1, 4});
    const Tensor bias = from_host<float>({9, 0, 0, -9}, {4});
    set_requires_grad(bias);
    const MoERouting r = moe_route(x, {.top_k = 2, .normalize = false}, bias);
    CHECK(to_host<int64_t>(r.experts) == Ids{0, 2});
    const auto scores = to_host<float>(r.scores), weights = to_host<float>(r.weights);
    CHECK(weights[0] == scores[0]);
    CHECK(weights[1] == scores[2]);
    CHECK_FALSE(requires_grad(r.weights));
  }

  TEST_CASE("no expert outside the best groups is chosen") {
    // The largest score stands alone in its group, whose sum of two is the smallest.
    const Tensor x = from_host<float>({5, -9, -9, 3, 3, -9, 2, 4, -9}, {1, 9});
    const MoERouteOptions options{
        .top_k = 3, .scoring = MoEScoring::sigmoid, .groups = 3, .top_groups = 2};
    CHECK(experts_of(x, options) == Ids{7, 3, 4});
  }

  TEST_CASE("NaN is the largest, and experts stay in range") {
    const float nan = NAN, inf = INFINITY;
    const Tensor x = from_host<float>(
        {nan, nan, nan, nan, 0, nan, 1, nan, -inf, -inf, -inf, -inf, inf, 0, inf, 0, 1, 2, 3, 4},
        {5, 4});
    for (const MoEScoring scoring : kMoEScorings)
      for (const int64_t groups : {1, 2}) {
        MoERouteOptions options{.top_k = 2, .scoring = scoring, .groups = groups};
        const MoERouting r = moe_route(x, options);
        check_experts(r.experts, 4);
        const auto weights = to_host<float>(r.weights);
        for (const int i : {0, 1, 2, 3}) CHECK(std::isnan(weights[size_t(i)]));
        for (const int i : {4, 5}) CHECK(weights[size_t(i)] == 0);  // no expert has any score
        for (const int i : {8, 9}) CHECK(std::isfinite(weights[size_t(i)]));
      }
    CHECK(experts_of(from_host<float>({0, nan, 1, nan}, {1, 4}),
                     {.top_k = 3, .scoring = MoEScoring::sigmoid}) == Ids{1, 3, 2});
  }

  TEST_CASE("scores of 0 give gradients of 0") {
    const Tensor x = full({2, 4}, -200);
    set_requires_grad(x);
    const MoERouting r = moe_route(x, {.top_k = 2, .scoring = MoEScoring::sigmoid});
    backward(r.weights, {.gradient = ones({2, 2})});
    for (const float g : to_host<float>(grad(x))) CHECK(g == 0);
  }

  TEST_CASE("leading dimensions are kept") {
    Generator g(3);
    const Tensor x = randn({2, 3, 6}, g);
    const MoERouting r = moe_route(x, {.top_k = 4}),
                     flat = moe_route(raw::view(x, {6, 6}), {.top_k = 4});
    CHECK(r.experts.shape() == Shape{2, 3, 4});
    CHECK(r.weights.shape() == Shape{2, 3, 4});
    CHECK(r.scores.shape() == Shape{2, 3, 6});
    check_same_bits(raw::view(r.weights, {6, 4}), flat.weights, "weights");
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 6}, g);
    check_error([&] { moe_route(x, {.top_k = 7}); }, {"moe_route", "top_k", "[1, 6]", "got 7"});
    check_error([&] { moe_route(x, {.top_k = 0}); }, {"moe_route", "top_k", "got 0"});
    check_error([&] { moe_route(x, {.groups = 4}); }, {"moe_route", "4 groups", "6 experts"});
    check_error([&] { moe_route(x, {.groups = 3, .top_groups = 4}); }, {"top_groups", "[1, 3]"});
    check_error([&] { moe_route(x, {.top_k = 3, .groups = 3}); },
                {"moe_route", "1 groups of 2", "top_k 3"});
    check_error([&] { moe_route(x, {}, randn({5}, g)); }, {"moe_route", "bias", "[6]", "[5]"});
    check_error([&] { moe_route(arange(4), {}); }, {"moe_route", "i64"});
    CHECK(parse_moe_scoring("sigmoid", "router") == MoEScoring::sigmoid);
    check_error([] { parse_moe_scoring("relu", "router"); },
                {"router", "\"relu\"", "softmax, sigmoid"});
  }
}
