#include <olm/nn/attention.h>

namespace olm::nn {

namespace {

AttentionShape shape_of(const char* layer, int64_t embed_dim, int64_t num_heads, double dropout,
                        bool causal, bool bias) {
  return {.layer = layer,
          .embed_dim = embed_dim,
          .num_heads = num_heads,
          .num_kv_heads = num_heads,
          .qkv_bias = bias,
          .out_bias = bias,
          .dropout = dropout,
          .causal = causal};
}

AttentionShape shape_of(const GroupedQueryAttentionOptions& o) {
  require(!o.head_dim || *o.head_dim > 0, "GroupedQueryAttention: wanted head_dim above 0, got ",
          o.head_dim.value_or(0));
  require(!o.attn_logit_softcap || *o.attn_logit_softcap > 0,
          "GroupedQueryAttention: wanted attn_logit_softcap above 0, got ",
          o.attn_logit_softcap.value_or(0));
  return {.layer = "GroupedQueryAttention",
          .embed_dim = o.embed_dim,
          .num_heads = o.num_heads,
          .num_kv_heads = o.num_kv_heads,
          .head_dim = o.head_dim.value_or(0),
          .qkv_bias = o.qkv_bias,
          .out_bias = o.use_bias,
          .dropout = o.dropout,
          .causal = true,
          .scale = o.attention_scale,
          .softcap = o.attn_logit_softcap.value_or(0)};
}

}  // namespace

MultiHeadAttentionModule::MultiHeadAttentionModule(AttentionOptions o, const char* layer)
    : AttentionBase(shape_of(layer, o.embed_dim, o.num_heads, o.dropout, o.causal, o.bias)),
      options(o) {}

Ref<MultiHeadAttentionModule> MultiHeadAttention(AttentionOptions options) {
  return make<MultiHeadAttentionModule>(options);
}
Ref<MultiHeadAttentionModule> MultiHeadAttention(int64_t embed_dim, int64_t num_heads,
                                                 AttentionOptions options) {
  options.embed_dim = embed_dim;
  options.num_heads = num_heads;
  return MultiHeadAttention(options);
}

Ref<FlashAttentionModule> FlashAttention(AttentionOptions options) {
  return make<FlashAttentionModule>(options);
}
Ref<FlashAttentionModule> FlashAttention(int64_t embed_dim, int64_t num_heads,
                                         AttentionOptions options) {
  options.embed_dim = embed_dim;
  options.num_heads = num_heads;
  return FlashAttention(options);
}

MultiHeadAttentionwithRoPEModule::MultiHeadAttentionwithRoPEModule(AttentionwithRoPEOptions o,
                                                                   const char* layer)
    : AttentionwithRoPEBase(shape_of(layer, o.embed_dim, o.num_heads, o.dropout, o.causal, o.bias),
                            o.max_seq_len, o.rope_theta),
      options(o) {}

Ref<MultiHeadAttentionwithRoPEModule> MultiHeadAttentionwithRoPE(AttentionwithRoPEOptions options) {
  return make<MultiHeadAttentionwithRoPEModule>(options);
}
Ref<MultiHeadAttentionwithRoPEModule> MultiHeadAttentionwithRoPE(int64_t embed_dim,
                                                                 int64_t num_heads,
                                                                 int64_t max_seq_len,
                                                                 AttentionwithRoPEOptions options) {
  options.embed_dim = embed_dim;
  options.num_heads = num_heads;
  options.max_seq_len = max_seq_len;
  return MultiHeadAttentionwithRoPE(options);
}

Ref<FlashAttentionwithRoPEModule> FlashAttentionwithRoPE(AttentionwithRoPEOptions options) {
  return make<FlashAttentionwithRoPEModule>(options);
}
Ref<FlashAttentionwithRoPEModule> FlashAttentionwithRoPE(int64_t embed_dim, int64_t num_heads,
                                                         int64_t max_seq_len,
                                                         AttentionwithRoPEOptions options) {
  options.embed_dim = embed_dim;
  options.num_heads = num_heads;
  options.max_seq_len = max_seq_len;
  return FlashAttentionwithRoPE(options);
}

GroupedQueryAttentionModule::GroupedQueryAttentionModule(GroupedQueryAttentionOptions o)
    : AttentionwithRoPEBase(shape_of(o), o.max_seq_len, o.rope_theta), options(o) {
  if (!o.use_qk_norm) return;
  const int64_t head_dim = attention_shape().head_dim;
  q_norm.emplace(this, "q_norm", RMSNorm(head_dim, o.rms_norm_eps));
  k_norm.emplace(this, "k_norm", RMSNorm(head_dim, o.rms_norm_eps));
}

void GroupedQueryAttentionModule::prepare(Tensor& q, Tensor& k, Context& ctx) {
  if (q_norm) q = (*q_norm)(q, ctx);
  if (k_norm) k = (*k_norm)(k, ctx);
  AttentionwithRoPEBase::prepare(q, k, ctx);
}

Ref<GroupedQueryAttentionModule> GroupedQueryAttention(GroupedQueryAttentionOptions options) {
  return make<GroupedQueryAttentionModule>(options);
}

}  // namespace olm::nn
