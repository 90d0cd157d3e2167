#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/compare.h>
#include <olm/autograd/ops/where.h>
#include <tests/support/cases/where.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/where", where_cases())

TEST_SUITE("ops/where") {
  TEST_CASE("each element comes from the side the condition names") {
    const Tensor c = raw::cast(from_host<int64_t>({1, 0, 0, 1}, {2, 2}), boolean);
    const Tensor a = from_host<int64_t>({1, 2, 3, 4}, {2, 2}), b = from_host<int64_t>({9, 8}, {2});
    CHECK(to_host<int64_t>(where(c, a, b)) == std::vector<int64_t>{1, 8, 9, 4});
    CHECK(to_host<int64_t>(where(c, a, 0)) == std::vector<int64_t>{1, 0, 0, 4});
    CHECK(to_host<int64_t>(where(c, 7, a)) == std::vector<int64_t>{7, 2, 3, 7});
    CHECK(to_host<int64_t>(where(raw::transpose(c, 0, 1), a, raw::transpose(a, 0, 1))) ==
          std::vector<int64_t>{1, 3, 2, 4});
  }

  TEST_CASE("a branch that is not taken gets gradient 0, even where it is NaN") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const Tensor a = from_host<float>({1, nan}, {2}), b = from_host<float>({nan, 2}, {2});
    set_requires_grad(a);
    const Tensor y = where(raw::cast(from_host<int64_t>({1, 0}, {2}), boolean), a, b);
    CHECK(to_host<float>(y) == std::vector<float>{1, 2});
    backward(y, {.gradient = from_host<float>({5, nan}, {2})});
    CHECK(to_host<float>(grad(a)) == std::vector<float>{5, 0});
  }

  TEST_CASE("masked_fill overwrites and passes no gradient there") {
    const Tensor x = from_host<float>({1, 2, 3, 4}, {2, 2});
    set_requires_grad(x);
    const Tensor mask = raw::cast(from_host<int64_t>({0, 1}, {2}), boolean);
    const Tensor y = masked_fill(x, mask, -INFINITY);
    CHECK(to_host<float>(y) == std::vector<float>{1, -INFINITY, 3, -INFINITY});
    backward(y, {.gradient = ones({2, 2})});
    CHECK(to_host<float>(grad(x)) == std::vector<float>{1, 0, 1, 0});
  }

  TEST_CASE("triangles of every diagonal") {
    const Tensor x = ones({2, 3}, {.dtype = i64});
    CHECK(to_host<int64_t>(tril(x)) == std::vector<int64_t>{1, 0, 0, 1, 1, 0});
    CHECK(to_host<int64_t>(tril(x, 1)) == std::vector<int64_t>{1, 1, 0, 1, 1, 1});
    CHECK(to_host<int64_t>(tril(x, -1)) == std::vector<int64_t>{0, 0, 0, 1, 0, 0});
    CHECK(to_host<int64_t>(triu(x)) == std::vector<int64_t>{1, 1, 1, 0, 1, 1});
    CHECK(to_host<int64_t>(triu(x, 1)) == std::vector<int64_t>{0, 1, 1, 0, 0, 1});
    CHECK(to_host<int64_t>(triu(x, -5)) == std::vector<int64_t>{1, 1, 1, 1, 1, 1});
  }

  TEST_CASE("what does not fit is refused") {
    const Tensor x = ones({2, 3}), mask = lt(x, 0);
    check_error([&] { where(x, x, x); }, {"where", "bool", "f32"});
    check_error([&] { where(mask, x, raw::cast(x, f64)); }, {"where", "f32", "f64"});
    check_error([&] { where(mask, x, ones({2})); }, {"where", "[2,3]", "[2]"});
    check_error([&] { masked_fill(ones({3}), mask, 0); }, {"masked_fill", "[2,3]", "[3]"});
    check_error([&] { tril(ones({3})); }, {"tril", "[3]"});
    check_error([&] { where(mask, arange(3), 0.5); }, {"where", "0.5", "i64"});
    check_error([&] { masked_fill(arange(3), lt(arange(3), 1), 0.5); },
                {"masked_fill", "0.5", "i64"});
  }
}
