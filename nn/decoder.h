#pragma once
// Decoders: GPT-2, Llama, Gemma and their relatives are one model with options. A family is a row
// of decoders(): a name, defaults, the keys that its configurations have.
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <olm/nn/blocks.h>
#include <olm/nn/embeddings.h>
#include <olm/nn/registry.h>

namespace olm::nn {

/// A decoder. Of what is empty its family decides; what a family does not list among its keys it
/// alone decides.
struct OLM_API DecoderConfig {
  std::string family = "llama";  ///< a name of decoders()
  int64_t vocab_size = 0, embed_dim = 0;
  /// Of feed-forward layers; where empty 8/3 · embed_dim, up to a multiple of 64, of gated ones and
  /// 4 · embed_dim of others.
  std::optional<int64_t> intermediate_size = {};
  int64_t num_layers = 0, num_heads = 0;
  std::optional<int64_t> num_kv_heads = {};  ///< num_heads if empty
  std::optional<int64_t> head_dim = {};      ///< embed_dim / num_heads if empty
  int64_t max_seq_len = 0;
  std::optional<double> rope_theta = {}, dropout = {};
  bool tie_weights = true;             ///< the head uses the embedding's matrix
  std::optional<bool> bias = {};       ///< of linear layers but the head
  std::optional<bool> gelu_tanh = {};  ///< GELU by tanh, which published weights want
  std::optional<double> rms_norm_eps = {};
  std::optional<bool> norm_plus_one = {};  ///< norms multiply by 1 + weight, as published Gemmas do
  std::optional<std::string> activation = {};  ///< gelu, relu, swiglu, geglu
  std::optional<int64_t> sliding_window = {};  ///< keys less than this far from the query; all
  /// Every so many layers the last has no window; if empty all have one.
  std::optional<int64_t> sliding_window_pattern = {};
  std::optional<double> local_rope_theta = {};  ///< of layers with a window; rope_theta if empty
  std::optional<double> attn_logit_softcap = {}, final_logit_softcap = {};
  std::optional<double> query_pre_attn_scalar = {};  ///< scores are over its root; of head_dim's
  RopeScalingOptions rope_scaling = {};              ///< of layers without a RoPE of their own
  std::optional<std::string> rope_pairing = {};      ///< interleaved or halves

  // Mixtures of experts: without num_experts there are none.
  std::optional<int64_t> num_experts = {}, num_shared_experts = {}, top_k = {};
  std::optional<int64_t> moe_intermediate_size = {};  ///< of an expert; intermediate_size if empty
  std::optional<int64_t> first_k_dense_replace = {};  ///< so many first layers have none
  std::optional<double> routed_scaling_factor = {};   ///< this and the next: MoERoutingOptions
  std::optional<int64_t> n_group = {}, topk_group = {};
  std::optional<double> load_balancing_coefficient = {}, z_loss_coefficient = {};
  std::optional<double> bias_update_rate = {};

  // Latent attention: without kv_lora_rank it is not that.
  std::optional<int64_t> q_lora_rank = {}, kv_lora_rank = {};
  std::optional<int64_t> qk_nope_head_dim = {}, qk_rope_head_dim = {}, v_head_dim = {};

  std::optional<bool> qkv_bias = {};             ///< of q_proj, k_proj, v_proj; bias if empty
  std::optional<bool> use_qk_norm = {};          ///< RMSNorm of each head's query and key
  std::optional<bool> qk_norm_all_heads = {};    ///< of all heads together
  std::optional<std::string> scoring_func = {};  ///< of routers, softmax or sigmoid
  std::optional<bool> use_expert_bias = {};      ///< experts are balanced by biases for the choice
  std::optional<std::string> attention = {};  ///< of as many key heads as heads; see attentions()
  std::optional<std::string> norm = {};       ///< rms_norm or layer_norm
  std::optional<bool> norm_affine = {};       ///< layer_norm has gamma and beta
  std::optional<double> layer_norm_eps = {};
  std::optional<double> final_norm_eps = {};  ///< that of the other norms if empty
  std::optional<bool> pre_norm = {};          ///< a norm before attention and feed-forward layer
  std::optional<bool> post_norm = {};         ///< a norm behind each, before the addition
  std::optional<std::string> positions = {};  ///< rope or absolute
  std::optional<bool> scale_embedding = {};   ///< embeddings times sqrt(embed_dim)
  std::optional<bool> joint_embedding = {};   ///< embeddings and positions are a Block
  std::optional<bool> norm_in_head = {};      ///< the last norm is part of the OutputHead

  /// The keys of the family; what it has a default for is a plain value. Throws for an unknown
  /// family.
  void fields(FieldVisitor& v);
  /// What is set, by key.
  Json given() const;
  /// With what the family says of what is empty. Throws naming the key for a value outside its
  /// range, and for one that the family does not have.
  DecoderConfig completed() const;
  /// Takes from another what is empty, and sizes that are 0.
  void fill_from(const DecoderConfig& other);
};

/// A family of decoders.
struct DecoderFamily {
  std::string name;
  DecoderConfig defaults = {};         ///< sizes too, of a model small enough to train in seconds
  std::vector<std::string> keys = {};  ///< beside those that all families have
};
/// Families of decoders by name. Users add theirs by add_family(), which makes them known to
/// families() too.
OLM_API Registry<DecoderFamily>& decoders();
OLM_API void add_family(const DecoderFamily& family);

/// A decoder, with norms, attention, feed-forward layers and positions as the configuration says:
///   x += attention(norm(x))    x += feed_forward(norm(x))    num_layers times
/// With post_norm a norm comes behind attention and feed-forward layer, without pre_norm none
/// before.
///   ids [B,T]    logits [B,T,V]
/// Layout: {Embedding, Repeat, norm, OutputHead without norm}, GPT-2 alone {{Embedding,
/// AbsolutePositionalEmbedding}, Repeat, OutputHead}; absolute positions and a Dropout come behind
/// the Embedding otherwise. Layers are {Residual({norm, attention}), Residual({norm, FFN})}. Throws
/// for a value outside its range, one that the family does not have, and sizes that do not divide.
OLM_API Ref<BlockModule> DecoderModel(const DecoderConfig& config);
/// Fills it by init_gpt2.
OLM_API void init_decoder(Module& model, const DecoderConfig& config, const InitOptions& options);

/// The key under which this library holds what a state dict of OpenLanguageModel's model of a
/// family holds under `key`: the same, but for blocks whose parts have names there and for layers
/// that nest otherwise. "" for a second name of the same tensor.
OLM_API std::string key_from_olm(const std::string& family, const std::string& key);
/// The same of a state dict.
OLM_API std::map<std::string, Tensor> keys_from_olm(const std::string& family,
                                                    const std::map<std::string, Tensor>& tensors);

/// DecoderModel of a family.
OLM_API Ref<BlockModule> DecoderModel(const std::string& family, DecoderConfig config);

/// Learned positions, LayerNorm, GELU, biases. Radford et al. 2019.
inline Ref<BlockModule> GPT2Model(const DecoderConfig& c) { return DecoderModel("gpt2", c); }
/// RMSNorm, RoPE, SwiGLU, no biases. Touvron et al. 2023, arXiv:2307.09288.
inline Ref<BlockModule> Llama2Model(const DecoderConfig& c) { return DecoderModel("llama", c); }
/// The same with RoPE's base 500000. Grattafiori et al. 2024, arXiv:2407.21783.
inline Ref<BlockModule> Llama3Model(const DecoderConfig& c) { return DecoderModel("llama3", c); }
/// Llama with biases of queries, keys and values. Qwen 2.5: Yang et al. 2024, arXiv:2412.15115.
inline Ref<BlockModule> Qwen2Model(const DecoderConfig& c) { return DecoderModel("qwen2", c); }
/// Llama, with SwiGLU or GeGLU. Abdin et al. 2024, arXiv:2404.14219.
inline Ref<BlockModule> Phi3Model(const DecoderConfig& c) { return DecoderModel("phi3", c); }
/// Llama with RoPE's base 250000. Abdin et al. 2024, arXiv:2412.08905.
inline Ref<BlockModule> Phi4Model(const DecoderConfig& c) { return DecoderModel("phi4", c); }
/// Norms on both sides, windows in every second layer, softcaps, GeGLU, scaled embeddings. Gemma
/// Team 2024, arXiv:2408.00118.
inline Ref<BlockModule> Gemma2Model(const DecoderConfig& c) { return DecoderModel("gemma2", c); }
/// Llama with LayerNorm without parameters. Groeneveld et al. 2024, arXiv:2402.00838.
inline Ref<BlockModule> OLMoModel(const DecoderConfig& c) { return DecoderModel("olmo", c); }
/// Learned positions, LayerNorm, ReLU, biases. Zhang et al. 2022, arXiv:2205.01068.
inline Ref<BlockModule> OPTModel(const DecoderConfig& c) { return DecoderModel("opt", c); }
/// Llama with grouped queries and a window in each layer. Jiang et al. 2023, arXiv:2310.06825.
inline Ref<BlockModule> MistralModel(const DecoderConfig& c) { return DecoderModel("mistral", c); }
/// Llama with RMSNorm of queries and keys. Yang et al. 2025, arXiv:2505.09388.
inline Ref<BlockModule> Qwen3Model(const DecoderConfig& c) { return DecoderModel("qwen3", c); }
/// Gemma 2 with RMSNorm of queries and keys for softcaps, and windows with a RoPE of their own in
/// five layers of six. Gemma Team 2025, arXiv:2503.19786.
inline Ref<BlockModule> Gemma3Model(const DecoderConfig& c) { return DecoderModel("gemma3", c); }
/// Mistral with mixtures of experts. Jiang et al. 2024, arXiv:2401.04088.
inline Ref<BlockModule> MixtralModel(const DecoderConfig& c) { return DecoderModel("mixtral", c); }
/// Qwen 3 with mixtures of experts, which OpenLanguageModel calls Qwen3Model.
inline Ref<BlockModule> Qwen3MoEModel(const DecoderConfig& c) {
  return DecoderModel("qwen3_moe", c);
}
/// Latent attention, and mixtures with shared experts, scores by sigmoid and balance by bias in all
/// but the first layers. DeepSeek-AI 2024, arXiv:2412.19437.
inline Ref<BlockModule> DeepSeekV3Model(const DecoderConfig& c) {
  return DecoderModel("deepseek_v3", c);
}
/// Norms behind attention and feed-forward layers alone, RMSNorm of all queries and of all keys of
/// a token. OLMo Team 2025, arXiv:2501.00656.
inline Ref<BlockModule> Olmo2Model(const DecoderConfig& c) { return DecoderModel("olmo2", c); }
/// The same with the norm of queries and keys by heads, and windows in three layers of four.
inline Ref<BlockModule> Olmo3Model(const DecoderConfig& c) { return DecoderModel("olmo3", c); }

}  // namespace olm::nn
