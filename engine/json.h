#pragma once
// JSON as a value.
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <olm/kernels/base/error.h>

namespace olm {

/// A JSON value. Objects keep the order in which members were added; integers are exact from -2^63
/// to 2^64 - 1. Asking for what a value is not throws, naming both.
class OLM_API Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;
  /// How deeply arrays and objects may be nested in a parsed text.
  static constexpr int kMaxDepth = 256;

  Json() = default;
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  Json(double value) : value_(value) {}
  Json(const char* text) : value_(std::string(text)) {}
  Json(std::string_view text) : value_(std::string(text)) {}
  Json(std::string text) : value_(std::move(text)) {}
  template <class T>
  requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) Json(T value) {
    if constexpr (std::is_signed_v<T>)
      value_ = int64_t(value);
    else
      set_unsigned(uint64_t(value));
  }
  template <class T>
  explicit Json(const std::vector<T>& items) : value_(Array(items.begin(), items.end())) {}

  static Json array() { return Json(Array{}, 0); }
  static Json object() { return Json(Object{}, 0); }
  /// Reads a text in UTF-8. Throws Error naming `what`, the line and the byte offset; so it does
  /// for a name that an object holds twice and for nesting deeper than kMaxDepth.
  static Json parse(std::string_view text, const std::string& what = "json");
  /// The text; on one line, or with `indent` spaces per level. NaN and infinities are written as
  /// null.
  std::string dump(int indent = -1) const;

  bool is_null() const { return value_.index() == 0; }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_integer() const {
    return std::holds_alternative<int64_t>(value_) || std::holds_alternative<uint64_t>(value_);
  }
  bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  /// "null", "a number", "an object" …
  const char* kind() const;

  bool as_bool() const;
  int64_t as_int() const;
  uint64_t as_uint() const;
  /// Any number.
  double as_double() const;
  const std::string& as_string() const;
  const Array& items() const;
  const Object& members() const;

  /// Number of items or members.
  size_t size() const;
  const Json& at(size_t index) const;
  const Json& at(std::string_view key) const;
  /// The member called `key`, or nullptr. Linear in the number of members.
  const Json* find(std::string_view key) const;
  bool contains(std::string_view key) const { return find(key) != nullptr; }
  /// The member called `key`, added as null where it was missing. A null value becomes an object.
  Json& operator[](std::string_view key);
  /// Adds an item. A null value becomes an array.
  void push_back(Json item);
  /// Adds a member without looking whether it is there already.
  void append(std::string key, Json value);

  friend bool operator==(const Json&, const Json&) = default;

 private:
  Json(Array items, int) : value_(std::move(items)) {}
  Json(Object members, int) : value_(std::move(members)) {}
  void set_unsigned(uint64_t value);
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, Array, Object> value_;
};

/// The JSON in a file; what is wrong with it is a FileError.
OLM_API Json read_json(const std::string& path);
/// Writes `json` indented by two spaces and a final newline, atomically.
OLM_API void write_json(const std::string& path, const Json& json);

}  // namespace olm
