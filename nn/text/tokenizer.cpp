#include <charconv>

#include <olm/engine/file.h>
#include <olm/engine/utf8.h>
#include <olm/nn/text/formats_internal.h>

namespace olm::nn {

namespace {

/// The N of "bpe:N", or nothing.
std::optional<int64_t> bpe_size(std::string_view spec) {
  if (!spec.starts_with("bpe:")) return {};
  int64_t size = 0;
  const char *begin = spec.data() + 4, *end = spec.data() + spec.size();
  const auto [stop, error] = std::from_chars(begin, end, size);
  if (error != std::errc() || stop != end || begin == end) return {};
  return size;
}

constexpr int64_t kSmallestBpe = 257, kLargestBpe = 1'000'000;

}  // namespace

std::shared_ptr<const Tokenizer> formats::own_tokenizer(const Json& json) {
  const Json* type = json.find("type");
  if (!type) return std::make_shared<BpeTokenizer>(BpeTokenizer::from_json(json));
  const std::string& name = type->as_string();
  if (name == "byte") return std::make_shared<ByteTokenizer>();
  require(name == "char", "a tokenizer of the unknown type \"", name,
          "\", \"byte\" or \"char\" was wanted");
  std::u32string characters;
  for (const Json& item : json.at("characters").items()) {
    const std::string& text = item.as_string();
    const Utf8Char c = text.empty() ? Utf8Char{} : decode_utf8(text, 0);
    require(c.length > 0 && size_t(c.length) == text.size(), "\"", text, "\" is not one character");
    characters += c.code;
  }
  return std::make_shared<CharTokenizer>(std::move(characters), json.at("end_of_text").as_bool());
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string text;
  for (const int32_t id : ids)
    if (!skip_special_tokens || eot_id() != id) text += token_bytes(id);
  return text;
}

void Tokenizer::save(const std::string& path) const { write_json(path, to_json()); }

std::string Tokenizer::hash() const { return hash_hex(to_json().dump()); }

void Tokenizer::require_id(int32_t id) const {
  require(id >= 0 && id < vocab_size(), name(), " tokenizer: id ", id,
          " is out of range, there are ", vocab_size(), " ids");
}

std::shared_ptr<const Tokenizer> load_tokenizer_from_text(std::string_view json,
                                                          const std::string& what) {
  try {
    return formats::own_tokenizer(Json::parse(json, "tokenizer"));
  } catch (const Error& e) {
    throw FileError(what, ": ", e.what());
  }
}

void require_tokenizer_spec(const std::string& spec) {
  if (spec == "byte" || spec == "char") return;
  const auto size = bpe_size(spec);
  require(size.has_value(), "tokenizer \"", spec, "\": byte, char or bpe:N was wanted");
  require(*size >= kSmallestBpe && *size <= kLargestBpe, "tokenizer \"", spec,
          "\": the number of ids lies between ", kSmallestBpe, " and ", kLargestBpe);
}

std::shared_ptr<const Tokenizer> train_tokenizer(const std::string& spec,
                                                 std::span<const std::string_view> texts) {
  require_tokenizer_spec(spec);
  if (spec == "byte") return std::make_shared<ByteTokenizer>();
  if (spec == "char")
    return std::make_shared<CharTokenizer>(CharTokenizer::train(texts, texts.size() > 1));
  return std::make_shared<BpeTokenizer>(BpeTokenizer::train(texts, *bpe_size(spec)));
}

std::string StreamDecoder::push(int32_t id) {
  waiting_ += tokenizer_.token_bytes(id);
  std::string text;
  size_t at = 0;
  while (at < waiting_.size()) {
    const Utf8Char c = decode_utf8(waiting_, at);
    if (c.incomplete) break;
    if (c.length > 0)
      text.append(waiting_, at, size_t(c.length));
    else
      append_utf8(text, 0xfffd);
    at += size_t(std::max(c.length, 1));
  }
  waiting_.erase(0, at);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  if (!waiting_.empty()) append_utf8(text, 0xfffd);
  waiting_.clear();
  return text;
}

}  // namespace olm::nn
