#include <olm/autograd/ops/matmul.h>

#include <doctest/doctest.h>

#include <tests/support/cases/matmul.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/matmul", matmul_cases())

TEST_SUITE("ops/matmul") {
  TEST_CASE("transposed and expanded operands are read as they lie") {
    Generator g(3);
    const TensorOptions o{.dtype = f64};
    const Tensor x = randn({2, 5, 3, 4}, g, o), w = randn({6, 4}, g, o);
    const auto same = [](const Tensor& a, const Tensor& b) {
      const Tensor want = matmul(raw::contiguous(a), raw::contiguous(b));
      check_close(matmul(a, b), want, f64, 8, "matmul");
    };
    same(raw::transpose(x, 1, 2), raw::transpose(w, 0, 1));
    same(raw::transpose(x, -1, -2), randn({3, 2}, g, o));
    same(raw::permute(x, {3, 0, 1, 2}), randn({3, 2}, g, o));
    same(raw::slice(x, 3, 0, 4, 2), randn({2, 7}, g, o));
    same(raw::expand(randn({1, 4}, g, o), {3, 4}), raw::transpose(w, 0, 1));
    same(raw::expand(randn({4, 1}, g, o), {2, 4, 3}), randn({3, 2}, g, o));
  }

  TEST_CASE("the sum is over the last dimension of a and the rows of b") {
    const Tensor a = from_host<float>({1, 2, 3, 4}, {2, 2}),
                 b = from_host<float>({5, 6, 7, 8}, {2, 2});
    CHECK(to_host<float>(matmul(a, b)) == std::vector<float>{19, 22, 43, 50});
    CHECK(matmul(ones({3}), ones({3})).shape() == Shape{});
  }

  TEST_CASE("gradients add up in a leaf that is used twice") {
    Generator g(9);
    const TensorOptions o{.dtype = f64};
    const Tensor x = randn({2, 3, 4}, g, o), w = randn({4, 5}, g, o);
    set_requires_grad(w);
    backward(matmul(x, w), {.gradient = ones({2, 3, 5}, o)});
    const Tensor once = raw::clone(grad(w));
    backward(matmul(x, w), {.gradient = ones({2, 3, 5}, o)});
    raw::scale_(once, 2);
    check_close(grad(w), once, f64, 6, "gradient of w");
  }

  TEST_CASE("the gradient of what was broadcast is rounded once") {
    // Each member gives 1 + 2^-8, which is no bf16; rounded one by one the three make 3.
    const Tensor rows =
        raw::cast(from_host<float>({1, 0x1p-8f, 1, 0x1p-8f, 1, 0x1p-8f}, {3, 1, 2}), bf16);
    const Tensor left = ones({1, 1, 1}, {.dtype = bf16}), right = ones({1, 1, 1}, {.dtype = bf16});
    set_requires_grad(left);
    set_requires_grad(right);
    const Tensor columns = raw::transpose(rows, 1, 2);
    const Tensor y = matmul(left, rows), z = matmul(columns, right);
    backward(y, {.gradient = ones(y.shape(), {.dtype = bf16})});
    backward(z, {.gradient = ones(z.shape(), {.dtype = bf16})});
    CHECK(grad(left).item<double>() == 3.015625);
    CHECK(grad(right).item<double>() == 3.015625);
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    check_error(
        [&] {
          matmul(randn({2, 3}, g), randn({4, 2}, g));
        },
        {"matmul", "[2,3]", "[4,2]", "3", "4"});
    check_error(
        [&] {
          matmul(randn({2, 3, 3}, g), randn({4, 3, 2}, g));
        },
        {"matmul", "[2]", "[4]"});
    check_error([&] { matmul(randn({}, g), randn({4, 2}, g)); }, {"matmul", "[]"});
    check_error(
        [&] {
          matmul(randn({2, 2}, g), randn({2, 2}, g, {.dtype = bf16}));
        },
        {"matmul", "f32", "bf16"});
  }
}
