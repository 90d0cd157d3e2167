// GPT-2's form of a vocabulary: vocab.json, from token to id, and merges.txt, a pair to a line.
#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/formats_internal.h>

namespace olm::nn::formats {

namespace {

Json read_merges(std::string_view text) {
  Json merges = Json::array();
  for (size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = next_line(text);
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    const size_t space = line.find(' ');
    require(space != line.npos && space > 0 && space + 1 < line.size() &&
                line.find(' ', space + 1) == line.npos,
            "line ", number, " of the merges is not two tokens with a space between them");
    merges.push_back(line);
  }
  return merges;
}

}  // namespace

Vocabulary read_vocab_and_merges(std::string_view vocab, std::string_view merges) {
  bpe::require_utf8("merges", merges);
  const Json json = Json::parse(vocab, "vocabulary");
  Vocabulary vocabulary;
  Parts parts;
  for (const auto& [text, id] : json.members()) {
    const int64_t number = id.as_int();
    require(number >= 0 && number <= INT32_MAX, "the id ", number, " of token \"", text,
            "\" is out of range");
    parts.vocabulary.push_back({.text = text, .id = int32_t(number)});
    if (text != kEndOfText) continue;
    parts.added.push_back({.text = text, .id = int32_t(number), .special = true});
    vocabulary.special.bos = vocabulary.special.eos = int32_t(number);
  }
  parts.merges = read_merges(merges);
  parts.pre_tokenizer = pre_tokenizer_json({kGpt2Step});
  vocabulary.tokenizer = to_tokenizer_json(parts);
  return vocabulary;
}

}  // namespace olm::nn::formats
