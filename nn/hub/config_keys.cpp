// The table of config.json: for each family its keys, what they are here, and what transformers
// takes where a file has none.
#include <olm/nn/hub/config_internal.h>

namespace olm::nn::hub {

namespace {

using Keys = std::vector<ConfigKey>;

Keys operator+(Keys a, const Keys& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

const Keys kAll = {{"quantization_config", "", "null", Means::fixed},
                   {"is_encoder_decoder", "", "false", Means::fixed},
                   {"add_cross_attention", "", "false", Means::fixed},
                   {"tie_encoder_decoder", "", "false", Means::fixed},
                   {"initializer_range", "", "0.02", Means::nothing},
                   {"use_cache", "", "true", Means::nothing},
                   {"bos_token_id", "", "null", Means::nothing},
                   {"eos_token_id", "", "null", Means::nothing},
                   {"pad_token_id", "", "null", Means::nothing},
                   {"_name_or_path", "", "null", Means::nothing},
                   {"transformers_version", "", "null", Means::nothing},
                   {"torch_dtype", "", "null", Means::nothing},
                   {"dtype", "", "null", Means::nothing},
                   {"return_dict", "", "true", Means::nothing},
                   {"output_attentions", "", "false", Means::nothing},
                   {"output_hidden_states", "", "false", Means::nothing},
                   {"chunk_size_feed_forward", "", "0", Means::nothing},
                   {"problem_type", "", "null", Means::nothing},
                   {"id2label", "", "null", Means::nothing},
                   {"label2id", "", "null", Means::nothing},
                   {"is_decoder", "", "false", Means::nothing}};

const Keys kDropouts = {{"attention_dropout", "", "0.0", Means::nothing}};

const Keys kRope = {{"max_position_embeddings", "max_seq_len", "2048", Means::rope},
                    {"rope_theta", "rope_theta", "null", Means::rope},
                    {"rope_scaling", "rope_scaling", "null", Means::rope},
                    {"rope_parameters", "rope_theta rope_scaling", "null", Means::rope}};

const Keys kLocalRope = {{"rope_local_base_freq", "local_rope_theta", "null", Means::rope}};

const Keys kWindow = {{"sliding_window", "sliding_window", "null", Means::windows}};
const Keys kSwitch = {{"use_sliding_window", "sliding_window", "false", Means::windows}};
const Keys kTypes = {{"layer_types", "window_layers", "null", Means::windows}};
const Keys kUpper = {{"max_window_layers", "window_layers", "28", Means::windows}};

const Keys kSizes = {{"vocab_size", "vocab_size", "32000"},
                     {"hidden_size", "embed_dim", "4096"},
                     {"intermediate_size", "intermediate_size", "11008"},
                     {"num_hidden_layers", "num_layers", "32"},
                     {"num_attention_heads", "num_heads", "32"},
                     {"num_key_value_heads", "num_kv_heads", "null"},
                     {"rms_norm_eps", "rms_norm_eps", "1e-06"},
                     {"tie_word_embeddings", "tie_weights", "false"}};

const Keys kSilu = {{"hidden_act", "activation gelu_tanh", "\"silu\"", Means::activation}};
const Keys kHeadDim = {{"head_dim", "head_dim", "null"}};
const Keys kAttentionBias = {{"attention_bias", "attention_bias", "false"}};
const Keys kMlpBias = {{"mlp_bias", "mlp_bias", "false"}};
const Keys kSoftcaps = {{"attn_logit_softcapping", "attn_logit_softcap", "null"},
                        {"final_logit_softcapping", "final_logit_softcap", "null"},
                        {"query_pre_attn_scalar", "query_pre_attn_scalar", "256"}};
const Keys kCausal = {{"use_bidirectional_attention", "", "false", Means::fixed}};
constexpr const char* kPlusOne = R"({"norm_plus_one": true})";
const Keys kRouterLoss = {{"output_router_logits", "", "false", Means::nothing},
                          {"router_aux_loss_coef", "", "0.001", Means::nothing},
                          {"router_jitter_noise", "", "0.0", Means::nothing}};

const Keys kLlama = kAll + kSizes + kDropouts + kSilu + kRope;

const Keys kGpt2 =
    kAll + Keys{{"vocab_size", "vocab_size", "50257"},
                {"n_positions", "max_seq_len", "1024"},
                {"n_embd", "embed_dim", "768"},
                {"n_layer", "num_layers", "12"},
                {"n_head", "num_heads", "12"},
                {"n_inner", "intermediate_size", "null"},
                {"activation_function", "activation gelu_tanh", "\"gelu_new\"", Means::activation},
                {"attn_pdrop", "dropout", "0.1"},
                {"embd_pdrop", "dropout", "0.1"},
                {"resid_pdrop", "dropout", "0.1"},
                {"layer_norm_epsilon", "layer_norm_eps", "1e-05"},
                {"tie_word_embeddings", "tie_weights", "true"},
                {"scale_attn_weights", "", "true", Means::fixed},
                {"scale_attn_by_inverse_layer_idx", "", "false", Means::fixed},
                {"reorder_and_upcast_attn", "", "false", Means::fixed},
                {"summary_type", "", "\"cls_index\"", Means::nothing},
                {"summary_use_proj", "", "true", Means::nothing},
                {"summary_activation", "", "null", Means::nothing},
                {"summary_proj_to_labels", "", "true", Means::nothing},
                {"summary_first_dropout", "", "0.1", Means::nothing}};

/// `keys` with other values where a file has none.
Keys with(Keys keys, const std::vector<std::pair<const char*, const char*>>& absent) {
  for (const auto& [name, value] : absent)
    for (ConfigKey& key : keys)
      if (key.theirs == std::string(name)) key.absent = value;
  return keys;
}

Keys without(Keys keys, const std::string& name) {
  std::erase_if(keys, [&](const ConfigKey& key) { return key.theirs == name; });
  return keys;
}

struct Row {
  const char* model_type;
  ConfigKeys keys;
};

std::vector<Row> llamas() {
  return {
      {"gpt2", {.keys = kGpt2}},
      {"llama",
       {.keys = kLlama + kHeadDim + kAttentionBias + kMlpBias +
                Keys{{"pretraining_tp", "", "1", Means::fixed}}}},
      {"mistral",
       {.keys = with(kLlama + kHeadDim + kWindow, {{"intermediate_size", "14336"},
                                                   {"num_key_value_heads", "8"},
                                                   {"max_position_embeddings", "131072"},
                                                   {"sliding_window", "4096"}}),
        .windows = WindowStyle::all}},
      {"qwen2",
       {.keys = with(kLlama + kSwitch + kWindow + kUpper + kTypes,
                     {{"vocab_size", "151936"},
                      {"intermediate_size", "22016"},
                      {"num_key_value_heads", "32"},
                      {"max_position_embeddings", "32768"},
                      {"sliding_window", "4096"}}),
        .windows = WindowStyle::upper}},
      {"qwen3",
       {.keys = with(kLlama + kHeadDim + kAttentionBias + kSwitch + kWindow + kUpper + kTypes,
                     {{"vocab_size", "151936"},
                      {"intermediate_size", "22016"},
                      {"num_key_value_heads", "32"},
                      {"head_dim", "128"},
                      {"max_position_embeddings", "32768"},
                      {"sliding_window", "4096"}}),
        .windows = WindowStyle::upper}},
      {"phi3",
       {.keys =
            with(kLlama + kWindow +
                     Keys{{"original_max_position_embeddings", "rope_scaling", "4096", Means::rope},
                          {"partial_rotary_factor", "partial_rotary_factor", "1.0", Means::rope},
                          {"resid_pdrop", "", "0.0", Means::nothing},
                          {"embd_pdrop", "", "0.0", Means::nothing},
                          {"attention_bias", "", "false", Means::fixed}},
                 {{"vocab_size", "32064"},
                  {"hidden_size", "3072"},
                  {"intermediate_size", "8192"},
                  {"max_position_embeddings", "4096"},
                  {"rms_norm_eps", "1e-05"}}),
        .windows = WindowStyle::all,
        .partial_rotary = true,
        .longrope = true}},
      {"olmo2",
       {.keys =
            with(kLlama + kAttentionBias, {{"vocab_size", "50304"}, {"rms_norm_eps", "1e-05"}})}},
  };
}

std::vector<Row> gemmas() {
  const Keys gemma = with(kAll + kSizes + kDropouts + kRope + kHeadDim + kAttentionBias + kCausal,
                          {{"vocab_size", "256000"},
                           {"hidden_size", "2304"},
                           {"intermediate_size", "9216"},
                           {"num_hidden_layers", "26"},
                           {"num_attention_heads", "8"},
                           {"num_key_value_heads", "4"},
                           {"head_dim", "256"},
                           {"max_position_embeddings", "8192"},
                           {"tie_word_embeddings", "true"}});
  const Keys tanh = {
      {"hidden_act", "", "null", Means::nothing},
      {"hidden_activation", "activation gelu_tanh", "\"gelu_pytorch_tanh\"", Means::activation}};
  const Keys later = gemma + tanh + kWindow + kTypes + kSoftcaps;
  return {
      {"gemma",
       {.keys = with(
            gemma + Keys{{"hidden_act", "activation gelu_tanh", "\"gelu_pytorch_tanh\"",
                          Means::activation},
                         {"hidden_activation", "activation gelu_tanh", "null", Means::activation}},
            {{"hidden_size", "3072"},
             {"intermediate_size", "24576"},
             {"num_hidden_layers", "28"},
             {"num_attention_heads", "16"},
             {"num_key_value_heads", "16"}})}},
      {"gemma2",
       {.keys = with(later, {{"sliding_window", "4096"},
                             {"attn_logit_softcapping", "50.0"},
                             {"final_logit_softcapping", "30.0"}}),
        .windows = WindowStyle::typed,
        .pattern = 2,
        .always = kPlusOne}},
      {"gemma3_text",
       {.keys = with(later + kLocalRope +
                         Keys{{"sliding_window_pattern", "window_layers", "6", Means::windows},
                              {"_sliding_window_pattern", "", "6", Means::nothing}},
                     {{"vocab_size", "262208"},
                      {"max_position_embeddings", "131072"},
                      {"sliding_window", "4096"}}),
        .windows = WindowStyle::typed,
        .pattern = 6,
        .rope_theta = 1000000,
        .local_rope_theta = 10000,
        .always = kPlusOne}},
  };
}

std::vector<Row> mixtures() {
  const Keys mixture = kLlama + kWindow + kRouterLoss + kHeadDim;
  return {
      {"mixtral",
       {.keys = with(without(mixture, "intermediate_size") +
                         Keys{{"num_local_experts", "num_experts", "8"},
                              {"num_experts_per_tok", "top_k", "2"},
                              {"intermediate_size", "moe_intermediate_size", "14336"}},
                     {{"intermediate_size", "14336"},
                      {"num_key_value_heads", "8"},
                      {"max_position_embeddings", "131072"},
                      {"rms_norm_eps", "1e-05"}}),
        .windows = WindowStyle::all,
        .rope_theta = 1000000}},
      {"qwen3_moe",
       {.keys = with(mixture + kSwitch + kAttentionBias +
                         Keys{{"num_local_experts", "num_experts", "128"},
                              {"num_experts", "num_experts", "128"},
                              {"num_experts_per_tok", "top_k", "8"},
                              {"moe_intermediate_size", "moe_intermediate_size", "768"},
                              {"norm_topk_prob", "norm_topk_prob", "false"},
                              {"decoder_sparse_step", "", "1", Means::fixed},
                              {"mlp_only_layers", "", "[]", Means::fixed},
                              {"max_window_layers", "", "null", Means::nothing}},
                     {{"vocab_size", "151936"},
                      {"hidden_size", "2048"},
                      {"intermediate_size", "6144"},
                      {"num_hidden_layers", "24"},
                      {"num_key_value_heads", "4"},
                      {"max_position_embeddings", "32768"},
                      {"sliding_window", "4096"}}),
        .windows = WindowStyle::switched}},
  };
}

}  // namespace

const ConfigKeys& config_keys(const Family& family) {
  static const std::vector<Row> table = [] {
    std::vector<Row> rows = llamas();
    for (const auto& more : {gemmas(), mixtures()})
      rows.insert(rows.end(), more.begin(), more.end());
    return rows;
  }();
  for (const Row& row : table)
    if (row.model_type == std::string(family.model_type)) return row.keys;
  fail("the family ", family.model_type, " has no table of its config.json");
}

}  // namespace olm::nn::hub
