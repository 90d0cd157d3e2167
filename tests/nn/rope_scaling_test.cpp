// Attention that scales RoPE: options, descriptions, caches.
#include <doctest/doctest.h>

#include <olm/engine/json.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/generate.h>
#include <olm/nn/model_io.h>
#include <tests/support/attention_variants.h>
#include <tests/support/checks.h>
#include <tests/support/layer_parity.h>
#include <tests/support/rope_scalings.h>
#include <tests/support/sequence.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// A causal attention layer of 4 heads of 6 that scales RoPE.
Ref<AttentionModule> scaled_attention(const RopeScalingOptions& scaling, int64_t max_seq_len = 32) {
  const auto layer = FlashAttentionwithRoPE(
      24, 4, max_seq_len, {.causal = true, .rope_theta = 100, .rope_scaling = scaling});
  init(layer, {.seed = 5});
  return layer;
}

}  // namespace

TEST_SUITE("nn/rope_scaling") {
  TEST_CASE("attention with yarn, dynamic_ntk and llama3 by halves is transformers'") {
    AttentionOptions o{.embed_dim = 24,
                       .num_heads = 4,
                       .num_kv_heads = 2,
                       .max_seq_len = 96,
                       .head_dim = 8,
                       .bias = true,
                       .rope_pairing = "halves"};
    const auto check_attention = [&](const std::string& name) {
      for (const char* layer : {"GroupedQueryAttention", "MultiHeadAttentionwithRoPE"}) {
        o.causal = true;
        check_layer_parity(name, Attention(layer, o), "positions.safetensors");
      }
    };
    o.rope_scaling = {.scaling_type = "yarn", .scaling_factor = 9, .original_max_seq_len = 3};
    check_attention("hf_attention.yarn");
    o.rope_scaling = {
        .scaling_type = "dynamic_ntk", .scaling_factor = 2, .original_max_seq_len = 4};
    check_attention("hf_attention.dynamic");
    o.rope_scaling = RopeScalingOptions{.scaling_type = "llama3", .scaling_factor = 8};
    o.rope_scaling.original_max_seq_len = 6;
    o.rope_theta = 100;
    check_attention("hf_attention.llama3");
  }

  TEST_CASE("halves are interleaved pairs with permuted weights") {
    const AttentionOptions o{
        .embed_dim = 24, .num_heads = 4, .max_seq_len = 9, .partial_rotary_factor = 0.7};
    const auto usual = FlashAttentionwithRoPE(o);
    init(usual, {.seed = 3});
    AttentionOptions by_halves = o;
    by_halves.rope_pairing = "halves";
    const auto halves = FlashAttentionwithRoPE(by_halves);
    std::map<std::string, Tensor> state;
    for (const auto& [key, value] : usual->state_dict()) {
      state[key] = raw::clone(value);
      if (!key.starts_with("q_proj") && !key.starts_with("k_proj")) continue;
      const std::vector<double> from = to_host<double>(value);
      std::vector<double> to = from;
      const size_t row = from.size() / 24;
      for (size_t h = 0; h < 4; ++h)  // heads of 6, of which 4 dimensions are rotated
        for (size_t i = 0; i < 4; ++i)
          std::copy_n(from.begin() + long((h * 6 + i) * row), row,
                      to.begin() + long((h * 6 + (i % 2) * 2 + i / 2) * row));
      state[key] = raw::cast(from_host(to, value.shape()), f32);
    }
    halves->load_state_dict(state);
    Generator rng(9);
    const Tensor x = randn({2, 9, 24}, rng);
    check_close(halves(x), usual(x), f32, 24, "halves");
    halves->load_state_dict(usual->state_dict());
    CHECK(difference(halves(x), usual(x)).relative_l2 > 1e-3);
  }

  TEST_CASE("every rotary layer takes any scaling, and is rebuilt with it") {
    Generator rng(1);
    const Tensor x = randn({2, 20, 24}, rng);
    std::vector<RopeScalingOptions> all = one_of_each(4, 4);
    all.push_back({.scaling_type = "xpos"});
    const NoGrad guard;
    for (const std::string& name : attentions().names()) {
      AttentionOptions o{.embed_dim = 24,
                         .num_heads = 4,
                         .max_seq_len = 32,
                         .causal = true,
                         .rope_theta = 100,
                         .rope_pairing = "halves"};
      if (is_latent(name))
        o.qk_rope_head_dim = 4;
      else
        o.head_dim = 6, o.partial_rotary_factor = 0.7;
      const auto plain = Attention(name, o);
      if (!*plain->options.use_rope) continue;
      init(plain, {.seed = 5});
      for (const RopeScalingOptions& scaling : all) {
        INFO(name << " " << *scaling.scaling_type);
        o.rope_scaling = scaling;
        const auto layer = Attention(name, o);
        layer->load_state_dict(plain->state_dict());
        const Tensor y = layer(x);
        CHECK(difference(y, plain(x)).relative_l2 > 1e-4);
        const Json json = describe(*layer);
        const Ref<Module> again = build(json);
        CHECK(describe(*again) == json);
        again->load_state_dict(layer->state_dict());
        check_same_bits(again(x), y, "rebuilt");
        CHECK(json.at("options").at("rope_scaling").dump().find("null") == std::string::npos);
      }
    }
  }

  TEST_CASE("descriptions list what differs from the layer's row") {
    CHECK(describe(*FlashAttentionwithRoPE(24, 4, 9)).dump().find("rope_scaling") ==
          std::string::npos);
    CHECK(describe(*RotaryPositionalEmbedding(6, 9)).dump() ==
          R"({"type":"RotaryPositionalEmbedding","options":{"head_dim":6,"max_seq_len":9,)"
          R"("base":10000.0}})");
    CHECK(describe(*Llama3RotaryPositionalEmbedding(6)).dump() ==
          R"({"type":"Llama3RotaryPositionalEmbedding","options":{"head_dim":6}})");
    const auto layer = scaled_attention({.scaling_type = "linear", .scaling_factor = 2});
    CHECK(describe(*layer)["options"].at("rope_scaling").dump() ==
          R"({"scaling_type":"linear","scaling_factor":2.0})");
    const AttentionKind kind{
        .name = "ScaledRow",
        .defaults = {.use_rope = true,
                     .rope_scaling = {.scaling_type = "linear", .scaling_factor = 4}}};
    const auto row = Attention(
        kind, {.embed_dim = 8, .num_heads = 2, .max_seq_len = 9, .rope_scaling = {{}, 2.0}});
    CHECK(*row->options.rope_scaling.scaling_type == "linear");
    CHECK(*row->options.rope_scaling.scaling_factor == 2);
    for (const RotaryKind& k : rotary_kinds()) {
      const auto rotary =
          Rotary(k, {.head_dim = 6,
                     .max_seq_len = 40,
                     .scaling = {.scaling_type = "yarn", .scaling_factor = 2, .truncate = false}});
      CHECK(describe(*build(describe(*rotary))) == describe(*rotary));
    }
    // As files have it that were written before there was scaling.
    const Ref<Module> former =
        build(Json::parse(R"({"type":"PartialRotaryPositionalEmbedding","options":{"head_dim":8,)"
                          R"("rotary_percentage":0.5,"base":50.0,"max_seq_len":7}})"));
    Generator rng(1);
    const Tensor x = randn({1, 7, 2, 8}, rng);
    check_same_bits(former(x),
                    PartialRotaryPositionalEmbedding(8, {.max_seq_len = 7, .base = 50})(x),
                    "former");
  }

  TEST_CASE("a cache gives what one pass gives while frequencies stay") {
    Generator rng(7);
    const Tensor x = randn({2, 20, 24}, rng);
    const NoGrad guard;
    std::vector<RopeScalingOptions> all = one_of_each(4, 6);
    all.push_back({.scaling_type = "xpos", .xpos_scale_base = 8});
    for (const RopeScalingOptions& scaling : all) {
      const std::string type = *scaling.scaling_type;
      INFO(type);
      const bool varies = type == "dynamic_ntk" || type == "longrope";
      const auto layer = scaled_attention(scaling);
      if (varies) CHECK_THROWS_AS(in_pieces(*layer, x, {8, 1, 11}), StaleCacheError);
      const Tensor start = tokens(x, 0, 8);
      check_close(in_pieces(*layer, start, {3, 1, 4}), layer(start), f32, 24, "up to 8");
      if (!varies)
        check_close(in_pieces(*layer, x, {7, 1, 1, 11}), layer(x), f32, 24, "beyond 8");
      else
        check_error(
            [&] {
              in_pieces(*layer, x, {7, 1, 12});
            },
            {"FlashAttentionwithRoPE", type, "20", "the 8 ", "original_max_seq_len is 8"});
      if (type == "longrope")
        check_close(in_pieces(*layer, x, {9, 1, 10}), layer(x), f32, 24, "long from the start");
      if (type == "dynamic_ntk")
        check_error([&] { in_pieces(*layer, x, {19, 1}); }, {type, "20", "the 19 "});
      KVCache cache(9);
      Context ctx{.positions = zeros({2, 3}, {.dtype = i64}), .cache = &cache};
      if (varies) check_error([&] { layer(tokens(x, 0, 3), ctx); }, {type, "positions", "cache"});
    }
  }

  TEST_CASE("text is the same with and without a cache, beyond the trained positions too") {
    std::vector<RopeScalingOptions> all = one_of_each(3, 6);
    all.push_back({.scaling_type = "xpos"});
    for (const RopeScalingOptions& scaling : all) {
      // The first layer has no RoPE, two others have windows: on either side of the border.
      int64_t made = 0;
      const auto layer = [&] {
        AttentionOptions o{.causal = true, .rope_theta = 100, .rope_scaling = scaling};
        if (made == 0) o = {.causal = true, .use_rope = false};
        if (made % 2 == 1) o.window_size = made == 1 ? 3 : 11;
        ++made;
        return Residual(FlashAttentionwithRoPE(24, 4, 24, o));
      };
      const auto model = Block({Embedding(17, 24), Repeat(layer, 4), OutputHead(24, 17)});
      init(model, {.seed = 4});
      const std::vector<int32_t> longer{3, 5, 1, 16, 2, 2, 9, 0, 11, 4};
      for (const size_t length : {4, 8, 9, 10}) {
        INFO(*scaling.scaling_type << " from " << length);
        const std::vector<int32_t> prompt(longer.begin(), longer.begin() + long(length));
        GenerateOptions o{.tokens = 40, .temperature = 0, .context = 24};
        const std::vector<int32_t> with = generate(model, prompt, o);
        CHECK(with.size() == 40);
        o.use_cache = false;
        CHECK(with == generate(model, prompt, o));
        o.use_cache = true;
        for (const Generated& each : generate_batch(model, {prompt, prompt}, o))
          CHECK(each.ids == with);
      }
    }
  }
}
