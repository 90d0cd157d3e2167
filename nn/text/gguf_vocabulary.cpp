// Vocabularies in GGUF files: tokenizer.ggml.* to tokenizer.json. Writing is in
// gguf_vocabulary_write.cpp.
#include <algorithm>
#include <cmath>
#include <unordered_set>

#include <olm/engine/utf8.h>
#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/gguf_vocabulary_internal.h>

namespace olm::nn::formats {

namespace {

const std::string kPrefix = "tokenizer.ggml.";

/// Tokens that end a turn or a text in models whose files do not name them. They are control
/// tokens even where the file has them as the user's: no text of a user may hold one.
const std::unordered_set<std::string_view> kEnds = {"</s>",
                                                    "<|eot_id|>",
                                                    "<|im_end|>",
                                                    "<|end|>",
                                                    "<|return|>",
                                                    "<|call|>",
                                                    "<|flush|>",
                                                    "<|calls|>",
                                                    "<end_of_turn>",
                                                    "<|endoftext|>",
                                                    "<|eom_id|>",
                                                    "<EOT>",
                                                    "_<EOT>",
                                                    "[EOT]",
                                                    "[EOS]",
                                                    "<|end_of_text|>",
                                                    "<end_of_utterance>",
                                                    "<eos>",
                                                    "<turn|>",
                                                    "<｜end▁of▁sentence｜>"};

/// The lists of a file, one item for each id.
struct Table {
  std::vector<std::string> texts;
  std::vector<int64_t> types;
  std::vector<double> scores;  // empty where there are none
};

Table read_table(const GgufFile& file) {
  Table table;
  for (const std::string_view text : file.at(kPrefix + "tokens").as_strings()) {
    const std::string id = std::to_string(table.texts.size());
    bpe::require_utf8(("token " + id).c_str(), text);
    table.texts.push_back(text.empty() ? "[EMPTY_" + id + "]" : std::string(text));
  }
  require(!table.texts.empty(), kPrefix, "tokens is empty");
  table.types.assign(table.texts.size(), int64_t(TokenType::normal));
  if (const GgufValue* types = file.find(kPrefix + "token_type")) table.types = types->as_ints();
  if (const GgufValue* scores = file.find(kPrefix + "scores")) table.scores = scores->as_doubles();
  require(table.types.size() == table.texts.size(), kPrefix, "token_type has ", table.types.size(),
          " items for ", table.texts.size(), " tokens");
  for (size_t id = 0; id < table.texts.size(); ++id)
    if (table.types[id] == int64_t(TokenType::user_defined) && kEnds.contains(table.texts[id]))
      table.types[id] = int64_t(TokenType::control);
  require(table.scores.empty() || table.scores.size() == table.texts.size(), kPrefix, "scores has ",
          table.scores.size(), " items for ", table.texts.size(), " tokens");
  return table;
}

/// Rows of the embedding without a token stand at the end; tokenizer.json does not know them.
void drop_padding(Table& table) {
  while (table.texts.size() > 1 && table.types.back() == int64_t(TokenType::unused) &&
         table.texts.back() == "[PAD" + std::to_string(table.texts.size() - 1) + "]") {
    table.texts.pop_back();
    table.types.pop_back();
    if (!table.scores.empty()) table.scores.pop_back();
  }
}

bool flag(const GgufFile& file, const char* key, bool otherwise) {
  const GgufValue* value = file.find(kPrefix + key);
  return value ? value->as_bool() : otherwise;
}

/// The id under `key`; writers say "none" by the largest number.
std::optional<int32_t> id_at(const GgufFile& file, const char* key, size_t count) {
  const GgufValue* value = file.find(kPrefix + key);
  if (!value) return {};
  const int64_t id = value->as_int();
  if (id == -1 || id == int64_t(UINT32_MAX)) return {};
  const int64_t rows = int64_t(file.at(kPrefix + "tokens").size());
  require(id >= 0 && id < rows, kPrefix, key, " is ", id, ", there are ", rows, " tokens");
  if (id >= int64_t(count)) return {};  // a padding token
  return int32_t(id);
}

bool contains_ignoring_case(std::string_view text, std::string_view part) {
  return std::search(text.begin(), text.end(), part.begin(), part.end(), [](char a, char b) {
           return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b;
         }) != text.end();
}

/// Phi-3's special tokens eat the white space behind them; the file says so by its name alone.
bool eats_space(const GgufFile& file, const std::string& text) {
  const GgufValue* name = file.find("general.name");
  if (!name || name->kind() != GgufKind::string) return false;
  const std::string_view value = name->as_string();
  if (!contains_ignoring_case(value, "phi-3") && !contains_ignoring_case(value, "phi3"))
    return false;
  return text != "<unk>" && text != "<s>" && text != kEndOfText;
}

/// Tokens into `parts`. Those that are looked for in the text itself are no part of the vocabulary
/// where `apart` is set: no word of a text may become one.
void set_tokens(const GgufFile& file, const Table& table, bool apart, Parts& parts) {
  for (size_t at = 0; at < table.texts.size(); ++at) {
    const TokenType type = TokenType(table.types[at]);
    const std::string& text = table.texts[at];
    const int32_t id = int32_t(at);
    const bool special = type == TokenType::control || type == TokenType::unknown;
    const bool added = special || type == TokenType::user_defined;
    if (added)
      parts.added.push_back(
          {.text = text, .id = id, .special = special, .rstrip = eats_space(file, text)});
    if (!apart || !added) parts.vocabulary.push_back({.text = text, .id = id});
    if (type == TokenType::unknown && !apart) parts.unk = text;
    if (type == TokenType::byte) parts.byte_fallback = true;
  }
}

/// The ids that have a role, for which `usual` stands in.
Vocabulary read_special(const GgufFile& file, const Table& table, const SpecialTokens& usual) {
  Vocabulary vocabulary;
  SpecialTokens& special = vocabulary.special;
  const size_t count = table.texts.size();
  auto read = [&](const char* key, std::optional<int32_t> otherwise) {
    const auto id = id_at(file, key, count);
    return id || !otherwise || size_t(*otherwise) >= count ? id : otherwise;
  };
  special.bos = read("bos_token_id", usual.bos);
  special.eos = read("eos_token_id", usual.eos);
  special.unk = read("unknown_token_id", usual.unk);
  special.pad = read("padding_token_id", {});
  special.adds_bos = flag(file, "add_bos_token", usual.adds_bos) && special.bos;
  special.adds_eos = flag(file, "add_eos_token", false) && special.eos;
  std::vector<int32_t>& stop = vocabulary.stop;
  for (const auto& id : {special.eos, read("eot_token_id", {}), read("eom_token_id", {})})
    if (id) stop.push_back(*id);
  for (size_t id = 0; id < count; ++id)
    if (table.types[id] == int64_t(TokenType::control) && kEnds.contains(table.texts[id]))
      stop.push_back(int32_t(id));
  std::sort(stop.begin(), stop.end());
  stop.erase(std::unique(stop.begin(), stop.end()), stop.end());
  if (const GgufValue* text = file.find("tokenizer.chat_template"))
    vocabulary.chat_template = text->as_string();
  return vocabulary;
}

void set_template(const SpecialTokens& special, Parts& parts) {
  if (special.adds_bos) parts.bos = special.bos;
  if (special.adds_eos) parts.eos = special.eos;
}

void read_merges(const GgufFile& file, Parts& parts) {
  for (const std::string_view merge : file.at(kPrefix + "merges").as_strings()) {
    bpe::require_utf8("a merge", merge);
    parts.merges.push_back(merge);
  }
}

/// Kind "gpt2": letters of bytes, merges, and an expression by name.
Vocabulary read_letters(const GgufFile& file) {
  const GgufValue* pre = file.find(kPrefix + "pre");
  const std::string name(pre ? pre->as_string() : "default");
  const PreTokenizer* row = pre_tokenizer(name);
  require(row, kPrefix, "pre \"", name, "\" is not known");
  Table table = read_table(file);
  drop_padding(table);
  Vocabulary vocabulary = read_special(file, table, {.adds_bos = row->adds_bos});
  Parts parts;
  set_tokens(file, table, true, parts);
  parts.byte_fallback = false;
  read_merges(file, parts);
  parts.whole_words_first = row->whole_words_first;
  if (row->composes) parts.normalizer["type"] = "NFC";
  parts.pre_tokenizer = pre_tokenizer_json(row->steps);
  set_template(vocabulary.special, parts);
  vocabulary.tokenizer = to_tokenizer_json(parts);
  return vocabulary;
}

/// Kind "llama": pieces of characters, joined in the order of their scores.
Vocabulary read_pieces(const GgufFile& file) {
  Table table = read_table(file);
  require(!table.scores.empty(), kPrefix, "scores is missing");
  drop_padding(table);
  Vocabulary vocabulary =
      read_special(file, table, {.bos = 1, .eos = 2, .unk = 0, .adds_bos = true});
  Parts parts;
  set_tokens(file, table, false, parts);
  std::vector<int32_t> order;
  for (size_t id = 0; id < table.texts.size(); ++id) {
    require(std::isfinite(table.scores[id]), kPrefix, "scores[", id, "] is not finite");
    const TokenType type = TokenType(table.types[id]);
    if (type == TokenType::normal || type == TokenType::user_defined || type == TokenType::unused)
      order.push_back(int32_t(id));
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return table.scores[size_t(a)] > table.scores[size_t(b)];
  });
  parts.merges = merges_json(table.texts, pairs_of(table.texts, order, true));
  parts.fuse_unk = true;
  set_spaces(parts, flag(file, "add_space_prefix", true), false);
  set_template(vocabulary.special, parts);
  vocabulary.tokenizer = to_tokenizer_json(parts);
  return vocabulary;
}

/// Kind "gemma4": pieces of characters with merges.
Vocabulary read_merged_pieces(const GgufFile& file) {
  Table table = read_table(file);
  drop_padding(table);
  Vocabulary vocabulary = read_special(file, table, {.adds_bos = true});
  Parts parts;
  set_tokens(file, table, false, parts);
  read_merges(file, parts);
  parts.fuse_unk = true;
  set_spaces(parts, false, false);
  set_template(vocabulary.special, parts);
  vocabulary.tokenizer = to_tokenizer_json(parts);
  return vocabulary;
}

}  // namespace

Vocabulary read_gguf_vocabulary(const GgufFile& file) {
  try {
    const std::string_view kind = file.at(kPrefix + "model").as_string();
    if (kind == "gpt2") return read_letters(file);
    if (kind == "llama") return read_pieces(file);
    if (kind == "gemma4") return read_merged_pieces(file);
    fail(kPrefix, "model \"", kind, "\" is not read, gpt2, llama or gemma4 was wanted");
  } catch (const FileError&) {
    throw;
  } catch (const Error& e) {
    throw FileError(file.path(), ": ", e.what());
  }
}

}  // namespace olm::nn::formats
