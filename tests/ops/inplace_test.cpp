#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/inplace.h>
#include <tests/support/op_case.h>

using namespace olm;
using namespace olm::test;

TEST_SUITE("ops/inplace") {
  TEST_CASE("values are written, through views too") {
    NoGrad guard;
    const Tensor x = from_host<float>({1, 2, 3, 4}, {2, 2});
    add_(x, from_host<float>({10, 20}, {2}), 2);
    CHECK(to_host<float>(x) == std::vector<float>{21, 42, 23, 44});
    mul_(raw::select(x, 1, 0), 2);
    CHECK(to_host<float>(x) == std::vector<float>{42, 42, 46, 44});
    fill_(raw::select(x, 0, 1), -1);
    CHECK(to_host<float>(x) == std::vector<float>{42, 42, -1, -1});
    copy_(x, from_host<int64_t>({5, 6}, {2, 1}));
    CHECK(to_host<float>(x) == std::vector<float>{5, 5, 6, 6});
  }

  TEST_CASE("they are legal only under NoGrad") {
    const Tensor x = ones({2});
    set_requires_grad(x);
    check_error([&] { add_(x, x); }, {"add_", "NoGrad"});
    check_error([&] { mul_(x, 2); }, {"mul_", "NoGrad"});
    check_error([&] { fill_(x, 2); }, {"fill_", "NoGrad"});
    check_error([&] { copy_(x, x); }, {"copy_", "NoGrad"});
    CHECK(to_host<float>(x) == std::vector<float>{1, 1});
  }

  TEST_CASE("backward notices that a saved value was overwritten") {
    const Tensor x = ones({2});
    set_requires_grad(x);
    const Tensor y = x * x;
    {
      NoGrad guard;
      fill_(x, 3);
    }
    check_error([&] { backward(y, {.gradient = ones({2})}); }, {"mul", "modified in place"});
  }

  TEST_CASE("what does not fit is refused") {
    NoGrad guard;
    const Tensor x = ones({2, 3});
    check_error([&] { add_(x, ones({2})); }, {"[2]", "[2,3]"});
    check_error([&] { add_(x, raw::cast(x, f64)); }, {"add_", "f32", "f64"});
    check_error([&] { copy_(x, ones({4})); }, {"[4]", "[2,3]"});
  }
}
