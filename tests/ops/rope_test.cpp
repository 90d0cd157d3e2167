#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/index.h>
#include <olm/autograd/ops/rope.h>
#include <tests/support/cases/rope.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/rope", rope_cases())

TEST_SUITE("ops/rope") {
  TEST_CASE("pairs are interleaved and positions are obeyed") {
    Generator g(3);
    const Tensor x = randn({2, 3, 2, 6}, g, {.dtype = f64});
    const RopeTables t = rope_tables(10, 4, f64);
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

  TEST_CASE("halves are interleaved pairs in another order, to the bit") {
    Generator g(5);
    const RopeTables t = rope_tables(9, 34);
    const Tensor positions = randint(0, 9, {2, 3}, g);
    std::vector<int64_t> order;  // of interleaved dimensions in halves: even, then odd ones
    for (const int64_t first : {0, 1})
      for (int64_t i = first; i < 34; i += 2) order.push_back(i);
    for (const int64_t rest : {34, 35, 36}) order.push_back(rest);
    for (const DType dtype : {f32, bf16, f64}) {
      const Tensor x = raw::cast(randn({2, 3, 2, 37}, g), dtype);
      const auto reordered = [&](const Tensor& of) {
        return raw::contiguous(index_select(of, 3, from_host(order, {37})));
      };
      const RopeTables tables{raw::cast(t.cos, acc_dtype(dtype)),
                              raw::cast(t.sin, acc_dtype(dtype))};
      const Tensor halves =
          rope(reordered(x), tables, {.positions = positions, .pairing = RopePairing::halves});
      check_same_bits(halves, reordered(rope(x, tables, {.positions = positions})), "halves");
    }
  }

  TEST_CASE("strided heads are read in place, i32 positions are accepted") {
    Generator g(4);
    const Tensor packed = randn({2, 5, 9, 8}, g);
    const Tensor q = raw::slice(packed, 2, 3, 6), k = raw::transpose(randn({2, 3, 5, 8}, g), 1, 2);
    const RopeTables t = rope_tables(16, 8);
    const Tensor positions = raw::cast(randint(0, 16, {2, 5}, g), i32);
    const auto [a, b] = rope(q, k, t, {.positions = positions});
    check_same_bits(a, rope(raw::contiguous(q), t, {.positions = positions}), "q");
    check_same_bits(b, rope(raw::contiguous(k), t, {.positions = positions}), "k");
  }

  TEST_CASE("backward finds positions and tables that changed") {
    for (const int which : {0, 1, 2}) {
      Generator g(6);
      const Tensor x = randn({1, 3, 2, 8}, g), positions = arange(3);
      const RopeTables t = rope_tables(4, 8);
      set_requires_grad(x);
      const Tensor y = rope(x, t, {.positions = raw::view(positions, {1, 3})});
      raw::fill_(which == 0 ? positions : which == 1 ? t.cos : t.sin, 0);
      check_error([&] { backward(y, {.gradient = ones(y.shape())}); }, {"rope", "in place"});
    }
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({1, 3, 2, 8}, g);
    const RopeTables t = rope_tables(4, 8);
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
    check_error([&] { rope(x, {t.cos, rope_tables(5, 8).sin}); }, {"rope", "[4,4]", "[5,4]"});
    set_requires_grad(t.sin);
    check_error([&] { rope(x, t); }, {"rope", "sin", "gradient"});
  }
}
