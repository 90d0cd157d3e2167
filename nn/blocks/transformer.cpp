#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/norms.h>

namespace olm::nn {

Ref<BlockModule> TransformerBlock(TransformerBlockOptions o) {
  return Block({
      Residual(Block({
          LayerNorm(o.embed_dim),
          Attention(o.attention, {.embed_dim = o.embed_dim,
                                  .num_heads = o.num_heads,
                                  .max_seq_len = o.max_seq_len,
                                  .dropout = o.dropout,
                                  .causal = o.causal}),
      })),
      Residual(Block({
          LayerNorm(o.embed_dim),
          SwiGLUFFN(o.embed_dim, {.dropout = o.dropout, .ff_multiplier = o.ff_multiplier}),
      })),
  });
}

Ref<BlockModule> TransformerBlock(int64_t embed_dim, int64_t num_heads, int64_t max_seq_len,
                                  TransformerBlockOptions options) {
  options.embed_dim = embed_dim;
  options.num_heads = num_heads;
  options.max_seq_len = max_seq_len;
  return TransformerBlock(options);
}

Ref<BlockModule> LM(const LMOptions& o) {
  const auto layer = [&] {
    return TransformerBlock({.embed_dim = o.embed_dim,
                             .num_heads = o.num_heads,
                             .max_seq_len = o.max_seq_len,
                             .dropout = o.dropout,
                             .causal = o.causal,
                             .ff_multiplier = o.ff_multiplier});
  };
  const Ref<EmbeddingModule> tokens = Embedding(o.vocab_size, o.embed_dim);
  OutputHeadOptions head;
  if (o.tie_embeddings) head.tied_embedding = tokens;
  return Block({tokens, Repeat(layer, o.num_layers), OutputHead(o.embed_dim, o.vocab_size, head)});
}

}  // namespace olm::nn
