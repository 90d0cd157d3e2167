#include <doctest/doctest.h>

#include <olm/autograd/ops/index.h>
#include <tests/support/cases/index.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/index", index_cases())

TEST_SUITE("ops/index") {
  TEST_CASE("gather reads what its definition says") {
    Generator g(4);
    const Tensor x = randn({4, 5, 6}, g), index = randint(0, 5, {3, 7, 2}, g);
    const auto xs = to_host<float>(x), ys = to_host<float>(gather(x, -2, index));
    const auto ids = to_host<int64_t>(index);
    bool equal = true;
    for (int64_t a = 0, at = 0; a < 3; ++a)
      for (int64_t b = 0; b < 7; ++b)
        for (int64_t c = 0; c < 2; ++c, ++at)
          equal &= ys[size_t(at)] == xs[size_t((a * 5 + ids[size_t(at)]) * 6 + c)];
    CHECK(equal);
  }

  TEST_CASE("scatter_add adds what its definition says") {
    Generator g(5);
    const Tensor x = randn({3, 4}, g, {.dtype = f64}), src = randn({5, 4}, g, {.dtype = f64});
    const Tensor index = randint(0, 3, {4, 3}, g);
    auto wanted = to_host<double>(x);
    const auto from = to_host<double>(src), got = to_host<double>(scatter_add(x, 0, index, src));
    const auto ids = to_host<int64_t>(index);
    for (size_t j = 0; j < 4; ++j)
      for (size_t i = 0; i < 3; ++i) wanted[size_t(ids[j * 3 + i]) * 4 + i] += from[j * 4 + i];
    CHECK(got == wanted);
  }

  TEST_CASE("index_select takes slices, of any dtype") {
    const Tensor x = from_host<int64_t>({1, 2, 3, 4, 5, 6}, {2, 3});
    const Tensor index = from_host<int32_t>({2, 0, 2, 1}, {4});
    CHECK(to_host<int64_t>(index_select(x, 1, index)) ==
          std::vector<int64_t>{3, 1, 3, 2, 6, 4, 6, 5});
    CHECK(to_host<int64_t>(index_select(x, 0, from_host<int64_t>({1}, {1}))) ==
          std::vector<int64_t>{4, 5, 6});
    const Tensor none = index_select(x, 0, zeros({0}, {.dtype = i64}));
    CHECK(none.shape() == Shape{0, 3});
  }

  TEST_CASE("gather takes any dtype") {
    const Tensor x = from_host<int64_t>({1, 2, 3, 4}, {2, 2});
    const Tensor index = from_host<int64_t>({1, 0, 1, 1}, {2, 2});
    CHECK(to_host<int64_t>(gather(x, 1, index)) == std::vector<int64_t>{2, 1, 4, 4});
    const Tensor flags = raw::cast(from_host<int64_t>({1, 0, 0, 1}, {2, 2}), boolean);
    CHECK(to_host<int64_t>(gather(flags, 1, index)) == std::vector<int64_t>{0, 1, 1, 1});
  }

  TEST_CASE("one_hot has one 1 a row, in any dtype") {
    const Tensor ids = from_host<int32_t>({2, 0, 1, 2}, {2, 2});
    for (const DType dtype : {i64, i32, boolean, f32, bf16, f16, f64}) {
      const Tensor y = one_hot(ids, 3, dtype);
      CHECK(y.dtype() == dtype);
      CHECK(y.shape() == Shape{2, 2, 3});
      CHECK(to_host<double>(y) == std::vector<double>{0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1});
    }
    CHECK(one_hot(zeros({0}, {.dtype = i64}), 4).shape() == Shape{0, 4});
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g);
    const auto at = [](int64_t i) { return from_host<int64_t>({0, i}, {1, 2}); };
    check_error([&] { gather(x, 1, at(3)); }, {"gather", "index 3", "position 1", "[0, 3)"});
    check_error([&] { gather(x, 1, at(-1)); }, {"gather", "index -1"});
    check_error([&] { gather(x, 0, from_host<int64_t>({0}, {1})); }, {"gather", "[1]", "[2,3]"});
    check_error([&] { gather(x, 0, zeros({1, 4}, {.dtype = i64})); }, {"gather", "[1,4]"});
    check_error([&] { gather(x, 2, at(0)); }, {"gather", "2"});
    check_error([&] { gather(x, 0, x); }, {"gather", "f32"});
    check_error([&] { index_select(x, 0, at(0)); }, {"index_select", "[1,2]"});
    check_error([&] { index_select(x, 0, arange(3)); }, {"index_select", "index 2", "[0, 2)"});
    check_error([&] { scatter_add(x, 1, at(0), randn({1, 1}, g)); }, {"scatter_add", "[1,1]"});
    check_error([&] { scatter_add(x, 1, at(4), randn({1, 2}, g)); }, {"scatter_add", "index 4"});
    check_error([&] { scatter_add(x, 1, at(0), raw::cast(x, bf16)); }, {"scatter_add", "bf16"});
    check_error([&] { one_hot(arange(3), 2); }, {"one_hot", "index 2", "[0, 2)"});
    check_error([&] { one_hot(x, 2); }, {"one_hot", "f32"});
  }
}
