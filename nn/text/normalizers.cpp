#include <algorithm>

#include <olm/engine/utf8.h>
#include <olm/nn/text/pipeline_internal.h>

namespace olm::nn::bpe {

namespace {

size_t length_at(std::string_view text, size_t at) {
  return size_t(std::max(decode_utf8(text, at).length, 1));
}

/// SentencePiece's treatment of control characters and rare spaces: 0 for those that go.
char32_t nmt(char32_t c) {
  if ((c >= 0x1 && c <= 0x8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f ||
      c == 0x9f)
    return 0;
  const bool space = c == 0x9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
                     (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                     c == 0xfeff || c == 0xfffd;
  return space ? U' ' : c;
}

/// Each character by itself becomes another, or none.
template <class Change>
void map(Normalized& given, Change&& change) {
  std::string out;
  size_t from_first = 0;
  for (size_t at = 0; at < given.text.size();) {
    const Utf8Char c = decode_utf8(given.text, at);
    change(c.code, out);
    if (at < given.from_first) from_first = out.size();
    at += size_t(std::max(c.length, 1));
  }
  given = {std::move(out), from_first};
}

void bring_to_form(Normalized& given, NormalForm form) {
  std::string out = normal_form(given.text, form);
  if (given.from_first > 0) {
    // Marks that join the first character come from it.
    const std::string first =
        normal_form(std::string_view(given.text).substr(0, given.from_first), form);
    const auto [a, b] = std::mismatch(first.begin(), first.end(), out.begin(), out.end());
    given.from_first = std::max(size_t(a - first.begin()), length_at(out, 0));
    while (given.from_first < out.size() && (out[given.from_first] & 0xc0) == 0x80)
      ++given.from_first;
  }
  given.text = std::move(out);
}

void strip(Normalized& given, bool left, bool right) {
  std::string_view text = given.text;
  size_t begin = 0, end = text.size();
  while (left && begin < end && is_white_space(decode_utf8(text, begin).code))
    begin += length_at(text, begin);
  for (size_t at = end; right && at > begin;) {
    do --at;
    while (at > begin && (text[at] & 0xc0) == 0x80);
    if (!is_white_space(decode_utf8(text, at).code)) break;
    end = at;
  }
  given.from_first = std::min(given.from_first - std::min(given.from_first, begin), end - begin);
  given.text = std::string(text.substr(begin, end - begin));
}

}  // namespace

void Normalizer::replace(Normalized& given) const {
  std::string out;
  out.reserve(given.text.size());
  const size_t limit = max_grown(given.text.size());
  size_t from_first = 0;
  bool first = true;
  // What is put in comes from where the last character stood that it takes the place of.
  const auto take = [&](size_t begin, size_t end, bool is_match) {
    const size_t before = out.size();
    out += is_match ? std::string_view(content)
                    : std::string_view(given.text).substr(begin, end - begin);
    require_grown(out.size(), limit);
    if (!is_match && begin < given.from_first)
      from_first = before + std::min(end, given.from_first) - begin;
    if (is_match && (end == 0 ? first : end - 1 < given.from_first)) from_first = out.size();
    first = false;
  };
  if (pattern.regex) {
    Matcher matcher(*pattern.regex);
    for_matches(matcher, given.text, take);
  } else {
    for_matches(pattern.text, given.text, take);
  }
  given = {std::move(out), from_first};
}

void Normalizer::apply(Normalized& given) const {
  if (given.text.empty()) return;
  switch (kind) {
    case Kind::form:
      return bring_to_form(given, form);
    case Kind::replace:
      return replace(given);
    case Kind::prepend:
      given.text.insert(0, content);
      if (given.from_first > 0) given.from_first += content.size();
      return;
    case Kind::strip:
      return bpe::strip(given, left, right);
    case Kind::lower_case:
      return map(given, [](char32_t c, std::string& out) {
        std::string one;
        append_utf8(one, c);
        out += bpe::lower_case(one);
      });
    case Kind::strip_accents:
      return map(given, [](char32_t c, std::string& out) {
        if (!is_mark(c)) append_utf8(out, c);
      });
    case Kind::nmt:
      return map(given, [](char32_t c, std::string& out) {
        if (const char32_t to = nmt(c); to != 0 || c == 0) append_utf8(out, to);
      });
  }
}

void read_normalizer(const JsonPart& part, std::vector<Normalizer>& into) {
  using Kind = Normalizer::Kind;
  const std::string type = part.type();
  if (type == "Sequence") {
    const JsonPart items = part.at("normalizers");
    for (size_t i = 0; i < items.size(); ++i) read_normalizer(items.item(i), into);
    return;
  }
  Normalizer made;
  static const std::unordered_map<std::string, NormalForm> forms = {{"NFC", NormalForm::nfc},
                                                                    {"NFD", NormalForm::nfd},
                                                                    {"NFKC", NormalForm::nfkc},
                                                                    {"NFKD", NormalForm::nfkd}};
  if (const auto form = forms.find(type); form != forms.end()) {
    made.form = form->second;
  } else if (type == "Replace") {
    made.kind = Kind::replace;
    made.pattern = Pattern::read(part.at("pattern"));
    made.content = part.at("content").text();
  } else if (type == "Prepend") {
    made.kind = Kind::prepend;
    made.content = part.at("prepend").text();
  } else if (type == "Strip") {
    made.kind = Kind::strip;
    made.left = part.flag("strip_left", false);
    made.right = part.flag("strip_right", false);
  } else if (type == "Lowercase") {
    made.kind = Kind::lower_case;
  } else if (type == "StripAccents") {
    made.kind = Kind::strip_accents;
  } else if (type == "Nmt") {
    made.kind = Kind::nmt;
  } else {
    part.refuse_type("normalizer",
                     "NFC, NFD, NFKC, NFKD, Replace, Prepend, Strip, Lowercase, StripAccents, Nmt "
                     "and Sequence");
  }
  if (into.size() >= kMaxSteps) part.refuse("more than ", kMaxSteps, " normalizers");
  into.push_back(std::move(made));
}

}  // namespace olm::nn::bpe
