#include <algorithm>
#include <iomanip>
#include <locale>
#include <sstream>
#include <unordered_set>

#include <olm/engine/utf8.h>
#include <olm/nn/text.h>
#include <olm/nn/text/bpe_internal.h>

namespace olm::nn {

namespace {

/// 'é' (U+00E9)
std::string describe(char32_t code) {
  std::string text;
  append_utf8(text, code);
  std::ostringstream out;
  out.imbue(std::locale::classic());
  if (code >= 0x20 && code != 0x7f) out << '\'' << text << "' ";
  out << "(U+" << std::hex << std::uppercase << std::setw(4) << std::setfill('0') << uint32_t(code)
      << ')';
  return out.str();
}

}  // namespace

CharTokenizer CharTokenizer::train(std::span<const std::string_view> texts, bool end_of_text) {
  std::array<bool, 128> ascii{};
  std::unordered_set<char32_t> others;
  for (const std::string_view given : texts) {
    const std::string_view text = without_byte_order_mark(given);
    bpe::require_utf8("char tokenizer", text);
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = decode_utf8(text, at);
      if (c.code < 128)
        ascii[c.code] = true;
      else
        others.insert(c.code);
      at += size_t(c.length);
    }
  }
  std::u32string characters;
  for (char32_t c = 0; c < 128; ++c)
    if (ascii[c]) characters += c;
  characters.append(others.begin(), others.end());
  std::sort(characters.begin(), characters.end());
  return CharTokenizer(std::move(characters), end_of_text);
}

CharTokenizer::CharTokenizer(std::u32string characters, bool end_of_text)
    : characters_(std::move(characters)), end_of_text_(end_of_text) {
  ascii_.fill(-1);
  for (const char32_t c : characters_) {
    const int32_t id = int32_t(tokens_.size());
    require(ids_.emplace(c, id).second, "char tokenizer: the character ", describe(c),
            " comes twice");
    if (c < 128) ascii_[c] = id;
    append_utf8(tokens_.emplace_back(), c);
  }
  if (end_of_text_) tokens_.emplace_back(kEndOfText);
}

std::vector<int32_t> CharTokenizer::encode(std::string_view text,
                                           const EncodeOptions& options) const {
  bpe::require_utf8("char tokenizer", text);
  std::vector<int32_t> ids;
  ids.reserve(text.size());
  const bool parse = options.parse_special_tokens && end_of_text_;
  for (size_t at = 0; at < text.size();) {
    if (parse && text.substr(at).starts_with(kEndOfText)) {
      ids.push_back(*eot_id());
      at += kEndOfText.size();
      continue;
    }
    const Utf8Char c = decode_utf8(text, at);
    int32_t id = -1;
    if (c.code < 128) {
      id = ascii_[c.code];
    } else if (const auto found = ids_.find(c.code); found != ids_.end()) {
      id = found->second;
    }
    if (id < 0)
      fail("char tokenizer: the character ", describe(c.code), " at byte offset ", at,
           " is not among the ", characters_.size(), " it knows");
    ids.push_back(id);
    at += size_t(c.length);
  }
  return ids;
}

std::optional<int32_t> CharTokenizer::eot_id() const {
  if (!end_of_text_) return {};
  return int32_t(tokens_.size()) - 1;
}

std::string_view CharTokenizer::token_bytes(int32_t id) const {
  require_id(id);
  return tokens_[size_t(id)];
}

Json CharTokenizer::to_json() const {
  Json json, characters = Json::array();
  for (size_t i = 0; i < characters_.size(); ++i) characters.push_back(tokens_[i]);
  json["version"] = "1.0";
  json["type"] = "char";
  json["end_of_text"] = end_of_text_;
  json["characters"] = std::move(characters);
  return json;
}

}  // namespace olm::nn
