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
  const std::vector<std::string> latent{"embed_dim",        "num_heads",    "max_seq_len",
                                        "q_lora_rank",      "kv_lora_rank", "qk_nope_head_dim",
                                        "qk_rope_head_dim", "value_dim",    "dropout",
                                        "rope_theta",       "rms_norm_eps"};
  const AttentionOptions decoder{
      .causal = true, .bias = false, .use_bias = false, .qkv_bias = false, .use_rope = true};
  AttentionOptions window = decoder, gated = decoder, head_gated = decoder;
  window.window_size = 512;
  gated.max_seq_len = 262144, gated.head_dim = 128, gated.rope_theta = 1e7;
  gated.use_qk_norm = gated.use_output_gate = true;
  head_gated.use_output_gate = head_gated.gate_per_head = true;
  std::vector<std::string> windowed = grouped;
  windowed.push_back("window_size");
  return {
      {.name = "FlashAttention", .fields = plain},
      {.name = "FlashAttentionwithRoPE", .defaults = {.use_rope = true}, .fields = rotary},
      {.name = "GatedAttention", .defaults = gated, .fields = grouped},
      {.name = "GroupedQueryAttention", .defaults = decoder, .fields = grouped},
      {.name = "HeadGatedAttention", .defaults = head_gated, .fields = grouped},
      {.name = "MultiHeadAttention", .fields = plain, .make = make_attention<AttentionBase>},
      {.name = "MultiHeadAttentionwithALiBi",
       .defaults = {.causal = true, .bias = false, .use_alibi = true},
       .fields = plain,
       .make = make_attention<AttentionBase>},
      {.name = "MultiHeadAttentionwithRoPE",
       .defaults = {.use_rope = true},
       .fields = rotary,
       .make = make_attention<AttentionwithRoPEBase>},
      {.name = "MultiHeadLatentAttention",
       .fields = latent,
       .make = make_attention<MultiHeadLatentAttentionModule>},
      {.name = "SlidingWindowAttention", .defaults = window, .fields = windowed},
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

Ref<AttentionModule> SlidingWindowAttention(const AttentionOptions& options) {
  return Attention("SlidingWindowAttention", options);
}

Ref<AttentionModule> GatedAttention(const AttentionOptions& options) {
  return Attention("GatedAttention", options);
}

Ref<AttentionModule> HeadGatedAttention(const AttentionOptions& options) {
  return Attention("HeadGatedAttention", options);
}

Ref<AttentionModule> MultiHeadLatentAttention(const AttentionOptions& options) {
  return Attention("MultiHeadLatentAttention", options);
}
Ref<AttentionModule> MultiHeadLatentAttention(int64_t embed_dim, int64_t num_heads,
                                              int64_t max_seq_len, int64_t kv_lora_rank,
                                              int64_t qk_nope_head_dim, int64_t qk_rope_head_dim,
                                              int64_t v_head_dim, AttentionOptions options) {
  options.kv_lora_rank = kv_lora_rank;
  options.qk_nope_head_dim = qk_nope_head_dim;
  options.qk_rope_head_dim = qk_rope_head_dim;
  options.value_dim = v_head_dim;
  return sized("MultiHeadLatentAttention", embed_dim, num_heads, max_seq_len, options);
}

}  // namespace olm::nn
