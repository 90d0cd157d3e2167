// generation_config.json: what ends a text, and how a vendor samples.
#include <algorithm>
#include <cmath>

#include <olm/nn/hub/stored_internal.h>

namespace olm::nn::hub {

namespace {

int32_t id_of(const Json& value, const std::string& where) {
  require(value.is_integer() && value.as_double() >= 0 && value.as_double() <= INT32_MAX, where,
          ": wanted ids of tokens, got ", value.dump());
  return int32_t(value.as_int());
}

/// The ids of eos_token_id: one, a list, or null.
std::vector<int32_t> ids_in(const Json& file, const std::string& name) {
  const Json* value = file.is_object() ? file.find("eos_token_id") : nullptr;
  if (!value || value->is_null()) return {};
  const std::string where = name + ": eos_token_id";
  if (!value->is_array()) return {id_of(*value, where)};
  std::vector<int32_t> ids;
  for (const Json& item : value->items()) ids.push_back(id_of(item, where));
  return ids;
}

/// visit(key, member) of what is a number or a switch in both.
void each_setting(auto& settings, auto&& visit) {
  visit("do_sample", settings.do_sample);
  visit("temperature", settings.temperature);
  visit("top_k", settings.top_k);
  visit("top_p", settings.top_p);
  visit("min_p", settings.min_p);
  visit("repetition_penalty", settings.repetition_penalty);
}

void read_value(const Json& value, const std::string& where, std::optional<bool>& member) {
  require(value.is_bool(), where, " wants true or false, got ", value.dump());
  member = value.as_bool();
}
void read_value(const Json& value, const std::string& where, std::optional<int64_t>& member) {
  require(value.is_integer() && value.as_double() >= 0 && value.as_double() <= 0x1p62, where,
          " wants an integer from 0, got ", value.dump());
  member = value.as_int();
}
void read_value(const Json& value, const std::string& where, std::optional<double>& member) {
  require(value.is_number() && value.as_double() >= 0, where, " wants a number from 0, got ",
          value.dump());
  member = value.as_double();
}

void add_new(std::vector<int32_t>& ids, const std::vector<int32_t>& more) {
  for (const int32_t id : more)
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
}

Json one_or_list(const std::vector<int32_t>& ids) {
  return ids.size() == 1 ? Json(ids.front()) : Json(ids);
}

bool same_set(std::vector<int32_t> a, std::vector<int32_t> b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return a == b;
}

/// Ids of roles that a file does not have; and those that end a text, unless they are `kept`.
void set_ids(const GenerationSettings& settings, const Tokenizer* tokenizer, bool kept,
             Json& json) {
  const SpecialTokens special = tokenizer ? tokenizer->special() : SpecialTokens();
  const auto set = [&](const char* key, const std::optional<int32_t>& id) {
    const Json* old = json.find(key);
    if (id && (!old || old->is_null())) json[key] = *id;
  };
  set("bos_token_id", special.bos);
  std::vector<int32_t> stop = settings.stop;
  if (stop.empty() && special.eos) stop.push_back(*special.eos);
  if (!kept && !stop.empty()) json["eos_token_id"] = one_or_list(stop);
  set("pad_token_id", special.pad);
}

}  // namespace

GenerationSettings generation_from_json(const Json& generation_config, const Json& config) {
  GenerationSettings result;
  const std::string name = "generation_config.json";
  add_new(result.stop, ids_in(generation_config, name));
  add_new(result.stop, ids_in(config, "config.json"));
  if (generation_config.is_null()) return result;
  require(generation_config.is_object(), name, ": wanted an object, got ",
          generation_config.kind());
  each_setting(result, [&](const char* key, auto& member) {
    const Json* value = generation_config.find(key);
    if (value && !value->is_null()) read_value(*value, name + ": " + key, member);
  });
  return result;
}

Json generation_to_json(const GenerationSettings& settings, const Tokenizer* tokenizer,
                        const Json& before) {
  Json json = before.is_object() ? before : Json::object();
  const GenerationSettings held = generation_from_json(json, Json());
  std::vector<int32_t> meant = held.stop;
  if (tokenizer && tokenizer->special().eos && !meant.empty())
    add_new(meant, {*tokenizer->special().eos});
  const bool kept = same_set(settings.stop, held.stop) || same_set(settings.stop, meant);
  set_ids(settings, tokenizer, kept, json);
  each_setting(settings, [&](const char* key, const auto& now) {
    GenerationSettings copy = held;
    bool same = false;
    each_setting(copy, [&](const char* other, auto& then) {
      if constexpr (std::is_same_v<std::decay_t<decltype(then)>, std::decay_t<decltype(now)>>)
        if (std::string(other) == key) same = then == now;
    });
    if (!same) json[key] = now ? Json(*now) : Json();
  });
  return json;
}

void set_token_ids(const GenerationSettings& settings, const Tokenizer* tokenizer, Json& config) {
  const std::vector<int32_t> there = ids_in(config, "config.json");
  const bool within = std::all_of(there.begin(), there.end(), [&](int32_t id) {
    return std::find(settings.stop.begin(), settings.stop.end(), id) != settings.stop.end();
  });
  set_ids(settings, tokenizer, !there.empty() && within, config);
}

}  // namespace olm::nn::hub
