// The architectures of GGUF files: keys and members of configurations, one table for both ways.
#include <charconv>

#include <olm/nn/hub/gguf_internal.h>

namespace olm::nn::hub {

namespace {

using C = DecoderConfig;
using Rows = std::vector<GgufRow>;

Rows operator+(Rows a, const Rows& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

constexpr bool kMayMiss = true;

const Rows kSizes = {{"context_length", &C::max_seq_len},
                     {"embedding_length", &C::embed_dim},
                     {"block_count", &C::num_layers},
                     {"feed_forward_length", &C::intermediate_size},
                     {"attention.head_count", &C::num_heads}};
const Rows kRotary = kSizes + Rows{{"attention.head_count_kv", &C::num_kv_heads, {}, kMayMiss},
                                   {"attention.layer_norm_rms_epsilon", &C::rms_norm_eps},
                                   {"rope.freq_base", &C::rope_theta, 10000}};
const Rows kHead = {{"attention.key_length", &C::head_dim, {}, kMayMiss}};
const Rows kWindow = {{"attention.sliding_window", &C::sliding_window, {}, kMayMiss}};
const Rows kExperts = {{"expert_count", &C::num_experts, {}, kMayMiss},
                       {"expert_used_count", &C::top_k, {}, kMayMiss}};

}  // namespace

const std::vector<GgufArchitecture>& architectures() {
  static const std::vector<GgufArchitecture> table = {
      {.name = "gpt2",
       .rows = kSizes + Rows{{"attention.layer_norm_epsilon", &C::layer_norm_eps}},
       .any_biases = true,
       .gelu = true},
      {.name = "llama",
       .rows = kRotary + kHead + kWindow + kExperts,
       .any_biases = true,
       .factors = true},
      {.name = "qwen2", .rows = kRotary + kWindow},
      {.name = "qwen3", .rows = kRotary + kHead + kWindow},
      {.name = "qwen3moe",
       .rows = kRotary + kHead + kWindow + kExperts +
               Rows{{"expert_feed_forward_length", &C::moe_intermediate_size}}},
      {.name = "phi3", .rows = kRotary + kWindow, .partial_rotation = true, .factors = true},
      {.name = "gemma", .rows = kRotary + kHead, .gelu = true, .head = GgufArchitecture::tied},
      {.name = "gemma2",
       .rows = kRotary + kHead +
               Rows{{"attention.sliding_window", &C::sliding_window, 4096},
                    {"attn_logit_softcapping", &C::attn_logit_softcap, 50},
                    {"final_logit_softcapping", &C::final_logit_softcap, 30}},
       .pattern = 2,
       .windows = true,
       .gelu = true,
       .head = GgufArchitecture::tied,
       .layers_of_largest = 46},
      {.name = "gemma3",
       .rows = kRotary + kHead + kWindow +
               Rows{{"rope.freq_base_swa", &C::local_rope_theta, 10000},
                    {"final_logit_softcapping", &C::final_logit_softcap, {}, kMayMiss}},
       .pattern = 6,
       .windows = true,
       .gelu = true,
       .layers_of_largest = 62},
      {.name = "olmo2", .rows = kRotary, .head = GgufArchitecture::separate},
  };
  return table;
}

const GgufArchitecture& architecture_of(const std::string& name, const std::string& path) {
  std::string known;
  for (const GgufArchitecture& a : architectures()) {
    if (a.name == name) return a;
    known += (known.empty() ? "" : ", ") + std::string(a.name);
  }
  throw FileError(path, ": general.architecture is \"", name, "\", which is not known; known are ",
                  known);
}

double decimal_of(double value) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, float(value)).ptr;
  double result = 0;
  std::from_chars(text, end, result);
  return result;
}

}  // namespace olm::nn::hub
