#pragma once
// The texts of tests/fixtures/tokenizer_formats, and the ids that other programs give.
#include <doctest/doctest.h>
#include <olm/engine/json.h>
#include <olm/nn/text.h>

namespace olm::test {

using Ids = std::vector<int32_t>;

inline const std::string kFolder = OLM_FIXTURES "/tokenizer_formats/";

inline const Json& cases() {
  static const Json json = read_json(kFolder + "cases.json");
  return json;
}

inline Ids ids_of(const Json& json) {
  Ids ids;
  for (const Json& id : json.items()) ids.push_back(int32_t(id.as_int()));
  return ids;
}

/// The ids of all texts are those of `wanted`.
inline void check_ids(const nn::Tokenizer& tokenizer, const Json& wanted,
                      const nn::EncodeOptions& options = {}) {
  const Json& texts = cases().at("texts");
  for (size_t i = 0; i < texts.size(); ++i) {
    CAPTURE(texts.at(i).as_string());
    CHECK(tokenizer.encode(texts.at(i).as_string(), options) == ids_of(wanted.at(i)));
  }
}

inline Json config_of(const std::string& text) { return Json::parse(text); }

}  // namespace olm::test
