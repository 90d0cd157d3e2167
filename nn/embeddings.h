#pragma once
// Tokens as vectors, and where they stand. Absolute and sinusoidal positions are added at the
// input; rotary ones act inside attention.
#include <memory>
#include <mutex>
#include <utility>

#include <olm/autograd/ops/rope.h>
#include <olm/nn/module.h>

namespace olm::nn {

struct EmbeddingLayerOptions {
  int64_t vocab_size = 0, embedding_dim = 0;
  double scale = 1;  ///< of the vectors; Gemma has sqrt(embedding_dim)
  void fields(auto& v) {
    v("vocab_size", vocab_size);
    v("embedding_dim", embedding_dim);
    v("scale", scale);
  }
};

/// A vector for each token: y[b,t] = weight[x[b,t]] · scale, in ctx.dtype.
///   x: ids [B,T] of i32 or i64    y: [B,T,D]
/// Key: embedding.weight [V,D], starting normal with deviation 1. Throws where an id is outside
/// [0, V).
class OLM_API EmbeddingModule final : public Layer<EmbeddingLayerOptions> {
 public:
  explicit EmbeddingModule(EmbeddingLayerOptions o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  double flops_per_token(int64_t) override { return 0; }  // looks rows up
  std::string type_name() const override { return "Embedding"; }
  void visit_options(FieldVisitor& v) override;
  Parameter weight;
};
OLM_API Ref<EmbeddingModule> Embedding(EmbeddingLayerOptions options);
OLM_API Ref<EmbeddingModule> Embedding(int64_t vocab_size, int64_t embedding_dim);

struct AbsolutePositionalEmbeddingOptions {
  int64_t max_seq_len = 0, embed_dim = 0;
  double dropout = 0;
  void fields(auto& v) {
    v("max_seq_len", max_seq_len);
    v("embed_dim", embed_dim);
    v("dropout", dropout);
  }
};

/// A learned vector for each position: y = dropout(x + P[position]). Positions are ctx.positions,
/// else 0, 1, … behind what ctx.cache holds.
///   x: [B,T,D]    y: like x
/// Key: pos_embedding.weight [max_seq_len, D], starting normal with deviation 1. Throws where x is
/// of another width or a position is not below max_seq_len. Radford et al. 2019 (GPT-2).
class OLM_API AbsolutePositionalEmbeddingModule final
    : public Layer<AbsolutePositionalEmbeddingOptions> {
 public:
  explicit AbsolutePositionalEmbeddingModule(AbsolutePositionalEmbeddingOptions o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  double flops_per_token(int64_t) override { return 0; }  // looks rows up
  std::string type_name() const override { return "AbsolutePositionalEmbedding"; }
  Parameter weight;
};
OLM_API Ref<AbsolutePositionalEmbeddingModule> AbsolutePositionalEmbedding(
    AbsolutePositionalEmbeddingOptions options);
OLM_API Ref<AbsolutePositionalEmbeddingModule> AbsolutePositionalEmbedding(
    int64_t max_seq_len, int64_t embed_dim, AbsolutePositionalEmbeddingOptions options = {});

struct SinusoidalPositionalEmbeddingOptions {
  int64_t embed_dim = 0, max_seq_len = 5000;
  double base = 10000, dropout = 0;
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("max_seq_len", max_seq_len);
    v("base", base);
    v("dropout", dropout);
  }
};

/// Fixed waves for each position: y = dropout(x + PE[p]) with
///   PE[p, 2i] = sin(p · base^(-2i/D))      PE[p, 2i+1] = cos(p · base^(-2i/D))
///   x: [B,T,D]    y: like x
/// Without ctx.positions any T goes; positions given there must be below max_seq_len. No keys.
/// Vaswani et al. 2017, arXiv:1706.03762.
class OLM_API SinusoidalPositionalEmbeddingModule final
    : public Layer<SinusoidalPositionalEmbeddingOptions> {
 public:
  explicit SinusoidalPositionalEmbeddingModule(SinusoidalPositionalEmbeddingOptions o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return "SinusoidalPositionalEmbedding"; }

 private:
  Tensor waves(int64_t length, const Tensor& like);
  std::mutex mutex_;
  Tensor table_;  // [positions asked for so far, D], f32
};
OLM_API Ref<SinusoidalPositionalEmbeddingModule> SinusoidalPositionalEmbedding(
    SinusoidalPositionalEmbeddingOptions options);
OLM_API Ref<SinusoidalPositionalEmbeddingModule> SinusoidalPositionalEmbedding(
    int64_t embed_dim, SinusoidalPositionalEmbeddingOptions options = {});

/// Angles of RoPE: position p turns pair j by p · base^(-2j/dim). Each set holds one table per
/// device and dtype, which grows with the positions asked for: for T of them as many numbers as one
/// head has in a sequence of T tokens. Copies share their tables. Safe for threads.
class OLM_API RotaryAngles {
 public:
  RotaryAngles(int64_t dim, double base, int64_t max_seq_len);
  /// Tables for at least the first `length` positions, for use with x. Throws naming `layer` where
  /// length is above max_seq_len.
  RopeTables tables(const char* layer, int64_t length, const Tensor& x) const;
  /// Tables and places for ctx: its positions, else 0, 1, … behind what its cache holds.
  std::pair<RopeTables, RopeOptions> at(const char* layer, const Tensor& x,
                                        const Context& ctx) const;
  int64_t max_seq_len() const { return max_seq_len_; }

 private:
  struct Made;
  std::shared_ptr<Made> made_;
  int64_t max_seq_len_;
};

struct RotaryPositionalEmbeddingOptions {
  int64_t head_dim = 0, max_seq_len = 0;
  double base = 10000;
  void fields(auto& v) {
    v("head_dim", head_dim);
    v("max_seq_len", max_seq_len);
    v("base", base);
  }
};

/// RoPE: turns the pairs (2j, 2j+1) of each head by the position times base^(-2j/d). Positions are
/// ctx.positions, else 0, 1, … behind what ctx.cache holds. See rope().
///   x: [B,T,H,d]    y: like x
/// No keys. Throws for an odd d, and where a position is not below max_seq_len. Su et al. 2021,
/// arXiv:2104.09864.
class OLM_API RotaryPositionalEmbeddingModule final
    : public Layer<RotaryPositionalEmbeddingOptions> {
 public:
  explicit RotaryPositionalEmbeddingModule(RotaryPositionalEmbeddingOptions o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return "RotaryPositionalEmbedding"; }

 private:
  RotaryAngles angles_;
};
OLM_API Ref<RotaryPositionalEmbeddingModule> RotaryPositionalEmbedding(
    RotaryPositionalEmbeddingOptions options);
OLM_API Ref<RotaryPositionalEmbeddingModule> RotaryPositionalEmbedding(int64_t head_dim,
                                                                       int64_t max_seq_len,
                                                                       double base = 10000);

struct PartialRotaryPositionalEmbeddingOptions {
  int64_t head_dim = 0;
  double rotary_percentage = 0.5, base = 10000;
  int64_t max_seq_len = 2048;
  void fields(auto& v) {
    v("head_dim", head_dim);
    v("rotary_percentage", rotary_percentage);
    v("base", base);
    v("max_seq_len", max_seq_len);
  }
};

/// RoPE of the first r dimensions alone, r = d · rotary_percentage rounded down to an even number;
/// the others pass through.
///   x: [B,T,H,d]    y: like x
/// No keys. Throws where rotary_percentage is outside (0, 1] or r is 0.
class OLM_API PartialRotaryPositionalEmbeddingModule final
    : public Layer<PartialRotaryPositionalEmbeddingOptions> {
 public:
  explicit PartialRotaryPositionalEmbeddingModule(PartialRotaryPositionalEmbeddingOptions o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return "PartialRotaryPositionalEmbedding"; }

 private:
  RotaryAngles angles_;
};
OLM_API Ref<PartialRotaryPositionalEmbeddingModule> PartialRotaryPositionalEmbedding(
    PartialRotaryPositionalEmbeddingOptions options);
OLM_API Ref<PartialRotaryPositionalEmbeddingModule> PartialRotaryPositionalEmbedding(
    int64_t head_dim, PartialRotaryPositionalEmbeddingOptions options = {});

/// The dimensions that RoPE turns of `share` of a head: an even number. Throws naming `layer` and
/// the `option` where the share is outside (0, 1] or leaves none.
OLM_API int64_t rotated_dims(const char* layer, const char* option, int64_t head_dim, double share);

/// How many tokens came before x: what ctx.cache holds.
inline int64_t first_position(const Context& ctx) { return ctx.cache ? ctx.cache->length() : 0; }

}  // namespace olm::nn
