#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/registry.h>

namespace olm::nn {

namespace {

Ref<Module> norm_of(const TransformerBlockOptions& o) {
  Json options = Json::object();
  if (o.norm_eps) options["eps"] = *o.norm_eps;
  return Norm(o.norm, o.embed_dim, options);
}

Ref<Module> feed_forward_of(const TransformerBlockOptions& o) {
  Json options = Json::object();
  options["embed_dim"] = o.embed_dim;
  options["dropout"] = o.dropout;
  if (o.ff_multiplier) options["hidden_dim"] = int64_t(*o.ff_multiplier * double(o.embed_dim));
  return feed_forwards().get(o.feed_forward)(options);
}

}  // namespace

Ref<BlockModule> TransformerBlock(TransformerBlockOptions o) {
  return Block({
      Residual(Block({
          norm_of(o),
          Attention(o.attention, {.embed_dim = o.embed_dim,
                                  .num_heads = o.num_heads,
                                  .max_seq_len = o.max_seq_len,
                                  .dropout = o.dropout,
                                  .causal = o.causal}),
      })),
      Residual(Block({
          norm_of(o),
          feed_forward_of(o),
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
  const TransformerBlockOptions layer{.embed_dim = o.embed_dim,
                                      .num_heads = o.num_heads,
                                      .max_seq_len = o.max_seq_len,
                                      .dropout = o.dropout,
                                      .causal = o.causal,
                                      .ff_multiplier = o.ff_multiplier,
                                      .attention = o.attention,
                                      .feed_forward = o.feed_forward,
                                      .norm = o.norm,
                                      .norm_eps = o.norm_eps};
  const Ref<EmbeddingModule> tokens = Embedding(o.vocab_size, o.embed_dim);
  OutputHeadOptions head;
  if (o.norm != LMOptions().norm || o.norm_eps) head.norm = norm_of(layer);
  if (o.tie_embeddings) head.tied_embedding = tokens;
  return Block({tokens, Repeat([&] { return TransformerBlock(layer); }, o.num_layers),
                OutputHead(o.embed_dim, o.vocab_size, head)});
}

}  // namespace olm::nn
