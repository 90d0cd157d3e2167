#include <olm/nn/attention.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/models.h>
#include <olm/nn/norms.h>

namespace olm::nn {

Ref<BlockModule> GPT2Model(const GPT2Config& c) {
  check_fields(c, "GPT2Config");
  const auto layer = [&] {
    return Block({
        Residual(Block({
            LayerNorm(c.embed_dim),
            FlashAttention({.embed_dim = c.embed_dim,
                            .num_heads = c.num_heads,
                            .dropout = c.dropout,
                            .causal = true,
                            .bias = c.bias}),
        })),
        Residual(Block({
            LayerNorm(c.embed_dim),
            ClassicFFN(c.embed_dim, {.hidden_dim = c.hidden_dim,
                                     .activation = c.gelu_tanh ? "gelu_tanh" : "gelu",
                                     .dropout = c.dropout,
                                     .bias = c.bias}),
        })),
    });
  };
  const Ref<EmbeddingModule> tokens = Embedding(c.vocab_size, c.embed_dim);
  OutputHeadOptions head;
  if (c.tie_weights) head.tied_embedding = tokens;
  return Block({
      Block({tokens,
             AbsolutePositionalEmbedding(c.max_seq_len, c.embed_dim, {.dropout = c.dropout})}),
      Repeat(layer, c.num_layers),
      OutputHead(c.embed_dim, c.vocab_size, head),
  });
}

}  // namespace olm::nn
