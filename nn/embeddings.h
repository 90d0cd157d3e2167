#pragma once
// Embeddings of tokens and of positions. Absolute and sinusoidal positions are added at the input;
// RoPE and ALiBi act inside attention.
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <olm/autograd/ops/rope.h>
#include <olm/nn/module.h>

namespace olm::nn {

struct EmbeddingLayerOptions {
  int64_t vocab_size = 0;     ///< V
  int64_t embedding_dim = 0;  ///< D
  double scale = 1;           ///< factor of the vectors; Gemma has sqrt(embedding_dim)
  void fields(auto& v) {
    v("vocab_size", vocab_size);
    v("embedding_dim", embedding_dim);
    v("scale", scale);
  }
};

/// A vector for each token: y[b,t] = weight[x[b,t]] · scale, in ctx.dtype, to which the scale is
/// rounded first.
///   x: ids [B,T] of i32 or i64    y: [B,T,D]
/// Key: embedding.weight [V,D], initially normal with standard deviation 1. Throws where an id is
/// outside [0, V).
class OLM_API EmbeddingModule final : public Layer<EmbeddingLayerOptions> {
 public:
  explicit EmbeddingModule(EmbeddingLayerOptions o);
  Tensor forward(const Tensor& x, Context& ctx) override;
  double flops_per_token(int64_t) override { return 0; }  // looks rows up
  std::string type_name() const override { return "Embedding"; }
  void visit_options(FieldVisitor& v) override;
  Parameter weight;

 private:
  double scale_in(DType dtype) const;
};
OLM_API Ref<EmbeddingModule> Embedding(EmbeddingLayerOptions options);
OLM_API Ref<EmbeddingModule> Embedding(int64_t vocab_size, int64_t embedding_dim);

struct AbsolutePositionalEmbeddingOptions {
  int64_t max_seq_len = 0;  ///< positions are below it
  int64_t embed_dim = 0;    ///< D
  double dropout = 0;       ///< probability
  void fields(auto& v) {
    v("max_seq_len", max_seq_len);
    v("embed_dim", embed_dim);
    v("dropout", dropout);
  }
};

/// A learned vector for each position: y = dropout(x + P[position]). Positions are ctx.positions,
/// else consecutive from the length of ctx.cache, or from 0 without a cache.
///   x: [B,T,D]    y: like x
/// Key: pos_embedding.weight [max_seq_len, D], initially normal with standard deviation 1. Throws
/// where x has another width or a position is not below max_seq_len. Radford et al. 2019 (GPT-2).
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
  int64_t embed_dim = 0;       ///< D
  int64_t max_seq_len = 5000;  ///< ctx.positions are below it
  double base = 10000;         ///< of the wavelengths, which reach 2π · base
  double dropout = 0;          ///< probability
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("max_seq_len", max_seq_len);
    v("base", base);
    v("dropout", dropout);
  }
};

/// Fixed sinusoids of each position: y = dropout(x + PE[p]) with
///   PE[p, 2i] = sin(p · base^(-2i/D))      PE[p, 2i+1] = cos(p · base^(-2i/D))
///   x: [B,T,D]    y: like x
/// ctx.positions must be below max_seq_len; without them T has no limit. No keys.
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
  Tensor table_;  // [positions used so far, D], in acc_dtype(x)
};
OLM_API Ref<SinusoidalPositionalEmbeddingModule> SinusoidalPositionalEmbedding(
    SinusoidalPositionalEmbeddingOptions options);
OLM_API Ref<SinusoidalPositionalEmbeddingModule> SinusoidalPositionalEmbedding(
    int64_t embed_dim, SinusoidalPositionalEmbeddingOptions options = {});

/// How RoPE is extended beyond the L0 = original_max_seq_len positions that a model was trained on.
/// Pair j of a token at position p is rotated by the angle p · θ'_j. Below, s = scaling_factor, d
/// is the number of rotated dimensions, θ_j = base^(-2j/d), and L is the length in use: one more
/// than the last position of a call.
///   none         θ' = θ
///   linear       θ' = θ / s: position interpolation. Chen et al. 2023, arXiv:2306.15595
///   ntk          θ' = θ with the base base · s^(d/(d-2)): the lowest frequency is interpolated,
///                the highest is kept. bloc97 2023, "NTK-aware scaled RoPE"
///   dynamic_ntk  for L > L0 θ' = θ with the base base · (s · L/L0 - (s - 1))^(d/(d-2)), else θ.
///                emozilla 2023
///   yarn         θ' = θ · (1 - g) / s + θ · g, where g falls from 1 to 0, linearly in j, between
///                the pairs that make yarn_beta and yarn_alpha full rotations in L0 positions (the
///                paper's g is linear in the rotations); cosines and sines are multiplied by
///                attention_factor. Peng et al. 2023, arXiv:2309.00071
///   xpos         θ' = θ; at position p a query's pair is multiplied by z_j^((p - c)/S), a key's by
///                z_j^(-(p - c)/S), with z_j = (2j + 0.4 d) / (1.4 d), S = xpos_scale_base and
///                c = max_seq_len / 2, so that scores fall by z_j^(distance / S). Sun et al. 2022,
///                arXiv:2212.10554
///   llama3       θ' = θ for wavelengths 2π/θ up to L0 / high_freq_factor, θ / s for those from
///                L0 / low_freq_factor on, and a blend linear in θ between. Grattafiori et al.
///                2024, arXiv:2407.21783
///   longrope     θ' = θ / short_factor[j], for L > L0 θ / long_factor[j]; cosines and sines are
///                multiplied by attention_factor. Ding et al. 2024, arXiv:2402.13753
/// Frequencies of linear, dynamic_ntk, yarn, llama3 and longrope are those of Hugging Face's
/// transformers. An empty member has the default after the semicolon. A type ignores members that
/// belong to others, but none and xpos refuse a scaling_factor.
struct RopeScalingOptions {
  std::optional<std::string> scaling_type = {};  ///< one of the above; none
  std::optional<double> scaling_factor = {};  ///< s; 1, but max_seq_len / L0 of yarn and longrope
  std::optional<int64_t> original_max_seq_len = {};  ///< L0; max_seq_len
  std::optional<double> yarn_alpha = {};             ///< full rotations where the ramp ends; 1
  std::optional<double> yarn_beta = {};              ///< full rotations where the ramp begins; 32
  std::optional<double> xpos_scale_base = {};        ///< S, in positions; max_seq_len
  std::optional<double> low_freq_factor = {};        ///< llama3; 1
  std::optional<double> high_freq_factor = {};       ///< llama3; 4
  std::vector<double> short_factor = {}, long_factor = {};  ///< longrope: d/2 numbers each
  /// Factor of cosines and sines in yarn and longrope; scores grow by its square. Default in
  /// longrope: sqrt(1 + ln(s) / ln(L0)) for s > 1, else 1. In yarn, with m(s, a) =
  /// 0.1 · a · ln(s) + 1 for s > 1, else 1: m(s, mscale) / m(s, mscale_all_dim) where both are
  /// given, else m(s, 1).
  std::optional<double> attention_factor = {};
  /// yarn: see attention_factor. Scores of MultiHeadLatentAttention are also multiplied by
  /// m(s, mscale_all_dim)².
  std::optional<double> mscale = {}, mscale_all_dim = {};
  std::optional<bool> truncate = {};  ///< yarn: its ramp begins and ends at whole pairs; true
  void fields(auto& v) {
    v("scaling_type", scaling_type,
      {.one_of = {"none", "linear", "ntk", "dynamic_ntk", "yarn", "xpos", "llama3", "longrope"},
       .help = "how RoPE reaches positions beyond the trained ones"});
    v("scaling_factor", scaling_factor,
      {.above = 0,
       .help = "how many times as far; default 1, but of yarn and longrope max_seq_len / "
               "original_max_seq_len"});
    v("original_max_seq_len", original_max_seq_len,
      {.min = 1, .help = "trained positions; default max_seq_len"});
    v("yarn_alpha", yarn_alpha,
      {.above = 0, .help = "yarn interpolates pairs of fewer full rotations than this; default 1"});
    v("yarn_beta", yarn_beta,
      {.above = 0, .help = "yarn leaves pairs of more full rotations than this; default 32"});
    v("xpos_scale_base", xpos_scale_base,
      {.above = 0, .help = "positions in which xpos decays once; default max_seq_len"});
    v("low_freq_factor", low_freq_factor, {.above = 0, .help = "of llama3; default 1"});
    v("high_freq_factor", high_freq_factor, {.above = 0, .help = "of llama3; default 4"});
    v("short_factor", short_factor, {.above = 0, .help = "of longrope, for each pair"});
    v("long_factor", long_factor, {.above = 0, .help = "of longrope, for each pair"});
    v("attention_factor", attention_factor,
      {.above = 0,
       .help = "of cosines and sines, in yarn and longrope; default by scaling_factor"});
    v("mscale", mscale, {.above = 0, .help = "of yarn's attention_factor"});
    v("mscale_all_dim", mscale_all_dim,
      {.above = 0, .help = "of yarn's attention_factor, and of scores of latent attention"});
    v("truncate", truncate,
      {.help = "the ramp of yarn begins and ends at whole pairs; default true"});
  }
};

/// The pairing that options name: "interleaved" or "halves".
OLM_API RopePairing rope_pairing(const std::string& name);
inline FieldInfo rope_pairing_info() {
  return {.one_of = {"interleaved", "halves"},
          .help =
              "dimensions that RoPE rotates together: (2j, 2j + 1), or (j, j + d/2) as in Hugging "
              "Face's weights"};
}

/// Queries and keys are rotated alike; xpos scales them inversely.
enum class RotarySide : uint8_t { query, key };

/// Rotates queries and keys by their positions: ctx.positions [B,T], else consecutive ones from the
/// length of ctx.cache, or from 0 without a cache. Angles are computed in f32, their cosines and
/// sines in f64. There is a table per device, dtype and side, which grows with the positions used;
/// for T positions it has as many numbers as one head in a sequence of T tokens. Where the
/// ctx.positions of few tokens lie far apart, on the CPU the call has a table of these alone.
/// Copies share their tables. Thread-safe.
///
/// dynamic_ntk and longrope rotate all tokens of a call by frequencies that depend on its length in
/// use. Keys in a cache keep the rotation they were stored with, so a call that needs another one
/// throws a StaleCacheError. A cache therefore works while the length in use stays within
/// original_max_seq_len, where results equal those without a cache; in longrope also if the first
/// call is already longer than that; and never with ctx.positions where max_seq_len is above
/// original_max_seq_len. generate() then passes all tokens again: in longrope once, in dynamic_ntk
/// for each token beyond original_max_seq_len, as it does without a cache.
class OLM_API RotaryAngles {
 public:
  /// Of `dim` rotated dimensions. Throws for an odd dim, and for options that are out of range or
  /// that the scaling type refuses.
  RotaryAngles(int64_t dim, double base, int64_t max_seq_len,
               const RopeScalingOptions& scaling = {},
               RopePairing pairing = RopePairing::interleaved);
  /// x [B,T,H,Dh] rotated. Throws naming `layer` where a position is not below max_seq_len (the
  /// limit with scaling), or the cached keys were rotated by other frequencies.
  Tensor rotate(const char* layer, const Tensor& x, const Context& ctx,
                RotarySide side = RotarySide::query) const;
  std::pair<Tensor, Tensor> rotate(const char* layer, const Tensor& q, const Tensor& k,
                                   const Context& ctx) const;
  /// The arguments of rope() that give the same.
  std::pair<RopeTables, RopeOptions> at(const char* layer, const Tensor& x, const Context& ctx,
                                        RotarySide side = RotarySide::query) const;
  /// Tables of at least the first `length` positions, which are the length in use, in the dtype and
  /// on the device that x needs. Throws naming `layer` where it is above max_seq_len.
  RopeTables tables(const char* layer, int64_t length, const Tensor& x,
                    RotarySide side = RotarySide::query) const;
  int64_t max_seq_len() const;
  /// What latent attention multiplies its scores by: m(s, mscale_all_dim)² in yarn, else 1. See
  /// RopeScalingOptions.
  double latent_score_factor() const;

 private:
  struct Made;
  std::shared_ptr<Made> made_;
};

/// Options of a rotary position embedding. An empty member takes the default of the layer's row in
/// rotary_kinds(), and where that is empty too, the one after the semicolon here.
struct RotaryOptions {
  int64_t head_dim = 0;                          ///< size of a head
  std::optional<double> rotary_percentage = {};  ///< fraction of head_dim that is rotated; 1
  std::optional<int64_t> max_seq_len = {};       ///< positions are below it, scaling included
  std::optional<double> base = {};               ///< of the frequencies; 10000
  RopeScalingOptions scaling = {};               ///< in model.json its members are the layer's own
  std::optional<std::string> pairing = {};       ///< interleaved or halves; interleaved
  void fields(auto& v) {
    v("head_dim", head_dim, {.help = "size of a head"});
    v("rotary_percentage", rotary_percentage,
      {.max = 1, .above = 0, .help = "fraction of head_dim that is rotated; default 1"});
    v("max_seq_len", max_seq_len, {.min = 1, .help = "positions are below it, scaling included"});
    v("base", base, {.above = 0, .help = "base of the frequencies; default 10000"});
    scaling.fields(v);
    v("pairing", pairing, rope_pairing_info());
  }
};

/// A kind of rotary position embedding.
struct RotaryKind {
  std::string name;                                ///< in messages and model.json
  RotaryOptions defaults = {};                     ///< of options that are empty
  std::vector<std::string> fields = {"head_dim"};  ///< that a description always lists
};
/// One row for each of the functions below.
OLM_API const std::vector<RotaryKind>& rotary_kinds();

/// RoPE: rotates pair j of the first r dimensions of each head by position · θ_j, where θ_j =
/// base^(-2j/r), and leaves the other dimensions as they are. r = head_dim · rotary_percentage,
/// rounded down to an even number. For positions see RotaryAngles, for scaled frequencies
/// RopeScalingOptions, for the rotation rope().
///   x: [B,T,H,head_dim]    y: like x
/// No keys. Throws where r is odd without rotary_percentage or 0, and where a position is not below
/// max_seq_len. forward treats x as queries, which matters to xpos alone. Su et al. 2021,
/// arXiv:2104.09864.
class OLM_API RotaryModule final : public Layer<RotaryOptions> {
 public:
  RotaryModule(const RotaryOptions& o, const RotaryKind& kind);
  Tensor forward(const Tensor& x, Context& ctx) override;
  /// Queries and keys, which may differ in their number of heads.
  std::pair<Tensor, Tensor> rotate(const Tensor& q, const Tensor& k, Context& ctx);
  std::string type_name() const override { return kind_.name; }
  void visit_options(FieldVisitor& v) override;
  void visit_default_options(FieldVisitor& v) override;

 private:
  void check(const Tensor& x) const;
  RotaryKind kind_;
  RotaryAngles angles_;
};
/// A layer of a kind, or of the kind called `name` in rotary_kinds().
OLM_API Ref<RotaryModule> Rotary(const RotaryKind& kind, const RotaryOptions& options);
OLM_API Ref<RotaryModule> Rotary(const std::string& name, const RotaryOptions& options);

/// Rotates whole heads.
OLM_API Ref<RotaryModule> RotaryPositionalEmbedding(const RotaryOptions& options);
OLM_API Ref<RotaryModule> RotaryPositionalEmbedding(int64_t head_dim, int64_t max_seq_len,
                                                    double base = 10000);
/// Rotates a fraction of each head: rotary_percentage 0.5 and max_seq_len 2048 by default.
OLM_API Ref<RotaryModule> PartialRotaryPositionalEmbedding(const RotaryOptions& options);
OLM_API Ref<RotaryModule> PartialRotaryPositionalEmbedding(int64_t head_dim,
                                                           RotaryOptions options = {});
/// RoPE with scaling: scaling_type linear and max_seq_len 2048 by default.
OLM_API Ref<RotaryModule> ScaledRotaryPositionalEmbedding(const RotaryOptions& options);
OLM_API Ref<RotaryModule> ScaledRotaryPositionalEmbedding(int64_t head_dim,
                                                          int64_t max_seq_len = 2048,
                                                          double base = 10000,
                                                          const RopeScalingOptions& scaling = {});
/// The same on a fraction of each head, rotary_percentage 0.5 by default.
OLM_API Ref<RotaryModule> PartialScaledRotaryPositionalEmbedding(const RotaryOptions& options);
OLM_API Ref<RotaryModule> PartialScaledRotaryPositionalEmbedding(
    int64_t head_dim, double rotary_percentage = 0.5, int64_t max_seq_len = 2048,
    double base = 10000, const RopeScalingOptions& scaling = {});
/// RoPE with llama3 scaling. Defaults are OpenLanguageModel's: max_seq_len 262144,
/// original_max_seq_len 131072, scaling_factor 2, high_freq_factor 32. Llama 3.1 was published with
/// scaling_factor 8, original_max_seq_len 8192 and high_freq_factor 4.
OLM_API Ref<RotaryModule> Llama3RotaryPositionalEmbedding(const RotaryOptions& options);
OLM_API Ref<RotaryModule> Llama3RotaryPositionalEmbedding(int64_t head_dim,
                                                          RotaryOptions options = {});

/// The number of dimensions that RoPE rotates of a fraction `share` of a head, rounded down to an
/// even one. Throws naming `layer` and `option` where the share is outside (0, 1] or none is left.
OLM_API int64_t rotated_dims(const char* layer, const char* option, int64_t head_dim, double share);

/// ALiBi's slopes [H], f64: 2^(-8 (h + 1) / H) for a power of two H. For another H, with P the
/// power of two below it, the slopes of P heads, then every second one of those of 2P. Press et al.
/// 2021, arXiv:2108.12409.
OLM_API Tensor alibi_slopes(int64_t num_heads);

struct ALiBiPositionalBiasOptions {
  int64_t num_heads = 0;  ///< H
  void fields(auto& v) { v("num_heads", num_heads, {.min = 1}); }
};

/// ALiBi as a layer: y = scores + bias, bias[h,i,j] = -slope[h] · |i - j|; see alibi_slopes().
///   scores: [B,H,Tq,Tk]    y: like scores
/// Query i has position i plus the length of ctx.cache. It adds no causal mask. No keys. Throws
/// where scores have another number of heads. Press et al. 2021,
/// arXiv:2108.12409.
class OLM_API ALiBiPositionalBiasModule final : public Layer<ALiBiPositionalBiasOptions> {
 public:
  explicit ALiBiPositionalBiasModule(ALiBiPositionalBiasOptions o);
  /// bias [1,H,queries,keys], f32 by default, of queries at `offset`, `offset` + 1, ….
  Tensor bias(int64_t queries, int64_t keys, TensorOptions options = {}, int64_t offset = 0) const;
  Tensor forward(const Tensor& scores, Context& ctx) override;
  std::string type_name() const override { return "ALiBiPositionalBias"; }

 private:
  Buffer slopes_;
};
OLM_API Ref<ALiBiPositionalBiasModule> ALiBiPositionalBias(ALiBiPositionalBiasOptions options);
OLM_API Ref<ALiBiPositionalBiasModule> ALiBiPositionalBias(int64_t num_heads);

/// The position of the first token of a call: the length of ctx.cache, or 0.
inline int64_t first_position(const Context& ctx) { return ctx.cache ? ctx.cache->length() : 0; }

/// One more than the last position of the tokens of x [B,T,…]; positions are ctx.positions, else
/// consecutive from first_position(). Throws naming `layer` where ctx.positions are not [B,T]
/// integers in [0, limit). On other devices than the CPU they are read only if `exact`, which waits
/// for the device; else the result is `limit`.
OLM_API int64_t positions_end(const char* layer, const Tensor& x, const Context& ctx, int64_t limit,
                              bool exact = false);

}  // namespace olm::nn
