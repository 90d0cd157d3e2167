#include <doctest/doctest.h>

#include <olm/autograd/ops/add_norm.h>
#include <olm/autograd/ops/layer_norm.h>
#include <olm/autograd/ops/rms_norm.h>
#include <tests/support/op_case.h>

using namespace olm;
using namespace olm::test;

namespace {

/// Both results in one tensor [2, …], so that gradients flow into both.
Tensor joined(const SumAndNorm& r) {
  Shape shape = r.sum.shape(), both{2};
  for (int i = 0; i < shape.rank(); ++i) both.push_back(shape[i]);
  const Tensor y = empty(both, options_of(r.sum));
  raw::copy_(raw::select(y, 0, 0), r.sum);
  raw::copy_(raw::select(y, 0, 1), r.y);
  return record("joined", y, {r.sum, r.y}, [](const Tensor& dy, Sinks) -> Grads {
    return {raw::contiguous(raw::select(dy, 0, 0)), raw::contiguous(raw::select(dy, 0, 1))};
  });
}

OpCase add_rms_case() {
  return {.inputs =
              [](Generator& g, int64_t n) {
                return Tensors{randn({3, 5, n}, g), randn({3, 5, n}, g), randn({n}, g)};
              },
          .op = [](const Tensors& in) { return joined(add_rms_norm(in[0], in[1], in[2], 0.1)); },
          .cancelling = 1,
          .parameters = {2}};
}

OpCase add_layer_case() {
  return {
      .inputs =
          [](Generator& g, int64_t n) {
            return Tensors{randn({3, 5, n}, g), randn({3, 5, n}, g), randn({n}, g), randn({n}, g)};
          },
      .op =
          [](const Tensors& in) { return joined(add_layer_norm(in[0], in[1], in[2], in[3], 0.1)); },
      .cancelling = 1,
      .parameters = {2, 3}};
}

struct Inputs {
  Tensor x, residual, gamma, beta, dsum, dy;
};
Inputs inputs(DType dtype) {
  Generator g(7);
  Inputs in{randn({9, 40}, g, {.dtype = dtype}),
            randn({9, 40}, g, {.dtype = dtype}),
            randn({40}, g),
            randn({40}, g),
            randn({9, 40}, g, {.dtype = dtype}),
            randn({9, 40}, g, {.dtype = dtype})};
  for (const Tensor& t : {in.x, in.residual, in.gamma, in.beta}) set_requires_grad(t);
  return in;
}

Tensor sum_of(const Inputs& in) {
  const Tensor sum = raw::clone(in.x);
  raw::add_(sum, in.residual);
  return sum;
}

}  // namespace

TEST_SUITE("ops/add_norm") {
  TEST_CASE("gradients match finite differences") {
    gradcheck(add_rms_case());
    gradcheck(add_layer_case());
  }

  TEST_CASE("dtypes, layouts and sizes agree with f64") {
    compare_all(add_rms_case());
    compare_all(add_layer_case());
  }

  TEST_CASE("the results are the sum and its norm, bit by bit") {
    for (const DType dtype : {f32, bf16, f16, f64}) {
      Generator g(8);
      const Tensor x = randn({9, 40}, g, {.dtype = dtype});
      const Tensor residual = randn({9, 40}, g, {.dtype = dtype});
      const DType acc = acc_dtype(dtype);
      const Tensor gamma = randn({40}, g, {.dtype = acc}), beta = randn({40}, g, {.dtype = acc});
      const SumAndNorm a = add_layer_norm(x, residual, gamma, beta);
      check_same_bits(a.y, layer_norm(a.sum, gamma, beta), "layer_norm");
      const SumAndNorm b = add_rms_norm(x, residual, gamma);
      check_close(b.y, rms_norm(b.sum, gamma), dtype, 40, "rms_norm");
      const Tensor sum = raw::clone(x);
      raw::add_(sum, residual);
      check_same_bits(a.sum, sum, "sum");
      check_same_bits(b.sum, sum, "sum");
    }
  }

  TEST_CASE("a gradient may come from either result alone") {
    const Inputs a = inputs(f32), b = inputs(f32);
    backward(add_layer_norm(a.x, a.residual, a.gamma, a.beta).sum, {.gradient = a.dsum});
    check_same_bits(grad(a.x), a.dsum, "from the sum");
    check_same_bits(grad(a.residual), a.dsum, "from the sum");

    backward(add_layer_norm(b.x, b.residual, b.gamma, b.beta).y, {.gradient = b.dy});
    const Tensor sum = sum_of(b), gamma = raw::clone(b.gamma), beta = raw::clone(b.beta);
    for (const Tensor& t : {sum, gamma, beta}) set_requires_grad(t);
    backward(layer_norm(sum, gamma, beta), {.gradient = b.dy});
    check_same_bits(grad(b.x), grad(sum), "from the norm");
    check_same_bits(grad(b.residual), grad(sum), "from the norm");
    check_same_bits(grad(b.gamma), grad(gamma), "gamma");
    check_same_bits(grad(b.beta), grad(beta), "beta");
  }

  TEST_CASE("each instruction set gives the same result") {
    for_each_target([](const std::string& name) {
      INFO(name);
      OpCase c = add_layer_case();
      c.sizes = {33};
      compare_all(c);
    });
  }

  TEST_CASE("any number of threads gives the same bits") {
    check_same_for_any_threads([] {
      Generator g(5);
      const Tensor x = randn({300, 257}, g), r = randn({300, 257}, g), w = randn({257}, g);
      for (const Tensor& t : {x, r, w}) set_requires_grad(t);
      const Tensor y = joined(add_rms_norm(x, r, w));
      backward(y, {.gradient = randn(y.shape(), g)});
      return Tensors{y, grad(x), grad(r), grad(w)};
    });
  }

  TEST_CASE("meta tensors have shapes") {
    const Tensor x = empty({2, 8}, {.device = meta}), w = empty({8}, {.device = meta});
    CHECK(add_rms_norm(x, x, w).sum.shape() == Shape{2, 8});
    CHECK(add_layer_norm(x, x, w, {}).y.shape() == Shape{2, 8});
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g), p = randn({3}, g);
    check_error([&] { add_rms_norm(x, randn({2, 4}, g), p); }, {"add_rms_norm", "[2,4]", "[2,3]"});
    check_error([&] { add_rms_norm(x, x, randn({4}, g)); }, {"add_rms_norm", "weight", "[4]"});
    check_error([&] { add_rms_norm(x, x, {}); }, {"add_rms_norm", "weight"});
    check_error([&] { add_layer_norm(x, raw::cast(x, bf16), p, p); }, {"add_layer_norm", "bf16"});
  }
}
