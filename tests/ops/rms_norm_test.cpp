#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/rms_norm.h>
#include <tests/support/op_case.h>

using namespace olm;
using namespace olm::test;

namespace {

OpCase rms_norm_case() {
  return {.inputs =
              [](Generator& g, int64_t n) {
                return Tensors{randn({3, 5, n}, g), randn({n}, g)};
              },
          .op = [](const Tensors& in) { return rms_norm(in[0], in[1], 1e-5); },
          .cancelling = 1,
          .parameters = {1}};
}

}  // namespace

TEST_SUITE("ops/rms_norm") {
  TEST_CASE("gradients match finite differences") { gradcheck(rms_norm_case()); }

  TEST_CASE("dtypes, layouts and sizes agree with f64") { compare_all(rms_norm_case()); }

  TEST_CASE("the formula holds") {
    const Tensor x = from_host<double>({3, 4, -1, 0.5}, {2, 2});
    const Tensor w = from_host<double>({2, -1}, {2});
    const std::vector<double> y = to_host<double>(rms_norm(x, w, 0));
    CHECK(y[0] == doctest::Approx(2 * 3 / std::sqrt(12.5)).epsilon(1e-12));
    CHECK(y[1] == doctest::Approx(-4 / std::sqrt(12.5)).epsilon(1e-12));
  }

  TEST_CASE("each instruction set gives the same result") {
    for_each_target([](const std::string& name) {
      INFO(name);
      OpCase c = rms_norm_case();
      c.sizes = {33};
      compare_all(c);
    });
  }

  TEST_CASE("any number of threads gives the same bits") {
    check_same_for_any_threads([] {
      Generator g(5);
      const Tensor x = randn({300, 257}, g), w = randn({257}, g);
      set_requires_grad(x);
      set_requires_grad(w);
      const Tensor y = rms_norm(x, w);
      backward(y, {.gradient = randn(y.shape(), g)});
      return Tensors{y, grad(x), grad(w)};
    });
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g);
    check_error([&] { rms_norm(x, randn({4}, g)); }, {"rms_norm", "[4]", "[2,3]"});
    check_error([&] { rms_norm(x, raw::cast(randn({3}, g), bf16)); }, {"rms_norm", "bf16", "f32"});
    check_error([&] { rms_norm(arange(3), randn({3}, g)); }, {"rms_norm", "i64"});
  }
}
