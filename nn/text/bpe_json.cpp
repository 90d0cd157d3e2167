// The tokenizer.json of Hugging Face's tokenizers, for byte-level BPE.
#include <array>

#include <olm/engine/utf8.h>
#include <olm/nn/text.h>
#include <olm/nn/text/bpe_internal.h>

namespace olm::nn {

namespace bpe {

namespace {

/// GPT-2's table: printable bytes of Latin-1 stand for themselves, the others for U+0100 and on.
struct Letters {
  std::array<char32_t, 256> of_byte{};
  std::array<int, 512> of_letter{};
  Letters() {
    of_letter.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable =
          (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
      of_byte[size_t(b)] = printable ? char32_t(b) : next++;
      of_letter[of_byte[size_t(b)]] = b;
    }
  }
};

const Letters& letters() {
  static const Letters table;
  return table;
}

}  // namespace

char32_t letter_of_byte(uint8_t byte) { return letters().of_byte[byte]; }
int byte_of_letter(char32_t letter) { return letter < 512 ? letters().of_letter[letter] : -1; }

}  // namespace bpe

namespace {

using Ids = std::unordered_map<std::string, int32_t>;

std::string to_letters(std::string_view bytes) {
  std::string text;
  for (const char b : bytes) append_utf8(text, bpe::letter_of_byte(uint8_t(b)));
  return text;
}

/// The bytes that letters stand for; text with other characters stands for itself.
std::string from_letters(const std::string& text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    const int byte = bpe::byte_of_letter(c.code);
    if (c.length == 0 || byte < 0) return text;
    bytes += char(byte);
    at += size_t(c.length);
  }
  return bytes;
}

bool is_set(const Json& json, const char* key) {
  const Json* value = json.find(key);
  if (!value || value->is_null()) return false;
  if (value->is_bool()) return value->as_bool();
  return !value->is_string() || !value->as_string().empty();
}

std::string type_of(const Json& json) { return json.at("type").as_string(); }

/// A byte-level step; says whether it cuts words itself.
bool byte_level_cuts(const Json& step) {
  require(type_of(step) == "ByteLevel", "the pre-tokenizer ", type_of(step),
          " is not supported, ByteLevel was wanted");
  require(!is_set(step, "add_prefix_space"), "add_prefix_space is not supported");
  const Json* use_regex = step.find("use_regex");
  return !use_regex || use_regex->as_bool();
}

/// The expression that cuts words: GPT-2's, or that of a Split before the byte-level step.
std::string read_pattern(const Json& pre_tokenizer) {
  if (type_of(pre_tokenizer) != "Sequence") {
    require(byte_level_cuts(pre_tokenizer), "a ByteLevel pre-tokenizer without its expression");
    return bpe::kGpt2Pattern;
  }
  const Json& steps = pre_tokenizer.at("pretokenizers");
  require(
      steps.size() == 2 && type_of(steps.at(size_t(0))) == "Split" && !byte_level_cuts(steps.at(1)),
      "a sequence of pre-tokenizers other than Split and ByteLevel is not supported");
  const Json& split = steps.at(size_t(0));
  require(split.at("behavior").as_string() == "Isolated" && !is_set(split, "invert"),
          "a Split that is not Isolated is not supported");
  return split.at("pattern").at("Regex").as_string();
}

void check_kind(const Json& json) {
  require(!is_set(json, "normalizer"), "a tokenizer with a normalizer is not supported");
  const Json& model = json.at("model");
  const Json* type = model.find("type");
  require(!type || type->as_string() == "BPE", "a model of type ", type ? type->as_string() : "",
          " is not supported, BPE was wanted");
  for (const char* key :
       {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"})
    require(!is_set(model, key), "a BPE model with ", key, " is not supported");
}

/// Puts what a token stands for at its id, which must be free and not far above the `count` tokens
/// that there are.
int32_t place(bpe::Model& model, size_t count, const std::string& token, const Json& value,
              std::string bytes) {
  const int64_t id = value.as_int();
  require(id >= 0 && id < int64_t(count) * 2 + 1024, "the id ", id, " of token \"", token,
          "\" is out of range for ", count, " tokens");
  if (size_t(id) >= model.tokens.size()) model.tokens.resize(size_t(id) + 1);
  require(model.tokens[size_t(id)].empty(), "the id ", id, " comes twice");
  model.tokens[size_t(id)] = std::move(bytes);
  return int32_t(id);
}

Ids read_vocabulary(const Json& json, size_t count, bpe::Model& model) {
  Ids ids;
  for (const auto& [token, id] : json.at("model").at("vocab").members()) {
    require(!token.empty(), "an empty token");
    ids[token] = place(model, count, token, id, from_letters(token));
  }
  return ids;
}

/// The ids that words can give: those of bytes, of merges, and of words taken whole.
std::vector<bool> ids_of_words(const bpe::Model& model) {
  std::vector<bool> given(model.tokens.size());
  for (const int32_t id : model.byte_ids) given[size_t(id)] = true;
  for (const auto& [pair, merge] : model.merges) given[size_t(merge.id)] = true;
  for (const auto& [word, id] : model.words)
    if (find_invalid_utf8(word) == std::string::npos) given[size_t(id)] = true;
  return given;
}

/// Added tokens stand for their own text, even where it consists of letters of bytes; but an id
/// that words give as well keeps the bytes of the word. One that is in the vocabulary has its id.
void read_added(const Json& items, const Ids& ids, size_t count, bpe::Model& model) {
  const std::vector<bool> of_words = ids_of_words(model);
  Ids others;
  for (const Json& item : items.items()) {
    const std::string& content = item.at("content").as_string();
    require(!content.empty(), "an empty added token");
    for (const char* key : {"single_word", "lstrip", "rstrip"})
      require(!is_set(item, key), "an added token with ", key, " is not supported");
    const auto known = ids.find(content);
    const bool in_vocabulary = known != ids.end();
    if (!in_vocabulary && !others.contains(content))
      others[content] = place(model, count, content, item.at("id"), content);
    const int32_t id = in_vocabulary ? known->second : others.at(content);
    if (in_vocabulary && !of_words[size_t(id)]) model.tokens[size_t(id)] = content;
    model.added.add({.text = content,
                     .id = id,
                     .special = is_set(item, "special"),
                     .normalized = is_set(item, "normalized"),
                     .in_vocabulary = in_vocabulary});
  }
}

/// "a b" or ["a", "b"].
std::pair<std::string, std::string> read_merge(const Json& json) {
  if (json.is_array()) {
    require(json.size() == 2, "a merge of ", json.size(), " tokens");
    return {json.at(size_t(0)).as_string(), json.at(1).as_string()};
  }
  const std::string& text = json.as_string();
  const size_t space = text.find(' ');
  require(space != text.npos && text.find(' ', space + 1) == text.npos, "the merge \"", text,
          "\" is not two tokens with a space between them");
  return {text.substr(0, space), text.substr(space + 1)};
}

int32_t id_of(const Ids& ids, const std::string& token) {
  const auto at = ids.find(token);
  require(at != ids.end(), "the token \"", token, "\" of a merge is not in the vocabulary");
  return at->second;
}

Json split_json(const std::string& pattern) {
  Json byte_level;
  byte_level["type"] = "ByteLevel";
  byte_level["add_prefix_space"] = false;
  byte_level["trim_offsets"] = true;
  byte_level["use_regex"] = pattern == bpe::kGpt2Pattern;
  if (pattern == bpe::kGpt2Pattern) return byte_level;
  Json split, both;
  split["type"] = "Split";
  split["pattern"]["Regex"] = pattern;
  split["behavior"] = "Isolated";
  split["invert"] = false;
  both["type"] = "Sequence";
  both["pretokenizers"].push_back(std::move(split));
  both["pretokenizers"].push_back(std::move(byte_level));
  return both;
}

Json model_json(const bpe::Model& model, const std::vector<std::string>& names) {
  Json json, vocabulary = Json::object(), merges = Json::array();
  for (size_t id = 0; id < names.size(); ++id)
    if (!names[id].empty()) vocabulary.append(names[id], id);
  for (const auto& [left, right] : model.merge_list)
    merges.push_back(names[size_t(left)] + " " + names[size_t(right)]);
  json["type"] = "BPE";
  for (const char* key :
       {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"})
    json[key] = nullptr;
  json["fuse_unk"] = false;
  json["byte_fallback"] = false;
  json["ignore_merges"] = model.whole_words_first;
  json["vocab"] = std::move(vocabulary);
  json["merges"] = std::move(merges);
  return json;
}

}  // namespace

BpeTokenizer BpeTokenizer::from_json(const Json& json) {
  check_kind(json);
  auto model = std::make_shared<bpe::Model>(read_pattern(json.at("pre_tokenizer")));
  const Json* added = json.find("added_tokens");
  const size_t count = json.at("model").at("vocab").size() + (added ? added->size() : 0);
  const Ids ids = read_vocabulary(json, count, *model);
  for (int byte = 0; byte < 256; ++byte) {
    const auto at = ids.find(to_letters(std::string(1, char(byte))));
    require(at != ids.end(), "the vocabulary has no token for byte ", byte);
    model->byte_ids[byte] = at->second;
  }
  for (const Json& merge : json.at("model").at("merges").items()) {
    const auto [left, right] = read_merge(merge);
    model->add_merge(id_of(ids, left), id_of(ids, right), id_of(ids, left + right));
  }
  model->whole_words_first = is_set(json.at("model"), "ignore_merges");
  if (model->whole_words_first)
    for (const auto& [token, id] : ids)
      if (std::string word = from_letters(token); to_letters(word) == token)
        model->words.emplace(std::move(word), id);
  if (added) read_added(*added, ids, count, *model);
  return BpeTokenizer(std::move(model));
}

Json BpeTokenizer::to_json() const {
  std::vector<std::string> names;
  for (const std::string& token : model_->tokens) names.push_back(to_letters(token));
  Json added = Json::array();
  for (const bpe::AddedToken& token : model_->added.all()) {
    names[size_t(token.id)] = token.in_vocabulary ? token.text : "";
    Json item;
    item["id"] = token.id;
    item["content"] = token.text;
    for (const char* key : {"single_word", "lstrip", "rstrip"}) item[key] = false;
    item["normalized"] = token.normalized;
    item["special"] = token.special;
    added.push_back(std::move(item));
  }
  Json json, decoder;
  decoder["type"] = "ByteLevel";
  for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) decoder[key] = true;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = std::move(added);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = split_json(model_->pattern);
  json["post_processor"] = nullptr;
  json["decoder"] = std::move(decoder);
  json["model"] = model_json(*model_, names);
  return json;
}

}  // namespace olm::nn
