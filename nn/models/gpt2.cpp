#include <olm/nn/attention.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/models.h>
#include <olm/nn/norms.h>

namespace olm::nn {

Ref<BlockModule> GPT2Model(const GPT2Config& c) {
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

Ref<BlockModule> GPT2() { return GPT2Model(presets::GPT2); }
Ref<BlockModule> GPT2Medium() { return GPT2Model(presets::GPT2Medium); }
Ref<BlockModule> GPT2Large() { return GPT2Model(presets::GPT2Large); }
Ref<BlockModule> GPT2XL() { return GPT2Model(presets::GPT2XL); }

Registry<std::function<Ref<Module>()>>& models() {
  static Registry<std::function<Ref<Module>()>> table("model", {
                                                                   {"GPT2", GPT2},
                                                                   {"GPT2Large", GPT2Large},
                                                                   {"GPT2Medium", GPT2Medium},
                                                                   {"GPT2XL", GPT2XL},
                                                                   {"Llama2_13B", Llama2_13B},
                                                                   {"Llama2_70B", Llama2_70B},
                                                                   {"Llama2_7B", Llama2_7B},
                                                                   {"Llama3_1_405B", Llama3_1_405B},
                                                                   {"Llama3_1_70B", Llama3_1_70B},
                                                                   {"Llama3_1_8B", Llama3_1_8B},
                                                                   {"Llama3_2_1B", Llama3_2_1B},
                                                                   {"Llama3_2_3B", Llama3_2_3B},
                                                               });
  return table;
}

}  // namespace olm::nn
