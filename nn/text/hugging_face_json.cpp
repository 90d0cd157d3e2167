// Vocabularies of this library in the format of Hugging Face's tokenizers.
#include <olm/nn/text/pipeline_internal.h>

namespace olm::nn {

namespace {

Json of_type(const char* type) {
  Json json;
  json["type"] = type;
  return json;
}

Json byte_level(bool use_regex, bool prefix) {
  Json json = of_type("ByteLevel");
  json["add_prefix_space"] = prefix;
  json["trim_offsets"] = true;
  json["use_regex"] = use_regex;
  return json;
}

/// A special token that is looked for in the text as it is.
Json special_token(std::string_view content, size_t id) {
  Json item;
  item["id"] = id;
  item["content"] = content;
  for (const char* key : {"single_word", "lstrip", "rstrip", "normalized"}) item[key] = false;
  item["special"] = true;
  return item;
}

Json bpe_model(Json vocabulary, Json merges) {
  Json json = of_type("BPE");
  for (const char* key :
       {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"})
    json[key] = nullptr;
  for (const char* key : {"fuse_unk", "byte_fallback", "ignore_merges"}) json[key] = false;
  json["vocab"] = std::move(vocabulary);
  json["merges"] = std::move(merges);
  return json;
}

Json whole(Json added, Json pre_tokenizer, Json decoder, Json model) {
  Json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = std::move(added);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = std::move(pre_tokenizer);
  json["post_processor"] = nullptr;
  json["decoder"] = std::move(decoder);
  json["model"] = std::move(model);
  return json;
}

}  // namespace

Json bpe::byte_level_json(const std::vector<std::string>& tokens, Json merges, bool cuts_words) {
  Json vocabulary = Json::object(), added = Json::array();
  for (size_t id = 0; id < tokens.size(); ++id) {
    vocabulary.append(letters_of_bytes(tokens[id]), id);
    if (tokens[id] == kEndOfText) added.push_back(special_token(kEndOfText, id));
  }
  return whole(std::move(added), byte_level(cuts_words, false), byte_level(true, true),
               bpe_model(std::move(vocabulary), std::move(merges)));
}

Json hugging_face_json(const Tokenizer& tokenizer) {
  if (dynamic_cast<const BpeTokenizer*>(&tokenizer)) return tokenizer.to_json();
  std::vector<std::string> tokens;
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id)
    tokens.emplace_back(tokenizer.token_bytes(int32_t(id)));
  if (dynamic_cast<const ByteTokenizer*>(&tokenizer))
    return bpe::byte_level_json(tokens, Json::array(), false);
  require(dynamic_cast<const CharTokenizer*>(&tokenizer) != nullptr, "the ", tokenizer.name(),
          " tokenizer has no counterpart in Hugging Face's tokenizers");
  Json vocabulary = Json::object(), added = Json::array();
  for (size_t id = 0; id < tokens.size(); ++id) {
    vocabulary.append(tokens[id], id);
    if (tokenizer.eot_id() == int32_t(id)) added.push_back(special_token(tokens[id], id));
  }
  return whole(std::move(added), nullptr, of_type("Fuse"),
               bpe_model(std::move(vocabulary), Json::array()));
}

}  // namespace olm::nn
