#include <doctest/doctest.h>

#include <olm/autograd/ops/embedding.h>
#include <tests/support/cases/embedding.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/embedding", embedding_case(), embedding_case(i32))

TEST_SUITE("ops/embedding") {
  TEST_CASE("rows are looked up and their gradients summed") {
    const Tensor w = from_host<float>({1, 2, 3, 4, 5, 6}, {3, 2});
    set_requires_grad(w);
    const Tensor y = embedding(from_host<int64_t>({2, 0, 2}, {3}), w);
    CHECK(to_host<float>(y) == std::vector<float>{5, 6, 1, 2, 5, 6});
    backward(y, {.gradient = from_host<float>({1, 10, 2, 20, 4, 40}, {3, 2})});
    CHECK(to_host<float>(grad(w)) == std::vector<float>{2, 20, 0, 0, 5, 50});
    CHECK(embedding(from_host<int64_t>({1}, {}), w).shape() == Shape{2});
  }

  TEST_CASE("a second backward adds into the same gradient") {
    Generator g(1);
    const Tensor w = randn({50, 70}, g), ids = randint(0, 50, {200}, g);
    set_requires_grad(w);
    const Tensor dy = randn({200, 70}, g);
    backward(embedding(ids, w), {.gradient = dy});
    const Tensor once = raw::clone(grad(w));
    const void* memory = grad(w).data();
    backward(embedding(ids, w), {.gradient = dy});
    CHECK(grad(w).data() == memory);
    raw::scale_(once, 2);
    check_close(grad(w), once, f32, 10, "two passes");
  }

  TEST_CASE("a table in f32 gives rows in bf16 and takes its gradient in f32") {
    Generator g(2);
    const Tensor w = randn({9, 33}, g), ids = from_host<int32_t>({8, 1, 8}, {3});
    set_requires_grad(w);
    for (const DType dtype : {bf16, f16, f64}) {
      zero_grad(w);
      const Tensor y = embedding(ids, w, {.dtype = dtype});
      CHECK(y.dtype() == dtype);
      check_same_bits(y, raw::cast(embedding(ids, w), dtype), "converted rows");
      const Tensor dy = raw::cast(randn({3, 33}, g), dtype);
      backward(y, {.gradient = dy});
      CHECK(grad(w).dtype() == f32);
      const Tensor exact = raw::cast(w, f64);
      set_requires_grad(exact);
      backward(embedding(ids, exact), {.gradient = raw::cast(dy, f64)});
      check_close(grad(w), grad(exact), f32, 2, "gradient of the table");
    }
  }

  TEST_CASE("each instruction set gives the same bits") {
    Generator g(3);
    const Tensor w = randn({20, 77}, g), ids = randint(0, 20, {64}, g), dy = randn({64, 77}, g);
    set_requires_grad(w);
    Tensor first_y, first_dw;
    for_each_target([&](const std::string& name) {
      zero_grad(w);
      const Tensor y = embedding(ids, w, {.dtype = bf16});
      backward(embedding(ids, w), {.gradient = dy});
      if (!first_y.defined()) first_y = y, first_dw = grad(w);
      check_same_bits(y, first_y, name);
      check_same_bits(grad(w), first_dw, name);
    });
  }

  TEST_CASE("a table larger than any memory has rows on meta") {
    const Tensor y = embedding(empty({2, 3}, {i64, meta}), empty({1 << 30, 1 << 20}, {f32, meta}));
    CHECK(y.shape() == Shape{2, 3, 1 << 20});
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor w = randn({257, 4}, g);
    check_error(
        [&] {
          embedding(from_host<int64_t>({1, 5, 257}, {3}), w);
        },
        {"embedding", "257", "position 2", "[0, 257)"});
    check_error([&] { embedding(from_host<int32_t>({1, -1}, {2}), w); }, {"-1", "position 1"});
    check_error([&] { embedding(randn({3}, g), w); }, {"embedding", "f32"});
    check_error([&] { embedding(arange(3), randn({3}, g)); }, {"embedding", "[V,D]", "[3]"});
    check_error([&] { embedding(arange(3), w, {.dtype = i64}); }, {"embedding", "i64"});
  }
}
