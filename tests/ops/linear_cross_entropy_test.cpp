#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/cross_entropy.h>
#include <olm/autograd/ops/linear.h>
#include <olm/autograd/ops/linear_cross_entropy.h>
#include <tests/support/cases/linear_cross_entropy.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/linear_cross_entropy", linear_cross_entropy_case(),
             full_linear_cross_entropy_case(0), full_linear_cross_entropy_case(2))

TEST_SUITE("ops/linear_cross_entropy") {
  TEST_CASE("many chunks agree with the whole") {
    Generator g(3);
    const int64_t tokens = 700, classes = 20000, width = 8;  // three chunks
    const Tensor x = randn({tokens, width}, g), w = randn({classes, width}, g);
    const Tensor b = randn({classes}, g), ids = randint(0, classes, {tokens}, g);
    const Tensor x2 = raw::clone(x), w2 = raw::clone(w), b2 = raw::clone(b);
    for (const Tensor& t : {x, w, b, x2, w2, b2}) set_requires_grad(t);
    const Tensor chunked = linear_cross_entropy(x, w, ids, {.bias = b});
    const Tensor whole = cross_entropy(linear(x2, w2, b2), ids);
    const Tensor dy = from_host<float>({0.5f}, {});
    backward(chunked, {.gradient = dy});
    backward(whole, {.gradient = dy});
    check_close(chunked, whole, f32, double(classes), "loss");
    check_close(grad(x), grad(x2), f32, double(classes), "dx");
    check_close(grad(w), grad(w2), f32, double(tokens), "dw");
    check_close(grad(b), grad(b2), f32, double(tokens), "db");
  }

  TEST_CASE("gradients add to what a weight has, and a weight may be bf16") {
    for (const DType dtype : {f32, bf16}) {
      Generator g(4);
      const Tensor x = randn({9, 8}, g, {.dtype = bf16}), w = randn({20, 8}, g, {.dtype = dtype});
      const Tensor ids = randint(0, 20, {9}, g);
      set_requires_grad(w);
      backward(linear_cross_entropy(x, w, ids));
      CHECK(grad(w).dtype() == dtype);
      const Tensor twice = raw::clone(grad(w));
      raw::scale_(twice, 2);
      backward(linear_cross_entropy(x, w, ids));
      check_close(grad(w), twice, dtype, 9, "twice");
    }
  }

  TEST_CASE("a graph that is kept gives the same gradients again, to its last run") {
    Generator g(3);
    const Tensor x = randn({5, 4}, g), w = randn({7, 4}, g);
    set_requires_grad(x);
    set_requires_grad(w);
    const Tensor y = linear_cross_entropy(x, w, randint(0, 7, {5}, g));
    backward(y, {.gradient = full({}, 3), .retain_graph = true});
    const std::vector<float> dx = to_host<float>(grad(x)), dw = to_host<float>(grad(w));
    for (const bool last : {false, true}) {
      zero_grad(x);
      zero_grad(w);
      backward(y, {.gradient = full({}, 3), .retain_graph = !last});
      CHECK(to_host<float>(grad(x)) == dx);
      CHECK(to_host<float>(grad(w)) == dw);
    }
  }

  TEST_CASE("the loss is the same with and without gradients") {
    Generator g(5);
    const Tensor x = randn({9, 8}, g), w = randn({20, 8}, g), ids = randint(0, 20, {9}, g);
    const Tensor plain = linear_cross_entropy(x, w, ids, {.softcap = 3});
    set_requires_grad(x);
    check_same_bits(linear_cross_entropy(x, w, ids, {.softcap = 3}), plain, "loss");
  }

  TEST_CASE("without a target that counts, loss and gradient are 0") {
    Generator g(2);
    const Tensor x = randn({3, 5}, g), w = randn({4, 5}, g);
    set_requires_grad(x);
    set_requires_grad(w);
    const Tensor loss = linear_cross_entropy(x, w, full({3}, -100, {.dtype = i64}));
    CHECK(loss.item<float>() == 0);
    backward(loss);
    for (const float v : to_host<float>(grad(x))) CHECK(v == 0);
    for (const float v : to_host<float>(grad(w))) CHECK(v == 0);
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g), w = randn({7, 3}, g), ids = zeros({2}, {.dtype = i64});
    check_error([&] { linear_cross_entropy(x, randn({7, 4}, g), ids); }, {"[7,4]", "[2,3]"});
    check_error([&] { linear_cross_entropy(x, w, full({2}, 7, {.dtype = i64})); },
                {"target 7 at position 0", "[0, 7)"});
    check_error([&] { linear_cross_entropy(x, w, arange(3)); }, {"[3]", "[2,3]"});
    check_error([&] { linear_cross_entropy(x, w, ids, {.bias = randn({3}, g)}); }, {"bias", "[3]"});
    check_error([&] { linear_cross_entropy(x, w, ids, {.softcap = -1}); }, {"softcap", "-1"});
    check_error([&] { linear_cross_entropy(x, w, ids, {.loss = {.reduction = Reduction::none}}); },
                {"mean or sum"});
  }
}
