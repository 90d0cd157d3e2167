#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/pointwise.h>
#include <tests/support/cases/arithmetic.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

namespace {

using Fn = Tensor (*)(const Tensor&, const Tensor&);

}  // namespace

OLM_OP_SUITE("ops/arithmetic", arithmetic_cases(), scalar_arithmetic_case())

TEST_SUITE("ops/arithmetic") {
  TEST_CASE("values are placed as broadcasting says") {
    const Tensor a = from_host<float>({1, 2, 3, 4, 5, 6}, {2, 3});
    const Tensor column = from_host<float>({10, 20}, {2, 1});
    CHECK(to_host<float>(a + column) == std::vector<float>{11, 12, 13, 24, 25, 26});
    CHECK(to_host<float>(column - a) == std::vector<float>{9, 8, 7, 16, 15, 14});
    const Tensor row = from_host<float>({1, 0, 2}, {3});
    CHECK(to_host<float>(row * a) == std::vector<float>{1, 0, 6, 4, 0, 12});
    const Tensor transposed = raw::transpose(a, 0, 1);
    CHECK(to_host<float>(transposed / raw::transpose(column, 0, 1)) ==
          std::vector<float>{0.1f, 0.2f, 0.2f, 0.25f, 0.3f, 0.3f});
  }

  TEST_CASE("numbers stand on either side") {
    const Tensor x = from_host<double>({1, 2, 4}, {3});
    set_requires_grad(x);
    const Tensor y = (2 - x) * 3 + 8 / x - (x + 1) / 2 - x;
    CHECK(to_host<double>(y) == std::vector<double>{9, 0.5, -10.5});
    backward(y, {.gradient = ones({3}, {.dtype = f64})});
    CHECK(to_host<double>(grad(x)) == std::vector<double>{-12.5, -6.5, -5});
    CHECK(to_host<double>(-x) == std::vector<double>{-1, -2, -4});
  }

  TEST_CASE("one tensor on both sides gets both gradients") {
    const Tensor x = from_host<double>({3, -2}, {2});
    set_requires_grad(x);
    backward(x * x + x, {.gradient = ones({2}, {.dtype = f64})});
    CHECK(to_host<double>(grad(x)) == std::vector<double>{7, -3});
  }

  TEST_CASE("equal operands of maximum and minimum share the gradient") {
    for (Fn op : {Fn(maximum), Fn(minimum)}) {
      const Tensor a = from_host<float>({1, 2}, {2}), b = from_host<float>({1, 2}, {2});
      set_requires_grad(a);
      set_requires_grad(b);
      backward(op(a, b), {.gradient = from_host<float>({4, 6}, {2})});
      CHECK(to_host<float>(grad(a)) == std::vector<float>{2, 3});
      CHECK(to_host<float>(grad(b)) == std::vector<float>{2, 3});
    }
  }

  TEST_CASE("NaN wins in maximum and minimum") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const Tensor a = from_host<float>({nan, 1}, {2}), b = from_host<float>({1, nan}, {2});
    for (Fn op : {Fn(maximum), Fn(minimum)})
      for (const float v : to_host<float>(op(a, b))) CHECK(std::isnan(v));
  }

  TEST_CASE("zero to a power has finite gradients") {
    const Tensor a = from_host<float>({0, 0}, {2}), b = from_host<float>({2, 0}, {2});
    set_requires_grad(a);
    set_requires_grad(b);
    backward(pow(a, b), {.gradient = ones({2})});
    CHECK(to_host<float>(grad(a)) == std::vector<float>{0, 0});
    CHECK(to_host<float>(grad(b)) == std::vector<float>{0, 0});
  }

  TEST_CASE("integers add, subtract, multiply and compare in size") {
    for (const DType dtype : {i32, i64}) {
      const Tensor a = raw::cast(from_host<int64_t>({7, -2}, {2}), dtype);
      const Tensor b = raw::cast(from_host<int64_t>({3, 5}, {2}), dtype);
      CHECK((a + b).dtype() == dtype);
      CHECK(to_host<int64_t>(a + b) == std::vector<int64_t>{10, 3});
      CHECK(to_host<int64_t>(a - b * 2) == std::vector<int64_t>{1, -12});
      CHECK(to_host<int64_t>(maximum(a, b)) == std::vector<int64_t>{7, 5});
      CHECK(to_host<int64_t>(minimum(a, b)) == std::vector<int64_t>{3, -2});
      check_error([&] { a / b; }, {"div", name_of(dtype)});
      check_error([&] { a / 2; }, {"div", name_of(dtype)});
      check_error([&] { a + 0.5; }, {"add", "0.5", name_of(dtype)});
      check_error([&] { a - 0.5; }, {"sub", "0.5", name_of(dtype)});
      check_error([&] { 0.5 - a; }, {"sub", "0.5", name_of(dtype)});
      check_error([&] { a * 1.5; }, {"mul", "1.5", name_of(dtype)});
    }
  }

  TEST_CASE("what does not fit is refused") {
    const Tensor a = ones({2, 3}), b = ones({2});
    check_error([&] { a + b; }, {"add", "[2,3]", "[2]"});
    check_error([&] { a* raw::cast(a, bf16); }, {"mul", "f32", "bf16"});
    check_error([&] { a - empty({2, 3}, {.device = meta}); }, {"sub", "cpu", "meta"});
    const Tensor mask = raw::cast(a, boolean);
    check_error([&] { mask + mask; }, {"add", "bool"});
  }
}
