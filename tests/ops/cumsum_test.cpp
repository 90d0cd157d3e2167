#include <doctest/doctest.h>

#include <olm/autograd/ops/cumsum.h>
#include <tests/support/op_case.h>

using namespace olm;
using namespace olm::test;

namespace {

OpCase cumsum_case(const Shape& before, const Shape& after, int64_t dim) {
  return {.inputs =
              [=](Generator& g, int64_t n) {
                Shape shape = before;
                shape.push_back(n);
                for (const int64_t size : after) shape.push_back(size);
                return Tensors{randn(shape, g)};
              },
          .op = [=](const Tensors& in) { return cumsum(in[0], dim); },
          .reduction = [](int64_t n) { return double(n) * double(n); }};
}

}  // namespace

TEST_SUITE("ops/cumsum") {
  TEST_CASE("gradients match finite differences") {
    gradcheck(cumsum_case({2, 3}, {}, -1));
    gradcheck(cumsum_case({2}, {3}, 1));
    gradcheck(cumsum_case({2}, {3}, 0));
  }

  TEST_CASE("dtypes, layouts and sizes agree with f64") {
    compare_all(cumsum_case({2, 3}, {}, -1));
    compare_all(cumsum_case({2}, {3}, 1));
    compare_all(cumsum_case({3}, {}, 0));
    compare_all(cumsum_case({}, {}, 0));
  }

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

  TEST_CASE("each instruction set gives the same result") {
    for_each_target([](const std::string& name) {
      INFO(name);
      OpCase c = cumsum_case({3}, {37}, 1);
      c.sizes = {33};
      compare_all(c);
    });
  }

  TEST_CASE("any number of threads gives the same bits") {
    check_same_for_any_threads([] {
      Generator g(5);
      const Tensor x = randn({7, 300, 257}, g);
      return Tensors{cumsum(x, 0), cumsum(x, 1), cumsum(x, 2)};
    });
  }

  TEST_CASE("a dimension that is not there is refused") {
    Generator g(1);
    check_error([&] { cumsum(randn({2, 3}, g), 2); }, {"cumsum", "2"});
  }
}
