// Ranks in the form of tiktoken's files: a line per token, its bytes in base64 and its rank.
#include <algorithm>
#include <charconv>
#include <numeric>

#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/formats_internal.h>

namespace olm::nn::formats {

namespace {

constexpr const char* kContractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
constexpr const char* kCl100k =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s)";
constexpr const char* kLlama3 =
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen =
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwenMarks =
    R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kUpperThenLower =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)";
constexpr const char* kUpper =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)";
constexpr const char* kO200kRest =
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string o200k_pattern() {
  return std::string(kUpperThenLower) + kContractions + "?|" + kUpper + kContractions + "?" +
         kO200kRest;
}

using Special = std::vector<std::pair<std::string, int32_t>>;

/// Texts with ids from `first` on.
Special numbered(int32_t first, const std::vector<std::string>& texts) {
  Special special;
  for (const std::string& text : texts) special.emplace_back(text, first++);
  return special;
}

Special llama3_special() {
  std::vector<std::string> texts = {"<|begin_of_text|>", "<|end_of_text|>"};
  auto reserve = [&, next = 0](int count) mutable {
    for (; count > 0; --count)
      texts.push_back("<|reserved_special_token_" + std::to_string(next++) + "|>");
  };
  reserve(4);
  texts.insert(texts.end(), {"<|start_header_id|>", "<|end_header_id|>"});
  reserve(1);
  texts.push_back("<|eot_id|>");
  reserve(246);
  return numbered(128000, texts);
}

Special qwen_special() {
  std::vector<std::string> texts = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (int i = 0; i < 205; ++i) texts.push_back("<|extra_" + std::to_string(i) + "|>");
  return numbered(151643, texts);
}

Special qwen3_6_special() {
  return numbered(248044, {"<|endoftext|>",
                           "<|im_start|>",
                           "<|im_end|>",
                           "<|object_ref_start|>",
                           "<|object_ref_end|>",
                           "<|box_start|>",
                           "<|box_end|>",
                           "<|quad_start|>",
                           "<|quad_end|>",
                           "<|vision_start|>",
                           "<|vision_end|>",
                           "<|vision_pad|>",
                           "<|image_pad|>",
                           "<|video_pad|>",
                           "<tool_call>",
                           "</tool_call>",
                           "<|fim_prefix|>",
                           "<|fim_middle|>",
                           "<|fim_suffix|>",
                           "<|fim_pad|>",
                           "<|repo_name|>",
                           "<|file_sep|>",
                           "<tool_response>",
                           "</tool_response>",
                           "<think>",
                           "</think>",
                           "<|audio_start|>",
                           "<|audio_end|>",
                           "<tts_pad>",
                           "<tts_text_bos>",
                           "<tts_text_eod>",
                           "<tts_text_bos_single>",
                           "<|audio_pad|>"});
}

struct SchemeRow {
  const char* name;
  size_t ranks;
  TiktokenScheme scheme;
};

const std::vector<SchemeRow>& schemes() {
  const std::string end(kEndOfText);
  static const std::vector<SchemeRow> rows = {
      {"r50k_base", 50256, {kGpt2Step, {{end, 50256}}, "", end}},
      {"cl100k_base",
       100256,
       {kCl100k,
        {{end, 100257},
         {"<|fim_prefix|>", 100258},
         {"<|fim_middle|>", 100259},
         {"<|fim_suffix|>", 100260},
         {"<|endofprompt|>", 100276}},
        "",
        end}},
      {"o200k_base",
       199998,
       {o200k_pattern(), {{end, 199999}, {"<|endofprompt|>", 200018}}, "", end}},
      {"llama3",
       128000,
       {std::string(kContractions) + kLlama3, llama3_special(), "<|begin_of_text|>",
        "<|end_of_text|>", true}},
      {"qwen3_6",
       248044,
       {std::string(kContractions) + kQwenMarks, qwen3_6_special(), "", end, false, true}},
      {"qwen", 151643, {std::string(kContractions) + kQwen, qwen_special(), "", end, false, true}},
  };
  return rows;
}

std::string scheme_names() {
  std::string names;
  for (const SchemeRow& row : schemes())
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

/// A line's token and rank, or false.
bool read_line(std::string_view line, std::string& bytes, int64_t& rank) {
  const size_t space = line.find(' ');
  if (space == line.npos || !decode_base64(line.substr(0, space), bytes)) return false;
  const char* end = line.data() + line.size();
  const auto [stop, error] = std::from_chars(line.data() + space + 1, end, rank);
  return error == std::errc() && stop == end && rank >= 0;
}

}  // namespace

bool decode_base64(std::string_view text, std::string& bytes) {
  bytes.clear();
  if (text.empty() || text.size() % 4 != 0) return false;
  uint32_t bits = 0;
  int held = 0;
  size_t padding = 0;
  for (const char c : text) {
    int value = -1;
    if (c >= 'A' && c <= 'Z') value = c - 'A';
    if (c >= 'a' && c <= 'z') value = c - 'a' + 26;
    if (c >= '0' && c <= '9') value = c - '0' + 52;
    if (c == '+') value = 62;
    if (c == '/') value = 63;
    if (c == '=' && ++padding <= 2) continue;
    if (value < 0 || padding > 0) return false;
    bits = bits << 6 | uint32_t(value);
    held += 6;
    if (held < 8) continue;
    held -= 8;
    bytes += char(bits >> held & 0xff);
  }
  return bytes.size() == text.size() / 4 * 3 - padding;
}

std::string_view next_line(std::string_view& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

std::string without_possessive_counts(std::string pattern) {
  for (size_t at = pattern.find("}+"); at != pattern.npos; at = pattern.find("}+", at)) {
    const size_t open = pattern.rfind('{', at);
    const bool counts = open != pattern.npos &&
                        pattern.find_first_not_of("0123456789,", open + 1) == at && open + 1 < at;
    ++at;
    if (!counts) continue;  // a class such as \p{L}
    const char behind = at + 1 < pattern.size() ? pattern[at + 1] : '|';
    require(behind == '|' || behind == ')', "the expression \"", pattern,
            "\" has a possessive quantifier at byte ", at,
            " that is not at the end of an alternative");
    pattern.erase(at, 1);
  }
  return pattern;
}

TiktokenScheme tiktoken_scheme(const std::string& name) {
  for (const SchemeRow& row : schemes())
    if (row.name == name) return row.scheme;
  fail("the tiktoken encoding \"", name, "\" is not known; known are ", scheme_names());
}

TiktokenScheme tiktoken_scheme_of(const std::string& path, size_t ranks) {
  const std::string file = path.substr(path.find_last_of('/') + 1);
  for (const SchemeRow& row : schemes())
    if (file.starts_with(row.name)) return row.scheme;
  for (const SchemeRow& row : schemes())
    if (row.ranks == ranks) return row.scheme;
  fail("a tiktoken file of ", ranks,
       " ranks whose name does not say which encoding it has: ", scheme_names(),
       " was wanted at its begin");
}

bool looks_like_ranks(std::string_view text) {
  std::string bytes;
  int64_t rank = 0;
  return read_line(next_line(text), bytes, rank);
}

std::vector<std::string> read_ranks(std::string_view text) {
  std::vector<std::string> tokens;
  std::string bytes;
  int64_t rank = 0;
  for (size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = next_line(text);
    if (line.empty()) continue;
    require(read_line(line, bytes, rank), "line ", number,
            " is not a token in base64, a space and its rank");
    require(rank == int64_t(tokens.size()), "line ", number, " has rank ", rank, ", ",
            tokens.size(), " was wanted");
    tokens.push_back(bytes);
  }
  require(!tokens.empty(), "a tiktoken file without tokens");
  return tokens;
}

void set_ranks(Parts& parts, const std::vector<std::string>& ranks, int32_t first_id) {
  std::vector<int32_t> order(ranks.size());
  std::iota(order.begin(), order.end(), 0);
  std::vector<std::string> letters;
  for (const std::string& token : ranks) letters.push_back(bpe::letters_of_bytes(token));
  parts.merges = merges_json(letters, pairs_of(ranks, order, false));
  for (size_t i = 0; i < letters.size(); ++i)
    parts.vocabulary.push_back({.text = std::move(letters[i]), .id = first_id + int32_t(i)});
  parts.whole_words_first = true;
}

Vocabulary read_tiktoken(const std::vector<std::string>& ranks, const TiktokenScheme& scheme) {
  Vocabulary vocabulary;
  Parts parts;
  set_ranks(parts, ranks, 0);
  for (const auto& [text, id] : scheme.special) {
    parts.added.push_back({.text = text, .id = id, .special = true});
    if (text == scheme.bos) vocabulary.special.bos = id;
    if (text == scheme.eos) vocabulary.special.eos = id;
  }
  if (scheme.adds_bos) parts.bos = vocabulary.special.bos;
  vocabulary.special.adds_bos = parts.bos.has_value();
  if (scheme.composes) parts.normalizer["type"] = "NFC";
  parts.pre_tokenizer = pre_tokenizer_json({without_possessive_counts(scheme.pattern)});
  vocabulary.tokenizer = to_tokenizer_json(parts);
  return vocabulary;
}

}  // namespace olm::nn::formats
