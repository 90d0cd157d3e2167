// config.json to a configuration and back.
#include <algorithm>
#include <cmath>
#include <string_view>

#include <olm/nn/hub/config_internal.h>
#include <olm/nn/hub/stored_internal.h>
#include <olm/nn/models/decoder_internal.h>

namespace olm::nn::hub {

namespace {

const ConfigKey* find_key(const ConfigKeys& keys, const std::string& name) {
  for (const ConfigKey& key : keys.keys)
    if (key.theirs == name) return &key;
  return nullptr;
}

/// Numbers are equal by value: 1 and 1.0.
bool equal(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number()) return a.as_double() == b.as_double();
  return a == b;
}

constexpr int64_t kMaxModules = 1000000;  // in all layers

const char* const kGeneral[] = {"architectures", "model_type"};

/// The row of a config.json, by model_type and architecture, which must say the same.
const Family& family_in(const Json& config) {
  require(config.is_object(), "config.json: wanted an object, got ", config.kind());
  const Json* quantised = config.find("quantization_config");
  require(
      !quantised || quantised->is_null(),
      "config.json: quantization_config says that the weights are quantised, which is not read");
  const Json* type = config.find("model_type");
  require(type && type->is_string(), "config.json: wanted a model_type, got ",
          type ? type->kind() : "none");
  require(!config.contains("text_config"), "config.json: the model type ", type->dump(),
          " is made of several models, of which text_config is one; only a language model by "
          "itself is read");
  const Family& family = family_of(type->as_string());
  const Json* architectures = config.find("architectures");
  if (!architectures || architectures->is_null()) return family;
  require(
      architectures->is_array() && architectures->size() > 0 && architectures->at(0).is_string(),
      "config.json: architectures wants a list of names, got ", architectures->dump());
  const std::string& name = architectures->at(0).as_string();
  require(name == family.architecture, "config.json: architectures names \"", name,
          "\", which is not read; that of the model_type \"", family.model_type, "\" is \"",
          family.architecture, "\"");
  return family;
}

void require_fixed(const ConfigReader& in, const ConfigKey& key) {
  const Json value = in.value(key.theirs), wanted = Json::parse(key.absent);
  require(value.is_null() || equal(value, wanted), "config.json: ", key.theirs, " is ",
          value.dump(), ", which is not computed here; known is ", key.absent);
}

/// The members of a key take its value; what a file does not have only where no other key of the
/// same members is there.
void read_member(const ConfigReader& in, const ConfigKey& key, Members& members) {
  if (!in.has(key.theirs))
    for (const ConfigKey& other : in.keys().keys)
      if (&other != &key && other.ours == std::string(key.ours) && in.has(other.theirs)) return;
  for (const std::string& ours : words(key.ours)) members[ours] = in.value(key.theirs);
}

Members read_members(const ConfigReader& in, std::vector<std::string>& not_understood) {
  Members members = Json::object();
  bool activation = false;
  for (const ConfigKey& key : in.keys().keys) {
    if (key.means == Means::fixed) require_fixed(in, key);
    if (key.means == Means::member) read_member(in, key, members);
    if (key.means == Means::activation && (!activation || in.has(key.theirs))) {
      read_activation(in, key, members);
      activation = true;
    }
  }
  read_rope(in, members, not_understood);
  read_windows(in, members);
  return members;
}

/// The configuration of a row of decoders(), but for what config.json says.
DecoderConfig over_row(const Family& family, const Members& members) {
  DecoderConfig row = decoders().get(family.ours).defaults;
  row.family = "decoder";
  row.sliding_window_pattern.reset();
  if (row.positions == "rope") row.rope_pairing = "halves";
  Json all = to_json(row);
  const Json always = Json::parse(config_keys(family).always);
  for (const auto& [name, value] : always.members()) all[name] = value;
  for (const auto& [name, value] : members.members()) all[name] = value;
  DecoderConfig result;
  result.family = "decoder";
  // A null leaves rope_scaling, which has no null, and lists as they are: empty.
  for (const auto& [name, value] : members.members())
    if (value.is_null() && (name == "rope_scaling" || name == "window_layers"))
      all[name] = to_json(result).at(name);
  from_json(all, result, "config.json");
  return result;
}

void check_sizes(const DecoderConfig& c) {
  require(c.num_heads > 0 && c.embed_dim > 0 && c.num_layers > 0,
          "config.json: wanted sizes above 0, got hidden size ", c.embed_dim, ", ", c.num_heads,
          " heads and ", c.num_layers, " layers");
  require(c.vocab_size <= INT32_MAX, "config.json: vocab_size is ", c.vocab_size,
          ", wanted at most 2147483647");
  require(c.head_dim || c.embed_dim % c.num_heads == 0, "config.json: ", c.num_heads,
          " heads do not divide the hidden size ", c.embed_dim, ", and there is no head_dim");
  const int64_t kv_heads = c.num_kv_heads.value_or(c.num_heads);
  require(kv_heads > 0 && c.num_heads % kv_heads == 0, "config.json: ", kv_heads,
          " key and value heads do not divide ", c.num_heads, " heads");
  require(c.num_layers * (1 + c.num_experts.value_or(0)) <= kMaxModules,
          "config.json: ", c.num_layers, " layers of ", c.num_experts.value_or(0),
          " experts are more than ", kMaxModules, " modules");
  require(!c.num_experts || *c.top_k <= *c.num_experts, "config.json: a token uses ",
          c.top_k.value_or(0), " experts of ", c.num_experts.value_or(0));
}

/// Their names are kept, and have no meaning here.
void add_unknown_keys(const Json& config, const ConfigKeys& keys,
                      std::vector<std::string>& not_understood) {
  for (const auto& [name, value] : config.members())
    if (!find_key(keys, name) &&
        std::find(std::begin(kGeneral), std::end(kGeneral), name) == std::end(kGeneral))
      not_understood.push_back("config.json: " + name);
}

/// The members in which two configurations differ.
std::vector<std::string> differences(const Json& a, const Json& b) {
  std::vector<std::string> names;
  for (const Json* side : {&a, &b})
    for (const auto& [name, unused] : side->members()) {
      const Json *left = a.find(name), *right = b.find(name);
      if (name == "dropout" || (left && right && *left == *right)) continue;
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  return names;
}

/// A family has no key for something, or for several things.
struct CannotSay : Error {
  CannotSay(size_t things, const std::string& what) : Error(what), things(things) {}
  size_t things;
};

/// What a configuration means to a family that writes zeros where there are no biases.
DecoderConfig as_written(const DecoderConfig& config, const Family& family) {
  DecoderConfig c = config.normalized();
  if (family.hugging_face.zero_biases && !*c.attention_bias && !*c.qkv_bias && !*c.mlp_bias)
    c.attention_bias = c.qkv_bias = c.mlp_bias = true;
  return c;
}

bool differs(const ConfigKey& key, const Json& now, const Json& before) {
  const auto words_of = words(key.ours);
  return std::any_of(words_of.begin(), words_of.end(), [&](const std::string& name) {
    const Json *a = now.find(name), *b = before.find(name);
    return a && b ? !(*a == *b) : a != b;
  });
}

/// Of several keys with the same members a file may have one.
bool is_another_spelling(const ConfigKeys& keys, const ConfigKey& key, const Json& json) {
  if (json.contains(key.theirs)) return false;
  for (const ConfigKey& other : keys.keys)
    if (&other != &key && other.ours == std::string(key.ours) && json.contains(other.theirs))
      return true;
  return false;
}

/// A real number where transformers takes integers alone is written as one.
Json of_kind(const ConfigKey& key, const Json& value) {
  const bool real = value.is_number() && !value.is_integer();
  if (!real || !Json::parse(key.absent).is_integer()) return value;
  const double number = value.as_double();
  require(std::abs(number) < 0x1p53 && number == std::floor(number), "config.json: ", key.theirs,
          " wants an integer, got ", value.dump());
  return int64_t(number);
}

/// Sets the keys to what the configuration says, all or those that changed.
void write_members(const DecoderConfig& config, const Family& family, const Json* before,
                   Json& json) {
  const ConfigKeys& keys = config_keys(family);
  DecoderConfig c = as_written(config, family);
  const Json now = c.given();
  c.intermediate_size = ffn_width(config.completed());
  const Json values = c.given();
  bool windows = before == nullptr;
  for (const ConfigKey& key : keys.keys) {
    const bool changed = !before || differs(key, now, *before);
    if (key.means == Means::windows) windows = windows || changed;
    if (!changed || (before && is_another_spelling(keys, key, json))) continue;
    const Json* value = values.find(words(key.ours + std::string(" -")).front());
    // A model of the other kind of norm has no epsilon of this one, and differs in that.
    if (!value && std::string_view(key.ours).ends_with("norm_eps")) continue;
    if (key.means == Means::member) json[key.theirs] = value ? of_kind(key, *value) : Json();
    if (key.means == Means::activation) json[key.theirs] = activation_to_json(c, family);
  }
  if (windows) write_windows(c, family, json);
  if (keys.keys.empty() || *c.positions != "rope") return;
  bool rope = before == nullptr;
  for (const char* name :
       {"max_seq_len", "rope_theta", "local_rope_theta", "rope_scaling", "partial_rotary_factor"})
    rope = rope || differs({"", name, ""}, now, *before);
  write_rope(c, family, !rope, json);
}

}  // namespace

ConfigReader::ConfigReader(const Json& config, const Family& family)
    : config_(config), family_(family), keys_(config_keys(family)) {}

Json ConfigReader::value(const std::string& key) const {
  if (const Json* found = config_.find(key)) return *found;
  const ConfigKey* known = find_key(keys_, key);
  return known ? Json::parse(known->absent) : Json();
}

namespace {
[[noreturn]] void wrong_kind(const std::string& key, const Json& value, const char* wanted) {
  fail("config.json: ", key, " wants ", wanted, ", got ", value.dump());
}
}  // namespace

int64_t ConfigReader::integer(const std::string& key) const {
  const Json found = value(key);
  if (!found.is_integer() || found.as_double() > 0x1p62) wrong_kind(key, found, "an integer");
  return found.as_int();
}
double ConfigReader::number(const std::string& key) const {
  const Json found = value(key);
  if (!found.is_number()) wrong_kind(key, found, "a number");
  return found.as_double();
}
bool ConfigReader::boolean(const std::string& key) const {
  const Json found = value(key);
  if (!found.is_bool()) wrong_kind(key, found, "true or false");
  return found.as_bool();
}
std::string ConfigReader::text(const std::string& key) const {
  const Json found = value(key);
  if (!found.is_string()) wrong_kind(key, found, "a text");
  return found.as_string();
}

ReadConfig config_from_json(const Json& config) {
  const Family& family = family_in(config);
  const ConfigReader in(config, family);
  ReadConfig result{.family = family.model_type};
  const Members members = read_members(in, result.not_understood);
  const DecoderConfig read = over_row(family, members);
  const DecoderConfig complete = read.completed();
  check_sizes(complete);
  const auto own = in_family(family.ours, complete);
  result.config = own ? *own : complete;
  add_unknown_keys(config, in.keys(), result.not_understood);
  return result;
}

Json config_to_json(const DecoderConfig& config, const Family& family, const Json& before) {
  Json json = before;
  if (json.is_null()) json = Json::object();
  const bool fresh = before.is_null() || !before.contains("model_type") ||
                     !(before.at("model_type") == Json(family.model_type));
  json["architectures"] = Json(std::vector<std::string>{family.architecture});
  json["model_type"] = family.model_type;
  std::optional<Json> held;
  if (!fresh) held = as_written(config_from_json(before).config, family).given();
  write_members(config, family, held ? &*held : nullptr, json);
  const DecoderConfig again = config_from_json(json).config;
  const Json wanted = as_written(config, family).given(), said = again.normalized().given();
  const std::vector<std::string> lost = differences(wanted, said);
  if (lost.empty()) return json;
  const auto shown = [&](const Json& of) {
    const Json* value = of.find(lost.front());
    return value ? value->dump() : std::string("not set");
  };
  throw CannotSay(lost.size(), std::string("config.json of ") + family.model_type +
                                   " cannot say that " + lost.front() + " is " + shown(wanted) +
                                   "; there it is " + shown(said));
}

const Family& family_for(const DecoderConfig& config, const std::string& wanted) {
  if (!wanted.empty()) {
    const Family& family = family_of(wanted);
    config_to_json(config, family, Json());
    return family;
  }
  std::vector<const Family*> tried;
  for (const Family& family : families())
    if (family.ours == config.family) tried.push_back(&family);
  for (const Family& family : families()) tried.push_back(&family);
  std::string reason;
  size_t least = SIZE_MAX;
  for (const Family* family : tried) try {
      config_to_json(config, *family, Json());
      return *family;
    } catch (const CannotSay& error) {
      if (error.things < least) reason = error.what();
      least = std::min(least, error.things);
    } catch (const Error& error) {
      if (reason.empty()) reason = error.what();
    }
  fail("no family of transformers that is known here is what the model is: ", reason);
}

}  // namespace olm::nn::hub
