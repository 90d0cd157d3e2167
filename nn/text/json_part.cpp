#include <olm/nn/text/pipeline_internal.h>

namespace olm::nn::bpe {

/// What Json throws, with the path before it.
template <class Read>
auto JsonPart::read(Read&& read) const {
  try {
    return read();
  } catch (const Error& e) {
    throw Error(path_, ": ", e.what());
  }
}

JsonPart JsonPart::at(const std::string& key) const {
  return {*read([&] { return &json_->at(key); }), path_ + "." + key};
}

JsonPart JsonPart::item(size_t i) const {
  return {*read([&] { return &json_->at(i); }), path_ + "[" + std::to_string(i) + "]"};
}

size_t JsonPart::size() const {
  return read([&] { return json_->items().size(); });
}

std::optional<JsonPart> JsonPart::find(const std::string& key) const {
  const Json* value = read([&] { return json_->find(key); });
  if (!value || value->is_null()) return {};
  return JsonPart(*value, path_ + "." + key);
}

const std::string& JsonPart::text() const {
  return *read([&] { return &json_->as_string(); });
}

int64_t JsonPart::integer() const {
  return read([&] { return json_->as_int(); });
}

bool JsonPart::flag(const std::string& key, bool otherwise) const {
  const auto value = find(key);
  return value ? value->read([&] { return value->json_->as_bool(); }) : otherwise;
}

void JsonPart::refuse_type(const char* what, const char* known) const {
  at("type").refuse("the ", what, " \"", type(), "\" is not supported; ", known, " are");
}

void require_grown(size_t size, size_t limit) {
  require(size <= limit, "tokenizer: the text grows beyond ", limit,
          " bytes while it is normalised or cut");
}

Pattern Pattern::read(const JsonPart& part) {
  Pattern pattern;
  if (const auto text = part.find("String")) {
    pattern.text = text->text();
    if (pattern.text.empty()) pattern.regex = Regex("");
    return pattern;
  }
  const JsonPart regex = part.at("Regex");
  try {
    pattern.regex = Regex(regex.text());
  } catch (const Error& e) {
    regex.refuse(e.what());
  }
  return pattern;
}

std::string Pattern::replace(std::string_view given, std::string_view content) const {
  std::string out;
  out.reserve(given.size());
  const size_t limit = max_grown(given.size());
  const auto take = [&](size_t begin, size_t end, bool is_match) {
    out += is_match ? content : given.substr(begin, end - begin);
    require_grown(out.size(), limit);
  };
  if (regex) {
    Matcher matcher(*regex);
    if (!given.empty()) for_matches(matcher, given, take);
  } else {
    for_matches(text, given, take);
  }
  return out;
}

}  // namespace olm::nn::bpe
