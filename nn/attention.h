#pragma once
// Self-attention. All layers take x [B,T,D] and read from ctx: the mask (boolean: true attends;
// float: added to the scores), positions, documents, the cache of earlier keys and values, and rng
// (dropout of the attention weights). A token with nothing to attend gets 0.
#include <optional>
#include <string>

#include <olm/nn/embeddings.h>
#include <olm/nn/linear.h>
#include <olm/nn/norms.h>

namespace olm::nn {

/// What an attention layer is made of.
struct AttentionShape {
  const char* layer = "attention";  ///< for messages
  int64_t embed_dim = 0, num_heads = 0, num_kv_heads = 0;
  int64_t head_dim = 0;  ///< embed_dim / num_heads where 0
  bool qkv_bias = true, out_bias = true;
  double dropout = 0;
  bool causal = false;
  std::optional<double> scale = {};  ///< 1 / sqrt(head_dim) where empty
  double softcap = 0;                ///< 0: none
};

/// Base of the attention layers: projects, lets prepare() turn queries and keys, asks
/// compute_attention(), projects back. Derive from it to change one of these steps.
///   y = out_proj(softmax(q kᵀ · scale) v)      q, k, v = q_proj(x), k_proj(x), v_proj(x) by heads
/// x: [B,T,D], y: like x. Keys: q_proj k_proj v_proj out_proj .weight .bias; feature h · d + i of a
/// projection is element i of head h. Throws where sizes do not divide or x is of another width.
/// Vaswani et al. 2017, arXiv:1706.03762.
class OLM_API AttentionBase : public Module {
 public:
  explicit AttentionBase(const AttentionShape& shape);
  Tensor forward(const Tensor& x, Context& ctx) override;
  /// Of scores and their products with the values, to half of the tokens where causal.
  double flops_per_token(int64_t context) override;
  const AttentionShape& attention_shape() const { return shape_; }
  Child<LinearModule> q_proj, k_proj, v_proj, out_proj;

 protected:
  /// What happens to q [B,T,H,d] and k [B,T,K,d] before they meet: nothing here.
  virtual void prepare(Tensor& q, Tensor& k, Context& ctx);
  /// [B,T,H,d] from q and all keys and values up to now, [B,S,K,d]; S = T without a cache.
  virtual Tensor compute_attention(const Tensor& q, const Tensor& k, const Tensor& v, Context& ctx);

 private:
  Tensors project(const Tensor& x, Context& ctx) const;
  AttentionShape shape_;
};

/// Base of the layers that turn queries and keys by their positions inside (RoPE).
class OLM_API AttentionwithRoPEBase : public AttentionBase {
 public:
  AttentionwithRoPEBase(const AttentionShape& shape, int64_t max_seq_len, double rope_theta);

 protected:
  void prepare(Tensor& q, Tensor& k, Context& ctx) override;

 private:
  RotaryAngles angles_;
};

struct AttentionOptions {
  int64_t embed_dim = 0, num_heads = 0;
  double dropout = 0;
  bool causal = false, bias = true;
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("num_heads", num_heads);
    v("dropout", dropout);
    v("causal", causal);
    v("bias", bias);
  }
};

struct AttentionwithRoPEOptions {
  int64_t embed_dim = 0, num_heads = 0, max_seq_len = 0;
  double dropout = 0;
  bool causal = false, bias = true;
  double rope_theta = 10000;
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("num_heads", num_heads);
    v("max_seq_len", max_seq_len);
    v("dropout", dropout);
    v("causal", causal);
    v("bias", bias);
    v("rope_theta", rope_theta);
  }
};

/// Attention without positions of its own: add them at the input, as GPT-2 does.
class OLM_API MultiHeadAttentionModule : public AttentionBase {
 public:
  explicit MultiHeadAttentionModule(AttentionOptions o, const char* layer = "MultiHeadAttention");
  std::string type_name() const override { return "MultiHeadAttention"; }
  void visit_options(FieldVisitor& v) override { options.fields(v); }
  void visit_default_options(FieldVisitor& v) override { AttentionOptions().fields(v); }
  AttentionOptions options;
};
OLM_API Ref<MultiHeadAttentionModule> MultiHeadAttention(AttentionOptions options);
OLM_API Ref<MultiHeadAttentionModule> MultiHeadAttention(int64_t embed_dim, int64_t num_heads,
                                                         AttentionOptions options = {});

/// The same under the name that says how it is computed: by tiles, never holding a T × T matrix.
/// Both layers are.
class OLM_API FlashAttentionModule final : public MultiHeadAttentionModule {
 public:
  explicit FlashAttentionModule(AttentionOptions o)
      : MultiHeadAttentionModule(o, "FlashAttention") {}
  std::string type_name() const override { return "FlashAttention"; }
};
OLM_API Ref<FlashAttentionModule> FlashAttention(AttentionOptions options);
OLM_API Ref<FlashAttentionModule> FlashAttention(int64_t embed_dim, int64_t num_heads,
                                                 AttentionOptions options = {});

/// Attention with RoPE. Throws for an odd head size and for positions from max_seq_len on.
class OLM_API MultiHeadAttentionwithRoPEModule : public AttentionwithRoPEBase {
 public:
  explicit MultiHeadAttentionwithRoPEModule(AttentionwithRoPEOptions o,
                                            const char* layer = "MultiHeadAttentionwithRoPE");
  std::string type_name() const override { return "MultiHeadAttentionwithRoPE"; }
  void visit_options(FieldVisitor& v) override { options.fields(v); }
  void visit_default_options(FieldVisitor& v) override { AttentionwithRoPEOptions().fields(v); }
  AttentionwithRoPEOptions options;
};
OLM_API Ref<MultiHeadAttentionwithRoPEModule> MultiHeadAttentionwithRoPE(
    AttentionwithRoPEOptions options);
OLM_API Ref<MultiHeadAttentionwithRoPEModule> MultiHeadAttentionwithRoPE(
    int64_t embed_dim, int64_t num_heads, int64_t max_seq_len,
    AttentionwithRoPEOptions options = {});

/// The same under the name that says how it is computed. The default of modern decoders.
class OLM_API FlashAttentionwithRoPEModule final : public MultiHeadAttentionwithRoPEModule {
 public:
  explicit FlashAttentionwithRoPEModule(AttentionwithRoPEOptions o)
      : MultiHeadAttentionwithRoPEModule(o, "FlashAttentionwithRoPE") {}
  std::string type_name() const override { return "FlashAttentionwithRoPE"; }
};
OLM_API Ref<FlashAttentionwithRoPEModule> FlashAttentionwithRoPE(AttentionwithRoPEOptions options);
OLM_API Ref<FlashAttentionwithRoPEModule> FlashAttentionwithRoPE(
    int64_t embed_dim, int64_t num_heads, int64_t max_seq_len,
    AttentionwithRoPEOptions options = {});

struct GroupedQueryAttentionOptions {
  int64_t embed_dim = 0, num_heads = 0, num_kv_heads = 0, max_seq_len = 0;
  std::optional<int64_t> head_dim = {};  ///< embed_dim / num_heads where empty
  double dropout = 0, rope_theta = 10000;
  bool use_bias = false;     ///< of out_proj
  bool qkv_bias = false;     ///< of q_proj, k_proj, v_proj
  bool use_qk_norm = false;  ///< RMSNorm of each head's query and key, before RoPE
  double rms_norm_eps = 1e-6;
  std::optional<double> attention_scale = {};     ///< 1 / sqrt(head_dim) where empty
  std::optional<double> attn_logit_softcap = {};  ///< c: scores become c · tanh(score / c)
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("num_heads", num_heads);
    v("num_kv_heads", num_kv_heads);
    v("max_seq_len", max_seq_len);
    v("head_dim", head_dim);
    v("dropout", dropout);
    v("rope_theta", rope_theta);
    v("use_bias", use_bias);
    v("qkv_bias", qkv_bias);
    v("use_qk_norm", use_qk_norm);
    v("rms_norm_eps", rms_norm_eps);
    v("attention_scale", attention_scale);
    v("attn_logit_softcap", attn_logit_softcap);
  }
};

/// Causal attention with RoPE in which num_heads / num_kv_heads neighbouring query heads share one
/// key and value head: as many as queries gives plain attention, one gives multi-query attention.
/// Keys besides those of the base: q_norm.weight, k_norm.weight [head_dim] with `use_qk_norm`.
/// Ainslie et al. 2023, arXiv:2305.13245.
class OLM_API GroupedQueryAttentionModule final : public AttentionwithRoPEBase {
 public:
  explicit GroupedQueryAttentionModule(GroupedQueryAttentionOptions o);
  std::string type_name() const override { return "GroupedQueryAttention"; }
  void visit_options(FieldVisitor& v) override { options.fields(v); }
  void visit_default_options(FieldVisitor& v) override { GroupedQueryAttentionOptions().fields(v); }
  GroupedQueryAttentionOptions options;
  std::optional<Child<RMSNormModule>> q_norm, k_norm;

 protected:
  void prepare(Tensor& q, Tensor& k, Context& ctx) override;
};
OLM_API Ref<GroupedQueryAttentionModule> GroupedQueryAttention(
    GroupedQueryAttentionOptions options);

}  // namespace olm::nn
