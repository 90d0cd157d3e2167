#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/inplace.h>
#include <tests/support/cases/inplace.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/inplace", inplace_case())

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

  TEST_CASE("what is read may overlap what is written") {
    NoGrad guard;
    const int64_t n = 5000;
    const auto ramp = [&] { return raw::cast(arange(n + 1), f32); };
    for (const int64_t shift : {0, 1}) {
      const Tensor added = ramp(), copied = ramp();
      const auto to = [&](const Tensor& x) { return raw::slice(x, 0, shift, n + shift); };
      const auto from = [&](const Tensor& x) { return raw::slice(x, 0, 1 - shift, n + 1 - shift); };
      add_(to(added), from(added), 2);
      copy_(to(copied), from(copied));
      std::vector<float> sums, copies;
      for (int64_t i = 0; i < n; ++i) {
        sums.push_back(float(i + shift) + 2 * float(i + 1 - shift));
        copies.push_back(float(i + 1 - shift));
      }
      CHECK(to_host<float>(to(added)) == sums);
      CHECK(to_host<float>(to(copied)) == copies);
    }
    const Tensor square = from_host<float>({1, 2, 3, 4}, {2, 2});
    add_(square, raw::transpose(square, 0, 1));
    CHECK(to_host<float>(square) == std::vector<float>{2, 5, 5, 8});
    add_(square, square);
    CHECK(to_host<float>(square) == std::vector<float>{4, 10, 10, 16});
    const Tensor repeated = raw::expand(ones({1, 3}), {2, 3});
    check_error([&] { add_(repeated, ones({2, 3})); }, {"add_", "[2,3]", "share memory"});
    check_error([&] { mul_(repeated, 2); }, {"scale_", "share memory"});
    check_error([&] { copy_(repeated, ones({2, 3})); }, {"copy_", "share memory"});
    const Tensor nothing = raw::expand(ones({1, 0}), {2, 0});  // nor does it share any
    add_(nothing, ones({2, 0}));
    CHECK(nothing.numel() == 0);
  }

  TEST_CASE("where an operand requires a gradient they need NoGrad") {
    const Tensor x = ones({2});
    set_requires_grad(x);
    check_error([&] { add_(x, x); }, {"add_", "NoGrad"});
    check_error([&] { mul_(x, 2); }, {"mul_", "NoGrad"});
    check_error([&] { fill_(x, 2); }, {"fill_", "NoGrad"});
    check_error([&] { copy_(x, x); }, {"copy_", "NoGrad"});
    CHECK(to_host<float>(x) == std::vector<float>{1, 1});
    // What is read would lose its gradient without a word.
    const Tensor plain = zeros({2});
    check_error([&] { add_(plain, x); }, {"add_", "NoGrad"});
    check_error([&] { copy_(plain, x * 2); }, {"copy_", "NoGrad"});
    CHECK(to_host<float>(plain) == std::vector<float>{0, 0});
    fill_(plain, 3);  // nobody asks for a gradient here
    CHECK(to_host<float>(plain) == std::vector<float>{3, 3});
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
