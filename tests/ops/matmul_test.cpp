#include <olm/autograd/ops/matmul.h>

#include <doctest/doctest.h>

#include <tests/support/op_case.h>

using namespace olm;
using namespace olm::test;

namespace {

OpCase matmul_case(std::function<Shape(int64_t)> a, std::function<Shape(int64_t)> b) {
  return {.inputs =
              [=](Generator& g, int64_t n) {
                return Tensors{randn(a(n), g), randn(b(n), g)};
              },
          .op = [](const Tensors& in) { return matmul(in[0], in[1]); },
          .sizes = {0, 1, 31, 33, 130},
          .gradcheck_size = 3};
}

// clang-format off
const std::vector<OpCase>& cases() {
  using S = Shape;
  static const std::vector<OpCase> all = {
      matmul_case([](int64_t n) { return S{n, 7}; }, [](int64_t n) { return S{7, n}; }),
      matmul_case([](int64_t n) { return S{5, n}; }, [](int64_t n) { return S{n, 6}; }),
      matmul_case([](int64_t n) { return S{n}; }, [](int64_t n) { return S{n}; }),
      matmul_case([](int64_t n) { return S{n}; }, [](int64_t n) { return S{n, 4}; }),
      matmul_case([](int64_t n) { return S{2, 3, n}; }, [](int64_t n) { return S{n}; }),
      matmul_case([](int64_t n) { return S{n}; }, [](int64_t n) { return S{2, n, 3}; }),
      matmul_case([](int64_t n) { return S{2, 3, n}; }, [](int64_t n) { return S{n, 4}; }),
      matmul_case([](int64_t n) { return S{3, n}; }, [](int64_t n) { return S{2, n, 4}; }),
      matmul_case([](int64_t n) { return S{2, 1, 3, n}; }, [](int64_t n) { return S{4, n, 5}; }),
      matmul_case([](int64_t n) { return S{2, 3, 2, n}; }, [](int64_t n) { return S{2, 1, n, 3}; }),
  };
  return all;
}
// clang-format on

}  // namespace

TEST_SUITE("ops/matmul") {
  TEST_CASE("gradients match finite differences") {
    for (const OpCase& c : cases()) gradcheck(c);
  }

  TEST_CASE("dtypes, layouts and sizes agree with f64") {
    for (const OpCase& c : cases()) compare_all(c);
  }

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

  TEST_CASE("shapes alone on meta") {
    const TensorOptions o{.device = meta};
    CHECK(matmul(empty({2, 1, 3, 4}, o), empty({5, 4, 6}, o)).shape() == Shape{2, 5, 3, 6});
    CHECK(matmul(empty({4}, o), empty({5, 4, 6}, o)).shape() == Shape{5, 6});
  }

  TEST_CASE("any number of threads gives the same bits") {
    check_same_for_any_threads([] {
      Generator g(5);
      const Tensor a = randn({3, 260, 70}, g), b = randn({70, 301}, g);
      set_requires_grad(a);
      set_requires_grad(b);
      const Tensor y = matmul(a, b);
      backward(y, {.gradient = randn(y.shape(), g)});
      return Tensors{y, grad(a), grad(b)};
    });
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
