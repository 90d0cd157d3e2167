#include <olm/nn/attention.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/models.h>
#include <olm/nn/norms.h>

namespace olm::nn {

namespace {

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
                                .num_kv_heads = c.num_kv_heads,
                                .max_seq_len = c.max_seq_len,
                                .dropout = c.dropout,
                                .rope_theta = c.rope_theta});
}

Ref<BlockModule> llama(const LlamaConfig& c, Ref<Module> (*attention)(const LlamaConfig&)) {
  const auto layer = [&] {
    return Block({
        Residual(Block({RMSNorm(c.embed_dim, c.rms_norm_eps), attention(c)})),
        Residual(Block({
            RMSNorm(c.embed_dim, c.rms_norm_eps),
            SwiGLUFFN(c.embed_dim,
                      {.hidden_dim = c.intermediate_size, .dropout = c.dropout, .bias = false}),
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
  return llama(c, c.num_kv_heads == c.num_heads ? plain_attention : grouped_attention);
}
Ref<BlockModule> Llama3Model(const LlamaConfig& c) { return llama(c, grouped_attention); }

Ref<BlockModule> Llama2_7B() { return Llama2Model(presets::Llama2_7B); }
Ref<BlockModule> Llama2_13B() { return Llama2Model(presets::Llama2_13B); }
Ref<BlockModule> Llama2_70B() { return Llama2Model(presets::Llama2_70B); }
Ref<BlockModule> Llama3_1_8B() { return Llama3Model(presets::Llama3_1_8B); }
Ref<BlockModule> Llama3_1_70B() { return Llama3Model(presets::Llama3_1_70B); }
Ref<BlockModule> Llama3_1_405B() { return Llama3Model(presets::Llama3_1_405B); }
Ref<BlockModule> Llama3_2_1B() { return Llama3Model(presets::Llama3_2_1B); }
Ref<BlockModule> Llama3_2_3B() { return Llama3Model(presets::Llama3_2_3B); }

}  // namespace olm::nn
