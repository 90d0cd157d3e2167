#include <doctest/doctest.h>

#include <olm/nn/embeddings.h>
#include <tests/support/checks.h>
#include <tests/support/layer_parity.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// What a layer says of tokens [begin, begin + T) when a cache already holds `begin` tokens.
Tensor behind(Module& layer, const Tensor& x, int64_t begin) {
  KVCache cache(64);
  cache.advance(begin);
  Context ctx{.cache = &cache};
  return layer.forward(raw::contiguous(raw::slice(x, 1, begin, x.size(1))), ctx);
}

}  // namespace

TEST_SUITE("nn/embeddings") {
  TEST_CASE("values and gradients are OLM's") {
    check_layer_parity("Embedding", Embedding(11, 6));
    check_layer_parity("AbsolutePositionalEmbedding", AbsolutePositionalEmbedding(7, 6));
    check_layer_parity("SinusoidalPositionalEmbedding",
                       SinusoidalPositionalEmbedding(7, {.max_seq_len = 9}));
    check_layer_parity("RotaryPositionalEmbedding", RotaryPositionalEmbedding(6, 16));
    check_layer_parity("RotaryPositionalEmbedding.positions", RotaryPositionalEmbedding(6, 16));
    check_layer_parity("PartialRotaryPositionalEmbedding",
                       PartialRotaryPositionalEmbedding(10, {.max_seq_len = 8}));
  }

  TEST_CASE("activations have the dtype of the context") {
    const auto tokens = Embedding(5, 4);
    init(tokens);
    Context ctx{.dtype = bf16};
    const Tensor x = tokens(from_host<int64_t>({1, 2}, {1, 2}), ctx);
    CHECK(x.dtype() == bf16);
    const auto places = AbsolutePositionalEmbedding(3, 4);
    init(places);
    CHECK(places(x, ctx).dtype() == bf16);
    CHECK(SinusoidalPositionalEmbedding(4)(x, ctx).dtype() == bf16);
  }

  TEST_CASE("positions go on behind a cache") {
    Generator rng(1);
    const auto absolute = AbsolutePositionalEmbedding(9, 6);
    init(absolute);
    const auto waves = SinusoidalPositionalEmbedding(6);
    const auto rotary = RotaryPositionalEmbedding(6, 9);
    const Tensor x = randn({2, 7, 6}, rng), heads = randn({2, 7, 3, 6}, rng);
    NoGrad guard;
    check_same_bits(behind(*absolute, x, 3), raw::contiguous(raw::slice(absolute(x), 1, 3, 7)),
                    "absolute");
    check_same_bits(behind(*waves, x, 3), raw::contiguous(raw::slice(waves(x), 1, 3, 7)), "waves");
    check_same_bits(behind(*rotary, heads, 3), raw::contiguous(raw::slice(rotary(heads), 1, 3, 7)),
                    "rotary");
  }

  TEST_CASE("dropout acts on the sum while training") {
    const auto places = AbsolutePositionalEmbedding(50, 8, {.dropout = 0.5});
    init(places);
    Generator rng(3);
    Context training{.rng = &rng};
    const Tensor x = ones({2, 50, 8});
    int64_t zeros = 0;
    for (const float v : to_host<float>(places(x, training))) zeros += v == 0;
    CHECK(zeros > 300);
    CHECK(zeros < 500);
    for (const float v : to_host<float>(places(x))) CHECK(v != 0);
  }

  TEST_CASE("a set of angles grows with the positions asked for, and copies share it") {
    const RotaryAngles a(8, 10000, 4096), copy = a, equal(8, 10000, 4096);
    const Tensor x = empty({1, 1, 1, 8});
    const RopeTables first = a.tables("a", 10, x);
    CHECK(first.cos.is_same(copy.tables("copy", 12, x).cos));
    CHECK(!first.cos.is_same(equal.tables("equal", 10, x).cos));
    CHECK(to_host<float>(first.cos) == to_host<float>(equal.tables("equal", 10, x).cos));
    const RopeTables longer = a.tables("a", 1000, x);
    CHECK(longer.cos.size(0) >= 1000);
    CHECK(to_host<float>(raw::slice(longer.sin, 0, 0, 64)) ==
          to_host<float>(raw::slice(first.sin, 0, 0, 64)));
    CHECK(a.tables("a", 3, empty({1}, {.device = meta})).cos.device() == meta);
  }

  TEST_CASE("what does not fit is refused") {
    Context ctx;
    const auto places = AbsolutePositionalEmbedding(4, 6);
    init(places);
    check_error([&] { places(ones({1, 5, 6})); }, {"AbsolutePositionalEmbedding", "5", "4"});
    check_error([&] { places(ones({1, 3, 5})); }, {"[B,T,6]", "[1,3,5]"});
    const auto tokens = Embedding(5, 4);
    check_error([&] { tokens(from_host<int64_t>({1}, {1, 1})); }, {"embedding.weight", "init"});
    init(tokens);
    check_error([&] { tokens(from_host<int64_t>({5}, {1, 1})); }, {"5"});
    check_error([] { RotaryPositionalEmbedding(5, 8); }, {"even", "5"});
    const auto rotary = RotaryPositionalEmbedding(6, 4);
    check_error([&] { rotary(ones({1, 5, 2, 6})); }, {"RotaryPositionalEmbedding", "5", "4"});
    check_error([&] { rotary(ones({1, 3, 2, 8})); }, {"[B,T,H,6]", "[1,3,2,8]"});
    ctx.positions = from_host<int64_t>({0, 4, 1}, {1, 3});
    check_error([&] { rotary(ones({1, 3, 2, 6}), ctx); }, {"4"});
    check_error([] { PartialRotaryPositionalEmbedding(8, {.rotary_percentage = 0.1}); },
                {"0.1", "8"});
    check_error([] { PartialRotaryPositionalEmbedding(8, {.rotary_percentage = 1.5}); }, {"1.5"});
    check_error([] { AbsolutePositionalEmbedding(4, 6, {.dropout = 2}); }, {"dropout", "2"});
  }
}
