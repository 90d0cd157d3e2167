// Files of a vendor written again: what did not change keeps its text.
#include <olm/nn/hub/stored_internal.h>

namespace olm::nn::hub {

namespace {

/// The members of an object in a text that is known to be one, as they are written.
class Members {
 public:
  explicit Members(const std::string& text) : text_(text) {
    skip('{');
    while (at_ < text_.size() && peek() != '}') {
      const std::string name = Json::parse(string()).as_string();
      skip(':');
      members_.emplace_back(name, value());
      if (peek() == ',') skip(',');
    }
  }
  const std::string* find(const std::string& name) const {
    for (const auto& [key, value] : members_)
      if (key == name) return &value;
    return nullptr;
  }

 private:
  void space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }
  char peek() {
    space();
    return at_ < text_.size() ? text_[at_] : '}';
  }
  void skip(char expected) {
    if (peek() == expected) ++at_;
    space();
  }
  /// A text in quotes, with them.
  std::string string() {
    const size_t begin = at_;
    for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_)
      if (text_[at_] == '\\') ++at_;
    at_ = std::min(at_ + 1, text_.size());
    return text_.substr(begin, at_ - begin);
  }
  std::string value() {
    const size_t begin = at_;
    for (int depth = 0; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (depth == 0 && (c == ',' || c == '}')) break;
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      if (c != '"') continue;
      string();
      --at_;
    }
    const size_t end = text_.find_last_not_of(" \t\r\n", at_ - 1) + 1;
    return text_.substr(begin, end - begin);
  }

  const std::string& text_;
  size_t at_ = 0;
  std::vector<std::pair<std::string, std::string>> members_;
};

/// A value as a member of an object that is indented by two spaces.
std::string nested(const Json& value) {
  std::string result;
  for (const char c : value.dump(2)) {
    result += c;
    if (c == '\n') result += "  ";
  }
  return result;
}

}  // namespace

std::string text_like(const Json& object, const std::string& before) {
  const Json former = before.empty() ? Json::object() : Json::parse(before);
  require(former.is_object(), "wanted the text of an object, got ", former.kind());
  if (!before.empty() && object == former) return before;
  const Members written(before);
  std::string result = "{";
  for (const auto& [name, value] : object.members()) {
    const Json* old = former.find(name);
    const std::string* text = old && *old == value ? written.find(name) : nullptr;
    result += (result.size() > 1 ? ",\n  " : "\n  ") + Json(name).dump() + ": " +
              (text ? *text : nested(value));
  }
  return result + "\n}\n";
}

}  // namespace olm::nn::hub
