// Reading TOML, the only place that sees toml++.
#include <sstream>

#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include <olm/engine/file.h>

#include "tools/olm/config.h"

namespace olm::tools {

namespace {

Json to_json(const toml::node& node, const std::string& where) {
  if (const auto* v = node.as_boolean()) return v->get();
  if (const auto* v = node.as_integer()) return v->get();
  if (const auto* v = node.as_floating_point()) return v->get();
  if (const auto* v = node.as_string()) return Json(v->get());
  if (const auto* array = node.as_array()) {
    Json items = Json::array();
    for (const toml::node& item : *array) items.push_back(to_json(item, where));
    return items;
  }
  if (const auto* table = node.as_table()) {
    Json members = Json::object();
    for (const auto& [key, value] : *table)
      members.append(std::string(key.str()), to_json(value, where + "." + std::string(key.str())));
    return members;
  }
  fail(where, ": dates and times have no use here, line ", node.source().begin.line);
}

/// Throws where a key has more parts than the parser, which recurses over them, has room for. Dots
/// in quotes and comments are none of them.
void require_short_keys(const std::string& text, const std::string& path) {
  constexpr int kMaxParts = 1000;
  int64_t line = 1;
  int parts = 1;
  char until = 0;  // what ends the quotes or the comment
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      until = 0;
      parts = 1;
    } else if (until != 0) {
      if (until == '"' && c == '\\') ++i;
      if (c == until) until = 0;
    } else if (c == '"' || c == '\'') {
      until = c;
    } else if (c == '#') {
      until = '\n';
    } else if (c == '=' || c == ',' || c == '{') {
      parts = 1;
    } else if (c == '.' && ++parts > kMaxParts) {
      throw FileError(path, ": not valid TOML at line ", line, ": a key of more than ", kMaxParts,
                      " parts");
    }
  }
}

/// A key of [model] under the name that earlier versions wrote, which had one set of keys for all
/// families. There 0 stood for what is now left out, and families ignored what was not theirs.
struct FormerKey {
  const char *family, *name, *now;  // `now` is null where the family has no such key
};
constexpr FormerKey kFormerKeys[] = {
    {"gpt2", "hidden_dim", "intermediate_size"},
    {"gpt2", "num_kv_heads", nullptr},
    {"gpt2", "rope_base", nullptr},
    {"llama", "bias", nullptr},
    {"llama", "hidden_dim", "intermediate_size"},
    {"llama", "num_kv_heads", "num_kv_heads"},
    {"llama", "rope_base", "rope_theta"},
};

const FormerKey* former_key(const std::string& family, const std::string& name) {
  for (const FormerKey& key : kFormerKeys)
    if (family == key.family && name == key.name) return &key;
  return nullptr;
}

/// [model] under the keys of its family.
Json renamed_keys(const Json& section, const std::string& where, const std::string& usual_family) {
  const Json* named = section.find("family");
  const std::string family = named && named->is_string() ? named->as_string() : usual_family;
  Json result = Json::object();
  for (const auto& [name, value] : section.members()) {
    const FormerKey* former = former_key(family, name);
    const bool absent = former && value == Json(0) && std::string_view(name) != "rope_base";
    if (!former) {
      result[name] = value;
    } else if (!absent && former->now) {
      require(former->now == name || !section.contains(former->now), where, ": ", name, " and ",
              former->now, " are one key; only the second is wanted");
      result[former->now] = value;
    } else if (!absent && name == "num_kv_heads") {
      const Json* heads = section.find("num_heads");
      require(heads && *heads == value, where, ": num_kv_heads is ", value.dump(),
              ", but the family ", family, " has as many as num_heads; leave it out");
    }
  }
  return result;
}

void read_section(const std::string& path, const std::string& name, const Json& json,
                  RunConfig& config) {
  const std::string where = path + ": [" + name + "]";
  const bool known = name == "model" || name == "data" || name == "optim" || name == "train" ||
                     name == "dist" || name == "sample";
  require(known, path, ": unknown ", json.is_object() ? "section" : "key", " \"", name,
          "\"; known sections are model, data, optim, train, dist, sample");
  if (name == "model")
    nn::from_json(json.is_object() ? renamed_keys(json, where, config.model.config.family()) : json,
                  config.model, where);
  if (name == "data") nn::from_json(json, config.data, where);
  if (name == "optim") nn::from_json(json, config.optim, where);
  if (name == "train") nn::from_json(json, config.train, where);
  if (name == "dist") nn::from_json(json, config.dist, where);
  if (name == "sample") nn::from_json(json, config.sample, where);
}

}  // namespace

Json read_toml(const std::string& path) {
  const std::string text = read_file(path);
  require_short_keys(text, path);
  try {
    return to_json(toml::parse(text, path), path);
  } catch (const toml::parse_error& e) {
    throw FileError(path, ": not valid TOML at line ", e.source().begin.line, ", column ",
                    e.source().begin.column, ": ", e.description());
  }
}

void read_config(const std::string& path, RunConfig& config) {
  const Json file = read_toml(path);
  for (const auto& [name, section] : file.members()) read_section(path, name, section, config);
}

std::vector<KeyInfo> keys_left_out(const std::string& path, const RunConfig& config) {
  const Json file = read_toml(path);
  const Json* model = file.find("model");
  const Json none = Json::object();
  const Json keys = renamed_keys(model ? *model : none, path, config.model.config.family());
  std::vector<KeyInfo> result;
  for (const KeyInfo& key : list_keys(config)) {
    const size_t dot = key.path.find('.');
    const std::string section = key.path.substr(0, dot), name = key.path.substr(dot + 1);
    const Json* in = section == "model" ? &keys : file.find(section);
    if (!key.value.empty() && !(in && in->contains(name))) result.push_back(key);
  }
  return result;
}

}  // namespace olm::tools
