// Keys of GGUF files that no configuration holds: kept, or refused where they change numbers.
#include <cmath>

#include <olm/nn/hub/gguf_internal.h>

namespace olm::nn::hub {

namespace {

Json item_to_json(const GgufValue& value) {
  switch (value.kind()) {
    case GgufKind::boolean:
      return value.as_bool();
    case GgufKind::string:
      return value.as_string();
    case GgufKind::f32:
    case GgufKind::f64:
      return value.as_double();
    case GgufKind::u64:
      if (value.as_double() >= 9.2e18) return value.as_double();
      return value.as_int();
    default:
      return value.as_int();
  }
}

template <class Items>
Json list_of(const Items& items) {
  Json list = Json::array();
  for (const auto& item : items) list.push_back(Json(typename Items::value_type(item)));
  return list;
}

Json to_json(const GgufValue& value) {
  if (value.kind() != GgufKind::array) return item_to_json(value);
  switch (value.item_kind()) {
    case GgufKind::boolean:
      return list_of(value.as_bools());
    case GgufKind::string:
      return list_of(value.as_strings());
    case GgufKind::f32:
    case GgufKind::f64:
      return list_of(value.as_doubles());
    case GgufKind::array:
      return value.describe();
    default:
      return list_of(value.as_ints());
  }
}

bool fits_i32(const Json& number) {
  return number.is_integer() && number.as_int() >= INT32_MIN && number.as_int() <= INT32_MAX;
}

/// Arrays keep their items' kind as far as numbers of 32 bits go.
void set_list(const std::string& key, const Json& list, GgufWriter& to) {
  std::vector<std::string> texts;
  std::vector<int32_t> integers;
  std::vector<float> numbers;
  std::vector<bool> flags;
  for (const Json& item : list.items()) {
    if (item.is_string()) texts.push_back(item.as_string());
    if (item.is_bool()) flags.push_back(item.as_bool());
    if (fits_i32(item)) integers.push_back(int32_t(item.as_int()));
    if (item.is_number()) numbers.push_back(float(item.as_double()));
  }
  const size_t size = list.size();
  if (size == 0) return;
  if (texts.size() == size)
    to.set(key, texts);
  else if (flags.size() == size)
    to.set(key, flags);
  else if (integers.size() == size)
    to.set(key, integers);
  else if (numbers.size() == size)
    to.set(key, numbers);
}

void set_value(const std::string& key, const std::string& kind, const Json& value, GgufWriter& to) {
  if (value.is_array())
    set_list(key, value, to);
  else if (value.is_string())
    to.set(key, value.as_string());
  else if (value.is_bool())
    to.set(key, value.as_bool());
  else if (kind.starts_with("f") && value.is_number())
    to.set(key, float(value.as_double()));
  else if (kind == "u64" && value.is_integer())
    to.set(key, value.as_uint());
  else if (kind.starts_with("u") && value.is_integer())
    to.set(key, uint32_t(value.as_uint()));
  else if (fits_i32(value))
    to.set(key, int32_t(value.as_int()));
}

/// A key that means another computation unless it has a value that changes nothing.
struct Neutral {
  const char* end;  ///< of the key
  std::vector<double> values;
};

/// Of architectures whose computation is otherwise the one here.
const std::vector<Neutral>& neutral_values() {
  static const std::vector<Neutral> table = {
      {".attention.causal", {1}},
      {".attention.clamp_kqv", {0}},
      {".attention.max_alibi_bias", {0}},
      {".attention.scale", {0}},
      {".attention.output_scale", {0, 1}},
      {".attention.value_scale", {0, 1}},
      {".attention.temperature_scale", {0}},
      {".attention.temperature_length", {0}},
      {".attention.q_lora_rank", {0}},
      {".attention.kv_lora_rank", {0}},
      {".attention.key_length_mla", {0}},
      {".attention.value_length_mla", {0}},
      {".attention.sliding_window", {0}},
      {".attention.layer_norm_epsilon", {}},
      {".attention.layer_norm_rms_epsilon", {}},
      {".attention.group_norm_epsilon", {}},
      {".attention.shared_kv_layers", {0}},
      {".attention.head_count_kv", {}},
      {".attn_logit_softcapping", {0}},
      {".final_logit_softcapping", {0}},
      {".router_logit_softcapping", {0}},
      {".embedding_scale", {0, 1}},
      {".residual_scale", {0, 1}},
      {".logit_scale", {0, 1}},
      {".expert_count", {0}},
      {".expert_used_count", {0}},
      {".expert_shared_count", {0}},
      {".expert_shared_feed_forward_length", {0}},
      {".expert_group_count", {0, 1}},
      {".expert_group_used_count", {0, 1}},
      {".expert_weights_scale", {0, 1}},
      {".expert_weights_norm", {1}},
      {".expert_gating_func", {0, 1}},
      {".leading_dense_block_count", {0}},
      {".interleave_moe_layer_step", {0, 1}},
      {".moe_every_n_layers", {0, 1}},
      {".nextn_predict_layers", {0}},
      {".pooling_type", {0}},
      {".use_parallel_residual", {0}},
      {".swin_norm", {0}},
      {".swiglu_clamp_exp", {0}},
      {".num_loops", {0, 1}},
      {".hyper_connection.count", {0, 1}},
      {".rope.scaling.alpha", {0}},
      {".rope.scaling.yarn_log_multiplier", {0}},
      {".rope.dimension_sections", {}},
      {".tensor_data_layout", {}},
  };
  return table;
}

/// Whether the key is that and no longer name with the same end.
bool is_key(const std::string& key, const std::string& architecture, const char* end) {
  return key == architecture + end;
}

bool is_neutral(const GgufValue& value, const std::vector<double>& values) {
  std::vector<double> held;
  if (value.kind() == GgufKind::boolean)
    held.push_back(value.as_bool());
  else if (value.kind() == GgufKind::string)
    return false;
  else if (value.kind() != GgufKind::array)
    held.push_back(value.as_double());
  else if (value.item_kind() == GgufKind::string || value.item_kind() == GgufKind::array)
    return false;
  else if (value.item_kind() == GgufKind::boolean)
    for (const bool flag : value.as_bools()) held.push_back(flag);
  else
    held = value.as_doubles();
  for (const double x : held) {
    bool found = false;
    for (const double neutral : values) found = found || x == neutral;
    if (!found) return false;
  }
  return true;
}

}  // namespace

Json values_to_json(const GgufFile& file, const std::vector<std::string>& keys) {
  Json result = Json::object();
  for (const std::string& key : keys) {
    const GgufValue& value = file.at(key);
    Json entry = Json::object();
    const bool list = value.kind() == GgufKind::array;
    entry["type"] = name_of(list ? value.item_kind() : value.kind());
    entry["value"] = to_json(value);
    result.append(key, entry);
  }
  return result;
}

void values_from_json(const Json& values, GgufWriter& to) {
  for (const auto& [key, entry] : values.members())
    set_value(key, entry.at("type").as_string(), entry.at("value"), to);
}

void refuse_other_computation(const GgufFile& file, const std::string& architecture,
                              const std::vector<std::string>& unknown) {
  for (const std::string& key : unknown)
    for (const Neutral& neutral : neutral_values())
      if (is_key(key, architecture, neutral.end) && !is_neutral(file.at(key), neutral.values))
        throw FileError(file.path(), ": ", key, " is ", file.at(key).describe(),
                        ", which means a computation that is not known");
}

}  // namespace olm::nn::hub
