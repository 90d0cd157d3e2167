#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/select.h>
#include <tests/support/cases/select.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/select", select_cases())

TEST_SUITE("ops/select") {
  TEST_CASE("elements are where they belong, and share memory") {
    const Tensor x = raw::view(arange(12), {3, 4});
    CHECK(to_host<int64_t>(slice(x, 1, 1, 3)) == std::vector<int64_t>{1, 2, 5, 6, 9, 10});
    CHECK(to_host<int64_t>(slice(x, 0, -1)) == std::vector<int64_t>{8, 9, 10, 11});
    CHECK(to_host<int64_t>(slice(x, 1, 0, 4, 3)) == std::vector<int64_t>{0, 3, 4, 7, 8, 11});
    CHECK(slice(x, 0, 2, 1).shape() == Shape{0, 4});
    CHECK(slice(x, 0, 0, 99).shape() == Shape{3, 4});
    CHECK(to_host<int64_t>(select(x, 0, 1)) == std::vector<int64_t>{4, 5, 6, 7});
    CHECK(to_host<int64_t>(select(x, -1, -1)) == std::vector<int64_t>{3, 7, 11});
    CHECK(select(x, 0, 0).data() == x.data());
  }

  TEST_CASE("pieces cover the dimension") {
    const Tensor x = arange(7);
    const auto sizes = [](const Tensors& parts) {
      std::vector<int64_t> result;
      for (const Tensor& part : parts) result.push_back(part.size(0));
      return result;
    };
    CHECK(sizes(split(x, 3)) == std::vector<int64_t>{3, 3, 1});
    CHECK(sizes(split(x, std::vector<int64_t>{0, 5, 2})) == std::vector<int64_t>{0, 5, 2});
    CHECK(sizes(chunk(x, 3)) == std::vector<int64_t>{3, 3, 1});
    CHECK(sizes(chunk(x, 5)) == std::vector<int64_t>{2, 2, 2, 1});
    CHECK(to_host<int64_t>(chunk(x, 2)[1]) == std::vector<int64_t>{4, 5, 6});
  }

  TEST_CASE("slices of a leaf add up in its gradient") {
    const Tensor x = from_host<float>({1, 2, 3, 4}, {4});
    set_requires_grad(x);
    backward(slice(x, 0, 0, 3) + slice(x, 0, 1) * 10, {.gradient = ones({3})});
    CHECK(to_host<float>(grad(x)) == std::vector<float>{1, 11, 11, 10});
    backward(select(x, 0, 0));
    CHECK(to_host<float>(grad(x)) == std::vector<float>{2, 11, 11, 10});
  }

  TEST_CASE("what does not fit is refused") {
    const Tensor x = ones({2, 3});
    check_error([&] { slice(x, 2, 0, 1); }, {"slice", "2"});
    check_error([&] { slice(x, 0, 0, 1, 0); }, {"slice", "step"});
    check_error([&] { select(x, 1, 3); }, {"select", "3", "[2,3]"});
    check_error([&] { split(x, 0); }, {"split", "0"});
    check_error([&] { split(x, std::vector<int64_t>{1, 1}, 1); }, {"split", "2", "3"});
    check_error([&] { chunk(x, 0); }, {"chunk", "0"});
  }
}
