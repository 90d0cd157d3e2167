#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include <olm/autograd/ops/compare.h>
#include <tests/support/cases/compare.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

namespace {

using Ints = std::vector<int64_t>;
using Fn = Tensor (*)(const Tensor&, const Tensor&);
using Scalar = Tensor (*)(const Tensor&, double);

struct Row {
  Fn op;
  Scalar scalar;
  Ints wanted, below_two;  // of {1,2,3} with {3,2,1}, and with 2
};
const Row kRows[] = {{eq, eq, {0, 1, 0}, {0, 1, 0}}, {ne, ne, {1, 0, 1}, {1, 0, 1}},
                     {lt, lt, {1, 0, 0}, {1, 0, 0}}, {le, le, {1, 1, 0}, {1, 1, 0}},
                     {gt, gt, {0, 0, 1}, {0, 0, 1}}, {ge, ge, {0, 1, 1}, {0, 1, 1}}};

}  // namespace

OLM_OP_SUITE("ops/compare", compare_case(), logic_case())

TEST_SUITE("ops/compare") {
  TEST_CASE("numbers of every dtype compare") {
    for (const DType dtype : {f32, bf16, f16, f64, i32, i64})
      for (const Row& row : kRows) {
        const Tensor a = raw::cast(from_host<int64_t>({1, 2, 3}, {3}), dtype);
        const Tensor b = raw::cast(from_host<int64_t>({3, 2, 1}, {3}), dtype);
        CHECK(row.op(a, b).dtype() == boolean);
        CHECK(to_host<int64_t>(row.op(a, b)) == row.wanted);
        CHECK(to_host<int64_t>(row.scalar(a, 2)) == row.below_two);
      }
  }

  TEST_CASE("shapes broadcast and strides are followed") {
    const Tensor a = from_host<float>({1, 2, 3, 4}, {2, 2});
    const Tensor b = from_host<float>({2, 3}, {2, 1});
    CHECK(to_host<int64_t>(lt(a, b)) == Ints{1, 0, 0, 0});
    CHECK(to_host<int64_t>(lt(raw::transpose(a, 0, 1), b)) == Ints{1, 0, 1, 0});
  }

  TEST_CASE("long tensors compare as short ones do") {
    Generator g(3);
    const Tensor a = randn({4099}, g), b = randn({4099}, g);
    const std::vector<float> x = to_host<float>(a), y = to_host<float>(b);
    const Ints got = to_host<int64_t>(lt(strided_copy(a), b));
    size_t wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) wrong += (x[i] < y[i]) != (got[i] != 0);
    CHECK(wrong == 0);
    CHECK(lt(randn({0, 3}, g), randn({3}, g)).shape() == Shape{0, 3});
  }

  TEST_CASE("NaN equals nothing") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const Tensor x = from_host<float>({nan, 1}, {2});
    CHECK(to_host<int64_t>(eq(x, x)) == Ints{0, 1});
    CHECK(to_host<int64_t>(isnan(x)) == Ints{1, 0});
    CHECK(to_host<int64_t>(isnan(raw::cast(x, bf16))) == Ints{1, 0});
  }

  TEST_CASE("logic works on bool and on numbers") {
    const Tensor a = raw::cast(from_host<int64_t>({0, 0, 1, 1}, {4}), boolean);
    const Tensor b = raw::cast(from_host<int64_t>({0, 1, 0, 1}, {4}), boolean);
    CHECK(to_host<int64_t>(logical_and(a, b)) == Ints{0, 0, 0, 1});
    CHECK(to_host<int64_t>(logical_or(a, b)) == Ints{0, 1, 1, 1});
    CHECK(to_host<int64_t>(logical_not(a)) == Ints{1, 1, 0, 0});
    CHECK(to_host<int64_t>(logical_not(from_host<float>({0, 0.5f}, {2}))) == Ints{1, 0});
  }

  TEST_CASE("what does not fit is refused") {
    const Tensor a = ones({2, 3});
    check_error([&] { eq(a, ones({2})); }, {"eq", "[2,3]", "[2]"});
    check_error([&] { lt(a, raw::cast(a, f64)); }, {"lt", "f32", "f64"});
    check_error([] { lt(arange(3), 1.5); }, {"lt", "1.5", "i64"});
    check_error([] { eq(arange(3), INFINITY); }, {"eq", "inf", "i64"});
  }
}
