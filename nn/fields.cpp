#include <olm/nn/fields.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace olm::nn {

DType parse_dtype(const std::string& text, const std::string& where) {
  for (const DType t : {f32, bf16, f16, f64, i32, i64, boolean})
    if (text == name_of(t)) return t;
  fail(where, ": unknown dtype \"", text, "\"; wanted f32, bf16, f16, f64, i32, i64 or bool");
}

namespace {
/// Integers without an exponent as far as they are short that way.
std::string number_text(double value) {
  char digits[40];
  const bool whole = std::abs(value) < 1e12 && value == std::floor(value);
  char* const end = whole ? std::to_chars(digits, digits + sizeof digits, int64_t(value)).ptr
                          : std::to_chars(digits, digits + sizeof digits, value).ptr;
  return {digits, end};
}

bool inside(const FieldInfo& info, double value) {
  return std::isfinite(value) && value >= info.min && value <= info.max && value > info.above;
}
}  // namespace

std::string FieldInfo::range() const {
  std::string text;
  for (size_t i = 0; i < one_of.size(); ++i)
    text += (i == 0 ? "" : i + 1 < one_of.size() ? ", " : " or ") + one_of[i];
  if (!one_of.empty()) return text;
  if (std::isfinite(above)) text = "above " + number_text(above);
  if (std::isfinite(min)) text = number_text(min);
  if (std::isfinite(max)) text += (text.empty() ? "at most " : " to ") + number_text(max);
  return std::isfinite(min) && !std::isfinite(max) ? text + " or more" : text;
}

void check_value(const std::string& where, const FieldInfo& info, int64_t value) {
  require(inside(info, double(value)), where, ": wants ", info.range(), ", got ", value);
}
void check_value(const std::string& where, const FieldInfo& info, double value) {
  const std::string range = info.range();
  require(inside(info, value), where, ": wants a finite number", range.empty() ? "" : ", ", range,
          ", got ", number_text(value));
}
void check_value(const std::string& where, const FieldInfo& info, const std::string& value) {
  const auto& known = info.one_of;
  require(known.empty() || std::find(known.begin(), known.end(), value) != known.end(), where,
          ": wants ", info.range(), ", got \"", value, "\"");
}
void check_value(const std::string& where, const FieldInfo& info, DType value) {
  check_value(where, info, std::string(name_of(value)));
}

std::string PathVisitor::path(const char* name) const {
  std::string result;
  for (const std::string& group : groups_) result += group + ".";
  return result + name;
}

namespace {
/// JSON has no other numbers.
double finite(const char* name, double value) {
  require(std::isfinite(value), name, ": wants a finite number, got ", value);
  return value;
}
}  // namespace

void JsonWriter::field(const char* name, bool& value) { stack_.back()[name] = value; }
void JsonWriter::field(const char* name, int64_t& value) { stack_.back()[name] = value; }
void JsonWriter::field(const char* name, double& value) {
  stack_.back()[name] = finite(name, value);
}
void JsonWriter::field(const char* name, std::string& value) { stack_.back()[name] = value; }
void JsonWriter::field(const char* name, DType& value) { stack_.back()[name] = name_of(value); }
void JsonWriter::field(const char* name, std::vector<int64_t>& value) {
  stack_.back()[name] = Json(value);
}
void JsonWriter::field(const char* name, std::optional<bool>& value) {
  stack_.back()[name] = value ? Json(*value) : Json();
}
void JsonWriter::field(const char* name, std::optional<int64_t>& value) {
  stack_.back()[name] = value ? Json(*value) : Json();
}
void JsonWriter::field(const char* name, std::optional<double>& value) {
  stack_.back()[name] = value ? Json(finite(name, *value)) : Json();
}
void JsonWriter::field(const char* name, std::optional<std::string>& value) {
  stack_.back()[name] = value ? Json(*value) : Json();
}
void JsonWriter::field(const char* name, std::vector<double>& value) {
  for (const double item : value) finite(name, item);
  stack_.back()[name] = Json(value);
}
void JsonWriter::begin_group(const char* name) {
  stack_.push_back(Json::object());
  names_.push_back(name);
}
void JsonWriter::end_group() {
  Json group = std::move(stack_.back());
  stack_.pop_back();
  stack_.back()[names_.back()] = std::move(group);
  names_.pop_back();
}

Json over(Json defaults, const Json& given) {
  for (const auto& [name, value] : given.members()) {
    if (value.is_null() || (value.is_array() && value.size() == 0)) continue;
    Json& own = defaults[name];
    own = value.is_object() && own.is_object() ? over(std::move(own), value) : value;
  }
  return defaults;
}

bool ChangedFields::passes(const char* name) const {
  return now_.at(name) != usual_.at(name) ||
         std::find(listed_.begin(), listed_.end(), name) != listed_.end();
}

JsonReader::JsonReader(const Json& object, std::string where) {
  require(object.is_object(), where, ": wanted an object, got ", object.kind());
  levels_.push_back({&object, std::move(where), {}});
}

const Json* JsonReader::find(const char* name) {
  levels_.back().known.push_back(name);
  return levels_.back().object ? levels_.back().object->find(name) : nullptr;
}

void JsonReader::wrong_type(const char* name, const Json& got, const char* wanted) const {
  fail(levels_.back().where, ": ", name, " wants ", wanted, ", got ", got.kind(), " ", got.dump());
}

template <class T>
void JsonReader::check_value(const char* name, const T& value) const {
  nn::check_value(levels_.back().where + ": " + name, info(), value);
}

void JsonReader::field(const char* name, bool& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_bool()) wrong_type(name, *j, "true or false");
  value = j->as_bool();
}
void JsonReader::field(const char* name, int64_t& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_integer()) wrong_type(name, *j, "an integer");
  value = j->as_int();
  check_value(name, value);
}
void JsonReader::field(const char* name, double& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_number()) wrong_type(name, *j, "a number");
  value = j->as_double();
  check_value(name, value);
}
void JsonReader::field(const char* name, std::string& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_string()) wrong_type(name, *j, "a string");
  value = j->as_string();
  check_value(name, value);
}
void JsonReader::field(const char* name, DType& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_string()) wrong_type(name, *j, "the name of a dtype");
  value = parse_dtype(j->as_string(), levels_.back().where + ": " + name);
  check_value(name, value);
}
void JsonReader::field(const char* name, std::vector<int64_t>& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_array()) wrong_type(name, *j, "a list of integers");
  value.clear();
  for (const Json& item : j->items()) {
    if (!item.is_integer()) wrong_type(name, *j, "a list of integers");
    value.push_back(item.as_int());
  }
}
void JsonReader::field(const char* name, std::optional<bool>& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_null() && !j->is_bool()) wrong_type(name, *j, "true, false or null");
  value.reset();
  if (!j->is_null()) value = j->as_bool();
}
void JsonReader::field(const char* name, std::optional<int64_t>& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_null() && !j->is_integer()) wrong_type(name, *j, "an integer or null");
  value.reset();
  if (j->is_null()) return;
  value = j->as_int();
  check_value(name, *value);
}
void JsonReader::field(const char* name, std::optional<double>& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_null() && !j->is_number()) wrong_type(name, *j, "a number or null");
  value.reset();
  if (j->is_null()) return;
  value = j->as_double();
  check_value(name, *value);
}
void JsonReader::field(const char* name, std::optional<std::string>& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_null() && !j->is_string()) wrong_type(name, *j, "a string or null");
  value.reset();
  if (j->is_null()) return;
  value = j->as_string();
  check_value(name, *value);
}
void JsonReader::field(const char* name, std::vector<double>& value) {
  const Json* j = find(name);
  if (!j) return;
  if (!j->is_array()) wrong_type(name, *j, "a list of numbers");
  value.clear();
  for (const Json& item : j->items()) {
    if (!item.is_number()) wrong_type(name, *j, "a list of numbers");
    value.push_back(item.as_double());
    check_value(name, value.back());
  }
}

void JsonReader::begin_group(const char* name) {
  const Json* j = find(name);
  if (j && !j->is_object()) wrong_type(name, *j, "an object");
  levels_.push_back({j, levels_.back().where + "." + name, {}});
}

void JsonReader::end_group() {
  check_used(levels_.back());
  levels_.pop_back();
}

void JsonReader::require_all_used() const { check_used(levels_.back()); }

void JsonReader::check_used(const Level& level) const {
  if (!level.object) return;
  for (const auto& [key, value] : level.object->members()) {
    if (std::find(level.known.begin(), level.known.end(), key) != level.known.end()) continue;
    std::string known;
    for (const std::string& k : level.known) known += (known.empty() ? "" : ", ") + k;
    fail(level.where, ": unknown key \"", key, "\"; known are ", known);
  }
}

}  // namespace olm::nn
