#pragma once
// Decoder-only transformers: GPT-2, Llama, Gemma and their relatives are one model with options. A
// family is a row of decoders(): a name, defaults, and the configuration keys that it has.
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <olm/nn/blocks.h>
#include <olm/nn/embeddings.h>
#include <olm/nn/registry.h>

namespace olm::nn {

/// The configuration of a decoder. An empty member takes the default of the family, and where that
/// is empty too, the one after the semicolon. Members that are no keys of the family keep its
/// defaults; setting them throws.
struct OLM_API DecoderConfig {
  std::string family = "llama";  ///< a name in decoders()
  int64_t vocab_size = 0;        ///< V
  int64_t embed_dim = 0;         ///< D
  /// Hidden size of the FFN; 8/3 · embed_dim rounded up to a multiple of 64 for gated FFNs,
  /// 4 · embed_dim for others.
  std::optional<int64_t> intermediate_size = {};
  int64_t num_layers = 0;
  int64_t num_heads = 0;                       ///< query heads
  std::optional<int64_t> num_kv_heads = {};    ///< key and value heads; num_heads
  std::optional<int64_t> head_dim = {};        ///< of a query and key; embed_dim / num_heads
  int64_t max_seq_len = 0;                     ///< positions are below it
  std::optional<double> rope_theta = {};       ///< base of RoPE's frequencies; 10000
  std::optional<double> dropout = {};          ///< probability; 0
  bool tie_weights = true;                     ///< the head uses the embedding's matrix
  std::optional<bool> bias = {};               ///< in linear layers but the head
  std::optional<bool> attention_bias = {};     ///< in q_proj, k_proj, v_proj, out_proj; bias
  std::optional<bool> mlp_bias = {};           ///< in FFNs and experts; bias
  std::optional<bool> gelu_tanh = {};          ///< GELU by its tanh approximation; false
  std::optional<double> rms_norm_eps = {};     ///< epsilon of RMSNorm
  std::optional<bool> norm_plus_one = {};      ///< norms scale by 1 + weight; false
  std::optional<std::string> activation = {};  ///< gelu, relu, swiglu or geglu
  std::optional<int64_t> sliding_window = {};  ///< keys less than this far from the query; all
  /// n: layers n, 2n, … have no window, the others do. Empty: all layers have the window.
  std::optional<int64_t> sliding_window_pattern = {};
  /// The layers that have the window, counted from 0. Empty: as sliding_window_pattern says.
  std::vector<int64_t> window_layers = {};
  std::optional<double> local_rope_theta = {};     ///< rope_theta of windowed layers; rope_theta
  std::optional<double> attn_logit_softcap = {};   ///< c: scores become c · tanh(score / c); none
  std::optional<double> final_logit_softcap = {};  ///< the same of logits; none
  std::optional<double> query_pre_attn_scalar = {};  ///< scores are divided by its root; head_dim
  RopeScalingOptions rope_scaling = {};              ///< of layers that use rope_theta
  std::optional<std::string> rope_pairing = {};      ///< interleaved or halves
  /// Fraction of head_dim that RoPE rotates, rounded down to an even number of dimensions; 1
  std::optional<double> partial_rotary_factor = {};

  // Mixture of experts, where num_experts is set; see MoEOptions and MoERoutingOptions.
  std::optional<int64_t> num_experts = {}, num_shared_experts = {}, top_k = {};
  std::optional<int64_t> moe_intermediate_size = {};  ///< of an expert; intermediate_size
  std::optional<int64_t> first_k_dense_replace = {};  ///< the first so many layers have an FFN
  std::optional<double> routed_scaling_factor = {};
  std::optional<bool> norm_topk_prob = {};  ///< weights of a token's experts add up to 1; true
  std::optional<int64_t> n_group = {}, topk_group = {};
  std::optional<double> load_balancing_coefficient = {}, z_loss_coefficient = {};
  std::optional<double> bias_update_rate = {};

  // Latent attention, where kv_lora_rank is set; see AttentionOptions.
  std::optional<int64_t> q_lora_rank = {}, kv_lora_rank = {};
  std::optional<int64_t> qk_nope_head_dim = {}, qk_rope_head_dim = {}, v_head_dim = {};

  std::optional<bool> qkv_bias = {};             ///< in q_proj, k_proj, v_proj; attention_bias
  std::optional<bool> use_qk_norm = {};          ///< RMSNorm of each head's query and key
  std::optional<bool> qk_norm_all_heads = {};    ///< QK-norm over all heads together
  std::optional<std::string> scoring_func = {};  ///< of routers: softmax or sigmoid
  std::optional<bool> use_expert_bias = {};      ///< see MoERoutingOptions
  std::optional<std::string> attention = {};  ///< where num_kv_heads = num_heads; see attentions()
  std::optional<std::string> norm = {};       ///< rms_norm or layer_norm
  std::optional<bool> norm_affine = {};       ///< layer_norm has gamma and beta
  std::optional<double> layer_norm_eps = {};  ///< epsilon of LayerNorm
  std::optional<double> final_norm_eps = {};  ///< epsilon of the last norm; the other norms'
  std::optional<bool> pre_norm = {};          ///< norms before attention and FFN
  std::optional<bool> post_norm = {};  ///< norms after attention and FFN, before the addition
  std::optional<std::string> positions = {};  ///< rope or absolute
  std::optional<bool> scale_embedding = {};   ///< embeddings are multiplied by sqrt(embed_dim)
  std::optional<bool> joint_embedding = {};   ///< embedding and positions form a Block
  std::optional<bool> norm_in_head = {};      ///< the last norm is part of the OutputHead

  /// Visits the keys of the family; members with a default there are visited as plain values.
  /// Throws for an unknown family.
  void fields(FieldVisitor& v);
  /// The members that are set, by key.
  Json given() const;
  /// This with the family's defaults in empty members. Throws naming the key for a value outside
  /// its range, and for a member that is no key of the family.
  DecoderConfig completed() const;
  /// completed() in the family "decoder", with members said that follow from others, and emptied
  /// that have no effect: equal for two configurations that compute the same from the same weights,
  /// but for the layers' names and nesting, the order of RoPE's dimensions, and what acts in
  /// training alone but dropout.
  DecoderConfig normalized() const;
  /// Takes members that are empty, and sizes that are 0, from another.
  void fill_from(const DecoderConfig& other);
};

/// A family of decoders.
struct DecoderFamily {
  std::string name;
  DecoderConfig defaults = {};  ///< with sizes of a model that trains in seconds
  /// Beside those of all families; "*" for every key there is.
  std::vector<std::string> keys = {};
};
/// Families of decoders by name. Users add theirs by add_family(), which adds them to families()
/// as well.
OLM_API Registry<DecoderFamily>& decoders();
OLM_API void add_family(const DecoderFamily& family);

/// A decoder of a configuration: num_layers times
///   x += attention(norm(x))    x += ffn(norm(x))
/// without the norms where pre_norm is false, and with a norm after attention and FFN with
/// post_norm.
///   x: ids [B,T]    y: logits [B,T,V]
/// Its tree is {Embedding, Repeat, norm, OutputHead without norm} with layers {Residual({norm,
/// attention}), Residual({norm, FFN})}; absolute positions and a Dropout follow the Embedding. With
/// joint_embedding and norm_in_head (GPT-2) it is {{Embedding, AbsolutePositionalEmbedding},
/// Repeat, OutputHead}. Throws where completed() does, and where sizes do not divide.
OLM_API Ref<BlockModule> DecoderModel(const DecoderConfig& config);
/// Fills it by init_gpt2.
OLM_API void init_decoder(Module& model, const DecoderConfig& config, const InitOptions& options);

/// The configuration of a model that DecoderModel made, or one with the same tree of layers,
/// complete: of the family `hint` where that has a key for all that is set, else of the first that
/// has. Throws naming the layer, and its option, that no configuration gives.
OLM_API DecoderConfig decoder_config_of(Module& model, const std::string& hint = {});

/// This library's key for the tensor that OpenLanguageModel's model of a family has under `key`.
/// They differ where blocks have named parts there, or layers nest in another way. "" for a second
/// name of the same tensor.
OLM_API std::string key_from_olm(const std::string& family, const std::string& key);
/// A state dict of OpenLanguageModel under this library's keys.
OLM_API std::map<std::string, Tensor> keys_from_olm(const std::string& family,
                                                    const std::map<std::string, Tensor>& tensors);

/// DecoderModel of a family; config.family is ignored.
OLM_API Ref<BlockModule> DecoderModel(const std::string& family, DecoderConfig config);

/// Learned positions, LayerNorm, GELU, biases. Radford et al. 2019.
inline Ref<BlockModule> GPT2Model(const DecoderConfig& c) { return DecoderModel("gpt2", c); }
/// RMSNorm, RoPE, SwiGLU, no biases. Touvron et al. 2023, arXiv:2307.09288.
inline Ref<BlockModule> Llama2Model(const DecoderConfig& c) { return DecoderModel("llama", c); }
/// Norms by 1 + weight, GeGLU by tanh, scaled embeddings. Gemma Team 2024, arXiv:2403.08295.
inline Ref<BlockModule> GemmaModel(const DecoderConfig& c) { return DecoderModel("gemma", c); }
/// Llama with rope_theta 500000. Grattafiori et al. 2024, arXiv:2407.21783.
inline Ref<BlockModule> Llama3Model(const DecoderConfig& c) { return DecoderModel("llama3", c); }
/// Llama with biases of queries, keys and values. Qwen 2.5: Yang et al. 2024, arXiv:2412.15115.
inline Ref<BlockModule> Qwen2Model(const DecoderConfig& c) { return DecoderModel("qwen2", c); }
/// Llama, with SwiGLU or GeGLU. Abdin et al. 2024, arXiv:2404.14219.
inline Ref<BlockModule> Phi3Model(const DecoderConfig& c) { return DecoderModel("phi3", c); }
/// Llama with rope_theta 250000. Abdin et al. 2024, arXiv:2412.08905.
inline Ref<BlockModule> Phi4Model(const DecoderConfig& c) { return DecoderModel("phi4", c); }
/// Norms before and after attention and FFN, a window in every second layer, softcaps, GeGLU,
/// scaled embeddings. Gemma Team 2024, arXiv:2408.00118.
inline Ref<BlockModule> Gemma2Model(const DecoderConfig& c) { return DecoderModel("gemma2", c); }
/// Llama with LayerNorm without parameters. Groeneveld et al. 2024, arXiv:2402.00838.
inline Ref<BlockModule> OLMoModel(const DecoderConfig& c) { return DecoderModel("olmo", c); }
/// Learned positions, LayerNorm, ReLU, biases. Zhang et al. 2022, arXiv:2205.01068.
inline Ref<BlockModule> OPTModel(const DecoderConfig& c) { return DecoderModel("opt", c); }
/// Llama with grouped-query attention and a window in each layer. Jiang et al. 2023,
/// arXiv:2310.06825.
inline Ref<BlockModule> MistralModel(const DecoderConfig& c) { return DecoderModel("mistral", c); }
/// Llama with QK-norm. Yang et al. 2025, arXiv:2505.09388.
inline Ref<BlockModule> Qwen3Model(const DecoderConfig& c) { return DecoderModel("qwen3", c); }
/// Gemma 2 with QK-norm instead of softcaps, and windows with a rope_theta of their own in five of
/// six layers. Gemma Team 2025, arXiv:2503.19786.
inline Ref<BlockModule> Gemma3Model(const DecoderConfig& c) { return DecoderModel("gemma3", c); }
/// Mistral with a mixture of experts in each layer. Jiang et al. 2024, arXiv:2401.04088.
inline Ref<BlockModule> MixtralModel(const DecoderConfig& c) { return DecoderModel("mixtral", c); }
/// Qwen 3 with a mixture of experts in each layer, which OpenLanguageModel calls Qwen3Model.
inline Ref<BlockModule> Qwen3MoEModel(const DecoderConfig& c) {
  return DecoderModel("qwen3_moe", c);
}
/// Latent attention; in all but the first layers a mixture with a shared expert, sigmoid scores and
/// expert biases. DeepSeek-AI 2024, arXiv:2412.19437.
inline Ref<BlockModule> DeepSeekV3Model(const DecoderConfig& c) {
  return DecoderModel("deepseek_v3", c);
}
/// Llama with norms after instead of before attention and FFN, and QK-norm over all heads. OLMo
/// Team 2025, arXiv:2501.00656.
inline Ref<BlockModule> Olmo2Model(const DecoderConfig& c) { return DecoderModel("olmo2", c); }
/// OLMo 2 with QK-norm of each head, and a window in three of four layers.
inline Ref<BlockModule> Olmo3Model(const DecoderConfig& c) { return DecoderModel("olmo3", c); }

}  // namespace olm::nn
