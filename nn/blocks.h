#pragma once
// Larger pieces that models are made of.
#include <optional>
#include <string>

#include <olm/nn/embeddings.h>
#include <olm/nn/structure.h>

namespace olm::nn {

struct OutputHeadOptions {
  int64_t embed_dim = 0, vocab_size = 0;
  bool bias = false;                         ///< of the projection
  bool use_norm = true;                      ///< a LayerNorm first, unless `norm` is another
  std::optional<double> softcap = {};        ///< c: logits become c · tanh(logit / c)
  Ref<Module> norm = {};                     ///< in place of the LayerNorm
  Ref<EmbeddingModule> tied_embedding = {};  ///< whose weight the projection shares
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("vocab_size", vocab_size);
    v("bias", bias);
    v("use_norm", use_norm);
    v("softcap", softcap);
  }
};

/// From vectors to logits: a Block of a norm and a projection.
///   x: [B,T,D]    y: [B,T,V]
/// Its loss() computes projection and cross-entropy by chunks of tokens, so that the logits of all
/// tokens never exist. Keys: blocks.0.gamma, blocks.0.beta, blocks.1.weight [V,D], blocks.1.bias
/// [V]; with `tied_embedding` blocks.1.weight is the embedding's, and a bias starts at 0. Throws
/// where the embedding's weight is not [V,D].
class OLM_API OutputHeadModule final : public BlockModule {
 public:
  explicit OutputHeadModule(const OutputHeadOptions& o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  ResidualStream forward_residual(ResidualStream& in, Context& ctx, FusedCall call) override;
  Tensor loss(ResidualStream in, const Tensor& targets, Context& ctx,
              const CrossEntropyOptions& loss_options = {}) override;
  std::string type_name() const override { return "OutputHead"; }
  void visit_options(FieldVisitor& v) override { options.fields(v); }
  void visit_default_options(FieldVisitor& v) override { OutputHeadOptions().fields(v); }
  bool describes_children() const override { return false; }
  OutputHeadOptions options;

 private:
  Tensor capped(const Tensor& logits) const;
};
OLM_API Ref<OutputHeadModule> OutputHead(OutputHeadOptions options);
OLM_API Ref<OutputHeadModule> OutputHead(int64_t embed_dim, int64_t vocab_size,
                                         OutputHeadOptions options = {});

struct TransformerBlockOptions {
  int64_t embed_dim = 0, num_heads = 0, max_seq_len = 0;
  double dropout = 0;
  bool causal = true;
  std::optional<double> ff_multiplier = {};  ///< feed-forward width / embed_dim; its own if empty
  std::string attention = "FlashAttentionwithRoPE";  ///< or another name in attentions()
  std::string feed_forward = "SwiGLUFFN";            ///< or another name in feed_forwards()
  std::string norm = "layer_norm";                   ///< or another name in norms()
  std::optional<double> norm_eps = {};               ///< of both norms; their own if empty
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("num_heads", num_heads);
    v("max_seq_len", max_seq_len);
    v("dropout", dropout);
    v("causal", causal);
    v("ff_multiplier", ff_multiplier, {.max = 1e6, .above = 0});
    v("attention", attention);
    v("feed_forward", feed_forward);
    v("norm", norm);
    v("norm_eps", norm_eps);
  }
};

/// A layer of a decoder, norms first: x + attention(norm(x)), then x + feed_forward(norm(x)), each
/// a layer of its registry.
///   x: [B,T,D]    y: like x
/// Keys: blocks.{0|1}.block.blocks.{0|1}.…
OLM_API Ref<BlockModule> TransformerBlock(TransformerBlockOptions options);
OLM_API Ref<BlockModule> TransformerBlock(int64_t embed_dim, int64_t num_heads, int64_t max_seq_len,
                                          TransformerBlockOptions options = {});

struct LMOptions {
  int64_t vocab_size = 0, embed_dim = 0, num_heads = 0, num_layers = 0, max_seq_len = 0;
  double dropout = 0;
  bool causal = true;
  std::optional<double> ff_multiplier = {};  ///< this and the next as in TransformerBlockOptions
  std::string attention = "FlashAttentionwithRoPE", feed_forward = "SwiGLUFFN";
  std::string norm = "layer_norm";
  std::optional<double> norm_eps = {};
  bool tie_embeddings = true;
  void fields(auto& v) {
    v("vocab_size", vocab_size);
    v("embed_dim", embed_dim);
    v("num_heads", num_heads);
    v("num_layers", num_layers);
    v("max_seq_len", max_seq_len);
    v("dropout", dropout);
    v("causal", causal);
    v("ff_multiplier", ff_multiplier, {.max = 1e6, .above = 0});
    v("attention", attention);
    v("feed_forward", feed_forward);
    v("norm", norm);
    v("norm_eps", norm_eps);
    v("tie_embeddings", tie_embeddings);
  }
};

/// A small language model: Block({Embedding, Repeat(TransformerBlock), OutputHead}), whose head has
/// the norm of the layers.
///   ids [B,T]    logits [B,T,V]
OLM_API Ref<BlockModule> LM(const LMOptions& options);

}  // namespace olm::nn
