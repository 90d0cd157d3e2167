#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/layer_norm.h>
#include <tests/support/op_case.h>

using namespace olm;
using namespace olm::test;

namespace {

OpCase layer_norm_case() {
  return {.inputs =
              [](Generator& g, int64_t n) {
                return Tensors{randn({3, 5, n}, g), randn({n}, g), randn({n}, g)};
              },
          .op = [](const Tensors& in) { return layer_norm(in[0], in[1], in[2], 0.1); },
          .cancelling = 1,
          .parameters = {1, 2}};
}

OpCase without_affine_case() {
  return {.inputs =
              [](Generator& g, int64_t n) {
                return Tensors{randn({4, n}, g)};
              },
          .op = [](const Tensors& in) { return layer_norm(in[0], {}, {}, 0.1); },
          .cancelling = 1};
}

}  // namespace

TEST_SUITE("ops/layer_norm") {
  TEST_CASE("gradients match finite differences") {
    gradcheck(layer_norm_case());
    gradcheck(without_affine_case());
  }

  TEST_CASE("dtypes, layouts and sizes agree with f64") {
    compare_all(layer_norm_case());
    compare_all(without_affine_case());
  }

  TEST_CASE("the formula holds") {
    const Tensor x = from_host<double>({1, 2, 6, 3}, {1, 4});  // mean 3, variance 14/4
    const Tensor gamma = from_host<double>({2, 1, 1, -1}, {4});
    const Tensor beta = from_host<double>({0, 1, 0, 5}, {4});
    const std::vector<double> y = to_host<double>(layer_norm(x, gamma, beta, 0.5));
    const double wanted[] = {2 * -2 / 2.0, -1 / 2.0 + 1, 3 / 2.0, 5};
    for (int i = 0; i < 4; ++i) CHECK(y[size_t(i)] == doctest::Approx(wanted[i]).epsilon(1e-12));
  }

  TEST_CASE("a large common offset costs no accuracy") {
    Generator g(3);
    const Tensor small = randn({8, 100}, g);
    std::vector<float> shifted = to_host<float>(small);
    for (float& v : shifted) v = std::round(v * 64) / 64 + 1024;
    const Tensor x = from_host(shifted, {8, 100});
    const Tensor wanted = layer_norm(raw::cast(x, f64), {}, {}, 0);
    check_close(layer_norm(x, {}, {}, 0), wanted, f32, 65536, "offset 1024");
  }

  TEST_CASE("constant rows give beta; non-finite values stay in their row") {
    const Tensor x = from_host<float>({3, 3, 3, 3, NAN, 0, 1, 2, INFINITY, 0, 1, 2}, {3, 4});
    const Tensor beta = from_host<float>({1, 2, 3, 4}, {4});
    const std::vector<float> y = to_host<float>(layer_norm(x, {}, beta));
    for (size_t i = 0; i < 4; ++i) CHECK(y[i] == float(i + 1));
    for (size_t i = 4; i < 12; ++i) CHECK(std::isnan(y[i]));
  }

  TEST_CASE("parameters in the dtype of x get gradients in that dtype") {
    Generator g(4);
    const Tensor x = randn({6, 40}, g, {.dtype = bf16}), gamma = randn({40}, g, {.dtype = bf16});
    const Tensor beta = randn({40}, g, {.dtype = bf16}), dy = randn({6, 40}, g, {.dtype = bf16});
    set_requires_grad(gamma);
    set_requires_grad(beta);
    backward(layer_norm(x, gamma, beta), {.gradient = dy});
    CHECK(grad(gamma).dtype() == bf16);
    const Tensor wide = raw::cast(gamma, f32);
    set_requires_grad(wide);
    backward(layer_norm(x, wide, raw::cast(beta, f32)), {.gradient = dy});
    check_close(grad(gamma), grad(wide), bf16, 6, "dgamma");
  }

  TEST_CASE("gradients of a parameter used twice add up") {
    Generator g(6);
    const Tensor x = randn({50, 33}, g), gamma = randn({33}, g), beta = randn({33}, g);
    set_requires_grad(gamma);
    set_requires_grad(beta);
    const Tensor dy = randn({50, 33}, g);
    backward(layer_norm(x, gamma, beta), {.gradient = dy});
    const Tensor once = raw::clone(grad(gamma)), beta_once = raw::clone(grad(beta));
    backward(layer_norm(x, gamma, beta), {.gradient = dy});
    raw::scale_(once, 2);
    raw::scale_(beta_once, 2);
    check_close(grad(gamma), once, f32, 50, "twice dgamma");
    check_close(grad(beta), beta_once, f32, 50, "twice dbeta");
  }

  TEST_CASE("each instruction set gives the same result") {
    for_each_target([](const std::string& name) {
      INFO(name);
      OpCase c = layer_norm_case();
      c.sizes = {33};
      compare_all(c);
    });
  }

  TEST_CASE("any number of threads gives the same bits") {
    check_same_for_any_threads([] {
      Generator g(5);
      const Tensor x = randn({300, 257}, g), gamma = randn({257}, g), beta = randn({257}, g);
      for (const Tensor& t : {x, gamma, beta}) set_requires_grad(t);
      const Tensor y = layer_norm(x, gamma, beta);
      backward(y, {.gradient = randn(y.shape(), g)});
      return Tensors{y, grad(x), grad(gamma), grad(beta)};
    });
  }

  TEST_CASE("meta tensors have shapes") {
    const Tensor x = empty({2, 3, 8}, {.device = meta}), p = empty({8}, {.device = meta});
    CHECK(layer_norm(x, p, p).shape() == Shape{2, 3, 8});
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g), p = randn({3}, g);
    check_error([&] { layer_norm(x, randn({4}, g), p); }, {"layer_norm", "gamma", "[4]", "[2,3]"});
    check_error([&] { layer_norm(x, p, randn({3, 1}, g)); }, {"layer_norm", "beta", "[3,1]"});
    check_error([&] { layer_norm(x, raw::cast(p, bf16), p); }, {"layer_norm", "bf16", "f32"});
    check_error([&] { layer_norm(arange(3), p, p); }, {"layer_norm", "i64"});
    check_error([&] { layer_norm(randn({}, g), {}, {}); }, {"layer_norm", "scalar"});
  }
}
