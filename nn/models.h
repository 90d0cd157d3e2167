#pragma once
// Reference models as functions that return a Block, their configurations and presets. A preset
// such as GPT2() is a model that init() or loading fills; its configuration is `presets::GPT2`.
#include <functional>

#include <olm/nn/blocks.h>
#include <olm/nn/registry.h>

namespace olm::nn {

struct GPT2Config {
  int64_t vocab_size = 50257, embed_dim = 768, num_layers = 12, num_heads = 12, max_seq_len = 1024;
  std::optional<int64_t> hidden_dim = {};  ///< of the feed-forward layers; 4 · embed_dim if empty
  double dropout = 0.1;
  bool tie_weights = true;
  bool bias = true;        ///< of the linear layers
  bool gelu_tanh = false;  ///< the GELU that the published weights were trained with
  void fields(auto& v) {
    v("vocab_size", vocab_size);
    v("embed_dim", embed_dim);
    v("num_layers", num_layers);
    v("num_heads", num_heads);
    v("max_seq_len", max_seq_len);
    v("hidden_dim", hidden_dim);
    v("dropout", dropout);
    v("tie_weights", tie_weights);
    v("bias", bias);
    v("gelu_tanh", gelu_tanh);
  }
};

/// GPT-2: x + FlashAttention(LayerNorm(x)), x + ClassicFFN(LayerNorm(x)), learned positions.
///   ids [B,T]    logits [B,T,V]
/// Layout: {{Embedding, AbsolutePositionalEmbedding}, Repeat, OutputHead}. Radford et al. 2019.
OLM_API Ref<BlockModule> GPT2Model(const GPT2Config& config);

/// Of Llama 2 and Llama 3, which differ in the defaults of their functions alone.
struct LlamaConfig {
  int64_t vocab_size = 32000, embed_dim = 4096, intermediate_size = 11008, num_layers = 32,
          num_heads = 32, num_kv_heads = 32, max_seq_len = 4096;
  double rope_theta = 10000, dropout = 0;
  bool tie_weights = true;
  double rms_norm_eps = 1e-5;
  void fields(auto& v) {
    v("vocab_size", vocab_size);
    v("embed_dim", embed_dim);
    v("intermediate_size", intermediate_size);
    v("num_layers", num_layers);
    v("num_heads", num_heads);
    v("num_kv_heads", num_kv_heads);
    v("max_seq_len", max_seq_len);
    v("rope_theta", rope_theta);
    v("dropout", dropout);
    v("tie_weights", tie_weights);
    v("rms_norm_eps", rms_norm_eps);
  }
};

/// Llama: x + attention(RMSNorm(x)), x + SwiGLUFFN(RMSNorm(x)), no biases. Attention is
/// FlashAttentionwithRoPE where num_kv_heads is num_heads, else GroupedQueryAttention.
///   ids [B,T]    logits [B,T,V]
/// Layout: {Embedding, Repeat, RMSNorm, OutputHead without norm}. Touvron et al. 2023,
/// arXiv:2307.09288.
OLM_API Ref<BlockModule> Llama2Model(const LlamaConfig& config);
/// The same with GroupedQueryAttention throughout. Presets have a rope_theta of 500000. Grattafiori
/// et al. 2024, arXiv:2407.21783.
OLM_API Ref<BlockModule> Llama3Model(const LlamaConfig& config);

namespace presets {
inline constexpr GPT2Config GPT2{};
inline constexpr GPT2Config GPT2Medium{.embed_dim = 1024, .num_layers = 24, .num_heads = 16};
inline constexpr GPT2Config GPT2Large{.embed_dim = 1280, .num_layers = 36, .num_heads = 20};
inline constexpr GPT2Config GPT2XL{.embed_dim = 1600, .num_layers = 48, .num_heads = 25};

inline constexpr LlamaConfig Llama2_7B{};
inline constexpr LlamaConfig Llama2_13B{.embed_dim = 5120,
                                        .intermediate_size = 13824,
                                        .num_layers = 40,
                                        .num_heads = 40,
                                        .num_kv_heads = 40};
inline constexpr LlamaConfig Llama2_70B{.embed_dim = 8192,
                                        .intermediate_size = 28672,
                                        .num_layers = 80,
                                        .num_heads = 64,
                                        .num_kv_heads = 8};

constexpr LlamaConfig llama3(int64_t embed_dim, int64_t intermediate_size, int64_t num_layers,
                             int64_t num_heads) {
  return {.vocab_size = 128256,
          .embed_dim = embed_dim,
          .intermediate_size = intermediate_size,
          .num_layers = num_layers,
          .num_heads = num_heads,
          .num_kv_heads = 8,
          .max_seq_len = 131072,
          .rope_theta = 500000};
}
inline constexpr LlamaConfig Llama3_1_8B = llama3(4096, 14336, 32, 32);
inline constexpr LlamaConfig Llama3_1_70B = llama3(8192, 28672, 80, 64);
inline constexpr LlamaConfig Llama3_1_405B = llama3(16384, 53248, 126, 128);
inline constexpr LlamaConfig Llama3_2_1B = llama3(2048, 8192, 16, 32);
inline constexpr LlamaConfig Llama3_2_3B = llama3(3072, 8192, 28, 24);
}  // namespace presets

OLM_API Ref<BlockModule> GPT2();        ///< 124 million parameters
OLM_API Ref<BlockModule> GPT2Medium();  ///< 355 million
OLM_API Ref<BlockModule> GPT2Large();   ///< 774 million
OLM_API Ref<BlockModule> GPT2XL();      ///< 1.6 billion
OLM_API Ref<BlockModule> Llama2_7B();
OLM_API Ref<BlockModule> Llama2_13B();
OLM_API Ref<BlockModule> Llama2_70B();
OLM_API Ref<BlockModule> Llama3_1_8B();
OLM_API Ref<BlockModule> Llama3_1_70B();
OLM_API Ref<BlockModule> Llama3_1_405B();
OLM_API Ref<BlockModule> Llama3_2_1B();
OLM_API Ref<BlockModule> Llama3_2_3B();

/// The presets by name, "GPT2" and so on.
OLM_API Registry<std::function<Ref<Module>()>>& models();

}  // namespace olm::nn
