// Values of GGUF's metadata.
#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>

#include <olm/engine/gguf_internal.h>
#include <olm/engine/json.h>
#include <olm/engine/utf8.h>

namespace olm {

namespace {

struct KindInfo {
  const char* name;
  size_t bytes;
};
constexpr KindInfo kKinds[] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2},    {"u32", 4},
                               {"i32", 4}, {"f32", 4}, {"bool", 1}, {"string", 0}, {"array", 0},
                               {"u64", 8}, {"i64", 8}, {"f64", 8}};

bool is_float(GgufKind kind) { return kind == GgufKind::f32 || kind == GgufKind::f64; }
bool is_integer(GgufKind kind) {
  return gguf::size_of(kind) > 0 && !is_float(kind) && kind != GgufKind::boolean;
}
bool is_number(GgufKind kind) { return is_integer(kind) || is_float(kind); }

template <class T>
T number_at(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

/// Calls f with the number of this kind that stands at `at`.
template <class F>
auto visit_number(GgufKind kind, const std::byte* at, const F& f) {
  switch (kind) {
    case GgufKind::u8:
      return f(number_at<uint8_t>(at));
    case GgufKind::i8:
      return f(number_at<int8_t>(at));
    case GgufKind::u16:
      return f(number_at<uint16_t>(at));
    case GgufKind::i16:
      return f(number_at<int16_t>(at));
    case GgufKind::u32:
      return f(number_at<uint32_t>(at));
    case GgufKind::i32:
      return f(number_at<int32_t>(at));
    case GgufKind::f32:
      return f(number_at<float>(at));
    case GgufKind::u64:
      return f(number_at<uint64_t>(at));
    case GgufKind::i64:
      return f(number_at<int64_t>(at));
    default:
      return f(number_at<double>(at));
  }
}

/// Strings of an array whose lengths were checked when it was read.
std::vector<std::string_view> strings_in(std::span<const std::byte> bytes, size_t most) {
  std::vector<std::string_view> strings;
  for (size_t at = 0; at < bytes.size() && strings.size() < most;) {
    const auto length = number_at<uint64_t>(bytes.data() + at);
    strings.emplace_back(reinterpret_cast<const char*>(bytes.data()) + at + sizeof length, length);
    at += sizeof length + length;
  }
  return strings;
}

}  // namespace

const char* name_of(GgufKind kind) {
  return size_t(kind) < std::size(kKinds) ? kKinds[size_t(kind)].name : "unknown";
}

namespace gguf {

size_t size_of(GgufKind kind) {
  return size_t(kind) < std::size(kKinds) ? kKinds[size_t(kind)].bytes : 0;
}

std::string quoted(std::string_view text) {
  constexpr size_t kMaxShown = 80;
  if (text.size() <= kMaxShown) return Json(text).dump();
  size_t end = kMaxShown;
  while (end > kMaxShown - 4 && (uint8_t(text[end]) & 0xc0) == 0x80) --end;  // whole characters
  std::string cut = Json(text.substr(0, end)).dump();
  cut.insert(cut.size() - 1, "…");
  return cut;
}

const char* fault_of(std::string_view name, size_t most_bytes) {
  if (name.empty()) return "is empty";
  if (name.size() > most_bytes) return "is too long";
  if (find_invalid_utf8(name) != std::string_view::npos) return "is not UTF-8";
  if (std::any_of(name.begin(), name.end(), [](char c) { return uint8_t(c) < 0x20; }))
    return "has a control character";
  return nullptr;
}

std::optional<size_t> byte_size(const GgufTypeInfo& type, const Shape& shape) {
  uint64_t elements = 1, bytes = 0;
  bool none = false;
  // Sizes of 0 count as 1, so that no partial product wraps either.
  for (const int64_t size : shape) {
    none |= size == 0;
    if (size < 0 ||
        __builtin_mul_overflow(elements, uint64_t(std::max<int64_t>(size, 1)), &elements))
      return {};
  }
  if (__builtin_mul_overflow(elements / uint64_t(type.block_elements), type.block_bytes, &bytes) ||
      bytes >> 62 || elements >> 62)
    return {};
  return none ? 0 : bytes;
}

}  // namespace gguf

void GgufValue::refuse(const char* wanted) const {
  throw FileError(*path_, ": key ", gguf::quoted(key_), " is ",
                  kind_ == GgufKind::array ? "an array of " : "", name_of(item_), ", ", wanted,
                  " was wanted");
}

void GgufValue::require_array(bool of_these, const char* wanted) const {
  if (kind_ != GgufKind::array || !of_these) refuse(wanted);
}

int64_t GgufValue::int_at(size_t index) const {
  return visit_number(item_, bytes_.data() + index * gguf::size_of(item_), [&](auto v) -> int64_t {
    if constexpr (std::is_same_v<decltype(v), uint64_t>)
      if (v > uint64_t(std::numeric_limits<int64_t>::max()))
        throw FileError(*path_, ": key ", gguf::quoted(key_), " is ", v, ", at most ",
                        std::numeric_limits<int64_t>::max(), " was wanted");
    return int64_t(v);
  });
}

double GgufValue::double_at(size_t index) const {
  return visit_number(item_, bytes_.data() + index * gguf::size_of(item_),
                      [](auto v) { return double(v); });
}

bool GgufValue::as_bool() const {
  if (kind_ != GgufKind::boolean) refuse("a bool");
  return bytes_[0] != std::byte{0};
}

int64_t GgufValue::as_int() const {
  if (!is_integer(kind_)) refuse("an integer");
  return int_at(0);
}

double GgufValue::as_double() const {
  if (!is_number(kind_)) refuse("a number");
  return double_at(0);
}

std::string_view GgufValue::as_string() const {
  if (kind_ != GgufKind::string) refuse("a string");
  return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
}

std::vector<std::string_view> GgufValue::as_strings() const {
  require_array(item_ == GgufKind::string, "an array of strings");
  return strings_in(bytes_, count_);
}

std::vector<int64_t> GgufValue::as_ints() const {
  require_array(is_integer(item_), "an array of integers");
  std::vector<int64_t> values(count_);
  for (size_t i = 0; i < count_; ++i) values[i] = int_at(i);
  return values;
}

std::vector<double> GgufValue::as_doubles() const {
  require_array(is_number(item_), "an array of numbers");
  std::vector<double> values(count_);
  for (size_t i = 0; i < count_; ++i) values[i] = double_at(i);
  return values;
}

std::vector<bool> GgufValue::as_bools() const {
  require_array(item_ == GgufKind::boolean, "an array of bools");
  std::vector<bool> values(count_);
  for (size_t i = 0; i < count_; ++i) values[i] = bytes_[i] != std::byte{0};
  return values;
}

std::string GgufValue::item_text(size_t index) const {
  if (item_ == GgufKind::boolean) return bytes_[index] != std::byte{0} ? "true" : "false";
  return visit_number(item_, bytes_.data() + index * gguf::size_of(item_), [](auto v) {
    char text[40];  // the shortest that reads as the same number
    return std::string(text, std::to_chars(text, text + sizeof text, v).ptr);
  });
}

std::string GgufValue::describe() const {
  constexpr size_t kMaxShown = 6;
  if (kind_ == GgufKind::string) return gguf::quoted(as_string());
  if (kind_ != GgufKind::array) return item_text(0);
  const size_t shown = std::min(count_, kMaxShown);
  std::vector<std::string_view> strings;
  if (item_ == GgufKind::string) strings = strings_in(bytes_, shown);
  std::string text = "[";
  for (size_t i = 0; i < shown; ++i)
    text += (i ? ", " : "") + (item_ == GgufKind::string ? gguf::quoted(strings[i]) : item_text(i));
  if (shown < count_) text += ", … " + std::to_string(count_) + " in all";
  return text + "]";
}

}  // namespace olm
