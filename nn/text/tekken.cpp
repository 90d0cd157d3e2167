// Mistral's tekken.json: ranks like tiktoken's, behind ids that are kept for special tokens.
#include <olm/nn/text/formats_internal.h>

namespace olm::nn::formats {

namespace {

/// Names of the first special tokens in files that do not name them.
const std::vector<std::string> kSpecial = {"<unk>",
                                           "<s>",
                                           "</s>",
                                           "[INST]",
                                           "[/INST]",
                                           "[AVAILABLE_TOOLS]",
                                           "[/AVAILABLE_TOOLS]",
                                           "[TOOL_RESULTS]",
                                           "[/TOOL_RESULTS]",
                                           "[TOOL_CALLS]",
                                           "[IMG]",
                                           "<pad>",
                                           "[IMG_BREAK]",
                                           "[IMG_END]",
                                           "[PREFIX]",
                                           "[MIDDLE]",
                                           "[SUFFIX]",
                                           "[SYSTEM_PROMPT]",
                                           "[/SYSTEM_PROMPT]",
                                           "[TOOL_CONTENT]"};

std::vector<Token> special_tokens(const Json& json, int64_t count) {
  std::vector<Token> tokens(static_cast<size_t>(count));
  for (size_t id = 0; id < tokens.size(); ++id)
    tokens[id] = {
        .text = id < kSpecial.size() ? kSpecial[id] : "<SPECIAL_" + std::to_string(id) + ">",
        .id = int32_t(id),
        .special = true};
  const Json* named = json.find("special_tokens");
  if (!named || named->is_null()) return tokens;
  for (const Json& item : named->items()) {
    const int64_t rank = item.at("rank").as_int();
    require(rank >= 0 && rank < count, "the special token \"", item.at("token_str").as_string(),
            "\" has rank ", rank, ", there are ", count);
    tokens[size_t(rank)].text = item.at("token_str").as_string();
  }
  return tokens;
}

}  // namespace

Vocabulary read_tekken(const Json& json) {
  const Json &config = json.at("config"), &vocab = json.at("vocab");
  const int64_t size = config.at("default_vocab_size").as_int();
  const int64_t specials = config.at("default_num_special_tokens").as_int();
  require(specials >= 0 && specials <= size && size - specials <= int64_t(vocab.size()),
          "default_vocab_size ", size, " and default_num_special_tokens ", specials,
          " do not go with ", vocab.size(), " tokens");
  require(specials <= 100'000, "default_num_special_tokens is ", specials,
          ", at most 100000 were wanted");
  std::vector<std::string> ranks(size_t(size - specials));
  for (size_t i = 0; i < ranks.size(); ++i) {
    const Json& item = vocab.at(i);
    require(item.at("rank").as_int() == int64_t(i), "vocab[", i, "] has rank ",
            item.at("rank").as_int(), ", ", i, " was wanted");
    require(decode_base64(item.at("token_bytes").as_string(), ranks[i]), "vocab[", i,
            "].token_bytes \"", item.at("token_bytes").as_string(), "\" is not base64");
  }
  Parts parts;
  Vocabulary vocabulary;
  set_ranks(parts, ranks, int32_t(specials));
  parts.added = special_tokens(json, specials);
  for (const Token& token : parts.added) {
    SpecialTokens& special = vocabulary.special;
    if (token.text == "<unk>") special.unk = token.id;
    if (token.text == "<s>") special.bos = token.id;
    if (token.text == "</s>") special.eos = token.id;
    if (token.text == "<pad>") special.pad = token.id;
  }
  parts.bos = vocabulary.special.bos;
  vocabulary.special.adds_bos = parts.bos.has_value();
  parts.pre_tokenizer =
      pre_tokenizer_json({without_possessive_counts(config.at("pattern").as_string())});
  vocabulary.tokenizer = to_tokenizer_json(parts);
  return vocabulary;
}

}  // namespace olm::nn::formats
