#pragma once
// Every row of attentions() with options that change how tokens attend.
#include <string>
#include <utility>
#include <vector>

#include <olm/nn/attention.h>

namespace olm::test {

struct AttentionVariant {
  std::string name;  ///< of a row
  nn::AttentionOptions options;
};

/// True for layers that make keys and values from latent vectors.
inline bool is_latent(const std::string& name) {
  const auto layer = nn::Attention(name, {.embed_dim = 8, .num_heads = 2, .max_seq_len = 4});
  return layer->options.kv_lora_rank.has_value();
}

/// Causal layers of 12 dimensions and 6 heads: as they are, with sinks and a softcap, with a window
/// of 3 and ALiBi, with a gate for each feature and with one for each head. Those that can share
/// heads have 2 of keys and values.
inline std::vector<AttentionVariant> attention_variants(int64_t max_seq_len) {
  std::vector<AttentionVariant> all;
  for (const std::string& name : nn::attentions().names()) {
    nn::AttentionOptions plain{
        .embed_dim = 12, .num_heads = 6, .max_seq_len = max_seq_len, .causal = true};
    if (is_latent(name)) {
      plain.value_dim = 6, plain.kv_lora_rank = 10;
      plain.qk_nope_head_dim = 4, plain.qk_rope_head_dim = 2;
    } else {
      plain.num_kv_heads = 2, plain.head_dim = 4;
    }
    nn::AttentionOptions sinks = plain, window = plain, gates = plain, head_gates = plain;
    sinks.use_attention_sink = true, sinks.attn_logit_softcap = 1.5;
    window.window_size = 3, window.use_alibi = true;
    gates.use_output_gate = true, gates.gate_per_head = false;
    head_gates.use_output_gate = head_gates.gate_per_head = true;
    for (nn::AttentionOptions& o : std::vector{plain, sinks, window, gates, head_gates})
      all.push_back({name, std::move(o)});
  }
  return all;
}

}  // namespace olm::test
