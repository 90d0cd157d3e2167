#include <algorithm>
#include <cmath>

#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/decoder.h>
#include <olm/nn/description.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/models/decoder_internal.h>
#include <olm/nn/moe.h>
#include <olm/nn/norms.h>

namespace olm::nn {

namespace {

// All of these take a configuration that is complete.

double norm_eps(const DecoderConfig& c) {
  return *c.norm == "layer_norm" ? *c.layer_norm_eps : *c.rms_norm_eps;
}

Ref<Module> norm(const DecoderConfig& c, double eps) {
  if (*c.norm == "layer_norm")
    return LayerNorm(c.embed_dim, {.eps = eps, .elementwise_affine = *c.norm_affine});
  return RMSNorm({.dim = c.embed_dim, .eps = eps, .plus_one = *c.norm_plus_one});
}
Ref<Module> norm(const DecoderConfig& c) { return norm(c, norm_eps(c)); }

/// `o` with the sizes of the heads; the name of the layer that has them.
std::string set_heads(const DecoderConfig& c, AttentionOptions& o) {
  if (c.kv_lora_rank) {
    o.q_lora_rank = c.q_lora_rank;
    o.kv_lora_rank = c.kv_lora_rank;
    o.qk_nope_head_dim = c.qk_nope_head_dim;
    o.qk_rope_head_dim = c.qk_rope_head_dim;
    o.value_dim = c.v_head_dim;
    o.rms_norm_eps = c.rms_norm_eps;
    return "MultiHeadLatentAttention";
  }
  o.num_kv_heads = c.num_kv_heads;
  o.head_dim = c.head_dim;
  o.use_qk_norm = c.use_qk_norm;
  o.qk_norm_all_heads = c.qk_norm_all_heads;
  if (*c.use_qk_norm) o.rms_norm_eps = c.rms_norm_eps;
  const bool grouped = c.num_kv_heads.value_or(c.num_heads) != c.num_heads;
  return grouped ? "GroupedQueryAttention" : *c.attention;
}

/// `o` with RoPE and window of a layer.
void set_positions(const DecoderConfig& c, int64_t layer, AttentionOptions& o) {
  const bool window = has_window(c, layer);
  if (window) o.window_size = c.sliding_window;
  if (*c.positions != "rope") return;
  o.max_seq_len = c.max_seq_len;
  o.rope_pairing = c.rope_pairing;
  o.partial_rotary_factor = c.partial_rotary_factor;
  // A RoPE of the windows' own reaches no farther than they do.
  const bool local = window && c.local_rope_theta;
  o.rope_theta = local ? c.local_rope_theta : c.rope_theta;
  if (!local) o.rope_scaling = c.rope_scaling;
}

Ref<Module> attention(const DecoderConfig& c, int64_t layer) {
  AttentionOptions o{.embed_dim = c.embed_dim,
                     .num_heads = c.num_heads,
                     .dropout = c.dropout,
                     .causal = true,
                     .bias = c.attention_bias.value_or(*c.bias),
                     .qkv_bias = c.qkv_bias,
                     .attn_logit_softcap = c.attn_logit_softcap};
  if (c.query_pre_attn_scalar) o.attention_scale = 1 / std::sqrt(*c.query_pre_attn_scalar);
  const std::string name = set_heads(c, o);
  set_positions(c, layer, o);
  const Ref<AttentionModule> made = Attention(name, o);
  if (*c.use_qk_norm && *c.norm_plus_one)
    for (const char* name : {"q_norm", "k_norm"})
      made->replace(name,
                    RMSNorm({.dim = made->head_dim(), .eps = *c.rms_norm_eps, .plus_one = true}));
  return made;
}

Ref<Module> mixture(const DecoderConfig& c) {
  require(*c.activation == "swiglu" || *c.activation == "geglu", c.family,
          ": experts have swiglu or geglu, got ", *c.activation);
  require(*c.activation != "geglu" || !*c.gelu_tanh, c.family,
          ": experts have no geglu by tanh, which gelu_tanh asks for");
  const GatedMoEFFNOptions o{.num_experts = *c.num_experts,
                             .num_shared_experts = *c.num_shared_experts,
                             .top_k = *c.top_k,
                             .hidden_dim = c.moe_intermediate_size.value_or(ffn_width(c)),
                             .dropout = *c.dropout,
                             .bias = c.mlp_bias.value_or(*c.bias),
                             .routing = {
                                 .scoring_func = *c.scoring_func,
                                 .norm_topk_prob = *c.norm_topk_prob,
                                 .routed_scaling_factor = *c.routed_scaling_factor,
                                 .n_group = *c.n_group,
                                 .topk_group = *c.topk_group,
                                 .load_balancing_coefficient = *c.load_balancing_coefficient,
                                 .z_loss_coefficient = *c.z_loss_coefficient,
                                 .use_expert_bias = *c.use_expert_bias,
                                 .bias_update_rate = *c.bias_update_rate,
                             }};
  if (*c.activation == "geglu") return GeGLUMoEFFN(c.embed_dim, o);
  return SwiGLUMoEFFN(c.embed_dim, o);
}

Ref<Module> feed_forward(const DecoderConfig& c, int64_t layer) {
  if (c.num_experts && layer >= *c.first_k_dense_replace) return mixture(c);
  const bool gelu_tanh = *c.gelu_tanh;
  if (*c.activation == "gelu" || *c.activation == "relu")
    return ClassicFFN(
        c.embed_dim,
        {.hidden_dim = c.intermediate_size,
         .activation = *c.activation == "gelu" && gelu_tanh ? "gelu_tanh" : *c.activation,
         .dropout = *c.dropout,
         .bias = c.mlp_bias.value_or(*c.bias)});
  return GatedFFN(
      c.embed_dim,
      {.hidden_dim = ffn_width(c),
       .dropout = *c.dropout,
       .bias = c.mlp_bias.value_or(*c.bias),
       .gated_unit = *c.activation == "geglu" && gelu_tanh ? "geglu_tanh" : *c.activation});
}

/// x + part(x), with the norms that belong to it.
Ref<Module> added(const DecoderConfig& c, const Ref<Module>& part) {
  std::vector<Ref<Module>> parts;
  if (*c.pre_norm) parts.push_back(norm(c));
  parts.push_back(part);
  if (*c.post_norm) parts.push_back(norm(c));
  return Residual(Block(std::move(parts)));
}

void add_embedding(const DecoderConfig& c, const Ref<EmbeddingModule>& tokens,
                   std::vector<Ref<Module>>& parts) {
  const bool joint = *c.joint_embedding;
  if (*c.positions == "rope") return parts.push_back(tokens);
  const Ref<Module> positions =
      AbsolutePositionalEmbedding(c.max_seq_len, c.embed_dim, {.dropout = joint ? *c.dropout : 0});
  if (joint) return parts.push_back(Block({tokens, positions}));
  parts.insert(parts.end(), {tokens, positions, Dropout(*c.dropout)});
}

void add_head(const DecoderConfig& c, const Ref<EmbeddingModule>& tokens,
              std::vector<Ref<Module>>& parts) {
  OutputHeadOptions head{.use_norm = *c.norm_in_head, .softcap = c.final_logit_softcap};
  if (c.tie_weights) head.tied_embedding = tokens;
  const Ref<Module> last = norm(c, c.final_norm_eps.value_or(norm_eps(c)));
  if (!*c.norm_in_head)
    parts.push_back(last);
  else if (describe(*last) != describe(*LayerNorm(c.embed_dim)))  // which the head has by itself
    head.norm = last;
  parts.push_back(OutputHead(c.embed_dim, c.vocab_size, head));
}

}  // namespace

/// Two thirds of the usual 4 · embed_dim where there are three matrices for two.
int64_t ffn_width(const DecoderConfig& c) {
  const bool gated = *c.activation == "swiglu" || *c.activation == "geglu";
  const int64_t usual = gated ? (c.embed_dim * 8 / 3 + 63) / 64 * 64 : 4 * c.embed_dim;
  return c.intermediate_size.value_or(usual);
}

bool has_window(const DecoderConfig& c, int64_t layer) {
  if (!c.sliding_window) return false;
  const auto& layers = c.window_layers;
  if (!layers.empty()) return std::find(layers.begin(), layers.end(), layer) != layers.end();
  const auto& pattern = c.sliding_window_pattern;
  return !pattern || layer % *pattern != *pattern - 1;
}

Ref<BlockModule> DecoderModel(const DecoderConfig& config) {
  const DecoderConfig c = config.completed();
  for (const int64_t layer : c.window_layers)
    require(layer < c.num_layers, c.family, ".window_layers: wants layers from 0 to ",
            c.num_layers - 1, ", got ", layer);
  EmbeddingLayerOptions table{.vocab_size = c.vocab_size, .embedding_dim = c.embed_dim};
  if (*c.scale_embedding) table.scale = std::sqrt(double(c.embed_dim));
  const Ref<EmbeddingModule> tokens = Embedding(table);
  int64_t layer = 0;
  const auto make_layer = [&] {
    const int64_t i = layer++;
    return Block({added(c, attention(c, i)), added(c, feed_forward(c, i))});
  };
  std::vector<Ref<Module>> parts;
  add_embedding(c, tokens, parts);
  parts.push_back(Repeat(make_layer, c.num_layers));
  add_head(c, tokens, parts);
  return Block(std::move(parts));
}

Ref<BlockModule> DecoderModel(const std::string& family, DecoderConfig config) {
  config.family = family;
  return DecoderModel(config);
}

void init_decoder(Module& model, const DecoderConfig& config, const InitOptions& options) {
  init_gpt2(model, config.num_layers, options);
}

}  // namespace olm::nn
