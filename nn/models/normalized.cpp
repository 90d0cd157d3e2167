// Configurations of the same model made equal.
#include <olm/nn/models/decoder_internal.h>

namespace olm::nn {

RopeScalingOptions normalized(const RopeScalingOptions& given, int64_t max_seq_len) {
  const std::string type = given.scaling_type.value_or("none");
  if (type == "none") return {};
  RopeScalingOptions r{.scaling_type = type};
  const int64_t trained = given.original_max_seq_len.value_or(max_seq_len);
  if (type == "linear" || type == "ntk" || type == "dynamic_ntk" || type == "llama3")
    r.scaling_factor = given.scaling_factor.value_or(1);
  if (type == "yarn" || type == "longrope")
    r.scaling_factor = given.scaling_factor.value_or(double(max_seq_len) / double(trained));
  if (type != "linear" && type != "ntk" && type != "xpos") r.original_max_seq_len = trained;
  if (type == "yarn") {
    r.yarn_alpha = given.yarn_alpha.value_or(1);
    r.yarn_beta = given.yarn_beta.value_or(32);
    r.truncate = given.truncate.value_or(true);
    r.mscale = given.mscale;
    r.mscale_all_dim = given.mscale_all_dim;
  }
  if (type == "yarn" || type == "longrope") r.attention_factor = given.attention_factor;
  if (type == "llama3") {
    r.low_freq_factor = given.low_freq_factor.value_or(1);
    r.high_freq_factor = given.high_freq_factor.value_or(4);
  }
  if (type == "longrope") {
    r.short_factor = given.short_factor;
    r.long_factor = given.long_factor;
  }
  if (type == "xpos") r.xpos_scale_base = given.xpos_scale_base.value_or(double(max_seq_len));
  return r;
}

namespace {

// All of these change a configuration that is complete.

void normalize_positions(DecoderConfig& c) {
  std::vector<int64_t> windows;
  for (int64_t layer = 0; layer < c.num_layers; ++layer)
    if (has_window(c, layer)) windows.push_back(layer);
  c.sliding_window_pattern.reset();
  if (windows.empty()) c.sliding_window.reset();
  c.window_layers = std::move(windows);
  c.rope_pairing.reset();
  if (*c.positions != "rope") {
    c.rope_theta.reset();
    c.local_rope_theta.reset();
    c.partial_rotary_factor.reset();
    c.rope_scaling = {};
    return;
  }
  if (int64_t(c.window_layers.size()) == c.num_layers && c.local_rope_theta) {
    c.rope_theta = c.local_rope_theta;
    c.rope_scaling = {};
  }
  c.rope_scaling = olm::nn::normalized(c.rope_scaling, c.max_seq_len);
  const bool scaled = c.rope_scaling.scaling_type.has_value();
  if (c.window_layers.empty() || (!scaled && c.local_rope_theta == c.rope_theta))
    c.local_rope_theta.reset();
  c.partial_rotary_factor = c.partial_rotary_factor.value_or(1);
}

void normalize_attention(DecoderConfig& c) {
  c.attention_bias = c.attention_bias.value_or(*c.bias);
  c.qkv_bias = c.qkv_bias.value_or(*c.attention_bias);
  c.attention.reset();
  if (c.kv_lora_rank) return;
  c.num_kv_heads = c.num_kv_heads.value_or(c.num_heads);
  c.head_dim = c.head_dim.value_or(std::max<int64_t>(1, c.embed_dim / c.num_heads));
  c.query_pre_attn_scalar = c.query_pre_attn_scalar.value_or(double(*c.head_dim));
  if (!*c.use_qk_norm) c.qk_norm_all_heads.reset();
}

void normalize_norms(DecoderConfig& c) {
  const bool layer_norm = *c.norm == "layer_norm";
  const double eps = layer_norm ? *c.layer_norm_eps : *c.rms_norm_eps;
  c.final_norm_eps = c.final_norm_eps.value_or(eps);
  if (layer_norm && !*c.use_qk_norm && !c.kv_lora_rank) c.rms_norm_eps.reset();
  if (layer_norm) c.norm_plus_one.reset();
  if (!layer_norm) c.norm_affine.reset();
  if (!layer_norm) c.layer_norm_eps.reset();
  c.joint_embedding.reset();
  c.norm_in_head.reset();
}

void normalize_feed_forward(DecoderConfig& c) {
  c.mlp_bias = c.mlp_bias.value_or(*c.bias);
  c.intermediate_size = ffn_width(c);
  if (*c.activation == "relu" || *c.activation == "swiglu") c.gelu_tanh.reset();
  c.load_balancing_coefficient.reset();
  c.z_loss_coefficient.reset();
  c.bias_update_rate.reset();
  if (c.num_experts) {
    c.moe_intermediate_size = c.moe_intermediate_size.value_or(*c.intermediate_size);
    if (*c.first_k_dense_replace == 0) c.intermediate_size.reset();  // no layer has it
    if (*c.n_group == 1) c.topk_group.reset();
    return;
  }
  c.num_shared_experts.reset();
  c.top_k.reset();
  c.moe_intermediate_size.reset();
  c.first_k_dense_replace.reset();
  c.routed_scaling_factor.reset();
  c.norm_topk_prob.reset();
  c.n_group.reset();
  c.topk_group.reset();
  c.scoring_func.reset();
  c.use_expert_bias.reset();
}

}  // namespace

DecoderConfig DecoderConfig::normalized() const {
  DecoderConfig c = completed();
  c.family = "decoder";
  normalize_attention(c);
  normalize_positions(c);
  normalize_norms(c);
  normalize_feed_forward(c);
  c.bias.reset();
  return c;
}

namespace {

/// The members of `config` that are keys of a family, the others as that has them. Layers with a
/// window by its own pattern, or one by one.
DecoderConfig members_in(const std::string& family, const DecoderConfig& config, bool by_pattern) {
  DecoderConfig result{.family = family};
  const Json given = config.given(), keys = to_json(result);
  Json kept = Json::object();
  for (const auto& [key, value] : keys.members()) {
    const Json* own = given.find(key);
    if (own && !(by_pattern && key == "window_layers")) kept[key] = *own;
  }
  if (keys.contains("bias") && !keys.contains("mlp_bias"))
    kept["bias"] = config.mlp_bias.value_or(*config.bias);
  from_json(kept, result, family);
  return result.completed();
}

}  // namespace

std::optional<DecoderConfig> in_family(const std::string& family, const DecoderConfig& config) {
  const Json wanted = config.normalized().given();
  for (const bool by_pattern : {true, false}) {
    const DecoderConfig own = members_in(family, config, by_pattern);
    if (own.normalized().given() == wanted) return own;
  }
  return {};
}

}  // namespace olm::nn
