// Attention layers against OpenLanguageModel's and DeepSeek-V3's.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/nn/attention.h>
#include <tests/support/layer_parity.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

template <class M>
void check_parity(const std::string& name, const Ref<M>& layer) {
  check_layer_parity(name, layer, "attention_layers.safetensors");
}

AttentionOptions sizes(int64_t heads, int64_t kv_heads) {
  return {.embed_dim = 12, .num_heads = heads, .num_kv_heads = kv_heads, .max_seq_len = 16};
}

}  // namespace

TEST_SUITE("nn/attention_parity") {
  TEST_CASE("sliding windows are OLM's") {
    AttentionOptions all = sizes(4, 1), plain = sizes(3, 3), masked = sizes(3, 1);
    all.head_dim = 6, all.rope_theta = 100, all.use_qk_norm = true, all.rms_norm_eps = 1e-3;
    all.use_bias = all.qkv_bias = true, all.partial_rotary_factor = 0.7;
    all.use_attention_sink = true, all.window_size = 4;
    plain.use_rope = false, plain.window_size = 2;
    masked.window_size = 5;
    AttentionOptions three = sizes(6, 2);
    three.window_size = 3;
    check_parity("SlidingWindowAttention", SlidingWindowAttention(three));
    check_parity("SlidingWindowAttention.all", SlidingWindowAttention(all));
    check_parity("SlidingWindowAttention.plain", SlidingWindowAttention(plain));
    check_parity("SlidingWindowAttention.mask", SlidingWindowAttention(masked));
    check_parity("SlidingWindowAttention.documents", SlidingWindowAttention(three));
    CHECK(*SlidingWindowAttention(sizes(3, 3))->options.window_size == 512);
  }

  TEST_CASE("latent attention is OLM's and DeepSeek-V3's") {
    const auto latent = [](AttentionOptions o) {
      return MultiHeadLatentAttention(12, 3, 16, 7, 5, 4, 6, std::move(o));
    };
    check_parity("MultiHeadLatentAttention", latent({}));
    check_parity("MultiHeadLatentAttention.all", latent({.causal = false,
                                                         .bias = true,
                                                         .rope_theta = 100,
                                                         .rms_norm_eps = 1e-3,
                                                         .attention_scale = 0.3,
                                                         .q_lora_rank = 8}));
    check_parity("MultiHeadLatentAttention.mask", latent({.q_lora_rank = 3}));
    check_parity("MultiHeadLatentAttention.documents", latent({}));
    check_parity("DeepseekV3Attention", latent({.q_lora_rank = 8}));
    const RopeScalingOptions yarn{.scaling_type = "yarn",
                                  .scaling_factor = 4,
                                  .original_max_seq_len = 4,
                                  .yarn_beta = 2,
                                  .mscale = 0.7,
                                  .mscale_all_dim = 3};
    check_parity("DeepseekV3Attention.yarn",
                 latent({.rope_theta = 100, .rope_scaling = yarn, .q_lora_rank = 8}));
  }

  TEST_CASE("gates are OLM's") {
    AttentionOptions features = sizes(4, 2), all = sizes(2, 2);
    features.head_dim = 6;
    all.head_dim = 8, all.rope_theta = 50, all.partial_rotary_factor = 0.5;
    all.use_qk_norm = false;
    check_parity("GatedAttention", GatedAttention(features));
    check_parity("GatedAttention.all", GatedAttention(all));
    check_parity("HeadGatedAttention", HeadGatedAttention(sizes(6, 2)));
    const auto fresh = HeadGatedAttention({.embed_dim = 64, .num_heads = 8, .max_seq_len = 4});
    init(fresh);
    double squares = 0;
    for (const float w : to_host<float>(fresh->parameter("output_gate.weight").tensor()))
      squares += double(w) * w / (8 * 64);
    CHECK(std::sqrt(squares) == doctest::Approx(0.02).epsilon(0.1));
  }

  TEST_CASE("sinks, partial rotation, ALiBi and documents are OLM's") {
    AttentionOptions sink = sizes(4, 2), plain = sizes(6, 3), partial = sizes(3, 3);
    sink.head_dim = 6, sink.attn_logit_softcap = 2, sink.use_attention_sink = true;
    plain.use_rope = false, plain.use_attention_sink = true;
    partial.head_dim = 10, partial.partial_rotary_factor = 0.5;
    check_parity("GroupedQueryAttention.sink", GroupedQueryAttention(sink));
    check_parity("GroupedQueryAttention.plain", GroupedQueryAttention(plain));
    check_parity("GroupedQueryAttention.partial", GroupedQueryAttention(partial));
    check_parity("GroupedQueryAttention.documents", GroupedQueryAttention(sizes(6, 2)));
    check_parity("MultiHeadAttentionwithALiBi", MultiHeadAttentionwithALiBi(12, 4));
    check_parity("MultiHeadAttentionwithALiBi.three",
                 MultiHeadAttentionwithALiBi(12, 3, {.causal = false}));
    check_parity("MultiHeadAttentionwithALiBi.documents", MultiHeadAttentionwithALiBi(12, 3));
  }
}
