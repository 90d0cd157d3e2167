// Presets: built on meta, counted, compared with what others count and with formulas.
#include <doctest/doctest.h>

#include <map>

#include <olm/nn/models.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// Parameters as OpenLanguageModel 2.2.1 has them, and of those that it lacks transformers 5.
const std::map<std::string, int64_t>& counted_elsewhere() {
  static const std::map<std::string, int64_t> table = {
      {"GPT2", 124439808},
      {"GPT2Medium", 354823168},
      {"GPT2Large", 774030080},
      {"GPT2XL", 1557611200},
      {"Llama2_7B", 6607343616},
      {"Llama2_13B", 12852024320},
      {"Llama2_70B", 68714504192},
      {"Llama3_1_8B", 7504924672},
      {"Llama3_1_70B", 69503033344},
      {"Llama3_1_405B", 403752042496},
      {"Llama3_2_1B", 1235814400},
      {"Llama3_2_3B", 3212749824},
      {"Qwen2_5_0_5B", 494032768},
      {"Qwen2_5_1_5B", 1543714304},
      {"Qwen2_5_3B", 3085938688},
      {"Qwen2_5_7B", 7070619136},
      {"Qwen2_5_14B", 13991465984},
      {"Qwen2_5_32B", 31985308672},
      {"Qwen2_5_72B", 71460495360},
      {"Phi3_5_Mini", 3722578944},
      {"Phi3_Small", 7390629888},
      {"Phi4_14B", 14145704960},
      {"Gemma2_2B", 2614341888},
      {"Gemma2_9B", 9241705984},
      {"Gemma2_27B", 27227128320},
      {"OLMo_7B", 11010473984},
      {"OPT125M", 125237760},
      {"Mistral_7B", 7241732096},
      {"Qwen3_0_6B", 596049920},
      {"Qwen3_1_7B", 1720574976},
      {"Qwen3_4B", 4022468096},
      {"Qwen3_8B", 8190735360},
      {"Qwen3_14B", 14768307200},
      {"Qwen3_32B", 32762123264},
      {"Gemma3_1B", 999885952},
      {"Gemma3_4B", 3880099328},
      {"Gemma3_12B", 11765788416},
      {"Gemma3_27B", 27009002240},
      {"Olmo2_1B", 1484916736},
      {"Olmo2_7B", 7298617344},
      {"Olmo2_13B", 13716198400},
      {"Olmo2_32B", 32234279936},
      {"Mixtral_8x7B", 46702792704},
      {"Qwen3_30B_A3B", 30532122624},
      {"Qwen3_235B_A22B", 235093634560},
      {"DeepSeekV3_671B", 671026404352},
      {"Olmo3_7B", 7297757184},
      {"Olmo3_32B", 32233145344},
  };
  return table;
}

// The parameters of a preset by formula: V · D for the embedding, again for a head of its own, and
// for each layer q and out, k and v, the feed-forward matrices, biases and norms.

int64_t attention_by_formula(const DecoderConfig& c) {
  const int64_t d = c.embed_dim, heads = c.num_heads;
  if (c.kv_lora_rank) {
    const int64_t ql = *c.q_lora_rank, l = *c.kv_lora_rank, rope = *c.qk_rope_head_dim;
    const int64_t nope = *c.qk_nope_head_dim, v = *c.v_head_dim;
    return d * ql + ql + ql * heads * (nope + rope) + d * (l + rope) + l + l * heads * (nope + v) +
           heads * v * d;
  }
  const int64_t head_dim = c.head_dim.value_or(d / heads);
  const int64_t q = heads * head_dim, kv = c.num_kv_heads.value_or(heads) * head_dim;
  int64_t count = 2 * d * q + 2 * d * kv;
  if (*c.bias) count += q + 2 * kv + d;
  if (c.qkv_bias.value_or(false)) count += q + 2 * kv;
  if (*c.use_qk_norm) count += *c.qk_norm_all_heads ? q + kv : 2 * head_dim;
  return count;
}

int64_t feed_forward_by_formula(const DecoderConfig& c, bool mixture) {
  const int64_t d = c.embed_dim, h = c.intermediate_size.value_or(4 * d);
  if (mixture)
    return *c.num_experts * d +
           (*c.num_experts + *c.num_shared_experts) * 3 * d * *c.moe_intermediate_size;
  const bool gated = *c.activation == "swiglu" || *c.activation == "geglu";
  return (gated ? 3 : 2) * d * h + (*c.bias ? h + d : 0);
}

int64_t by_formula(const DecoderConfig& given) {
  const DecoderConfig c = given.completed();
  const int64_t d = c.embed_dim;
  const int64_t norm = *c.norm == "rms_norm" ? d : *c.norm_affine ? 2 * d : 0;
  const int64_t layer = attention_by_formula(c) + norm * (2 * *c.pre_norm + 2 * *c.post_norm);
  const int64_t dense = c.num_experts ? *c.first_k_dense_replace : c.num_layers;
  const int64_t tables = (c.tie_weights ? 1 : 2) * c.vocab_size * d;
  const int64_t positions = *c.positions == "absolute" ? c.max_seq_len * d : 0;
  return tables + positions + norm + c.num_layers * layer +
         dense * feed_forward_by_formula(c, false) +
         (dense < c.num_layers ? (c.num_layers - dense) * feed_forward_by_formula(c, true) : 0);
}

}  // namespace

TEST_SUITE("nn/presets") {
  TEST_CASE("presets have as many parameters as elsewhere, and as formulas say") {
    CHECK(counted_elsewhere().size() == model_presets().size());
    for (const auto& [name, config] : model_presets()) {
      INFO(name);
      const int64_t count = models().get(name)()->num_parameters();
      REQUIRE(counted_elsewhere().count(name) == 1);
      CHECK(count == counted_elsewhere().at(name));
      CHECK(count == by_formula(config.as<DecoderConfig>()));
    }
    check_error([] { model_preset("GPT3"); }, {"GPT3", "GPT2XL", "Llama2_7B"});
  }

  TEST_CASE("presets are functions under their names") {
    CHECK(GPT2()->num_parameters() == 124439808);
    CHECK(Qwen2_5_0_5B()->num_parameters() == 494032768);
    CHECK(Gemma3_1B()->num_parameters() == 999885952);
  }

  TEST_CASE("a preset's configuration goes through JSON as it is") {
    for (const auto& [name, config] : model_presets()) {
      INFO(name);
      ModelConfig again = families().get(config.family());
      from_json(to_json(config), again, name);
      CHECK(to_json(again) == to_json(config));
    }
  }
}
