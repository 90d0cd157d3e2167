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

void read_section(const std::string& path, const std::string& name, const Json& json,
                  RunConfig& config) {
  const std::string where = path + ": [" + name + "]";
  const bool known =
      name == "model" || name == "data" || name == "optim" || name == "train" || name == "sample";
  require(known, path, ": unknown ", json.is_object() ? "section" : "key", " \"", name,
          "\"; known sections are model, data, optim, train, sample");
  if (name == "model") nn::from_json(json, config.model, where);
  if (name == "data") nn::from_json(json, config.data, where);
  if (name == "optim") nn::from_json(json, config.optim, where);
  if (name == "train") nn::from_json(json, config.train, where);
  if (name == "sample") nn::from_json(json, config.sample, where);
}

}  // namespace

void read_toml(const std::string& path, RunConfig& config) {
  const std::string text = read_file(path);
  require_short_keys(text, path);
  try {
    const Json json = to_json(toml::parse(text, path), path);
    for (const auto& [name, section] : json.members()) read_section(path, name, section, config);
  } catch (const toml::parse_error& e) {
    throw FileError(path, ": not valid TOML at line ", e.source().begin.line, ", column ",
                    e.source().begin.column, ": ", e.description());
  }
}

}  // namespace olm::tools
