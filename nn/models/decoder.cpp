#include <cmath>

#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/decoder.h>
#include <olm/nn/feedforward.h>
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

bool has_window(const DecoderConfig& c, int64_t layer) {
  if (!c.sliding_window) return false;
  const auto& pattern = c.sliding_window_pattern;
  return !pattern || layer % *pattern != *pattern - 1;
}

Ref<Module> attention(const DecoderConfig& c, int64_t layer) {
  const int64_t kv_heads = c.num_kv_heads.value_or(c.num_heads);
  AttentionOptions o{.embed_dim = c.embed_dim,
                     .num_heads = c.num_heads,
                     .num_kv_heads = c.num_kv_heads,
                     .head_dim = c.head_dim,
                     .dropout = c.dropout,
                     .causal = true,
                     .bias = c.bias,
                     .qkv_bias = c.qkv_bias,
                     .use_qk_norm = c.use_qk_norm,
                     .attn_logit_softcap = c.attn_logit_softcap};
  if (*c.use_qk_norm) o.rms_norm_eps = c.rms_norm_eps;
  if (*c.positions == "rope") {
    o.max_seq_len = c.max_seq_len;
    o.rope_theta = c.rope_theta;
  }
  if (c.query_pre_attn_scalar) o.attention_scale = 1 / std::sqrt(*c.query_pre_attn_scalar);
  if (has_window(c, layer)) {
    o.window_size = c.sliding_window;
    if (c.local_rope_theta) o.rope_theta = c.local_rope_theta;
  }
  const Ref<AttentionModule> made =
      Attention(kv_heads == c.num_heads ? *c.attention : "GroupedQueryAttention", o);
  if (*c.use_qk_norm && *c.norm_plus_one)
    for (const char* name : {"q_norm", "k_norm"})
      made->replace(name,
                    RMSNorm({.dim = made->head_dim(), .eps = *c.rms_norm_eps, .plus_one = true}));
  return made;
}

Ref<Module> feed_forward(const DecoderConfig& c) {
  const bool gelu_tanh = *c.gelu_tanh;
  if (*c.activation == "gelu" || *c.activation == "relu")
    return ClassicFFN(
        c.embed_dim,
        {.hidden_dim = c.intermediate_size,
         .activation = *c.activation == "gelu" && gelu_tanh ? "gelu_tanh" : *c.activation,
         .dropout = *c.dropout,
         .bias = *c.bias});
  // Two thirds of the usual 4 · embed_dim, since there are three matrices for two.
  const int64_t hidden = c.intermediate_size.value_or((c.embed_dim * 8 / 3 + 63) / 64 * 64);
  const GatedFFNOptions o{.hidden_dim = hidden, .dropout = *c.dropout, .bias = *c.bias};
  if (*c.activation == "swiglu") return SwiGLUFFN(c.embed_dim, o);
  return gelu_tanh ? Ref<Module>(GeGLUTanhFFN(c.embed_dim, o)) : GeGLUFFN(c.embed_dim, o);
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
  if (!*c.norm_in_head) parts.push_back(norm(c, c.final_norm_eps.value_or(norm_eps(c))));
  parts.push_back(OutputHead(c.embed_dim, c.vocab_size, head));
}

}  // namespace

Ref<BlockModule> DecoderModel(const DecoderConfig& config) {
  const DecoderConfig c = config.completed();
  EmbeddingLayerOptions table{.vocab_size = c.vocab_size, .embedding_dim = c.embed_dim};
  if (*c.scale_embedding) table.scale = std::sqrt(double(c.embed_dim));
  const Ref<EmbeddingModule> tokens = Embedding(table);
  int64_t layer = 0;
  const auto make_layer = [&] {
    const Ref<Module> attend = added(c, attention(c, layer++));
    return Block({attend, added(c, feed_forward(c))});
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
