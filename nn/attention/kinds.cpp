#include <olm/nn/attention.h>

namespace olm::nn {

namespace {

/// The rows: a layer that differs from these by data is one more.
std::vector<AttentionKind> built_in() {
  const std::vector<std::string> plain{"embed_dim", "num_heads", "dropout", "causal", "bias"};
  const std::vector<std::string> rotary{"embed_dim", "num_heads", "max_seq_len", "dropout",
                                        "causal",    "bias",      "rope_theta"};
  const std::vector<std::string> grouped{
      "embed_dim",    "num_heads",       "num_kv_heads",      "max_seq_len", "head_dim",
      "dropout",      "rope_theta",      "use_bias",          "qkv_bias",    "use_qk_norm",
      "rms_norm_eps", "attention_scale", "attn_logit_softcap"};
  return {
      {.name = "FlashAttention", .fields = plain},
      {.name = "FlashAttentionwithRoPE", .defaults = {.use_rope = true}, .fields = rotary},
      {.name = "GroupedQueryAttention",
       .defaults =
           {.causal = true, .bias = false, .use_bias = false, .qkv_bias = false, .use_rope = true},
       .fields = grouped},
      {.name = "MultiHeadAttention", .fields = plain, .make = make_attention<AttentionBase>},
      {.name = "MultiHeadAttentionwithALiBi",
       .defaults = {.causal = true, .bias = false, .use_alibi = true},
       .fields = plain,
       .make = make_attention<AttentionBase>},
      {.name = "MultiHeadAttentionwithRoPE",
       .defaults = {.use_rope = true},
       .fields = rotary,
       .make = make_attention<AttentionwithRoPEBase>},
  };
}

Ref<AttentionModule> sized(const char* name, int64_t embed_dim, int64_t num_heads,
                           AttentionOptions options) {
  options.embed_dim = embed_dim;
  options.num_heads = num_heads;
  return Attention(name, options);
}

Ref<AttentionModule> sized(const char* name, int64_t embed_dim, int64_t num_heads,
                           int64_t max_seq_len, AttentionOptions options) {
  options.max_seq_len = max_seq_len;
  return sized(name, embed_dim, num_heads, options);
}

}  // namespace

Registry<AttentionKind>& attentions() {
  static Registry<AttentionKind> table("attention", [] {
    std::map<std::string, AttentionKind> rows;
    for (AttentionKind& kind : built_in()) rows.emplace(kind.name, std::move(kind));
    return rows;
  }());
  return table;
}

Ref<AttentionModule> Attention(const AttentionKind& kind, const AttentionOptions& options) {
  return kind.make ? kind.make(options, kind) : make_attention<AttentionModule>(options, kind);
}
Ref<AttentionModule> Attention(const std::string& name, const AttentionOptions& options) {
  return Attention(attentions().get(name), options);
}

LayerMaker attention_maker(AttentionKind kind) {
  return [kind = std::move(kind)](const Json& json, DescribedChildren) -> Ref<Module> {
    AttentionOptions options;
    from_json(json, options, kind.name);
    return Attention(kind, options);
  };
}

Ref<AttentionModule> MultiHeadAttention(const AttentionOptions& options) {
  return Attention("MultiHeadAttention", options);
}
Ref<AttentionModule> MultiHeadAttention(int64_t embed_dim, int64_t num_heads,
                                        AttentionOptions options) {
  return sized("MultiHeadAttention", embed_dim, num_heads, options);
}

Ref<AttentionModule> FlashAttention(const AttentionOptions& options) {
  return Attention("FlashAttention", options);
}
Ref<AttentionModule> FlashAttention(int64_t embed_dim, int64_t num_heads,
                                    AttentionOptions options) {
  return sized("FlashAttention", embed_dim, num_heads, options);
}

Ref<AttentionModule> MultiHeadAttentionwithRoPE(const AttentionOptions& options) {
  return Attention("MultiHeadAttentionwithRoPE", options);
}
Ref<AttentionModule> MultiHeadAttentionwithRoPE(int64_t embed_dim, int64_t num_heads,
                                                int64_t max_seq_len, AttentionOptions options) {
  return sized("MultiHeadAttentionwithRoPE", embed_dim, num_heads, max_seq_len, options);
}

Ref<AttentionModule> FlashAttentionwithRoPE(const AttentionOptions& options) {
  return Attention("FlashAttentionwithRoPE", options);
}
Ref<AttentionModule> FlashAttentionwithRoPE(int64_t embed_dim, int64_t num_heads,
                                            int64_t max_seq_len, AttentionOptions options) {
  return sized("FlashAttentionwithRoPE", embed_dim, num_heads, max_seq_len, options);
}

Ref<AttentionModule> GroupedQueryAttention(const AttentionOptions& options) {
  return Attention("GroupedQueryAttention", options);
}

Ref<AttentionModule> MultiHeadAttentionwithALiBi(const AttentionOptions& options) {
  return Attention("MultiHeadAttentionwithALiBi", options);
}
Ref<AttentionModule> MultiHeadAttentionwithALiBi(int64_t embed_dim, int64_t num_heads,
                                                 AttentionOptions options) {
  return sized("MultiHeadAttentionwithALiBi", embed_dim, num_heads, options);
}

}  // namespace olm::nn
