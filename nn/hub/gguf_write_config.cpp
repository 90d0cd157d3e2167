// Configurations to metadata of GGUF files.
#include <algorithm>

#include <olm/nn/hub/gguf_internal.h>
#include <olm/nn/models/decoder_internal.h>

namespace olm::nn::hub {

namespace {

using C = DecoderConfig;

/// Whether layers have the windows that llama.cpp gives them without being told.
bool usual_windows(const C& c, int64_t pattern) {
  for (int64_t l = 0; l < c.num_layers; ++l)
    if (has_window(c, l) != (!pattern || l % pattern != pattern - 1)) return false;
  return true;
}

/// What keeps llama.cpp from computing the same.
void check_options(const C& c, const GgufArchitecture& a) {
  const auto want = [&](bool holds, const char* option, const auto&... parts) {
    require(holds, "GGUF's architecture ", a.name, " has no place for ", option, parts...);
  };
  const bool rotary = *c.positions == "rope";
  const bool attention_bias = c.attention_bias.value_or(*c.bias);
  want(a.any_biases || !attention_bias, "attention_bias");
  want(a.any_biases || !c.mlp_bias.value_or(*c.bias), "mlp_bias");
  want(!c.final_norm_eps || *c.final_norm_eps == *c.rms_norm_eps, "final_norm_eps");
  want(a.head != GgufArchitecture::tied || c.tie_weights, "a head apart from the embedding");
  want(a.pattern || !c.sliding_window || usual_windows(c, 0), "windows in some layers only");
  want(a.partial_rotation || !rotary || rotated_dims_of(c) == head_dim_of(c),
       "partial_rotary_factor");
  const auto has_head = [](const GgufRow& row) {
    return std::string(row.key) == "attention.key_length";
  };
  const bool any_head = std::any_of(a.rows.begin(), a.rows.end(), has_head);
  want(any_head || head_dim_of(c) * c.num_heads == c.embed_dim, "head_dim ", head_dim_of(c),
       ", embed_dim / num_heads is ", c.embed_dim / c.num_heads);
  if (c.num_experts) want(*c.norm_topk_prob, "norm_topk_prob false");
  const bool largest = a.layers_of_largest == c.num_layers;
  const double usual = double(largest ? c.embed_dim / c.num_heads : head_dim_of(c));
  want(c.query_pre_attn_scalar.value_or(double(head_dim_of(c))) == usual, "query_pre_attn_scalar ",
       c.query_pre_attn_scalar.value_or(double(head_dim_of(c))), ", llama.cpp takes ", usual);
}

/// A softcap of scores where the architecture has none would be lost.
void check_softcaps(const C& c, const GgufArchitecture& a) {
  const std::pair<const char*, std::optional<double> C::*> caps[] = {
      {"attn_logit_softcap", &C::attn_logit_softcap},
      {"final_logit_softcap", &C::final_logit_softcap},
      {"local_rope_theta", &C::local_rope_theta}};
  for (const auto& [name, member] : caps) {
    const bool there =
        std::any_of(a.rows.begin(), a.rows.end(), [member = member](const GgufRow& row) {
          const auto* held = std::get_if<std::optional<double> C::*>(&row.member);
          return held && *held == member;
        });
    require(there || !(c.*member), "GGUF's architecture ", a.name, " has no place for ", name);
    const bool needed =
        there && name != std::string("local_rope_theta") && a.name == std::string("gemma2");
    require(!needed || c.*member, "GGUF's architecture ", a.name, " has no place for no ", name);
  }
}

/// The value of a key; empty where it is left out.
std::optional<double> value_of(const C& c, const GgufRow& row) {
  return std::visit(
      [&]<class T>(T C::*member) -> std::optional<double> {
        if constexpr (std::is_same_v<T, int64_t>)
          return double(c.*member);
        else if (c.*member)
          return double(*(c.*member));
        return {};
      },
      row.member);
}

void write_row(const C& c, const GgufRow& row, const std::string& key, GgufWriter& to) {
  const std::optional<double> value = value_of(c, row);
  if (!value) return;
  if (std::holds_alternative<std::optional<double> C::*>(row.member))
    to.set(key, float(*value));
  else
    to.set(key, uint32_t(*value));
}

/// Sizes that follow from others, so that readers need not know how.
C with_sizes(C c, int64_t width) {
  if (!c.intermediate_size) c.intermediate_size = width;
  if (!c.num_kv_heads) c.num_kv_heads = c.num_heads;
  if (*c.positions == "rope") c.head_dim = head_dim_of(c);
  if (!c.local_rope_theta) c.local_rope_theta = c.rope_theta;
  if (!c.num_experts) c.top_k.reset();  // llama.cpp wants no more than there are experts
  return c;
}

void write_windows(const C& c, const GgufArchitecture& a, const std::string& prefix,
                   GgufWriter& to) {
  if (std::string(a.name) == "phi3" && !c.sliding_window)
    to.set(prefix + "attention.sliding_window", uint32_t(0));  // Phi-4 is told by it
  if (!a.pattern || !c.sliding_window || usual_windows(c, a.pattern)) return;
  std::vector<bool> windows;
  for (int64_t l = 0; l < c.num_layers; ++l) windows.push_back(has_window(c, l));
  to.set(prefix + "attention.sliding_window_pattern", windows);
}

}  // namespace

std::vector<RopeFactors> config_to_gguf(const DecoderConfig& config, const Family& family,
                                        int64_t width, GgufWriter& to) {
  const GgufArchitecture& a = architecture_of(family.gguf, family.model_type);
  check_options(config, a);
  check_softcaps(config, a);
  const std::string prefix = std::string(a.name) + ".";
  const C c = with_sizes(config, width);
  for (const GgufRow& row : a.rows) write_row(c, row, prefix + row.key, to);
  to.set(prefix + "vocab_size", uint32_t(c.vocab_size));
  write_windows(c, a, prefix, to);
  if (a.gelu && !*c.gelu_tanh) to.set(kExactGelu, true);
  if (*c.positions != "rope") return {};
  to.set(prefix + "attention.key_length", uint32_t(*c.head_dim));
  to.set(prefix + "attention.value_length", uint32_t(*c.head_dim));
  to.set(prefix + "rope.dimension_count", uint32_t(rotated_dims_of(c)));
  return rope_scaling_to_gguf(c, a.name, to);
}

}  // namespace olm::nn::hub
