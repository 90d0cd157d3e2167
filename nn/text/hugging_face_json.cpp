// Vocabularies of this library in the format of Hugging Face's tokenizers.
#include <algorithm>

#include <olm/nn/text/formats_internal.h>
#include <olm/nn/text/pipeline_internal.h>

namespace olm::nn {

namespace {

/// A vocabulary of `texts`, by id, without merges; the one at `end_of_text` is a special token.
formats::Parts parts_of(std::vector<std::string> texts, std::optional<int32_t> end_of_text) {
  formats::Parts parts;
  for (size_t id = 0; id < texts.size(); ++id)
    parts.vocabulary.push_back({.text = std::move(texts[id]), .id = int32_t(id)});
  if (end_of_text)
    parts.added.push_back({.text = std::string(kEndOfText), .id = *end_of_text, .special = true});
  return parts;
}

}  // namespace

Json bpe::byte_level_json(const std::vector<std::string>& tokens, Json merges, bool cuts_words) {
  std::vector<std::string> letters;
  for (const std::string& token : tokens) letters.push_back(letters_of_bytes(token));
  const auto end = std::find(tokens.begin(), tokens.end(), kEndOfText);
  formats::Parts parts =
      parts_of(std::move(letters),
               end == tokens.end() ? std::nullopt : std::optional(int32_t(end - tokens.begin())));
  parts.merges = std::move(merges);
  parts.pre_tokenizer = formats::byte_level_json(cuts_words);
  parts.decoder = formats::byte_level_json(true);
  parts.decoder["add_prefix_space"] = true;  // as GPT-2's file has it
  return formats::to_tokenizer_json(std::move(parts));
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
  formats::Parts parts = parts_of(std::move(tokens), tokenizer.eot_id());
  parts.decoder["type"] = "Fuse";
  return formats::to_tokenizer_json(std::move(parts));
}

}  // namespace olm::nn
