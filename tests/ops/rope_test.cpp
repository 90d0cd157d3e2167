#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/rope.h>
#include <tests/support/op_case.h>

using namespace olm;
using namespace olm::test;

namespace {

RopeTables tables(int64_t positions, int64_t rotated, DType dtype = f32) {
  std::vector<double> cos, sin;
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < rotated / 2; ++i) {
      const double angle = double(p) * std::pow(10000.0, -2.0 * double(i) / double(rotated));
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
  const Shape shape{positions, rotated / 2};
  return {raw::cast(from_host(cos, shape), dtype), raw::cast(from_host(sin, shape), dtype)};
}

/// x [2,n,3,dim], the first `rotated` dimensions rotated.
OpCase rope_case(int64_t dim, int64_t rotated) {
  return {.inputs =
              [dim](Generator& g, int64_t n) {
                return Tensors{randn({2, n, 3, dim}, g)};
              },
          .op =
              [rotated](const Tensors& in) {
                return rope(in[0], tables(in[0].size(1) + 2, rotated), {.offset = 2});
              },
          .sizes = {0, 1, 31, 130},
          .reduction = [](int64_t) { return 2.0; }};
}

}  // namespace

TEST_SUITE("ops/rope") {
  TEST_CASE("gradients match finite differences") {
    gradcheck(rope_case(6, 6));
    gradcheck(rope_case(7, 4));
  }

  TEST_CASE("dtypes, layouts and sizes agree with f64") {
    compare_all(rope_case(8, 8));
    compare_all(rope_case(34, 30));
    compare_all(rope_case(5, 0));
  }

  TEST_CASE("wide heads are rotated in pieces") {
    OpCase c = rope_case(600, 600);
    c.sizes = {3};
    compare_all(c);
  }

  TEST_CASE("pairs are interleaved and positions are obeyed") {
    Generator g(3);
    const Tensor x = randn({2, 3, 2, 6}, g, {.dtype = f64});
    const RopeTables t = tables(10, 4, f64);
    const std::vector<int64_t> at = {4, 0, 9, 1, 1, 7};
    const Tensor positions = from_host(at, {2, 3});
    const std::vector<double> v = to_host<double>(x), cos = to_host<double>(t.cos),
                              sin = to_host<double>(t.sin);
    const std::vector<double> y = to_host<double>(rope(x, t, {.positions = positions}));
    for (size_t token = 0; token < 6; ++token)
      for (size_t h = 0; h < 2; ++h) {
        const size_t base = (token * 2 + h) * 6;
        for (size_t i = 0; i < 2; ++i) {
          const double c = cos[size_t(at[token]) * 2 + i], s = sin[size_t(at[token]) * 2 + i];
          const double a = v[base + 2 * i], b = v[base + 2 * i + 1];
          CHECK(y[base + 2 * i] == doctest::Approx(a * c - b * s).epsilon(1e-12));
          CHECK(y[base + 2 * i + 1] == doctest::Approx(a * s + b * c).epsilon(1e-12));
        }
        CHECK(y[base + 4] == v[base + 4]);
        CHECK(y[base + 5] == v[base + 5]);
      }
  }

  TEST_CASE("strided heads are read in place, i32 positions are accepted") {
    Generator g(4);
    const Tensor packed = randn({2, 5, 9, 8}, g);
    const Tensor q = raw::slice(packed, 2, 3, 6), k = raw::transpose(randn({2, 3, 5, 8}, g), 1, 2);
    const RopeTables t = tables(16, 8);
    const Tensor positions = raw::cast(randint(0, 16, {2, 5}, g), i32);
    const auto [a, b] = rope(q, k, t, {.positions = positions});
    check_same_bits(a, rope(raw::contiguous(q), t, {.positions = positions}), "q");
    check_same_bits(b, rope(raw::contiguous(k), t, {.positions = positions}), "k");
  }

  TEST_CASE("each instruction set gives the same result") {
    for_each_target([](const std::string& name) {
      INFO(name);
      OpCase c = rope_case(34, 30);
      c.sizes = {31};
      compare_all(c);
    });
  }

  TEST_CASE("any number of threads gives the same bits") {
    check_same_for_any_threads([] {
      Generator g(5);
      const Tensor x = randn({2, 100, 4, 64}, g);
      set_requires_grad(x);
      const Tensor y = rope(x, tables(100, 64));
      backward(y, {.gradient = randn(y.shape(), g)});
      return Tensors{y, grad(x)};
    });
  }

  TEST_CASE("backward finds positions and tables that changed") {
    for (const int which : {0, 1, 2}) {
      Generator g(6);
      const Tensor x = randn({1, 3, 2, 8}, g), positions = arange(3);
      const RopeTables t = tables(4, 8);
      set_requires_grad(x);
      const Tensor y = rope(x, t, {.positions = raw::view(positions, {1, 3})});
      raw::fill_(which == 0 ? positions : which == 1 ? t.cos : t.sin, 0);
      check_error([&] { backward(y, {.gradient = ones(y.shape())}); }, {"rope", "in place"});
    }
  }

  TEST_CASE("meta tensors have shapes") {
    const Tensor x = empty({2, 3, 2, 8}, {.device = meta});
    const Tensor t = empty({4, 4}, {.device = meta});
    CHECK(rope(x, {t, t}).shape() == Shape{2, 3, 2, 8});
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({1, 3, 2, 8}, g);
    const RopeTables t = tables(4, 8);
    check_error([&] { rope(randn({3, 8}, g), t); }, {"rope", "[B,T,H,Dh]", "[3,8]"});
    check_error([&] { rope(randn({1, 3, 2, 6}, g), t); }, {"rope", "8", "heads of 6"});
    check_error([&] { rope(randn({1, 3, 2, 7}, g), t); }, {"rope", "8", "heads of 7"});
    check_error([&] { rope(x, t, {.offset = 2}); }, {"rope", "2 to 4", "table of 4"});
    check_error([&] { rope(x, t, {.offset = -1}); }, {"rope", "-1"});
    check_error(
        [&] {
          rope(x, t, {.positions = from_host<int64_t>({0, 1, 4}, {1, 3})});
        },
        {"rope: position 4 of token 2 in sequence 0"});
    check_error([&] { rope(x, t, {.positions = arange(3)}); }, {"rope", "[3]", "[1,3,2,8]"});
    check_error([&] { rope(x, {t.cos, tables(5, 8).sin}); }, {"rope", "[4,4]", "[5,4]"});
    set_requires_grad(t.sin);
    check_error([&] { rope(x, t); }, {"rope", "sin", "gradient"});
  }
}
