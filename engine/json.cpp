#include <olm/engine/json.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include <olm/engine/file.h>
#include <olm/engine/utf8.h>

namespace olm {

namespace {

/// Builds a Json from the events of nlohmann's parser, which does not recurse.
class Builder {
 public:
  using Parsed = nlohmann::json;
  Builder(std::string_view text, const std::string& what) : text_(text), what_(what) {}

  bool null() { return add(Json()); }
  bool boolean(bool v) { return add(v); }
  bool number_integer(int64_t v) { return add(v); }
  bool number_unsigned(uint64_t v) { return add(v); }
  bool number_float(double v, const std::string&) { return add(v); }
  bool string(std::string& v) { return add(std::move(v)); }
  bool binary(Parsed::binary_t&) { return false; }
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (!open_.back().seen.insert(name).second)
      throw Error(what_, ": the name \"", name, "\" comes twice in one JSON object");
    open_.back().key = std::move(name);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) {
    std::string reason = e.what();
    if (const size_t at = reason.find(": syntax error"); at != std::string::npos)
      reason = reason.substr(at + 2);
    reason = reason.substr(0, reason.find("; last read"));
    const size_t offset = std::min(position > 0 ? position - 1 : 0, text_.size());
    const auto line = 1 + std::count(text_.begin(), text_.begin() + ptrdiff_t(offset), '\n');
    throw Error(what_, ": not valid JSON at line ", line, ", byte offset ", offset, ": ", reason);
  }
  Json take() { return std::move(root_); }

 private:
  struct Level {
    Json value;
    std::string key;
    std::unordered_set<std::string> seen;
  };

  bool add(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (open_.back().value.is_array()) {
      open_.back().value.push_back(std::move(value));
    } else {
      open_.back().value.append(std::move(open_.back().key), std::move(value));
    }
    return true;
  }
  bool open(Json empty) {
    if (open_.size() >= size_t(Json::kMaxDepth))
      throw Error(what_, ": JSON nested deeper than ", Json::kMaxDepth, " levels");
    open_.push_back({std::move(empty), {}, {}});
    return true;
  }
  bool close() {
    Json done = std::move(open_.back().value);
    open_.pop_back();
    return add(std::move(done));
  }

  std::string_view text_;
  const std::string& what_;
  std::vector<Level> open_;
  Json root_;
};

/// Writes `text` quoted; bytes that are not UTF-8 become U+FFFD, since JSON cannot hold them.
void write_string(std::string& out, std::string_view text) {
  out += '"';
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80) {
      const int length = decode_utf8(text, at).length;
      length > 0 ? out.append(text, at, size_t(length)) : out.append("\ufffd");
      at += length > 0 ? size_t(length) : 1;
      continue;
    }
    ++at;
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (byte < 0x20) {
          out += "\\u00";
          out += "0123456789abcdef"[byte >> 4];
          out += "0123456789abcdef"[byte & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

template <class Number>
void write_number(std::string& out, Number value) {
  char digits[40];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, value);
  const std::string_view text(digits, size_t(end - digits));
  out += text;
  // A real stays a real when it is read back.
  if (std::is_floating_point_v<Number> && text.find_first_of(".e") == std::string_view::npos)
    out += ".0";
}

/// Writes `json` nested `level` deep; `indent` < 0 means one line.
void write(std::string& out, const Json& json, int indent, int level) {
  auto line = [&](int depth) {
    if (indent < 0) return;
    out += '\n';
    out.append(size_t(indent) * size_t(depth), ' ');
  };
  auto list = [&](char open, char close, const auto& values, auto&& one) {
    out += open;
    bool first = true;
    for (const auto& value : values) {
      if (!first) out += ',';
      first = false;
      line(level + 1);
      one(value);
    }
    if (!first) line(level);
    out += close;
  };
  if (json.is_null()) {
    out += "null";
  } else if (json.is_bool()) {
    out += json.as_bool() ? "true" : "false";
  } else if (json.is_string()) {
    write_string(out, json.as_string());
  } else if (json.is_array()) {
    list('[', ']', json.items(), [&](const Json& v) { write(out, v, indent, level + 1); });
  } else if (json.is_object()) {
    list('{', '}', json.members(), [&](const auto& member) {
      write_string(out, member.first);
      out += indent < 0 ? ":" : ": ";
      write(out, member.second, indent, level + 1);
    });
  } else if (json.is_integer()) {
    const bool large = json.as_double() >= 0x1p63;
    large ? write_number(out, json.as_uint()) : write_number(out, json.as_int());
  } else if (std::isfinite(json.as_double())) {
    write_number(out, json.as_double());
  } else {
    out += "null";
  }
}

template <class T>
const T& get(const Json& json, const T* value, const char* wanted) {
  require(value != nullptr, "json: ", wanted, " was wanted, the value is ", json.kind());
  return *value;
}

}  // namespace

Json Json::parse(std::string_view text, const std::string& what) {
  Builder builder(text, what);
  // The parser takes one outside of strings for the end of the text.
  if (const size_t nul = text.find('\0'); nul != text.npos)
    throw Error(what, ": not valid JSON at byte offset ", nul, ": a byte of value 0");
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

std::string Json::dump(int indent) const {
  std::string out;
  write(out, *this, indent, 0);
  return out;
}

void Json::set_unsigned(uint64_t value) {
  if (value <= uint64_t(std::numeric_limits<int64_t>::max()))
    value_ = int64_t(value);
  else
    value_ = value;
}

const char* Json::kind() const {
  static constexpr const char* names[] = {"null",     "a boolean", "an integer", "an integer",
                                          "a number", "a string",  "an array",   "an object"};
  return names[value_.index()];
}

bool Json::as_bool() const { return get(*this, std::get_if<bool>(&value_), "a boolean"); }

int64_t Json::as_int() const {
  if (const auto* large = std::get_if<uint64_t>(&value_))
    fail("json: the integer ", *large, " is too large");
  return get(*this, std::get_if<int64_t>(&value_), "an integer");
}

uint64_t Json::as_uint() const {
  if (const auto* large = std::get_if<uint64_t>(&value_)) return *large;
  const int64_t value = as_int();
  require(value >= 0, "json: an integer of at least 0 was wanted, the value is ", value);
  return uint64_t(value);
}

double Json::as_double() const {
  if (const auto* value = std::get_if<int64_t>(&value_)) return double(*value);
  if (const auto* value = std::get_if<uint64_t>(&value_)) return double(*value);
  return get(*this, std::get_if<double>(&value_), "a number");
}

const std::string& Json::as_string() const {
  return get(*this, std::get_if<std::string>(&value_), "a string");
}
const Json::Array& Json::items() const {
  return get(*this, std::get_if<Array>(&value_), "an array");
}
const Json::Object& Json::members() const {
  return get(*this, std::get_if<Object>(&value_), "an object");
}

size_t Json::size() const { return is_object() ? members().size() : items().size(); }

const Json& Json::at(size_t index) const {
  require(index < items().size(), "json: item ", index, " of an array of ", items().size());
  return items()[index];
}

const Json& Json::at(std::string_view key) const {
  const Json* value = find(key);
  require(value != nullptr, "json: the name \"", key, "\" is missing");
  return *value;
}

const Json* Json::find(std::string_view key) const {
  for (const auto& [name, value] : members())
    if (name == key) return &value;
  return nullptr;
}

Json& Json::operator[](std::string_view key) {
  if (is_null()) value_ = Object{};
  if (const Json* value = find(key)) return const_cast<Json&>(*value);
  append(std::string(key), Json());
  return std::get<Object>(value_).back().second;
}

void Json::push_back(Json item) {
  if (is_null()) value_ = Array{};
  items();
  std::get<Array>(value_).push_back(std::move(item));
}

void Json::append(std::string key, Json value) {
  if (is_null()) value_ = Object{};
  members();
  std::get<Object>(value_).emplace_back(std::move(key), std::move(value));
}

Json read_json(const std::string& path) {
  const auto file = MappedFile::open(path);
  try {
    return Json::parse(file->text(), path);
  } catch (const FileError&) {
    throw;
  } catch (const Error& e) {
    throw FileError(e.what());
  }
}

void write_json(const std::string& path, const Json& json) {
  write_file(path, json.dump(2) + "\n");
}

}  // namespace olm
