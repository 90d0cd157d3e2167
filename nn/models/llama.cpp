#include <olm/nn/attention.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/models.h>
#include <olm/nn/norms.h>

namespace olm::nn {

namespace {

int64_t kv_heads(const LlamaConfig& c) { return c.num_kv_heads.value_or(c.num_heads); }

/// Two thirds of the usual 4 · embed_dim, since there are three matrices for two.
int64_t hidden_dim(const LlamaConfig& c) {
  return c.intermediate_size.value_or((c.embed_dim * 8 / 3 + 63) / 64 * 64);
}

Ref<Module> plain_attention(const LlamaConfig& c) {
  return FlashAttentionwithRoPE({.embed_dim = c.embed_dim,
                                 .num_heads = c.num_heads,
                                 .max_seq_len = c.max_seq_len,
                                 .dropout = c.dropout,
                                 .causal = true,
                                 .bias = false,
                                 .rope_theta = c.rope_theta});
}

Ref<Module> grouped_attention(const LlamaConfig& c) {
  return GroupedQueryAttention({.embed_dim = c.embed_dim,
                                .num_heads = c.num_heads,
                                .num_kv_heads = kv_heads(c),
                                .max_seq_len = c.max_seq_len,
                                .dropout = c.dropout,
                                .rope_theta = c.rope_theta});
}

Ref<BlockModule> llama(const LlamaConfig& c, Ref<Module> (*attention)(const LlamaConfig&)) {
  check_fields(c, "LlamaConfig");
  const auto layer = [&] {
    return Block({
        Residual(Block({RMSNorm(c.embed_dim, c.rms_norm_eps), attention(c)})),
        Residual(Block({
            RMSNorm(c.embed_dim, c.rms_norm_eps),
            SwiGLUFFN(c.embed_dim,
                      {.hidden_dim = hidden_dim(c), .dropout = c.dropout, .bias = false}),
        })),
    });
  };
  const Ref<EmbeddingModule> tokens = Embedding(c.vocab_size, c.embed_dim);
  OutputHeadOptions head{.use_norm = false};
  if (c.tie_weights) head.tied_embedding = tokens;
  return Block({tokens, Repeat(layer, c.num_layers), RMSNorm(c.embed_dim, c.rms_norm_eps),
                OutputHead(c.embed_dim, c.vocab_size, head)});
}

}  // namespace

Ref<BlockModule> Llama2Model(const LlamaConfig& c) {
  return llama(c, kv_heads(c) == c.num_heads ? plain_attention : grouped_attention);
}
Ref<BlockModule> Llama3Model(const LlamaConfig& c) { return llama(c, grouped_attention); }

}  // namespace olm::nn
