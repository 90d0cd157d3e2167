#include <olm/autograd/ops/linear.h>

#include <doctest/doctest.h>

#include <olm/autograd/ops/matmul.h>
#include <tests/support/cases/linear.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/linear", linear_cases())

TEST_SUITE("ops/linear") {
  TEST_CASE("it is a product with the transposed weight") {
    Generator g(2);
    const TensorOptions o{.dtype = f64};
    const Tensor x = randn({4, 6}, g, o), w = randn({5, 6}, g, o);
    check_close(linear(x, w), matmul(x, raw::transpose(w, 0, 1)), f64, 6, "linear");
  }

  TEST_CASE("several weights on one input equal one by one") {
    Generator g(4);
    const TensorOptions o{.dtype = f64};
    const Tensor x = randn({2, 3, 6}, g, o);
    const Tensors ws{randn({4, 6}, g, o), randn({2, 6}, g, o), randn({4, 6}, g, o)};
    const Tensors bs{randn({4}, g, o), Tensor(), randn({4}, g, o)};
    const Tensors dys{randn({2, 3, 4}, g, o), randn({2, 3, 2}, g, o), randn({2, 3, 4}, g, o)};
    const Tensors leaves{x, ws[0], ws[1], ws[2], bs[0], bs[2]};
    for (const Tensor& t : leaves) set_requires_grad(t);
    const Tensors together = linear(x, ws, bs);
    Tensors apart;
    for (size_t i = 0; i < 3; ++i) {
      apart.push_back(linear(x, ws[i], bs[i]));
      check_same_bits(together[i], apart[i], "result");
    }
    const Tensors a = gradients(together, dys, leaves), b = gradients(apart, dys, leaves);
    for (size_t i = 0; i < leaves.size(); ++i) check_close(a[i], b[i], f64, 12, "gradient");
  }

  TEST_CASE("gradients of parameters keep their dtype and add up in place") {
    Generator g(6);
    const Tensor x = raw::cast(randn({5, 8}, g), bf16);
    const Tensor w = randn({3, 8}, g), b = raw::cast(randn({3}, g), bf16);
    set_requires_grad(w);
    set_requires_grad(b);
    const Tensor dy = raw::cast(randn({5, 3}, g), bf16);
    backward(linear(x, w, b), {.gradient = dy});
    const Tensor once = raw::clone(grad(w));
    CHECK(grad(w).dtype() == f32);
    CHECK(grad(b).dtype() == bf16);
    const void* memory = grad(w).data();
    backward(linear(x, w, b), {.gradient = dy});
    raw::scale_(once, 2);
    check_close(grad(w), once, f32, 10, "gradient of w");
    CHECK(grad(w).data() == memory);
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g), w = randn({4, 3}, g);
    check_error([&] { linear(x, randn({3, 4}, g)); }, {"linear", "[out,3]", "[3,4]", "[2,3]"});
    check_error([&] { linear(x, w, randn({3}, g)); }, {"linear", "bias", "[3]", "[4]"});
    check_error([&] { linear(x, w, {}, {.residual = x}); }, {"linear", "[2,4]", "[2,3]"});
    check_error([&] { linear(x, raw::cast(w, bf16)); }, {"linear", "bf16", "f32"});
    check_error([&] { linear(x, Tensors{w, w}, Tensors{w}); }, {"linear", "2", "1"});
  }
}
