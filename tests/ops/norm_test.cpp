#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/norm.h>
#include <tests/support/cases/norm.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

namespace {

struct Inputs {
  Tensor x, delta, gamma, beta, dsum, dy;
};
Inputs inputs(DType dtype) {
  Generator g(7);
  Inputs in{randn({9, 40}, g, {.dtype = dtype}),
            randn({9, 40}, g, {.dtype = dtype}),
            randn({40}, g),
            randn({40}, g),
            randn({9, 40}, g, {.dtype = dtype}),
            randn({9, 40}, g, {.dtype = dtype})};
  for (const Tensor& t : {in.x, in.delta, in.gamma, in.beta}) set_requires_grad(t);
  return in;
}

Tensor sum_of(const Inputs& in) {
  const Tensor sum = raw::clone(in.x);
  raw::add_(sum, in.delta);
  return sum;
}

}  // namespace

OLM_OP_SUITE("ops/norm", rms_norm_case(0.1), layer_norm_case(0.1), plain_layer_norm_case(0.1),
             add_rms_norm_case(0.1), add_layer_norm_case(0.1))

TEST_SUITE("ops/norm") {
  TEST_CASE("the formula of RMSNorm holds") {
    const Tensor x = from_host<double>({3, 4, -1, 0.5}, {2, 2});
    const Tensor w = from_host<double>({2, -1}, {2});
    const std::vector<double> y = to_host<double>(rms_norm(x, w, 0));
    CHECK(y[0] == doctest::Approx(2 * 3 / std::sqrt(12.5)).epsilon(1e-12));
    CHECK(y[1] == doctest::Approx(-4 / std::sqrt(12.5)).epsilon(1e-12));
  }

  TEST_CASE("the formula of LayerNorm holds") {
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

  TEST_CASE("LayerNorm of one number is beta, and its gradient exactly 0") {
    for_each_target([](const std::string& name) {
      INFO(name);
      for (const DType dtype : {f32, bf16, f16, f64}) {
        Generator g(9);
        const DType acc = acc_dtype(dtype);
        const Tensor x = randn({70, 1}, g, {.dtype = dtype}),
                     dy = randn({70, 1}, g, {.dtype = dtype});
        const Tensor delta = randn({70, 1}, g, {.dtype = dtype}),
                     ds = randn({70, 1}, g, {.dtype = dtype});
        const Tensor gamma = full({1}, 1.1, {.dtype = acc}), beta = full({1}, -0.3, {.dtype = acc});
        const Tensor betas = raw::cast(raw::contiguous(raw::expand(beta, {70, 1})), dtype);
        for (const Tensor& t : {x, delta, gamma}) set_requires_grad(t);
        const Tensor y = layer_norm(x, gamma, beta, 1e-12);
        check_same_bits(y, betas, "y");
        backward(y, {.gradient = dy});
        check_same_bits(grad(x), zeros({70, 1}, {.dtype = dtype}), "dx");
        check_same_bits(grad(gamma), zeros({1}, {.dtype = acc}), "dgamma");

        const SumAndNorm both = add_layer_norm(detach(x), delta, gamma, beta, 1e-12);
        check_same_bits(both.y, betas, "y of a sum");
        check_same_bits(gradients({both.sum, both.y}, {ds, dy}, {delta})[0], ds, "ddelta");
      }
    });
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

  TEST_CASE("the results are the sum and its norm, bit by bit") {
    for (const DType dtype : {f32, bf16, f16, f64}) {
      Generator g(8);
      const Tensor x = randn({9, 40}, g, {.dtype = dtype});
      const Tensor delta = randn({9, 40}, g, {.dtype = dtype});
      const DType acc = acc_dtype(dtype);
      const Tensor gamma = randn({40}, g, {.dtype = acc}), beta = randn({40}, g, {.dtype = acc});
      const SumAndNorm a = add_layer_norm(x, delta, gamma, beta);
      check_same_bits(a.y, layer_norm(a.sum, gamma, beta), "layer_norm");
      const SumAndNorm b = add_rms_norm(x, delta, gamma);
      check_close(b.y, rms_norm(b.sum, gamma), dtype, 40, "rms_norm");
      const Tensor sum = raw::clone(x);
      raw::add_(sum, delta);
      check_same_bits(a.sum, sum, "sum");
      check_same_bits(b.sum, sum, "sum");
    }
  }

  TEST_CASE("a gradient may come from either result alone") {
    const Inputs a = inputs(f32), b = inputs(f32);
    backward(add_layer_norm(a.x, a.delta, a.gamma, a.beta).sum, {.gradient = a.dsum});
    check_same_bits(grad(a.x), a.dsum, "from the sum");
    check_same_bits(grad(a.delta), a.dsum, "from the sum");

    backward(add_layer_norm(b.x, b.delta, b.gamma, b.beta).y, {.gradient = b.dy});
    const Tensor sum = sum_of(b), gamma = raw::clone(b.gamma), beta = raw::clone(b.beta);
    for (const Tensor& t : {sum, gamma, beta}) set_requires_grad(t);
    backward(layer_norm(sum, gamma, beta), {.gradient = b.dy});
    check_same_bits(grad(b.x), grad(sum), "from the norm");
    check_same_bits(grad(b.delta), grad(sum), "from the norm");
    check_same_bits(grad(b.gamma), grad(gamma), "gamma");
    check_same_bits(grad(b.beta), grad(beta), "beta");
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g), p = randn({3}, g), p4 = randn({4}, g);
    check_error([&] { rms_norm(x, p4); }, {"rms_norm", "weight", "[4]", "[2,3]"});
    check_error([&] { rms_norm(x, raw::cast(p, bf16)); }, {"rms_norm", "bf16", "f32"});
    check_error([&] { rms_norm(arange(3), p); }, {"rms_norm", "i64"});
    check_error([&] { rms_norm(x, {}); }, {"rms_norm", "weight"});
    check_error([&] { layer_norm(x, p4, p); }, {"layer_norm", "gamma", "[4]", "[3]", "[2,3]"});
    check_error([&] { layer_norm(x, p, randn({3, 1}, g)); }, {"layer_norm", "beta", "[3,1]"});
    check_error([&] { layer_norm(x, raw::cast(p, bf16), p); }, {"layer_norm", "bf16", "f32"});
    check_error([&] { layer_norm(randn({}, g), {}, {}); }, {"layer_norm", "scalar"});
    check_error([&] { add_rms_norm(x, randn({2, 4}, g), p); }, {"add_rms_norm", "[2,4]", "[2,3]"});
    check_error([&] { add_rms_norm(x, x, p4); }, {"add_rms_norm", "weight", "[4]"});
    check_error([&] { add_rms_norm(x, x, {}); }, {"add_rms_norm", "weight"});
    check_error([&] { add_rms_norm(x, {}, p); }, {"add_rms_norm", "delta"});
    check_error([&] { add_layer_norm(x, {}, p, p); }, {"add_layer_norm", "delta"});
    check_error([&] { add_layer_norm(x, raw::cast(x, bf16), p, p); }, {"add_layer_norm", "bf16"});
  }
}
