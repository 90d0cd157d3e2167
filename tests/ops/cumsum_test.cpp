#include <doctest/doctest.h>

#include <olm/autograd/ops/cumsum.h>
#include <tests/support/cases/cumsum.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/cumsum", cumsum_cases())

TEST_SUITE("ops/cumsum") {
  TEST_CASE("sums run along the dimension asked for") {
    const Tensor x = from_host<float>({1, 2, 3, 4, 5, 6}, {2, 3});
    CHECK(to_host<float>(cumsum(x, 1)) == std::vector<float>{1, 3, 6, 4, 9, 15});
    CHECK(to_host<float>(cumsum(x, 0)) == std::vector<float>{1, 2, 3, 5, 7, 9});
    set_requires_grad(x);
    backward(cumsum(x, 1), {.gradient = from_host<float>({1, 10, 100, 1, 10, 100}, {2, 3})});
    CHECK(to_host<float>(grad(x)) == std::vector<float>{111, 110, 100, 111, 110, 100});
  }

  TEST_CASE("integers and booleans sum to i64") {
    for (const DType dtype : {i32, i64, boolean}) {
      const Tensor x = raw::cast(from_host<int64_t>({1, 0, 1, 1, 1, 0}, {2, 3}), dtype);
      const Tensor y = cumsum(x, 1);
      CHECK(y.dtype() == i64);
      CHECK(to_host<int64_t>(y) == std::vector<int64_t>{1, 1, 2, 1, 2, 2});
      CHECK(to_host<int64_t>(cumsum(x, 0)) == std::vector<int64_t>{1, 0, 1, 2, 1, 1});
    }
  }

  TEST_CASE("a dimension that is not there is refused") {
    Generator g(1);
    check_error([&] { cumsum(randn({2, 3}, g), 2); }, {"cumsum", "2"});
  }
}
