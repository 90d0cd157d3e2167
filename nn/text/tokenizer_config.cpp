// tokenizer_config.json and special_tokens_map.json of Hugging Face's transformers: the ids that
// have a role, by their texts.
#include <algorithm>
#include <charconv>
#include <unordered_map>

#include <olm/nn/text/formats_internal.h>

namespace olm::nn::formats {

namespace {

/// A token as text, as {"content": …}, or none.
std::string text_of(const Json* json) {
  if (!json || json->is_null()) return "";
  if (json->is_string()) return json->as_string();
  const Json* content = json->is_object() ? json->find("content") : nullptr;
  require(content && content->is_string(), "tokenizer_config.json: a token is a text or an object ",
          "with \"content\", got ", json->dump());
  return content->as_string();
}

bool is_true(const Json& json, const char* key) {
  const Json* value = json.find(key);
  return value && value->is_bool() && value->as_bool();
}

std::optional<int32_t> id_in(const Json& tokenizer, const std::string& text) {
  if (text.empty()) return {};
  for (const Json& token : tokenizer.at("added_tokens").items())
    if (token.at("content").as_string() == text) return int32_t(token.at("id").as_int());
  const Json* id = tokenizer.at("model").at("vocab").find(text);
  return id ? std::optional(int32_t(id->as_int())) : std::nullopt;
}

int32_t read_id(const std::string& text) {
  int32_t id = -1;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  require(error == std::errc() && stop == text.data() + text.size() && id >= 0,
          "added_tokens_decoder has the id \"", text, "\"");
  return id;
}

/// The added tokens of `tokenizer` with those of the configuration: one of the same id takes the
/// other's place, since names of tokens that a format does not name are guesses. Where both have
/// the same text only formats that know no flags take those of the configuration.
void merge_added(const Json& decoder, bool takes_flags, Json& tokenizer) {
  Json::Array added = tokenizer.at("added_tokens").items();
  std::unordered_map<int64_t, size_t> places;
  for (size_t i = 0; i < added.size(); ++i) places.emplace(added[i].at("id").as_int(), i);
  std::unordered_map<int64_t, std::string_view> vocabulary;
  for (const auto& [text, id] : tokenizer.at("model").at("vocab").members())
    vocabulary.emplace(id.as_int(), text);
  for (const auto& [key, token] : decoder.members()) {
    const int32_t id = read_id(key);
    const std::string text = text_of(&token);
    require(!text.empty(), "added_tokens_decoder has an empty token for id ", id);
    const auto known = vocabulary.find(id);
    require(known == vocabulary.end() || known->second == text,
            "added_tokens_decoder says that id ", id, " is \"", text, "\", the vocabulary has \"",
            known == vocabulary.end() ? "" : known->second, "\"");
    const auto at = places.find(id);
    const Json* before = at == places.end() ? nullptr : &added[at->second];
    const bool same = before && text_of(before) == text;
    const Json item =
        added_json({.text = text,
                    .id = id,
                    .special = is_true(token, "special") || (same && is_true(*before, "special")),
                    .normalized = is_true(token, "normalized"),
                    .lstrip = is_true(token, "lstrip"),
                    .rstrip = is_true(token, "rstrip"),
                    .single_word = is_true(token, "single_word")});
    if (!before)
      added.push_back(item);
    else if (!same || takes_flags)
      added[at->second] = item;
  }
  std::sort(added.begin(), added.end(),
            [](const Json& a, const Json& b) { return a.at("id").as_int() < b.at("id").as_int(); });
  tokenizer["added_tokens"] = Json(added);
}

}  // namespace

void apply_tokenizer_config(const Json& config, const Json& special_map, bool sets_template,
                            Vocabulary& vocabulary) {
  Json& tokenizer = vocabulary.tokenizer;
  if (const Json* decoder = config.is_object() ? config.find("added_tokens_decoder") : nullptr)
    if (decoder->is_object() && decoder->size() > 0)
      merge_added(*decoder, sets_template, tokenizer);
  SpecialTokens& special = vocabulary.special;
  auto read = [&](const char* key, std::optional<int32_t>& id) {
    for (const Json* json : {&config, &special_map}) {
      if (!json->is_object() || !json->contains(key)) continue;
      const std::string text = text_of(json->find(key));
      if (text.empty()) continue;
      id = id_in(tokenizer, text);
      return;
    }
  };
  read("bos_token", special.bos);
  read("eos_token", special.eos);
  read("unk_token", special.unk);
  read("pad_token", special.pad);
  if (!config.is_object() || !sets_template) return;
  if (const Json* adds = config.find("add_bos_token"); adds && adds->is_bool())
    special.adds_bos = adds->as_bool();
  if (const Json* adds = config.find("add_eos_token"); adds && adds->is_bool())
    special.adds_eos = adds->as_bool();
  special.adds_bos = special.adds_bos && special.bos;
  special.adds_eos = special.adds_eos && special.eos;
  tokenizer["post_processor"] =
      template_json(special.adds_bos ? special.bos : std::nullopt,
                    special.adds_eos ? special.eos : std::nullopt, tokenizer);
}

Json tokenizer_config_json(const Tokenizer& tokenizer, int64_t context, const Json& before) {
  Json json = before.is_object() ? before : Json::object();
  const Json file = hugging_face_json(tokenizer);
  std::unordered_map<int64_t, std::string> texts;
  for (const auto& [text, id] : file.at("model").at("vocab").members())
    texts.emplace(id.as_int(), text);
  for (const Json& token : file.at("added_tokens").items())
    texts[token.at("id").as_int()] = text_of(&token);
  const SpecialTokens special = tokenizer.special();
  auto set = [&](const char* key, std::optional<int32_t> id) {
    const auto at = id ? texts.find(*id) : texts.end();
    const std::string text = at == texts.end() ? "" : at->second;
    // What the vendor wrote of a token, such as lstrip, stays.
    if (text_of(json.find(key)) != text) json[key] = text.empty() ? Json(nullptr) : Json(text);
  };
  set("bos_token", special.bos);
  set("eos_token", special.eos);
  set("unk_token", special.unk);
  set("pad_token", special.pad);
  // Any other class may cut words in its own way, whatever tokenizer.json says.
  json["tokenizer_class"] = "PreTrainedTokenizerFast";
  json["clean_up_tokenization_spaces"] = false;
  if (!json.contains("model_max_length") || context > 0) json["model_max_length"] = context;
  return json;
}

std::string tokenizer_warning(const std::string& model_type, const Tokenizer& tokenizer) {
  if (model_type != "qwen2") return "";
  const Json json = hugging_face_json(tokenizer);
  const Json* normalizer = json.find("normalizer");
  const auto steps = steps_of(json.at("pre_tokenizer"));
  const auto names = pre_tokenizers_of(steps.value_or(std::vector<std::string>{}));
  const bool qwen = std::any_of(names.begin(), names.end(), [](const PreTokenizer* row) {
    return std::string_view(row->name) == "qwen2";
  });
  if (qwen && normalizer && normalizer->is_object() && normalizer->find("type") &&
      normalizer->at("type").as_string() == "NFC")
    return "";
  return "transformers reads every tokenizer of a qwen2 model as Qwen's own, which brings text to "
         "NFC and cuts words by another expression than this one: ids may differ";
}

}  // namespace olm::nn::formats
