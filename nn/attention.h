#pragma once
// Self-attention. All layers take x [B,T,D] and read from ctx: the mask (boolean: true attends;
// float: added to the scores), positions, documents (see set_documents), the cache of earlier keys
// and values, and rng (dropout of the attention weights). A token with nothing to attend gets 0.
//
// Layers that differ by data are one class and a row of attentions(): a name, defaults, the fields
// model.json lists. Layers that compute otherwise derive from AttentionModule (or AttentionBase)
// and override project(), attend() or compute_attention().
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <olm/nn/embeddings.h>
#include <olm/nn/linear.h>
#include <olm/nn/norms.h>
#include <olm/nn/registry.h>

namespace olm::nn {

/// What an attention layer is made of. Of what is empty, the layer's row in attentions() decides,
/// and then what is said here.
struct AttentionOptions {
  int64_t embed_dim = 0, num_heads = 0;
  std::optional<int64_t> num_kv_heads = {};  ///< heads of keys and values; num_heads
  std::optional<int64_t> max_seq_len = {};   ///< positions of RoPE; of no meaning without it
  std::optional<int64_t> head_dim = {};      ///< of queries and keys; embed_dim / num_heads
  std::optional<int64_t> value_dim = {};     ///< of values; head_dim
  std::optional<double> dropout = {};        ///< of attention weights; 0
  std::optional<bool> causal = {};           ///< no token attends later ones; false
  std::optional<bool> bias = {};             ///< of all four projections; true
  std::optional<double> rope_theta = {};     ///< 10000
  std::optional<bool> use_bias = {};         ///< of out_proj; bias
  std::optional<bool> qkv_bias = {};         ///< of q_proj, k_proj, v_proj; bias
  std::optional<bool> use_qk_norm =
      {};  ///< RMSNorm of each head's query and key, before RoPE; false
  std::optional<bool> qk_norm_all_heads = {};     ///< that norm is over all heads together; false
  std::optional<double> rms_norm_eps = {};        ///< of that norm; 1e-6
  std::optional<double> attention_scale = {};     ///< 1 / sqrt(head_dim)
  std::optional<double> attn_logit_softcap = {};  ///< c: scores become c · tanh(score / c); none
  std::optional<int64_t> window_size = {};        ///< keys less than this far from the query; all
  std::optional<bool> use_rope = {};  ///< queries and keys rotated by their positions; false
  std::optional<double> partial_rotary_factor = {};  ///< share of head_dim that RoPE rotates; 1
  std::optional<bool> use_alibi = {};                ///< scores lose slope[h] · distance; false
  std::optional<bool> use_attention_sink = {};  ///< a learned score per head without a value; false
  RopeScalingOptions rope_scaling = {};         ///< how RoPE reaches beyond trained positions; none
  std::optional<std::string> rope_pairing = {};  ///< of RoPE, interleaved or halves; interleaved
  std::optional<bool> use_output_gate = {};      ///< a sigmoid gate before out_proj; false
  std::optional<bool> gate_per_head = {};  ///< one gate for each head, not each feature; false
  // Of MultiHeadLatentAttention alone.
  std::optional<int64_t> q_lora_rank = {};       ///< of the queries' latent vectors; none
  std::optional<int64_t> kv_lora_rank = {};      ///< of the latent vectors of keys and values; 512
  std::optional<int64_t> qk_nope_head_dim = {};  ///< of a head's query and key without RoPE; 128
  std::optional<int64_t> qk_rope_head_dim = {};  ///< of the part with RoPE; 64
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
  AttentionOptions defaults = {};  ///< what stands where options are empty
  /// Options that its description always lists; the others where they differ from the defaults.
  std::vector<std::string> fields = {"embed_dim", "num_heads"};
  /// The class that computes it: make_attention<M>, AttentionModule's where null.
  Ref<AttentionModule> (*make)(const AttentionOptions&, const AttentionKind&) = nullptr;
};

/// Queries [B,T,H,Dh], keys [B,T,Hkv,Dh] and values [B,T,Hkv,Dv] of some tokens.
struct QKV {
  Tensor q, k, v;
};

/// Attention by the fused op: no T × T matrix is ever held. See flash_attention() for the scores.
///   y = out_proj(softmax(q kᵀ · scale) v)      q, k, v = q_proj(x), k_proj(x), v_proj(x) by heads
/// x: [B,T,D], y: like x. num_heads / num_kv_heads neighbouring query heads share one key and value
/// head. Keys: q_proj k_proj v_proj out_proj .weight .bias; feature h · d + i of a projection is
/// element i of head h; q_norm.weight, k_norm.weight [Dh] with use_qk_norm, [H·Dh] and [Hkv·Dh]
/// with qk_norm_all_heads; attention_sink [H],
/// from 0, with use_attention_sink. With window_size a cache keeps window_size - 1 tokens, in
/// memory for a quarter more and the tokens of one call, however long the text is. With
/// use_output_gate what the heads give is multiplied by sigmoid(output_gate(x)) before out_proj:
/// output_gate.weight is [H·Dv, D], or with gate_per_head [H, D] of deviation 0.02. Throws where
/// sizes do not divide, x is of another width, RoPE has an odd size or a position from max_seq_len
/// on, or documents meet a cache. Vaswani et al. 2017, arXiv:1706.03762; by tiles: Dao 2023,
/// arXiv:2307.08691; gates: Qiu et al. 2025, arXiv:2505.06708.
class OLM_API AttentionModule : public Module {
 public:
  explicit AttentionModule(const AttentionOptions& o,
                           const AttentionKind& kind = {.name = "Attention"});
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return kind_.name; }
  void visit_options(FieldVisitor& v) override;
  void visit_default_options(FieldVisitor& v) override;
  /// Of S = Q Kᵀ and P V, to half of the tokens where causal, and to those
  /// of the window.
  double flops_per_token(int64_t context) override;

  int64_t kv_heads() const { return options.num_kv_heads.value_or(options.num_heads); }
  int64_t head_dim() const;
  int64_t value_dim() const { return options.value_dim.value_or(head_dim()); }
  double scale() const;

  AttentionOptions options;  ///< as given, with the defaults of the layer
  /// None where latent vectors stand between x and the heads.
  std::optional<Child<LinearModule>> q_proj, k_proj, v_proj;
  Child<LinearModule> out_proj;
  std::optional<Child<RMSNormModule>> q_norm, k_norm;
  std::optional<Child<LinearModule>> output_gate;
  std::optional<Parameter> attention_sink;

 protected:
  /// Queries, keys and values of x as they meet: projected, normed, rotated.
  virtual QKV project(const Tensor& x, Context& ctx);
  /// [B,T,H,Dv] of queries [B,T,H,Dh] on all keys and values up to them, [B,S,Hkv,·]; S = T
  /// without a cache, and the last query is at the last key's position.
  virtual Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, Context& ctx);

  /// Rotates q and k [B,T,·,d] by the positions of their tokens where the layer has RoPE.
  void rotate(Tensor& q, Tensor& k, const Context& ctx) const;
  /// ALiBi's slopes [H] in acc_dtype of x, on x's device; undefined without use_alibi.
  Tensor slopes(const Tensor& x) const;
  /// The sink's scores [H]; undefined without use_attention_sink.
  Tensor sink() const { return attention_sink ? attention_sink->tensor() : Tensor(); }
  /// ctx.mask for `keys` keys: where a windowed cache dropped the first ones, without theirs.
  Tensor mask_of_keys(int64_t keys, const Context& ctx) const;

 private:
  /// Options with what a kind says of those that are empty; throws where they do not fit each
  /// other.
  static AttentionOptions completed(const AttentionOptions& given, const AttentionKind& kind);
  Tensors projections(const Tensor& x, Context& ctx) const;
  Tensor gated(const Tensor& y, const Tensor& x, Context& ctx) const;
  AttentionKind kind_;
  std::optional<RotaryAngles> angles_;
  std::optional<Buffer> slopes_;
};

/// Attention computed in steps that one can read and change: matmul, softmax, matmul. It holds the
/// scores of all queries with all keys. The same function as AttentionModule, to rounding, but
/// for one thing: what is NaN or infinite in a key that a mask takes away reaches the output, since
/// 0 · NaN is NaN. Derive and override compute_attention() to change how tokens attend; rows,
/// projections, cache and masks stay as they are.
class OLM_API AttentionBase : public AttentionModule {
 public:
  explicit AttentionBase(const AttentionOptions& o,
                         const AttentionKind& kind = {.name = "AttentionBase"})
      : AttentionModule(o, kind) {}

 protected:
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, Context& ctx) final;
  /// O [B,H,T,Dv] of Q [B,H,T,Dh], K [B,H,S,Dh] and V [B,H,S,Dv], where every query head has a key
  /// and value head of its own. `mask` broadcasts to [B,H,T,S] and is to be added to the scores:
  /// -inf where a query may not attend (causal, window, documents, ctx.mask), else ALiBi's
  /// distances and what a float ctx.mask adds. In acc_dtype; undefined where there is nothing to
  /// add.
  virtual Tensor compute_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const Tensor& mask, Context& ctx);

 private:
  Tensor score_mask(const Tensor& q, const Tensor& k, const Context& ctx) const;
};

/// AttentionBase with RoPE: queries and keys come to compute_attention() rotated by their
/// positions.
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

/// Attention whose keys and values all come from one short latent vector per token, c, beside one
/// rotated key that all heads share:
///   q = [q_nope | R q_rope]        by heads of q_proj(x), or of q_b_proj(RMSNorm(q_a_proj(x)))
///   [c | k_rope] = kv_a_proj_with_mqa(x)      [k_nope | v] by heads of kv_b_proj(RMSNorm(c))
///   y = out_proj(softmax(q [k_nope | R k_rope]ᵀ · scale) v)
/// where R rotates by the position and scale is 1 / sqrt(qk_nope_head_dim + qk_rope_head_dim), in
/// yarn with mscale_all_dim times m(s, mscale_all_dim)², see RopeScalingOptions; attention_scale
/// takes the place of both.
/// value_dim (v_head_dim elsewhere) is 128 by default, as is qk_nope_head_dim. Keys: q_proj, or
/// with q_lora_rank q_a_proj, q_a_layernorm, q_b_proj; kv_a_proj_with_mqa, kv_a_layernorm,
/// kv_b_proj, out_proj; no biases by default.
///
/// A cache holds RMSNorm(c) and R k_rope: kv_lora_rank + qk_rope_head_dim numbers per token, 576 by
/// default, where keys and values of 128 such heads are 40960. Few new tokens on many cached ones
/// meet the latent vectors themselves, as one key and value head: kv_b_proj acts on the queries and
/// on what the heads give, not on each cached token. Many new tokens, or a kv_b_proj with a bias
/// or another module in its place, meet keys and values made from the latent vectors. What takes
/// fewer operations is chosen from the sizes; results are equal to rounding.
/// Options that mean nothing here (num_kv_heads, head_dim, use_qk_norm, partial_rotary_factor,
/// use_rope) throw where they are set to something else.
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
  /// Keys are [RMSNorm(c) | R k_rope] [B,T,1,kv_lora_rank + qk_rope_head_dim]; values are a part of
  /// them, and v has no width.
  QKV project(const Tensor& x, Context& ctx) override;
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, Context& ctx) override;

 private:
  bool absorbs(const Tensor& q, const Tensor& k, const Context& ctx) const;
  Tensor attend_latents(const Tensor& q, const Tensor& k, Context& ctx);
};

/// What AttentionKind::make is for layers of class M, made from options and kind.
template <class M>
Ref<AttentionModule> make_attention(const AttentionOptions& o, const AttentionKind& kind) {
  return nn::make<M>(o, kind);
}

/// Attention layers by name: the functions below, and rows that users add.
OLM_API Registry<AttentionKind>& attentions();
/// A layer of a kind; by name of one in attentions().
OLM_API Ref<AttentionModule> Attention(const AttentionKind& kind, const AttentionOptions& options);
OLM_API Ref<AttentionModule> Attention(const std::string& name, const AttentionOptions& options);
/// The maker that layers() wants for a kind, so that model.json may name it.
OLM_API LayerMaker attention_maker(AttentionKind kind);

/// Attention without positions of its own, in readable steps: add positions at the input, as GPT-2
/// does.
OLM_API Ref<AttentionModule> MultiHeadAttention(const AttentionOptions& options);
OLM_API Ref<AttentionModule> MultiHeadAttention(int64_t embed_dim, int64_t num_heads,
                                                AttentionOptions options = {});

/// The same by the fused op.
OLM_API Ref<AttentionModule> FlashAttention(const AttentionOptions& options);
OLM_API Ref<AttentionModule> FlashAttention(int64_t embed_dim, int64_t num_heads,
                                            AttentionOptions options = {});

/// Attention with RoPE, in readable steps.
OLM_API Ref<AttentionModule> MultiHeadAttentionwithRoPE(const AttentionOptions& options);
OLM_API Ref<AttentionModule> MultiHeadAttentionwithRoPE(int64_t embed_dim, int64_t num_heads,
                                                        int64_t max_seq_len,
                                                        AttentionOptions options = {});

/// The same by the fused op. The default of modern decoders.
OLM_API Ref<AttentionModule> FlashAttentionwithRoPE(const AttentionOptions& options);
OLM_API Ref<AttentionModule> FlashAttentionwithRoPE(int64_t embed_dim, int64_t num_heads,
                                                    int64_t max_seq_len,
                                                    AttentionOptions options = {});

/// Causal attention with RoPE and without biases, by the fused op, in which query heads share
/// num_kv_heads key and value heads: as many as queries gives plain attention, one gives
/// multi-query attention. Ainslie et al. 2023, arXiv:2305.13245.
OLM_API Ref<AttentionModule> GroupedQueryAttention(const AttentionOptions& options);

/// GroupedQueryAttention in which a query attends the window_size keys up to its own, 512 by
/// default. Beltagy et al. 2020, arXiv:2004.05150.
OLM_API Ref<AttentionModule> SlidingWindowAttention(const AttentionOptions& options);

/// GroupedQueryAttention with QK-norm, heads of 128 and a gate for each feature of what the heads
/// give; RoPE to base 10⁷. Qiu et al. 2025, arXiv:2505.06708.
OLM_API Ref<AttentionModule> GatedAttention(const AttentionOptions& options);

/// GroupedQueryAttention with one gate for each head.
OLM_API Ref<AttentionModule> HeadGatedAttention(const AttentionOptions& options);

/// Causal latent attention: see MultiHeadLatentAttentionModule. The second form has the sizes in
/// OpenLanguageModel's order.
OLM_API Ref<AttentionModule> MultiHeadLatentAttention(const AttentionOptions& options);
OLM_API Ref<AttentionModule> MultiHeadLatentAttention(int64_t embed_dim, int64_t num_heads,
                                                      int64_t max_seq_len, int64_t kv_lora_rank,
                                                      int64_t qk_nope_head_dim,
                                                      int64_t qk_rope_head_dim, int64_t v_head_dim,
                                                      AttentionOptions options = {});

/// Causal attention without biases, in readable steps, in which scores fall with distance:
///   s -= slope[h] · |i - j|      slope[h] = 2^(-8 (h + 1) / H) for a power of two H
/// For another H they are those of the power of two below it, then every second one of twice that.
/// Press et al. 2021, arXiv:2108.12409.
OLM_API Ref<AttentionModule> MultiHeadAttentionwithALiBi(const AttentionOptions& options);
OLM_API Ref<AttentionModule> MultiHeadAttentionwithALiBi(int64_t embed_dim, int64_t num_heads,
                                                         AttentionOptions options = {});

}  // namespace olm::nn
