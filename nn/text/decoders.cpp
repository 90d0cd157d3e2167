#include <algorithm>
#include <cctype>

#include <olm/engine/utf8.h>
#include <olm/nn/text/pipeline_internal.h>

namespace olm::nn::bpe {

namespace {

/// The byte that "<0x41>" stands for.
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with(">")) return {};
  int value = 0;
  for (const char digit : token.substr(3, 2)) {
    if (!std::isxdigit(uint8_t(digit))) return {};
    value = value * 16 + (std::isdigit(uint8_t(digit)) ? digit - '0' : (digit | 0x20) - 'a' + 10);
  }
  return char(value);
}

std::string join(const std::vector<std::string>& texts, std::string_view between = {}) {
  std::string all;
  for (size_t i = 0; i < texts.size(); ++i) {
    if (i > 0) all += between;
    all += texts[i];
  }
  return all;
}

std::string replace_all(const std::string& text, const std::string& what, const char* with) {
  return what.empty() ? text : Pattern{.text = what, .regex = {}}.replace(text, with);
}

/// Runs of byte tokens become text, or U+FFFD for each byte where they are not UTF-8.
void join_bytes(std::vector<std::string>& texts) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (find_invalid_utf8(bytes) == bytes.npos)
      out.push_back(bytes);
    else
      for (size_t i = 0; i < bytes.size(); ++i) append_utf8(out.emplace_back(), 0xfffd);
    bytes.clear();
  };
  for (std::string& text : texts) {
    if (const auto byte = byte_of(text)) {
      bytes += *byte;
    } else {
      flush();
      out.push_back(std::move(text));
    }
  }
  flush();
  texts = std::move(out);
}

std::string strip(std::string text, const std::string& what, size_t start, size_t stop) {
  for (; start > 0 && text.starts_with(what); --start) text.erase(0, what.size());
  for (; stop > 0 && text.ends_with(what); --stop) text.resize(text.size() - what.size());
  return text;
}

std::string bytes_of_token(const std::string& token) {
  std::string bytes;
  return bytes_of_letters(token, bytes) ? bytes : token;
}

}  // namespace

void Decoder::apply(std::vector<std::string>& texts) const {
  switch (kind) {
    case Kind::byte_level:
      for (std::string& text : texts) text = bytes_of_token(text);
      texts = {with_replacements(join(texts))};
      return;
    case Kind::metaspace:
      for (size_t i = 0; i < texts.size(); ++i)
        texts[i] = replace_all(texts[i], content, i == 0 && prefixed ? "" : " ");
      return;
    case Kind::replace:
      for (std::string& text : texts) text = pattern.replace(text, content);
      return;
    case Kind::byte_fallback:
      return join_bytes(texts);
    case Kind::fuse:
      texts = {join(texts)};
      return;
    case Kind::strip:
      for (std::string& text : texts) text = bpe::strip(text, content, start, stop);
      return;
    case Kind::bpe:
      for (size_t i = 0; i < texts.size(); ++i)
        texts[i] = replace_all(texts[i], content, i + 1 < texts.size() ? " " : "");
      return;
  }
}

std::string bytes_amid(const std::vector<Decoder>& decoders, const std::string& token) {
  using Kind = Decoder::Kind;
  std::string text = token;
  bool whole = false;  // from here on decoders see the whole text
  for (const Decoder& decoder : decoders) {
    if (decoder.kind == Kind::byte_level) {
      text = bytes_of_token(text);
    } else if (decoder.kind == Kind::metaspace || decoder.kind == Kind::bpe) {
      text = replace_all(text, decoder.content, " ");
    } else if (decoder.kind == Kind::replace) {
      if (find_invalid_utf8(text) == text.npos)
        text = decoder.pattern.replace(text, decoder.content);
    } else if (decoder.kind == Kind::byte_fallback) {
      if (const auto byte = byte_of(text)) text.assign(1, *byte);
    } else if (decoder.kind == Kind::strip && !whole) {
      text = strip(text, decoder.content, decoder.start, decoder.stop);
    }
    whole |= decoder.kind == Kind::fuse || decoder.kind == Kind::byte_level;
  }
  return text;
}

void read_decoder(const JsonPart& part, std::vector<Decoder>& into) {
  using Kind = Decoder::Kind;
  const std::string type = part.type();
  if (type == "Sequence") {
    const JsonPart items = part.at("decoders");
    for (size_t i = 0; i < items.size(); ++i) read_decoder(items.item(i), into);
    return;
  }
  Decoder made;
  const auto count = [&](const char* key) {
    const JsonPart value = part.at(key);
    if (value.integer() < 0 || value.integer() > 1 << 20)
      value.refuse(value.integer(), " characters");
    return size_t(value.integer());
  };
  if (type == "ByteLevel") {
    made.kind = Kind::byte_level;
  } else if (type == "ByteFallback") {
    made.kind = Kind::byte_fallback;
  } else if (type == "Fuse") {
    made.kind = Kind::fuse;
  } else if (type == "Metaspace") {
    std::vector<Step> steps;
    read_pre_tokenizer(part, steps);
    made.kind = Kind::metaspace;
    made.content = steps[0].text;
    made.prefixed = steps[0].scheme != Step::Scheme::never;
  } else if (type == "Replace") {
    made.kind = Kind::replace;
    made.pattern = Pattern::read(part.at("pattern"));
    made.content = part.at("content").text();
  } else if (type == "Strip") {
    made.kind = Kind::strip;
    made.content = part.at("content").text();
    if (made.content.empty()) part.at("content").refuse("\"\", one character was wanted");
    made.start = count("start");
    made.stop = count("stop");
  } else if (type == "BPEDecoder") {
    made.kind = Kind::bpe;
    made.content = part.at("suffix").text();
  } else {
    part.refuse_type("decoder",
                     "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, BPEDecoder and "
                     "Sequence");
  }
  if (into.size() >= kMaxSteps) part.refuse("more than ", kMaxSteps, " decoders");
  into.push_back(std::move(made));
}

}  // namespace olm::nn::bpe
