#include <doctest/doctest.h>

#include <limits>

#include <olm/nn/attention.h>
#include <tests/support/layer_parity.h>
#include <tests/support/op_case.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// Calls another module: stands where a Linear stood without being one.
class Wrapped final : public Module {
 public:
  explicit Wrapped(Ref<Module> inner) : inner(this, "inner", std::move(inner)) {}
  Tensor forward(const Tensor& x, Context& ctx) override { return inner(x, ctx); }
  std::string type_name() const override { return "Wrapped"; }
  Child<> inner;
};

Tensor tokens(const Tensor& x, int64_t begin, int64_t end) {
  return raw::contiguous(raw::slice(x, 1, begin, end));
}

/// x through the layer in pieces of the given lengths, with a cache.
Tensor in_pieces(Module& layer, const Tensor& x, std::initializer_list<int64_t> lengths) {
  const NoGrad guard;
  KVCache cache(x.size(1));
  Context ctx{.cache = &cache};
  const Tensor y = empty_like(x);
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    cache.begin();
    const Tensor piece = layer.forward(tokens(x, begin, begin + length), ctx);
    raw::copy_(raw::slice(y, 1, begin, begin + length), piece);
    cache.advance(length);
    begin += length;
  }
  return y;
}

std::vector<Ref<Module>> causal_layers() {
  std::vector<Ref<Module>> layers{
      FlashAttention(12, 3, {.causal = true}),
      MultiHeadAttentionwithRoPE(12, 3, 9, {.causal = true}),
      FlashAttentionwithRoPE({.embed_dim = 12, .num_heads = 3, .max_seq_len = 9, .causal = true}),
      GroupedQueryAttention({.embed_dim = 12,
                             .num_heads = 6,
                             .num_kv_heads = 2,
                             .max_seq_len = 9,
                             .use_qk_norm = true}),
  };
  for (const Ref<Module>& layer : layers) init(*layer, {.seed = 4});
  return layers;
}

}  // namespace

TEST_SUITE("nn/attention") {
  TEST_CASE("values and gradients are OLM's") {
    const AttentionOptions causal{.embed_dim = 12, .num_heads = 3, .causal = true};
    const AttentionwithRoPEOptions rotary{
        .embed_dim = 12, .num_heads = 3, .max_seq_len = 8, .causal = true};
    check_layer_parity("MultiHeadAttention", MultiHeadAttention(12, 3));
    check_layer_parity("MultiHeadAttention.causal", MultiHeadAttention(causal));
    check_layer_parity("MultiHeadAttention.mask", MultiHeadAttention(causal));
    check_layer_parity("MultiHeadAttentionwithRoPE", MultiHeadAttentionwithRoPE(rotary));
    check_layer_parity("FlashAttention", FlashAttention(12, 3));
    check_layer_parity("FlashAttention.mask", FlashAttention(causal));
    check_layer_parity(
        "FlashAttentionwithRoPE",
        FlashAttentionwithRoPE(12, 3, 8, {.causal = true, .bias = false, .rope_theta = 500}));
    check_layer_parity("GroupedQueryAttention",
                       GroupedQueryAttention(
                           {.embed_dim = 12, .num_heads = 6, .num_kv_heads = 2, .max_seq_len = 8}));
    check_layer_parity("GroupedQueryAttention.all",
                       GroupedQueryAttention({.embed_dim = 12,
                                              .num_heads = 4,
                                              .num_kv_heads = 1,
                                              .max_seq_len = 8,
                                              .head_dim = 6,
                                              .rope_theta = 100,
                                              .use_bias = true,
                                              .qkv_bias = true,
                                              .use_qk_norm = true,
                                              .rms_norm_eps = 1e-3,
                                              .attention_scale = 0.7,
                                              .attn_logit_softcap = 1.5}));
  }

  TEST_CASE("a cache gives what the whole sequence gives") {
    Generator rng(6);
    const Tensor x = randn({2, 9, 12}, rng);
    for (const Ref<Module>& layer : causal_layers()) {
      INFO(layer->type_name());
      const NoGrad guard;
      const Tensor whole = layer(x);
      check_close(in_pieces(*layer, x, {4, 1, 1, 3}), whole, f32, 12, "pieces");
      check_close(in_pieces(*layer, x, {1, 1, 1, 1, 1, 1, 1, 1, 1}), whole, f32, 12, "one by one");
    }
  }

  TEST_CASE("documents attend within themselves") {
    Generator rng(7);
    const Tensor x = randn({1, 7, 12}, rng);
    const auto layer = FlashAttention(12, 3, {.causal = true});
    init(layer);
    Context ctx{.documents = from_host<int64_t>({0, 0, 0, 5, 5, 5, 5}, {1, 7})};
    const NoGrad guard;
    const Tensor y = layer(x, ctx);
    check_close(tokens(y, 0, 3), layer(tokens(x, 0, 3)), f32, 12, "first");
    check_close(tokens(y, 3, 7), layer(tokens(x, 3, 7)), f32, 12, "second");
  }

  TEST_CASE("masks: true attends, floats are added, nothing to attend gives 0") {
    Generator rng(8);
    const Tensor x = randn({2, 3, 12}, rng);
    const auto layer = MultiHeadAttention(12, 3);
    init(layer);
    const double none = -std::numeric_limits<double>::infinity();
    Context keep{.mask =
                     raw::cast(from_host<int64_t>({1, 0, 1, 0, 0, 0, 1, 1, 1}, {3, 3}), boolean)};
    Context added{
        .mask = raw::cast(from_host<double>({0, none, 0, none, none, none, 0, 0, 0}, {3, 3}), f32)};
    const Tensor y = layer(x, keep);
    check_close(layer(x, added), y, f32, 12, "added");
    const std::vector<float> values = to_host<float>(y);
    const std::vector<float> bias = to_host<float>(layer->parameter("out_proj.bias").tensor());
    for (int64_t i = 0; i < 12; ++i) CHECK(values[size_t(12 + i)] == bias[size_t(i)]);
    backward(y, {.gradient = ones_like(y)});
    for (const Tensor& p : layer->parameters()) CHECK(!raw::has_nonfinite(grad(p)));
  }

  TEST_CASE("as many key heads as query heads is plain attention") {
    Generator rng(9);
    const Tensor x = randn({2, 5, 12}, rng);
    const auto grouped = GroupedQueryAttention({.embed_dim = 12,
                                                .num_heads = 3,
                                                .num_kv_heads = 3,
                                                .max_seq_len = 8,
                                                .use_bias = true,
                                                .qkv_bias = true});
    const auto plain = FlashAttentionwithRoPE(12, 3, 8, {.causal = true});
    init(grouped);
    plain->load_state_dict(grouped->state_dict());
    check_same_bits(grouped(x), plain(x), "grouped");
  }

  TEST_CASE("weights drop out while training alone") {
    Generator data(1);
    const Tensor x = randn({2, 6, 12}, data);
    const auto layer = FlashAttention(12, 3, {.dropout = 0.5});
    init(layer);
    Generator first(3), second(3);
    Context one{.rng = &first}, two{.rng = &second};
    const Tensor y = layer(x, one);
    check_same_bits(y, layer(x, two), "same seed");
    CHECK(first.offset() > 0);
    CHECK(to_host<float>(y) != to_host<float>(layer(x)));
    check_same_bits(layer(x), layer(x), "inference");
  }

  TEST_CASE("a replaced projection is called") {
    Generator rng(2);
    const Tensor x = randn({2, 5, 12}, rng);
    const auto layer = FlashAttention(12, 3);
    init(layer);
    const Tensor y = layer(x);
    layer->k_proj = make<Wrapped>(layer->k_proj.module());
    CHECK(layer->k_proj.typed() == nullptr);
    check_close(layer(x), y, f32, 12, "wrapped");
    CHECK(layer->parameter("k_proj.inner.weight").filled());
  }

  TEST_CASE("bf16 activations meet f32 parameters, and every dtype of the context goes") {
    Generator rng(2);
    for (const Ref<Module>& layer : causal_layers()) {
      const Tensor y = layer(raw::cast(randn({2, 5, 12}, rng), bf16));
      CHECK(y.dtype() == bf16);
      backward(y, {.gradient = ones_like(y)});
      for (const Tensor& p : layer->parameters()) CHECK(grad(p).dtype() == f32);
      layer->to(f64);
      CHECK(layer(randn({2, 5, 12}, rng, {.dtype = f64})).dtype() == f64);
    }
  }

  TEST_CASE("what does not fit is refused") {
    check_error([] { FlashAttention(12, 5); }, {"FlashAttention", "embed_dim 12", "num_heads 5"});
    check_error([] { MultiHeadAttention(12, 0); }, {"MultiHeadAttention", "num_heads 0"});
    check_error([] { FlashAttentionwithRoPE(9, 3, 8); }, {"RoPE", "even", "3"});
    check_error(
        [] {
          GroupedQueryAttention(
              {.embed_dim = 12, .num_heads = 6, .num_kv_heads = 4, .max_seq_len = 8});
        },
        {"GroupedQueryAttention", "num_heads 6", "num_kv_heads 4"});
    check_error([] { FlashAttention(12, 3, {.dropout = 3}); }, {"FlashAttention", "dropout"});
    const auto layer = FlashAttentionwithRoPE(12, 3, 4, {.causal = true});
    init(layer);
    check_error([&] { layer(ones({1, 5, 12})); }, {"FlashAttentionwithRoPE", "5", "4"});
    check_error([&] { layer(ones({1, 3, 11})); }, {"[B,T,12]", "[1,3,11]"});
    KVCache cache(8);
    Context ctx{.cache = &cache};
    check_error([&] { layer(ones({1, 2, 12}), ctx); }, {"KVCache", "NoGrad"});
  }
}

TEST_SUITE("nn/cache") {
  TEST_CASE("tokens come back in order") {
    Generator rng(3);
    const Tensor k = randn({2, 8, 3, 4}, rng), v = randn({2, 8, 3, 6}, rng);
    KVCache cache(8);
    for (int64_t begin = 0; begin < 8; begin += 2) {
      cache.begin();
      for (int slot = 0; slot < 2; ++slot) {
        const auto [keys, values] =
            cache.append(tokens(k, begin, begin + 2), tokens(v, begin, begin + 2));
        check_same_bits(raw::contiguous(keys), tokens(k, 0, begin + 2), "keys");
        check_same_bits(raw::contiguous(values), tokens(v, 0, begin + 2), "values");
      }
      cache.advance(2);
    }
    CHECK(cache.bytes() == size_t(2 * 2 * 8 * 3 * (4 + 6) * 4));
    cache.begin();
    check_error([&] { cache.append(tokens(k, 0, 1), tokens(v, 0, 1)); }, {"KVCache", "9", "8"});
    cache.clear();
    const auto [keys, values] = cache.append(tokens(k, 3, 4), tokens(v, 3, 4));
    check_same_bits(raw::contiguous(keys), tokens(k, 3, 4), "after clear");
  }

  TEST_CASE("a window keeps its last tokens and little memory") {
    Generator rng(3);
    const Tensor k = randn({1, 40, 1, 4}, rng);
    for (const int64_t window : {1, 2, 3, 7}) {
      for (const int64_t step : {1, 2, 5}) {
        INFO("window " << window << " step " << step);
        KVCache cache(1000);
        for (int64_t begin = 0; begin + step <= 40; begin += step) {
          cache.begin();
          const Tensor now = tokens(k, begin, begin + step);
          const auto [keys, values] = cache.append(now, now, window);
          check_same_bits(raw::contiguous(keys),
                          tokens(k, std::max<int64_t>(0, begin - window + 1), begin + step),
                          "window");
          cache.advance(step);
        }
        CHECK(cache.bytes() <= size_t(2 * 4 * 4 * (3 * window + step)));
      }
    }
    KVCache grows(1000);
    grows.append(tokens(k, 0, 1), tokens(k, 0, 1), 3);
    grows.advance(1);
    grows.begin();
    const Tensor keys = grows.append(tokens(k, 1, 30), tokens(k, 1, 30), 3).first;
    check_same_bits(raw::contiguous(keys), tokens(k, 0, 30), "a longer piece");
  }

  TEST_CASE("a pass that was cut off leaves no trace") {
    Generator rng(3);
    const Tensor k = randn({1, 60, 1, 4}, rng), stale = full({1, 9, 1, 4}, 99);
    for (const int64_t window : {0, 1, 3, 7}) {
      KVCache cache(60);
      for (int64_t begin = 0; begin + 3 <= 60; begin += 3) {
        INFO("window " << window << " at " << begin);
        for (const int64_t length : {1, 9}) {
          if (begin + length > 60) continue;
          cache.begin();
          cache.append(tokens(stale, 0, length), tokens(stale, 0, length), window);
        }
        cache.begin();
        for (int slot = 0; slot < 2; ++slot) {
          const Tensor now = tokens(k, begin, begin + 3);
          const int64_t first = window > 0 ? std::max<int64_t>(0, begin - window + 1) : 0;
          const auto [keys, values] = cache.append(now, now, window);
          check_same_bits(raw::contiguous(keys), tokens(k, first, begin + 3), "keys");
          check_same_bits(raw::contiguous(values), tokens(k, first, begin + 3), "values");
        }
        cache.advance(3);
      }
    }
  }

  TEST_CASE("what does not fit is refused") {
    KVCache uneven(8);
    for (int slot = 0; slot < 2; ++slot) uneven.append(ones({1, 2, 1, 4}), ones({1, 2, 1, 4}));
    uneven.advance(2);
    uneven.begin();
    uneven.append(ones({1, 1, 1, 4}), ones({1, 1, 1, 4}));
    uneven.advance(1);
    uneven.begin();
    uneven.append(ones({1, 1, 1, 4}), ones({1, 1, 1, 4}));
    check_error(
        [&] {
          uneven.append(ones({1, 1, 1, 4}), ones({1, 1, 1, 4}));
        },
        {"KVCache", "of 3 tokens, 1", "slot 1"});
    KVCache cache(8);
    cache.append(ones({2, 1, 3, 4}), ones({2, 1, 3, 4}));
    cache.advance(1);
    cache.begin();
    check_error(
        [&] {
          cache.append(ones({1, 1, 3, 4}), ones({1, 1, 3, 4}));
        },
        {"KVCache", "[1,1,3,4]"});
    KVCache other(8);
    check_error([&] { other.append(ones({2, 3, 4}), ones({2, 3, 4})); }, {"[B,T,H,D]"});
  }
}
