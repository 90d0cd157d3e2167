// The rows: a family that differs from these by data is one more.
#include <olm/nn/models.h>

namespace olm::nn {

namespace {

/// What families have in common, with the sizes of a small model.
DecoderConfig common() {
  return {.vocab_size = 256,
          .embed_dim = 64,
          .num_layers = 2,
          .num_heads = 4,
          .max_seq_len = 64,
          .rope_theta = 10000,
          .dropout = 0,
          .bias = false,
          .gelu_tanh = false,
          .rms_norm_eps = 1e-5,
          .norm_plus_one = false,
          .activation = "swiglu",
          .rope_pairing = "interleaved",
          .num_shared_experts = 0,
          .top_k = 2,
          .first_k_dense_replace = 0,
          .routed_scaling_factor = 1,
          .norm_topk_prob = true,
          .n_group = 1,
          .topk_group = 1,
          .load_balancing_coefficient = 0,
          .z_loss_coefficient = 0,
          .bias_update_rate = 0.001,
          .use_qk_norm = false,
          .qk_norm_all_heads = false,
          .scoring_func = "softmax",
          .use_expert_bias = false,
          .attention = "GroupedQueryAttention",
          .norm = "rms_norm",
          .norm_affine = true,
          .layer_norm_eps = 1e-5,
          .pre_norm = true,
          .post_norm = false,
          .positions = "rope",
          .scale_embedding = false,
          .joint_embedding = false,
          .norm_in_head = false};
}

using Keys = std::vector<std::string>;
Keys operator+(Keys a, const Keys& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A row: what is said of a family, beside what all have in common.
DecoderFamily row(std::string name, Keys keys, void (*change)(DecoderConfig&) = nullptr) {
  DecoderFamily family{.name = std::move(name), .defaults = common(), .keys = std::move(keys)};
  family.defaults.family = family.name;
  if (change) change(family.defaults);
  return family;
}

/// Learned positions, LayerNorm and biases.
void like_gpt2(DecoderConfig& c) {
  c.dropout = 0.1;
  c.bias = true;
  c.activation = "gelu";
  c.attention = "FlashAttention";
  c.norm = "layer_norm";
  c.positions = "absolute";
}

void like_gemma(DecoderConfig& c) {
  c.rms_norm_eps = 1e-6;
  c.activation = "geglu";
  c.post_norm = true;
  c.scale_embedding = true;
}

void like_qwen3(DecoderConfig& c) {
  c.rope_theta = 1000000;
  c.rms_norm_eps = 1e-6;
  c.use_qk_norm = true;
}

/// Few experts, of which each token uses two.
void with_experts(DecoderConfig& c) {
  c.num_experts = 8;
  c.moe_intermediate_size = 64;
}

void like_deepseek(DecoderConfig& c) {
  with_experts(c);
  c.rms_norm_eps = 1e-6;
  c.num_shared_experts = 1;
  c.first_k_dense_replace = 1;
  c.scoring_func = "sigmoid";
  c.use_expert_bias = true;
  c.kv_lora_rank = 32;
  c.qk_nope_head_dim = 16;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 16;
}

void like_olmo2(DecoderConfig& c) {
  c.rope_theta = 500000;
  c.rms_norm_eps = 1e-6;
  c.use_qk_norm = true;
  c.pre_norm = false;
  c.post_norm = true;
}

std::vector<DecoderFamily> openlanguagemodel_2_2() {
  const Keys rotary{"num_kv_heads", "rope_theta", "rope_pairing", "rms_norm_eps"};
  const Keys llama = rotary + Keys{"head_dim", "rope_scaling", "attention_bias", "mlp_bias"};
  return {
      row("gpt2", {"bias", "gelu_tanh", "layer_norm_eps"},
          [](DecoderConfig& c) {
            like_gpt2(c);
            c.joint_embedding = true;
            c.norm_in_head = true;
          }),
      row("llama", llama, [](DecoderConfig& c) { c.attention = "FlashAttentionwithRoPE"; }),
      row("llama3", llama, [](DecoderConfig& c) { c.rope_theta = 500000; }),
      row("qwen2", rotary + Keys{"head_dim", "rope_scaling", "sliding_window", "window_layers"},
          [](DecoderConfig& c) {
            c.rope_theta = 1000000;
            c.rms_norm_eps = 1e-6;
            c.qkv_bias = true;
          }),
      row("phi3",
          rotary + Keys{"head_dim", "rope_scaling", "partial_rotary_factor", "activation",
                        "sliding_window"},
          [](DecoderConfig& c) { c.attention = "FlashAttentionwithRoPE"; }),
      row("phi4", rotary, [](DecoderConfig& c) { c.rope_theta = 250000; }),
      row("gemma2",
          rotary + Keys{"head_dim", "rope_scaling", "attention_bias", "gelu_tanh", "norm_plus_one",
                        "sliding_window", "window_layers", "attn_logit_softcap",
                        "final_logit_softcap", "query_pre_attn_scalar"},
          [](DecoderConfig& c) {
            like_gemma(c);
            c.sliding_window = 4096;
            c.sliding_window_pattern = 2;
            c.attn_logit_softcap = 50;
            c.final_logit_softcap = 30;
            c.query_pre_attn_scalar = 256;
          }),
      row("olmo", {"rope_pairing"},
          [](DecoderConfig& c) {
            c.attention = "FlashAttentionwithRoPE";
            c.norm = "layer_norm";
            c.norm_affine = false;
          }),
      row("opt", {},
          [](DecoderConfig& c) {
            like_gpt2(c);
            c.activation = "relu";
            c.layer_norm_eps = 1e-6;
            c.final_norm_eps = 1e-5;
          }),
  };
}

std::vector<DecoderFamily> later_ones() {
  const Keys headed{"num_kv_heads", "head_dim", "rope_theta", "rope_pairing", "rms_norm_eps"};
  return {
      row("mistral", headed + Keys{"rope_scaling", "sliding_window"}),
      row("qwen3",
          headed + Keys{"rope_scaling", "attention_bias", "sliding_window", "window_layers"},
          like_qwen3),
      row("gemma", headed + Keys{"rope_scaling", "attention_bias", "gelu_tanh", "norm_plus_one"},
          [](DecoderConfig& c) {
            like_gemma(c);
            c.post_norm = false;
            c.gelu_tanh = true;
            c.norm_plus_one = true;
          }),
      row("gemma3",
          headed + Keys{"rope_scaling", "local_rope_theta", "attention_bias", "gelu_tanh",
                        "norm_plus_one", "sliding_window", "sliding_window_pattern",
                        "window_layers", "attn_logit_softcap", "final_logit_softcap",
                        "query_pre_attn_scalar"},
          [](DecoderConfig& c) {
            like_gemma(c);
            c.rope_theta = 1000000;
            c.local_rope_theta = 10000;
            c.use_qk_norm = true;
            c.sliding_window = 1024;
            c.sliding_window_pattern = 6;
          }),
      row("olmo2", headed + Keys{"rope_scaling", "attention_bias"},
          [](DecoderConfig& c) {
            like_olmo2(c);
            c.qk_norm_all_heads = true;
          }),
      row("olmo3",
          headed + Keys{"rope_scaling", "local_rope_theta", "attention_bias", "sliding_window",
                        "sliding_window_pattern", "window_layers"},
          [](DecoderConfig& c) {
            like_olmo2(c);
            c.sliding_window = 4096;
            c.sliding_window_pattern = 4;
          }),
  };
}

std::vector<DecoderFamily> mixtures() {
  const Keys mixture{"num_kv_heads",
                     "head_dim",
                     "rope_theta",
                     "rope_pairing",
                     "rope_scaling",
                     "rms_norm_eps",
                     "num_experts",
                     "top_k",
                     "moe_intermediate_size",
                     "load_balancing_coefficient",
                     "z_loss_coefficient",
                     "sliding_window"};
  return {
      row("mixtral", mixture,
          [](DecoderConfig& c) {
            with_experts(c);
            c.rope_theta = 1000000;
          }),
      row("qwen3_moe", mixture + Keys{"attention_bias", "norm_topk_prob", "window_layers"},
          [](DecoderConfig& c) {
            like_qwen3(c);
            with_experts(c);
          }),
      row("deepseek_v3",
          {"rope_theta",
           "rope_pairing",
           "rope_scaling",
           "rms_norm_eps",
           "q_lora_rank",
           "kv_lora_rank",
           "qk_nope_head_dim",
           "qk_rope_head_dim",
           "v_head_dim",
           "num_experts",
           "num_shared_experts",
           "top_k",
           "moe_intermediate_size",
           "first_k_dense_replace",
           "routed_scaling_factor",
           "n_group",
           "topk_group",
           "load_balancing_coefficient",
           "z_loss_coefficient",
           "bias_update_rate"},
          like_deepseek),
  };
}

/// The configuration of a family before anything of it is set.
ModelConfig unset(const DecoderFamily& family) {
  const DecoderConfig& d = family.defaults;
  DecoderConfig c{.family = family.name,
                  .vocab_size = d.vocab_size,
                  .embed_dim = d.embed_dim,
                  .num_layers = d.num_layers,
                  .num_heads = d.num_heads,
                  .max_seq_len = d.max_seq_len,
                  .tie_weights = d.tie_weights};
  return ModelConfig(std::move(c), DecoderModel, init_decoder);
}

std::vector<DecoderFamily> built_in() {
  std::vector<DecoderFamily> rows = openlanguagemodel_2_2();
  for (const auto& more : {later_ones(), mixtures()})
    rows.insert(rows.end(), more.begin(), more.end());
  rows.push_back(row("decoder", {"*"}));
  return rows;
}

}  // namespace

Registry<DecoderFamily>& decoders() {
  static Registry<DecoderFamily> table("decoder", [] {
    std::map<std::string, DecoderFamily> rows;
    for (DecoderFamily& family : built_in()) rows.emplace(family.name, std::move(family));
    return rows;
  }());
  return table;
}

Registry<ModelConfig>& families() {
  static Registry<ModelConfig> table("model family", [] {
    std::map<std::string, ModelConfig> rows;
    for (const DecoderFamily& family : built_in()) rows.emplace(family.name, unset(family));
    return rows;
  }());
  return table;
}

void add_family(const DecoderFamily& family) {
  DecoderFamily complete = family;
  complete.defaults.family = family.name;
  complete.defaults.fill_from(common());
  decoders().add(family.name, complete);
  families().add(family.name, unset(complete));
}

}  // namespace olm::nn
