#pragma once
// Self-attention. All layers take x [B,T,D] and read from ctx: the mask (boolean: true attends;
// float: added to the scores), positions, documents (see set_documents), the cache of earlier keys
// and values, and rng (dropout of the attention weights). A query that may attend to no key gives
// 0.
//
// Layers that differ only in their options share a class; each is a row of attentions() with a
// name, defaults and the fields that model.json lists. A layer that computes something else derives
// from AttentionModule (or AttentionBase) and overrides project(), attend() or compute_attention().
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <olm/nn/embeddings.h>
#include <olm/nn/linear.h>
#include <olm/nn/norms.h>
#include <olm/nn/registry.h>

namespace olm::nn {

/// Options of an attention layer. An empty member takes the default of the layer's row in
/// attentions(), and where that is empty too, the one after the semicolon here.
struct AttentionOptions {
  int64_t embed_dim = 0;                     ///< D, the width of x
  int64_t num_heads = 0;                     ///< query heads
  std::optional<int64_t> num_kv_heads = {};  ///< key and value heads; num_heads
  std::optional<int64_t> max_seq_len = {};   ///< RoPE: positions are below it; unused without
  std::optional<int64_t> head_dim = {};      ///< of a query and key; embed_dim / num_heads
  std::optional<int64_t> value_dim = {};     ///< size of a head's value; head_dim
  std::optional<double> dropout = {};        ///< probability, on attention weights; 0
  std::optional<bool> causal = {};           ///< no query attends to later keys; false
  std::optional<bool> bias = {};             ///< in all four projections; true
  std::optional<double> rope_theta = {};     ///< base of RoPE's frequencies; 10000
  std::optional<bool> use_bias = {};         ///< in out_proj; bias
  std::optional<bool> qkv_bias = {};         ///< in q_proj, k_proj, v_proj; bias
  /// QK-norm: RMSNorm of each head's query and key, before RoPE; false
  std::optional<bool> use_qk_norm = {};
  std::optional<bool> qk_norm_all_heads = {};     ///< QK-norm over all heads together; false
  std::optional<double> rms_norm_eps = {};        ///< epsilon of the QK-norm; 1e-6
  std::optional<double> attention_scale = {};     ///< factor of q · k; 1 / sqrt(head_dim)
  std::optional<double> attn_logit_softcap = {};  ///< c: scores become c · tanh(score / c); none
  std::optional<int64_t> window_size = {};        ///< keys less than this far from the query; all
  std::optional<bool> use_rope = {};              ///< RoPE on queries and keys; false
  std::optional<double> partial_rotary_factor = {};  ///< fraction of head_dim RoPE rotates; 1
  std::optional<bool> use_alibi = {};                ///< ALiBi: s -= slope[h] · distance; false
  std::optional<bool> use_attention_sink = {};       ///< a learned score per head, no value; false
  RopeScalingOptions rope_scaling = {};              ///< RoPE beyond the trained positions; none
  std::optional<std::string> rope_pairing = {};      ///< interleaved or halves; interleaved
  std::optional<bool> use_output_gate = {};          ///< sigmoid gates before out_proj; false
  std::optional<bool> gate_per_head = {};            ///< one gate per head, not per feature; false
  // MultiHeadLatentAttention only:
  std::optional<int64_t> q_lora_rank = {};       ///< width of the query's latent vector; none
  std::optional<int64_t> kv_lora_rank = {};      ///< width of the latent vector c; 512
  std::optional<int64_t> qk_nope_head_dim = {};  ///< part of a head without RoPE; 128
  std::optional<int64_t> qk_rope_head_dim = {};  ///< part of a head with RoPE; 64
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("num_heads", num_heads);
    v("num_kv_heads", num_kv_heads);
    v("max_seq_len", max_seq_len);
    v("head_dim", head_dim);
    v("value_dim", value_dim);
    v("dropout", dropout);
    v("causal", causal);
    v("bias", bias);
    v("rope_theta", rope_theta);
    v("use_bias", use_bias);
    v("qkv_bias", qkv_bias);
    v("use_qk_norm", use_qk_norm);
    v("qk_norm_all_heads", qk_norm_all_heads);
    v("rms_norm_eps", rms_norm_eps);
    v("attention_scale", attention_scale);
    v("attn_logit_softcap", attn_logit_softcap);
    v("window_size", window_size);
    v("use_rope", use_rope);
    v("partial_rotary_factor", partial_rotary_factor);
    v("use_alibi", use_alibi);
    v("use_attention_sink", use_attention_sink);
    v("rope_scaling", rope_scaling);
    v("rope_pairing", rope_pairing, rope_pairing_info());
    v("use_output_gate", use_output_gate);
    v("gate_per_head", gate_per_head);
    v("q_lora_rank", q_lora_rank);
    v("kv_lora_rank", kv_lora_rank);
    v("qk_nope_head_dim", qk_nope_head_dim);
    v("qk_rope_head_dim", qk_rope_head_dim);
  }
};

class AttentionModule;

/// A kind of attention layer: a row of attentions().
struct AttentionKind {
  std::string name;                ///< in messages and model.json
  AttentionOptions defaults = {};  ///< of options that are empty
  /// Options that a description always lists; it has others where they differ from the defaults.
  std::vector<std::string> fields = {"embed_dim", "num_heads"};
  /// make_attention<M> for a layer of class M; null means AttentionModule.
  Ref<AttentionModule> (*make)(const AttentionOptions&, const AttentionKind&) = nullptr;
};

/// Queries [B,T,H,Dh], keys [B,T,Hkv,Dh] and values [B,T,Hkv,Dv].
struct QKV {
  Tensor q, k, v;
};

/// Self-attention by the fused op, which never holds a T × T matrix; see flash_attention().
///   O = softmax(q kᵀ · scale) v                q, k, v = q_proj(x), k_proj(x), v_proj(x) by heads
///   y = out_proj(O)                            x: [B,T,D]    y: like x
///   y = out_proj(O · sigmoid(output_gate(x)))  with use_output_gate
/// Each key and value head serves num_heads / num_kv_heads neighbouring query heads; feature
/// h · Dh + i of a projection is element i of head h.
///
/// Keys: q_proj, k_proj, v_proj, out_proj (.weight, .bias); with use_qk_norm q_norm.weight and
/// k_norm.weight [Dh], with qk_norm_all_heads [H·Dh] and [Hkv·Dh]; with use_attention_sink
/// attention_sink [H], initially 0; with use_output_gate output_gate.weight [H·Dv,D], or with
/// gate_per_head [H,D], initially of standard deviation 0.02.
///
/// With window_size a cache keeps the last window_size - 1 tokens, in memory for a quarter more
/// plus the tokens of one call, however long the text is. Throws where sizes do not divide, x has
/// another width, RoPE has an odd size or a position of max_seq_len or above, or ctx has both
/// documents and a cache. Vaswani et al. 2017, arXiv:1706.03762; tiling: Dao 2023,
/// arXiv:2307.08691; gates: Qiu et al. 2025, arXiv:2505.06708.
class OLM_API AttentionModule : public Module {
 public:
  explicit AttentionModule(const AttentionOptions& o,
                           const AttentionKind& kind = {.name = "Attention"});
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return kind_.name; }
  void visit_options(FieldVisitor& v) override;
  void visit_default_options(FieldVisitor& v) override;
  /// Of S = Q Kᵀ and P V: half of the keys where causal, and only those within the window.
  double flops_per_token(int64_t context) override;

  int64_t kv_heads() const { return options.num_kv_heads.value_or(options.num_heads); }
  int64_t head_dim() const;
  int64_t value_dim() const { return options.value_dim.value_or(head_dim()); }
  double scale() const;

  AttentionOptions options;  ///< as given, completed by the layer's defaults
  /// Empty in latent attention, which has projections of its own.
  std::optional<Child<LinearModule>> q_proj, k_proj, v_proj;
  Child<LinearModule> out_proj;
  std::optional<Child<RMSNormModule>> q_norm, k_norm;
  std::optional<Child<LinearModule>> output_gate;
  std::optional<Parameter> attention_sink;

 protected:
  /// Queries, keys and values of x: projected, normalised, rotated.
  virtual QKV project(const Tensor& x, Context& ctx);
  /// O [B,T,H,Dv] of queries [B,T,H,Dh] and keys and values [B,S,Hkv,·], those of the cache first.
  /// S = T without a cache; the last query has the position of the last key.
  virtual Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, Context& ctx);

  /// Rotates q and k [B,T,·,d] by the positions of their tokens where the layer has RoPE.
  void rotate(Tensor& q, Tensor& k, const Context& ctx) const;
  /// ALiBi's slopes [H] in acc_dtype of x, on x's device; undefined without use_alibi.
  Tensor slopes(const Tensor& x) const;
  /// The sink's scores [H]; undefined without use_attention_sink.
  Tensor sink() const { return attention_sink ? attention_sink->tensor() : Tensor(); }
  /// ctx.mask for the last `keys` keys, which are all unless a windowed cache dropped the first.
  Tensor mask_of_keys(int64_t keys, const Context& ctx) const;

 private:
  /// Options completed by the kind's defaults; throws where they contradict each other.
  static AttentionOptions completed(const AttentionOptions& given, const AttentionKind& kind);
  Tensors projections(const Tensor& x, Context& ctx) const;
  Tensor gated(const Tensor& y, const Tensor& x, Context& ctx) const;
  AttentionKind kind_;
  std::optional<RotaryAngles> angles_;
  std::optional<Buffer> slopes_;
};

/// Attention in separate steps: matmul, softmax, matmul. It holds the scores of all queries with
/// all keys, and equals AttentionModule to rounding, with one exception: NaN or infinity in a
/// masked key or value reaches the output, since 0 · NaN is NaN. To change how tokens attend,
/// derive from it and override compute_attention(); projections, cache and masks stay as they are.
class OLM_API AttentionBase : public AttentionModule {
 public:
  explicit AttentionBase(const AttentionOptions& o,
                         const AttentionKind& kind = {.name = "AttentionBase"})
      : AttentionModule(o, kind) {}

 protected:
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, Context& ctx) final;
  /// O [B,H,T,Dv] of Q [B,H,T,Dh], K [B,H,S,Dh] and V [B,H,S,Dv]; shared key and value heads are
  /// repeated. `mask`, in acc_dtype, broadcasts to [B,H,T,S] and must be added to the scores: -inf
  /// where a query may not attend (causal, window, documents, ctx.mask), elsewhere ALiBi's bias and
  /// a float ctx.mask. Undefined where there is nothing to add.
  virtual Tensor compute_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const Tensor& mask, Context& ctx);

 private:
  Tensor score_mask(const Tensor& q, const Tensor& k, const Context& ctx) const;
};

/// AttentionBase with RoPE: compute_attention() gets rotated queries and keys.
class OLM_API AttentionwithRoPEBase : public AttentionBase {
 public:
  explicit AttentionwithRoPEBase(const AttentionOptions& o,
                                 AttentionKind kind = {.name = "AttentionwithRoPEBase"})
      : AttentionBase(o, rotary(std::move(kind))) {}

 private:
  static AttentionKind rotary(AttentionKind kind) {
    kind.defaults.use_rope = true;
    return kind;
  }
};

/// Latent attention: the keys and values of all heads are made from one short latent vector c per
/// token, beside one rotated key that all heads share.
///   q = [q_nope | R q_rope]        by heads of q_proj(x), or of q_b_proj(RMSNorm(q_a_proj(x)))
///   [c | k_rope] = kv_a_proj_with_mqa(x)      [k_nope | v] by heads of kv_b_proj(RMSNorm(c))
///   y = out_proj(softmax(q [k_nope | R k_rope]ᵀ · scale) v)
/// R is RoPE at the token's position; scale is 1 / sqrt(qk_nope_head_dim + qk_rope_head_dim), for
/// yarn with mscale_all_dim times m(s, mscale_all_dim)², see RopeScalingOptions; attention_scale
/// replaces both. value_dim (v_head_dim elsewhere) is 128 by default, as is qk_nope_head_dim. Keys:
/// q_proj, or with q_lora_rank q_a_proj, q_a_layernorm, q_b_proj; kv_a_proj_with_mqa,
/// kv_a_layernorm, kv_b_proj, out_proj; no biases by default.
///
/// A cache holds RMSNorm(c) and R k_rope: kv_lora_rank + qk_rope_head_dim numbers per token, 576 by
/// default, where the keys and values of 128 such heads would be 40960. There are two ways to
/// compute, equal to rounding; the one that takes fewer operations for the sizes at hand is chosen:
/// - few new tokens on many cached ones attend to the latent vectors as one key and value head;
///   kv_b_proj is applied to queries and outputs, not to each cached token.
/// - many new tokens, and any kv_b_proj with a bias or replaced by another module, attend to keys
///   and values that kv_b_proj makes from the latent vectors.
/// Options without a meaning here (num_kv_heads, head_dim, use_qk_norm, partial_rotary_factor,
/// use_rope) throw where they are set to something that it is not.
/// DeepSeek-AI 2024, arXiv:2405.04434.
class OLM_API MultiHeadLatentAttentionModule : public AttentionModule {
 public:
  explicit MultiHeadLatentAttentionModule(const AttentionOptions& o,
                                          const AttentionKind& kind = {
                                              .name = "MultiHeadLatentAttention"});

  std::optional<Child<LinearModule>> q_a_proj;
  std::optional<Child<RMSNormModule>> q_a_layernorm;
  Child<LinearModule> q_b_proj;  ///< under the key q_proj where there is no q_lora_rank
  Child<LinearModule> kv_a_proj_with_mqa;
  Child<RMSNormModule> kv_a_layernorm;
  Child<LinearModule> kv_b_proj;

 protected:
  /// k is [RMSNorm(c) | R k_rope] [B,T,1,kv_lora_rank + qk_rope_head_dim]; v has width 0, since
  /// values are made from k.
  QKV project(const Tensor& x, Context& ctx) override;
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, Context& ctx) override;

 private:
  bool absorbs(const Tensor& q, const Tensor& k, const Context& ctx) const;
  Tensor attend_latents(const Tensor& q, const Tensor& k, Context& ctx);
};

/// AttentionKind::make for layers of class M, whose constructor takes options and kind.
template <class M>
Ref<AttentionModule> make_attention(const AttentionOptions& o, const AttentionKind& kind) {
  return nn::make<M>(o, kind);
}

/// Attention layers by name: the functions below, and rows that users add.
OLM_API Registry<AttentionKind>& attentions();
/// An attention layer of a kind, or of the kind called `name` in attentions().
OLM_API Ref<AttentionModule> Attention(const AttentionKind& kind, const AttentionOptions& options);
OLM_API Ref<AttentionModule> Attention(const std::string& name, const AttentionOptions& options);
/// The entry of layers() for a kind, by which model.json may name it.
OLM_API LayerMaker attention_maker(AttentionKind kind);

/// AttentionBase without positions: add them at the input, as GPT-2 does. Not causal by default.
OLM_API Ref<AttentionModule> MultiHeadAttention(const AttentionOptions& options);
OLM_API Ref<AttentionModule> MultiHeadAttention(int64_t embed_dim, int64_t num_heads,
                                                AttentionOptions options = {});

/// MultiHeadAttention computed by the fused op.
OLM_API Ref<AttentionModule> FlashAttention(const AttentionOptions& options);
OLM_API Ref<AttentionModule> FlashAttention(int64_t embed_dim, int64_t num_heads,
                                            AttentionOptions options = {});

/// AttentionBase with RoPE. Not causal by default.
OLM_API Ref<AttentionModule> MultiHeadAttentionwithRoPE(const AttentionOptions& options);
OLM_API Ref<AttentionModule> MultiHeadAttentionwithRoPE(int64_t embed_dim, int64_t num_heads,
                                                        int64_t max_seq_len,
                                                        AttentionOptions options = {});

/// MultiHeadAttentionwithRoPE computed by the fused op.
OLM_API Ref<AttentionModule> FlashAttentionwithRoPE(const AttentionOptions& options);
OLM_API Ref<AttentionModule> FlashAttentionwithRoPE(int64_t embed_dim, int64_t num_heads,
                                                    int64_t max_seq_len,
                                                    AttentionOptions options = {});

/// Causal attention with RoPE and without biases, computed by the fused op, in which num_kv_heads
/// key and value heads serve all query heads; one is multi-query attention. Ainslie et al. 2023,
/// arXiv:2305.13245.
OLM_API Ref<AttentionModule> GroupedQueryAttention(const AttentionOptions& options);

/// GroupedQueryAttention in which a query attends to the window_size keys up to its own, 512 by
/// default. Beltagy et al. 2020, arXiv:2004.05150.
OLM_API Ref<AttentionModule> SlidingWindowAttention(const AttentionOptions& options);

/// GroupedQueryAttention with QK-norm and a gate for each output feature of the heads; head_dim is
/// 128 and rope_theta 10⁷ by default. Qiu et al. 2025, arXiv:2505.06708.
OLM_API Ref<AttentionModule> GatedAttention(const AttentionOptions& options);

/// GroupedQueryAttention with one output gate for each head.
OLM_API Ref<AttentionModule> HeadGatedAttention(const AttentionOptions& options);

/// Causal latent attention; see MultiHeadLatentAttentionModule. The second form takes the sizes in
/// OpenLanguageModel's order.
OLM_API Ref<AttentionModule> MultiHeadLatentAttention(const AttentionOptions& options);
OLM_API Ref<AttentionModule> MultiHeadLatentAttention(int64_t embed_dim, int64_t num_heads,
                                                      int64_t max_seq_len, int64_t kv_lora_rank,
                                                      int64_t qk_nope_head_dim,
                                                      int64_t qk_rope_head_dim, int64_t v_head_dim,
                                                      AttentionOptions options = {});

/// AttentionBase with ALiBi, causal and without biases: scores s of head h between positions i and
/// j fall with their distance, s -= slope[h] · |i - j|. For the slopes see alibi_slopes(). Press et
/// al. 2021, arXiv:2108.12409.
OLM_API Ref<AttentionModule> MultiHeadAttentionwithALiBi(const AttentionOptions& options);
OLM_API Ref<AttentionModule> MultiHeadAttentionwithALiBi(int64_t embed_dim, int64_t num_heads,
                                                         AttentionOptions options = {});

}  // namespace olm::nn
