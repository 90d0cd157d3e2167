#pragma once
// The schemas of tests/fixtures/tokenizer_schemas.json as whole tokenizer.json files.
#include <olm/engine/json.h>
#include <olm/kernels/base/error.h>
#include <tests/support/tokenizer_cases.h>

#include <algorithm>
#include <string>

namespace olm::test {

inline Json with_merges(const Json& model, Json vocabulary, const Json& merges) {
  Json made = model;
  made["vocab"] = std::move(vocabulary);
  made["merges"] = merges;
  return made;
}

/// tokenizer.json of a schema of the fixture, which shares vocabularies.
inline Json whole(const Json& fixture, const Json& schema) {
  const Json& shared = fixture.at("vocabularies").at(schema.at("vocabulary").as_string());
  Json vocabulary = Json::object();
  const Json::Array& missing = schema.at("missing").items();
  int64_t id = 0;
  for (const Json& token : shared.at("tokens").items())
    if (std::find(missing.begin(), missing.end(), token) == missing.end())
      vocabulary.append(token.as_string(), id++);
  Json json = schema.at("json");
  const Json* unk = json.at("model").find("unk_token");
  if (!unk->is_null() && !vocabulary.contains(unk->as_string())) vocabulary[unk->as_string()] = id;
  json["model"] = with_merges(json.at("model"), std::move(vocabulary), shared.at("merges"));
  return json;
}

inline const Json& fixture() {
  static const Json json = read_json(OLM_FIXTURES "/tokenizer_schemas.json");
  return json;
}

inline const Json& schema(const std::string& name) {
  for (const Json& one : fixture().at("schemas").items())
    if (one.at("name").as_string() == name) return one;
  fail("no schema ", name);
}

inline Json json_of(const std::string& name) { return whole(fixture(), schema(name)); }

}  // namespace olm::test
