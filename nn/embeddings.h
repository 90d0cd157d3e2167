#pragma once
// Tokens as vectors, and where they stand. Absolute and sinusoidal positions are added at the
// input; rotary ones act inside attention.
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
  Tensor table_;  // [positions asked for so far, D], in acc_dtype of x
};
OLM_API Ref<SinusoidalPositionalEmbeddingModule> SinusoidalPositionalEmbedding(
    SinusoidalPositionalEmbeddingOptions options);
OLM_API Ref<SinusoidalPositionalEmbeddingModule> SinusoidalPositionalEmbedding(
    int64_t embed_dim, SinusoidalPositionalEmbeddingOptions options = {});

/// How RoPE goes on beyond the L0 = original_max_seq_len positions that a model was trained for.
/// With s = scaling_factor, d rotated dimensions, θ_j = base^(-2j/d) and L the length in use, which
/// is one more than the last position of a call, pair j turns by p · θ'_j:
///   none         θ' = θ
///   linear       θ' = θ / s: position interpolation. Chen et al. 2023, arXiv:2306.15595
///   ntk          θ' = θ of the base b · s^(d/(d-2)): the slowest pair is interpolated, the fastest
///                is not. bloc97 2023, "NTK-aware scaled RoPE"
///   dynamic_ntk  where L > L0, θ of the base b · (s · L/L0 - (s - 1))^(d/(d-2)). emozilla 2023
///   yarn         θ' = θ · (1 - g) / s + θ · g, where g falls from 1 to 0, linearly in j, between
///                the pairs that turn yarn_beta and yarn_alpha times in L0 positions (the paper's g
///                is linear in the turns); cosines and sines times attention_factor. Peng et al.
///                2023, arXiv:2309.00071
///   xpos         θ' = θ; at position p a query's pair is multiplied by z_j^((p - c)/S), a key's by
///                z_j^(-(p - c)/S), z_j = (2j + 0.4 d) / 1.4 d, S = xpos_scale_base, c =
///                max_seq_len / 2, so that scores fall by z_j^(distance / S). Sun et al. 2022,
///                arXiv:2212.10554
///   llama3       θ' = θ for wavelengths 2π/θ up to L0 / high_freq_factor, θ / s from L0 /
///                low_freq_factor on, between them a mix that is linear in θ. Grattafiori et al.
///                2024, arXiv:2407.21783
///   longrope     θ' = θ / short_factor[j], where L > L0 θ / long_factor[j]; cosines and sines
///                times attention_factor. Ding et al. 2024, arXiv:2402.13753
/// Frequencies of linear, dynamic_ntk, yarn, llama3 and longrope are those of Hugging Face's
/// transformers. Empty members are what is said at each; a type leaves those of others alone, but
/// none and xpos refuse a scaling_factor.
struct RopeScalingOptions {
  std::optional<std::string> scaling_type = {};  ///< one of the above; none
  std::optional<double> scaling_factor = {};     ///< s; 1, of yarn and longrope max_seq_len / L0
  std::optional<int64_t> original_max_seq_len = {};         ///< L0; max_seq_len
  std::optional<double> yarn_alpha = {};                    ///< turns, the slow end of the ramp; 1
  std::optional<double> yarn_beta = {};                     ///< turns, the fast end of the ramp; 32
  std::optional<double> xpos_scale_base = {};               ///< S, in positions; max_seq_len
  std::optional<double> low_freq_factor = {};               ///< of llama3; 1
  std::optional<double> high_freq_factor = {};              ///< of llama3; 4
  std::vector<double> short_factor = {}, long_factor = {};  ///< of longrope, d/2 numbers each
  /// Scores grow by its square. Where it is empty, of longrope sqrt(1 + ln(s) / ln(L0)) for
  /// s > 1, else 1; of yarn m(s, mscale) / m(s, mscale_all_dim) where both are given, else m(s, 1),
  /// where m(s, a) = 0.1 · a · ln(s) + 1 for s > 1, else 1.
  std::optional<double> attention_factor = {};
  std::optional<double> mscale = {}, mscale_all_dim = {};  ///< of yarn, see attention_factor
  std::optional<bool> truncate = {};  ///< the ramp of yarn begins and ends at whole pairs; true
  void fields(auto& v) {
    v("scaling_type", scaling_type,
      {.one_of = {"none", "linear", "ntk", "dynamic_ntk", "yarn", "xpos", "llama3", "longrope"},
       .help = "how RoPE reaches positions beyond the trained ones"});
    v("scaling_factor", scaling_factor,
      {.above = 0,
       .help = "how many times as far; 1 where left out, of yarn and longrope max_seq_len / "
               "original_max_seq_len"});
    v("original_max_seq_len", original_max_seq_len,
      {.min = 1, .help = "trained positions; max_seq_len where left out"});
    v("yarn_alpha", yarn_alpha,
      {.above = 0, .help = "turns in the trained positions up to which yarn interpolates; 1"});
    v("yarn_beta", yarn_beta,
      {.above = 0, .help = "turns in the trained positions from which yarn does not; 32"});
    v("xpos_scale_base", xpos_scale_base,
      {.above = 0, .help = "positions in which xpos decays once; max_seq_len where left out"});
    v("low_freq_factor", low_freq_factor, {.above = 0, .help = "of llama3; 1"});
    v("high_freq_factor", high_freq_factor, {.above = 0, .help = "of llama3; 4"});
    v("short_factor", short_factor, {.above = 0, .help = "of longrope, for each pair"});
    v("long_factor", long_factor, {.above = 0, .help = "of longrope, for each pair"});
    v("attention_factor", attention_factor,
      {.above = 0, .help = "of cosines and sines, in yarn and longrope; by scaling_factor"});
    v("mscale", mscale, {.above = 0, .help = "of yarn's attention_factor"});
    v("mscale_all_dim", mscale_all_dim, {.above = 0, .help = "of yarn's attention_factor"});
    v("truncate", truncate, {.help = "the ramp of yarn begins and ends at whole pairs; true"});
  }
};

/// The pairing that options name: "interleaved" or "halves".
OLM_API RopePairing rope_pairing(const std::string& name);
inline FieldInfo rope_pairing_info() {
  return {.one_of = {"interleaved", "halves"},
          .help =
              "dimensions that RoPE turns together: (2j, 2j + 1), or (j, j + d/2) as in Hugging "
              "Face's weights"};
}

/// Queries and keys are turned alike, but xpos scales them inversely.
enum class RotarySide : uint8_t { query, key };

/// Rotates queries and keys by their positions, which are ctx.positions [B,T], else 0, 1, … behind
/// what ctx.cache holds. Angles are computed in f32, their cosines and sines exactly. A set holds
/// one table per device, dtype and side, which grows with the positions asked for: for T of them as
/// many numbers as one head has in a sequence of T tokens. Where ctx.positions of few tokens lie
/// far apart, on the CPU the call has a table of these alone. Copies share their tables. Safe for
/// threads.
///
/// dynamic_ntk and longrope turn all tokens of a call by its length in use. Keys in a cache stay as
/// they were turned, so a call that would turn them otherwise throws: a cache goes with them while
/// the length in use stays within original_max_seq_len (what is decoded with and without it is then
/// the same), in longrope also for a first call beyond it and those that follow, and never with
/// ctx.positions where max_seq_len is above original_max_seq_len.
class OLM_API RotaryAngles {
 public:
  /// Of `dim` rotated dimensions. Throws for an odd dim, and for options outside their range or
  /// that the type does not know what to do with.
  RotaryAngles(int64_t dim, double base, int64_t max_seq_len,
               const RopeScalingOptions& scaling = {},
               RopePairing pairing = RopePairing::interleaved);
  /// x [B,T,H,Dh] rotated. Throws naming `layer` where a position is not below max_seq_len, the
  /// longest sequence with all scaling, or the cache does not go with it.
  Tensor rotate(const char* layer, const Tensor& x, const Context& ctx,
                RotarySide side = RotarySide::query) const;
  std::pair<Tensor, Tensor> rotate(const char* layer, const Tensor& q, const Tensor& k,
                                   const Context& ctx) const;
  /// What rope() takes for the same.
  std::pair<RopeTables, RopeOptions> at(const char* layer, const Tensor& x, const Context& ctx,
                                        RotarySide side = RotarySide::query) const;
  /// Tables for at least the first `length` positions, for use with x, where that is the length in
  /// use. Throws naming `layer` where it is above max_seq_len.
  RopeTables tables(const char* layer, int64_t length, const Tensor& x,
                    RotarySide side = RotarySide::query) const;
  int64_t max_seq_len() const;

 private:
  struct Made;
  std::shared_ptr<Made> made_;
};

/// What a rotary position embedding is made of. Of what is empty, the layer's row in
/// rotary_kinds() decides, and then what is said here.
struct RotaryOptions {
  int64_t head_dim = 0;
  std::optional<double> rotary_percentage = {};  ///< share of head_dim that is rotated; 1
  std::optional<int64_t> max_seq_len = {};       ///< positions, with all scaling
  std::optional<double> base = {};               ///< 10000
  RopeScalingOptions scaling = {};               ///< its members are the layer's own in model.json
  std::optional<std::string> pairing = {};       ///< interleaved, or halves
  void fields(auto& v) {
    v("head_dim", head_dim, {.help = "size of a head"});
    v("rotary_percentage", rotary_percentage,
      {.max = 1, .above = 0, .help = "share of head_dim that is rotated; 1"});
    v("max_seq_len", max_seq_len, {.min = 1, .help = "positions, with all scaling"});
    v("base", base, {.above = 0, .help = "base of the frequencies; 10000"});
    scaling.fields(v);
    v("pairing", pairing, rope_pairing_info());
  }
};

/// A kind of rotary position embedding.
struct RotaryKind {
  std::string name;                                ///< in messages and model.json
  RotaryOptions defaults = {};                     ///< what stands where options are empty
  std::vector<std::string> fields = {"head_dim"};  ///< that its description always lists
};
/// The functions below as rows.
OLM_API const std::vector<RotaryKind>& rotary_kinds();

/// RoPE: turns each pair of a head's first r dimensions by the token's position times a frequency
/// of the pair, θ_j = base^(-2j/r), and passes the others on. r = head_dim · rotary_percentage,
/// rounded down to an even number. Positions and their limit are those of RotaryAngles, frequencies
/// beyond the trained positions those of RopeScalingOptions. See rope().
///   x: [B,T,H,head_dim]    y: like x
/// No keys. Throws where r is odd without rotary_percentage or 0, and where a position is not below
/// max_seq_len. forward takes x for a query; that matters to xpos alone. Su et al. 2021,
/// arXiv:2104.09864.
class OLM_API RotaryModule final : public Layer<RotaryOptions> {
 public:
  RotaryModule(const RotaryOptions& o, const RotaryKind& kind);
  Tensor forward(const Tensor& x, Context& ctx) override;
  /// A query and a key, of as many heads as they have.
  std::pair<Tensor, Tensor> rotate(const Tensor& q, const Tensor& k, Context& ctx);
  std::string type_name() const override { return kind_.name; }
  void visit_options(FieldVisitor& v) override;
  void visit_default_options(FieldVisitor& v) override;

 private:
  void check(const Tensor& x) const;
  RotaryKind kind_;
  RotaryAngles angles_;
};
/// A layer of a kind; by name of one of rotary_kinds().
OLM_API Ref<RotaryModule> Rotary(const RotaryKind& kind, const RotaryOptions& options);
OLM_API Ref<RotaryModule> Rotary(const std::string& name, const RotaryOptions& options);

/// Of whole heads.
OLM_API Ref<RotaryModule> RotaryPositionalEmbedding(const RotaryOptions& options);
OLM_API Ref<RotaryModule> RotaryPositionalEmbedding(int64_t head_dim, int64_t max_seq_len,
                                                    double base = 10000);
/// Of half of each head (rotary_percentage), to 2048 positions.
OLM_API Ref<RotaryModule> PartialRotaryPositionalEmbedding(const RotaryOptions& options);
OLM_API Ref<RotaryModule> PartialRotaryPositionalEmbedding(int64_t head_dim,
                                                           RotaryOptions options = {});
/// Scaled: linear where scaling_type is left out, to 2048 positions.
OLM_API Ref<RotaryModule> ScaledRotaryPositionalEmbedding(const RotaryOptions& options);
OLM_API Ref<RotaryModule> ScaledRotaryPositionalEmbedding(int64_t head_dim,
                                                          int64_t max_seq_len = 2048,
                                                          double base = 10000,
                                                          const RopeScalingOptions& scaling = {});
/// The same of half of each head.
OLM_API Ref<RotaryModule> PartialScaledRotaryPositionalEmbedding(const RotaryOptions& options);
OLM_API Ref<RotaryModule> PartialScaledRotaryPositionalEmbedding(
    int64_t head_dim, double rotary_percentage = 0.5, int64_t max_seq_len = 2048,
    double base = 10000, const RopeScalingOptions& scaling = {});
/// Scaled by llama3: to 262144 positions of 131072, by a factor of 2, high_freq_factor 32, as in
/// OpenLanguageModel. Llama 3.1 has 8, 8192 and 4.
OLM_API Ref<RotaryModule> Llama3RotaryPositionalEmbedding(const RotaryOptions& options);
OLM_API Ref<RotaryModule> Llama3RotaryPositionalEmbedding(int64_t head_dim,
                                                          RotaryOptions options = {});

/// The dimensions that RoPE turns of `share` of a head: an even number. Throws naming `layer` and
/// the `option` where the share is outside (0, 1] or leaves none.
OLM_API int64_t rotated_dims(const char* layer, const char* option, int64_t head_dim, double share);

/// ALiBi's slopes [H], f64: 2^(-8 (h + 1) / H) for a power of two H, else those of the power of two
/// below it, then every second one of twice that. Press et al. 2021, arXiv:2108.12409.
OLM_API Tensor alibi_slopes(int64_t num_heads);

struct ALiBiPositionalBiasOptions {
  int64_t num_heads = 0;
  void fields(auto& v) { v("num_heads", num_heads, {.min = 1}); }
};

/// What ALiBi adds to scores, for any length: bias[h,i,j] = -slope[h] · |i - j|. See
/// alibi_slopes().
///   scores: [B,H,Tq,Tk]    y: like scores
/// forward adds it to scores of queries that stand behind what ctx.cache holds. Causal masks are
/// apart. No keys. Throws where scores have another number of heads. Press et al. 2021,
/// arXiv:2108.12409.
class OLM_API ALiBiPositionalBiasModule final : public Layer<ALiBiPositionalBiasOptions> {
 public:
  explicit ALiBiPositionalBiasModule(ALiBiPositionalBiasOptions o);
  /// [1,H,queries,keys], f32 unless `options` say so, of queries `offset`, `offset` + 1, ….
  Tensor bias(int64_t queries, int64_t keys, TensorOptions options = {}, int64_t offset = 0) const;
  Tensor forward(const Tensor& scores, Context& ctx) override;
  std::string type_name() const override { return "ALiBiPositionalBias"; }

 private:
  Buffer slopes_;
};
OLM_API Ref<ALiBiPositionalBiasModule> ALiBiPositionalBias(ALiBiPositionalBiasOptions options);
OLM_API Ref<ALiBiPositionalBiasModule> ALiBiPositionalBias(int64_t num_heads);

/// How many tokens came before x: what ctx.cache holds.
inline int64_t first_position(const Context& ctx) { return ctx.cache ? ctx.cache->length() : 0; }

/// One more than the last position of the tokens of x [B,T,…]: of ctx.positions, else of 0, 1, …
/// behind what ctx.cache holds. Throws naming `layer` where ctx.positions are not [B,T] integers of
/// 0 to limit - 1; elsewhere than on the CPU they are looked at if `exact`, which waits for them,
/// else `limit` is the answer.
OLM_API int64_t positions_end(const char* layer, const Tensor& x, const Context& ctx, int64_t limit,
                              bool exact = false);

}  // namespace olm::nn
