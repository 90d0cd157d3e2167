#include <doctest/doctest.h>

#include <olm/autograd/ops/combine.h>
#include <tests/support/cases/combine.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/combine", cat_case(0), cat_case(1), cat_case(-1), stack_case(0), stack_case(1),
             stack_case(2), stack_case(-1))

TEST_SUITE("ops/combine") {
  TEST_CASE("elements are where they belong") {
    const Tensor a = from_host<int64_t>({1, 2, 3, 4}, {2, 2}),
                 b = from_host<int64_t>({5, 6}, {2, 1});
    CHECK(to_host<int64_t>(cat({a, b}, 1)) == std::vector<int64_t>{1, 2, 5, 3, 4, 6});
    CHECK(to_host<int64_t>(cat({a, raw::transpose(a, 0, 1)})) ==
          std::vector<int64_t>{1, 2, 3, 4, 1, 3, 2, 4});
    CHECK(to_host<int64_t>(stack({a, a}, -1)) == std::vector<int64_t>{1, 1, 2, 2, 3, 3, 4, 4});
    CHECK(stack({ones({}), ones({})}).shape() == Shape{2});
    CHECK(cat({empty({0, 2}), empty({3, 2})}).shape() == Shape{3, 2});
  }

  TEST_CASE("a tensor that comes twice gets both gradients") {
    const Tensor x = from_host<float>({1, 2}, {2});
    set_requires_grad(x);
    backward(cat({x, x}), {.gradient = from_host<float>({1, 2, 10, 20}, {4})});
    CHECK(to_host<float>(grad(x)) == std::vector<float>{11, 22});
  }

  TEST_CASE("what does not fit is refused") {
    const Tensor x = ones({2, 3});
    check_error([&] { cat({}); }, {"cat", "none"});
    check_error([&] { cat({x, ones({2, 4})}); }, {"cat", "[2,3]", "[2,4]"});
    check_error([&] { cat({x, ones({2})}); }, {"cat", "[2,3]", "[2]"});
    check_error([&] { cat({x, raw::cast(x, bf16)}); }, {"cat", "f32", "bf16"});
    check_error([&] { cat({x, x}, 2); }, {"cat", "2"});
    check_error([&] { stack({x, ones({2, 4})}); }, {"stack", "[2,3]", "[2,4]"});
    check_error([&] { stack({x}, 3); }, {"stack", "3"});
  }
}
