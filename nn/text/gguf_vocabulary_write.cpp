// A tokenizer.json as tokenizer.ggml.* of a GGUF file, as far as llama.cpp can do what it says.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/gguf_vocabulary_internal.h>

namespace olm::nn::formats {

namespace {

const std::string kSpace = "\xe2\x96\x81";

/// What is written, one item for each id.
struct Output {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
  std::vector<float> scores;        // of kind "llama" alone
  std::vector<std::string> merges;  // of kind "gpt2" alone
  std::string pre;                  // "" for kind "llama"
  bool space_prefix = false;
  std::vector<std::string> notes;
};

bool is_set(const Json& json, const char* key) {
  const Json* value = json.find(key);
  if (!value || value->is_null()) return false;
  if (value->is_bool()) return value->as_bool();
  return !value->is_string() || !value->as_string().empty();
}

std::string type_of(const Json* json) {
  return !json || json->is_null() ? "" : json->at("type").as_string();
}

/// The steps of a normaliser; none for null and for an empty sequence.
std::vector<Json> normalizers_of(const Json& tokenizer) {
  const Json* json = tokenizer.find("normalizer");
  if (type_of(json).empty()) return {};
  if (type_of(json) == "Sequence") return json->at("normalizers").items();
  return {*json};
}

bool is_byte_piece(const std::string& text) {
  return text.size() == 6 && text.starts_with("<0x") && text.ends_with('>');
}

std::pair<std::string, std::string> parts_of(const Json& merge) {
  if (merge.is_array()) return {merge.at(size_t(0)).as_string(), merge.at(1).as_string()};
  const std::string& text = merge.as_string();
  const size_t space = text.find(' ');
  return {text.substr(0, space), text.substr(space + 1)};
}

/// Tokens by id, and padding where a row of the embedding has none.
void set_tokens(const Json& json, int64_t rows, Output& out) {
  const Json& model = json.at("model");
  const Json* unk = model.find("unk_token");
  out.texts.resize(size_t(rows));
  out.types.assign(size_t(rows), int32_t(TokenType::unused));
  auto set = [&](const std::string& text, int64_t id, TokenType type) {
    require(id >= 0 && id < rows, "the token \"", text, "\" has id ", id, ", the embedding has ",
            rows, " rows");
    out.texts[size_t(id)] = text;
    const bool is_unk = unk && unk->is_string() && !text.empty() && unk->as_string() == text;
    out.types[size_t(id)] = int32_t(is_unk ? TokenType::unknown : type);
  };
  bool strips = false;
  const auto add = [&](const std::string& text, const Json& token) {
    set(text, token.at("id").as_int(),
        is_set(token, "special") ? TokenType::control : TokenType::user_defined);
    strips |= is_set(token, "lstrip") || is_set(token, "rstrip") || is_set(token, "single_word");
  };
  const bool bytes = is_set(model, "byte_fallback");
  for (const auto& [text, id] : model.at("vocab").members())
    set(text, id.as_int(), bytes && is_byte_piece(text) ? TokenType::byte : TokenType::normal);
  for (const Json& token : json.at("added_tokens").items()) {
    const std::string& text = token.at("content").as_string();
    if (token.at("id").as_int() < rows)
      add(text, token);
    else
      out.notes.push_back("the file leaves out the token " + text +
                          ", which has no row in the embedding");
  }
  if (strips)
    out.notes.push_back(
        "llama.cpp does not strip white space beside added tokens, nor look for borders of words");
  std::unordered_set<std::string_view> known;
  for (size_t id = 0; id < out.texts.size(); ++id) {
    if (out.texts[id].empty()) out.texts[id] = "[PAD" + std::to_string(id) + "]";
    require(known.insert(out.texts[id]).second, "the token \"", out.texts[id],
            "\" has two ids, which GGUF does not allow");
  }
}

/// Whether each token comes out of its own merges: then ignore_merges changes nothing.
bool words_come_of_merges(const Json& json) {
  Json plain = json;
  plain["added_tokens"] = Json::array();
  for (const char* part : {"normalizer", "pre_tokenizer", "post_processor", "decoder"})
    plain[part] = nullptr;
  plain["model"]["ignore_merges"] = false;
  const BpeTokenizer tokenizer = BpeTokenizer::from_json(plain);
  for (const auto& [text, id] : json.at("model").at("vocab").members())
    if (tokenizer.encode(text) != std::vector<int32_t>{int32_t(id.as_int())}) return false;
  return true;
}

/// Whether text is brought to NFC. Throws for any other normaliser.
bool composes(const Json& json) {
  bool nfc = false;
  for (const Json& step : normalizers_of(json)) {
    require(type_of(&step) == "NFC",
            "llama.cpp has no normaliser for a byte-level vocabulary: ", step.dump());
    nfc = true;
  }
  return nfc;
}

std::string find_pre(const Json& json, Output& out) {
  const Json &pre = json.at("pre_tokenizer"), &model = json.at("model");
  const auto steps = steps_of(pre);
  const bool nfc = composes(json), whole = is_set(model, "ignore_merges");
  if (nfc) out.notes.push_back("llama.cpp does not bring text to NFC, as this tokenizer does");
  // Where nothing is joined it does not matter how words are cut.
  if (steps && model.at("merges").size() == 0 && !whole) return "gpt-2";
  const auto names = pre_tokenizers_of(steps.value_or(std::vector<std::string>{}));
  require(!names.empty(), "llama.cpp has no name for the pre-tokenizer ", pre.dump());
  // The rows are few: those that agree on more come first.
  const PreTokenizer* best = nullptr;
  int most = -1;
  for (const PreTokenizer* row : names) {
    const int agrees = 2 * (row->whole_words_first == whole) + (row->composes == nfc);
    if (agrees > most) most = agrees, best = row;
  }
  require(best->whole_words_first == whole || words_come_of_merges(json),
          "llama.cpp has no name for the pre-tokenizer ", pre.dump(), " with ignore_merges ",
          whole ? "true" : "false");
  return best->name;
}

/// Kind "gpt2".
void set_letters(const Json& json, Output& out) {
  const Json& model = json.at("model");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    require(!is_set(model, key), "llama.cpp has no ", key);
  out.pre = find_pre(json, out);
  for (const Json& merge : model.at("merges").items()) {
    const auto [left, right] = parts_of(merge);
    out.merges.push_back(left + " " + right);
  }
}

/// Where spaces are U+2581: whether one comes before the text. Throws where text is changed in
/// another way. A vocabulary without any of it holds spaces themselves, which llama.cpp asks for as
/// U+2581.
bool read_spaces(const Json& json, Output& out) {
  bool prefix = false, replaced = false;
  for (const Json& step : normalizers_of(json)) {
    const std::string type = type_of(&step);
    if (type == "Prepend" && step.at("prepend").as_string() == kSpace)
      prefix = true;
    else if (type == "Replace" && step == replace_json("String", " ", kSpace))
      replaced = true;
    else
      fail("llama.cpp has no normaliser ", step.dump());
  }
  const Json* pre = json.find("pre_tokenizer");
  if (type_of(pre) == "Metaspace") {
    const Json* scheme = pre->find("prepend_scheme");
    replaced = true;
    prefix = !scheme || scheme->as_string() != "never";
    if (prefix)
      out.notes.push_back("llama.cpp puts a space before a text that begins with one, too");
  } else if (!type_of(pre).empty()) {
    require(replaced && type_of(pre) == "Split" && pre->at("pattern").find("String") &&
                pre->at("pattern").at("String").as_string() == " ",
            "llama.cpp has no pre-tokenizer ", pre->dump(), " for a vocabulary of characters");
  }
  if (replaced) return prefix;
  require(!prefix, "llama.cpp has no normaliser that prepends and does not replace spaces");
  for (std::string& text : out.texts) {
    require(text.find(kSpace) == text.npos, "the token \"", text,
            "\" has a U+2581, which llama.cpp takes for a space");
    for (size_t at = text.find(' '); at != text.npos; at = text.find(' ', at))
      text.replace(at, 1, kSpace);
  }
  return false;
}

/// Scores that give these merges: the earlier a token is joined, the higher. Throws where no
/// scores do.
void set_scores(const Json& model, Output& out) {
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < out.texts.size(); ++id) ids.emplace(out.texts[id], int32_t(id));
  auto id_of = [&](const std::string& text) {
    const auto at = ids.find(text);
    require(at != ids.end(), "the token \"", text, "\" of a merge is not in the vocabulary");
    return at->second;
  };
  std::vector<int32_t> order;
  std::vector<int64_t> place(out.texts.size(), -1);
  std::vector<std::pair<int32_t, int32_t>> wanted;
  for (const Json& merge : model.at("merges").items()) {
    const auto [left, right] = parts_of(merge);
    const int32_t joined = id_of(left + right);
    wanted.emplace_back(id_of(left), id_of(right));
    if (place[size_t(joined)] >= 0) continue;
    place[size_t(joined)] = int64_t(order.size());
    order.push_back(joined);
  }
  for (size_t id = 0; id < out.texts.size(); ++id) {
    const TokenType type = TokenType(out.types[id]);
    if (place[id] < 0 && (type == TokenType::normal || type == TokenType::user_defined))
      order.push_back(int32_t(id));
  }
  // The same pairs in the same order, but for pairs of one token among themselves.
  auto sorted = [&](std::vector<std::pair<int32_t, int32_t>> pairs) {
    auto key = [&](const std::pair<int32_t, int32_t>& pair) {
      const int32_t joined = ids.at(out.texts[size_t(pair.first)] + out.texts[size_t(pair.second)]);
      return std::tuple(uint64_t(place[size_t(joined)]), pair);
    };
    std::sort(pairs.begin(), pairs.end(),
              [&](const auto& a, const auto& b) { return key(a) < key(b); });
    return pairs;
  };
  require(sorted(wanted) == sorted(pairs_of(out.texts, order, true)),
          "these merges are not those of pieces by score, which llama.cpp wants of a vocabulary of "
          "characters");
  out.scores.assign(out.texts.size(), 0);
  for (size_t at = 0; at < order.size(); ++at) out.scores[size_t(order[at])] = -float(at);
}

/// Kind "llama".
void set_pieces(const Json& json, Output& out) {
  const Json& model = json.at("model");
  require(!is_set(model, "ignore_merges") || words_come_of_merges(json),
          "llama.cpp has no ignore_merges for a vocabulary of characters");
  out.space_prefix = read_spaces(json, out);
  set_scores(model, out);
  if (!is_set(model, "byte_fallback"))
    out.notes.push_back(
        "this vocabulary has no bytes: llama.cpp fails at characters that are not in it");
}

bool ends_in_bytes(const Json& json) {
  const Json* pre = json.find("pre_tokenizer");
  if (type_of(pre) != "Sequence") return type_of(pre) == "ByteLevel";
  const Json::Array& steps = pre->at("pretokenizers").items();
  return !steps.empty() && type_of(&steps.back()) == "ByteLevel";
}

/// Where an id is missing llama.cpp takes 11, or 1 and 2, whatever they stand for.
void write_special(const Tokenizer& tokenizer, Output& out, GgufWriter& writer) {
  const SpecialTokens special = tokenizer.special();
  std::optional<int32_t> eos = special.eos ? special.eos : tokenizer.eot_id();
  if (!eos) {
    eos = int32_t(tokenizer.min_rows()) - 1;
    out.notes.push_back(
        "this tokenizer has no end of text, and llama.cpp knows no model without: "
        "the last id stands for it");
  }
  const std::string prefix = "tokenizer.ggml.";
  writer.set(prefix + "bos_token_id", uint32_t(special.bos.value_or(*eos)));
  writer.set(prefix + "eos_token_id", uint32_t(*eos));
  if (special.unk || out.pre.empty())
    writer.set(prefix + "unknown_token_id", uint32_t(special.unk.value_or(*eos)));
  writer.set(prefix + "padding_token_id", uint32_t(special.pad.value_or(*eos)));
  writer.set(prefix + "add_bos_token", special.adds_bos);
  writer.set(prefix + "add_eos_token", special.adds_eos);
  writer.set(prefix + "add_space_prefix", out.space_prefix);
}

}  // namespace

std::vector<std::string> write_vocabulary(const Tokenizer& tokenizer, int64_t rows,
                                          std::string_view chat_template, GgufWriter& writer) {
  const Json json = hugging_face_json(tokenizer);
  require(rows >= tokenizer.min_rows(), "the tokenizer has ", tokenizer.vocab_size(),
          " ids, the embedding has ", rows, " rows");
  Output out;
  set_tokens(json, rows, out);
  const bool letters = ends_in_bytes(json);
  if (letters)
    set_letters(json, out);
  else
    set_pieces(json, out);
  const std::string prefix = "tokenizer.ggml.";
  writer.set(prefix + "model", letters ? "gpt2" : "llama");
  writer.set(prefix + "pre", letters ? out.pre : std::string("default"));
  writer.set(prefix + "tokens", out.texts);
  writer.set(prefix + "token_type", out.types);
  if (letters)
    writer.set(prefix + "merges", out.merges);
  else
    writer.set(prefix + "scores", out.scores);
  write_special(tokenizer, out, writer);
  if (!chat_template.empty()) writer.set("tokenizer.chat_template", chat_template);
  return out.notes;
}

}  // namespace olm::nn::formats
