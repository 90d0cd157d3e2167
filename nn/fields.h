#pragma once
// Options describe themselves: each options struct has one `fields(v)` that names its members. It
// serves saving and rebuilding models, configuration files, flags, summaries and error messages.
#include <concepts>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <olm/engine/json.h>
#include <olm/engine/tensor.h>

namespace olm::nn {

/// What a member may hold, and what it is for: `v("lr", lr, {.min = 0, .help = "…"})`. Readers
/// refuse what is outside, check_fields() does for what was set by hand. Numbers must be finite.
struct OLM_API FieldInfo {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  double above = -std::numeric_limits<double>::infinity();  ///< a minimum that is itself too low
  std::vector<std::string> one_of = {};                     ///< texts, or names of dtypes
  std::string help = {};
  /// "0 to 0.99", "1 or more", "adamw, lion or sgd"; "" where anything goes.
  std::string range() const;
};

/// Walks over named members; what it does with them (read, write, list) is up to the visitor.
class OLM_API FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;

  template <class T>
  void operator()(const char* name, T& value, FieldInfo info = {}) {
    if (skipped_ == name) return;
    info_ = std::move(info);
    if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, int64_t> ||
                  std::is_same_v<T, double> || std::is_same_v<T, std::string> ||
                  std::is_same_v<T, DType> || std::is_same_v<T, std::vector<int64_t>> ||
                  std::is_same_v<T, std::vector<double>>) {
      field(name, value);
    } else if constexpr (std::is_same_v<T, std::optional<bool>>) {
      field(name, value);
    } else if constexpr (std::is_same_v<T, std::optional<int64_t>>) {
      field(name, value);
    } else if constexpr (std::is_same_v<T, std::optional<double>>) {
      field(name, value);
    } else if constexpr (std::is_same_v<T, std::optional<std::string>>) {
      field(name, value);
    } else {
      begin_group(name);
      value.fields(*this);
      end_group();
    }
  }
  /// Passes members of this name by, until another one is named.
  void skip(std::string name) { skipped_ = std::move(name); }

  virtual void field(const char* name, bool& value) = 0;
  virtual void field(const char* name, int64_t& value) = 0;
  virtual void field(const char* name, double& value) = 0;
  virtual void field(const char* name, std::string& value) = 0;
  virtual void field(const char* name, DType& value) = 0;
  virtual void field(const char* name, std::vector<int64_t>& value) = 0;
  virtual void field(const char* name, std::optional<bool>& value) = 0;
  virtual void field(const char* name, std::optional<int64_t>& value) = 0;
  virtual void field(const char* name, std::optional<double>& value) = 0;
  virtual void field(const char* name, std::optional<std::string>& value) = 0;
  virtual void field(const char* name, std::vector<double>& value) = 0;
  /// Members that have fields of their own.
  virtual void begin_group(const char* name) = 0;
  virtual void end_group() = 0;

 protected:
  /// Of the member that field() is called with.
  const FieldInfo& info() const { return info_; }

 private:
  FieldInfo info_;
  std::string skipped_;
};

/// Visits with the dotted path of each member, such as "optim.lr".
class OLM_API PathVisitor : public FieldVisitor {
 public:
  void begin_group(const char* name) override { groups_.push_back(name); }
  void end_group() override { groups_.pop_back(); }

 protected:
  std::string path(const char* name) const;

 private:
  std::vector<std::string> groups_;
};

/// A struct that lists its members.
template <class T>
concept HasFields = requires(T& value, FieldVisitor& v) {
  value.fields(v);
};

/// Members as a JSON object, in their order; an empty optional is null.
class OLM_API JsonWriter final : public FieldVisitor {
 public:
  JsonWriter() : stack_{Json::object()} {}
  void field(const char* name, bool& value) override;
  void field(const char* name, int64_t& value) override;
  void field(const char* name, double& value) override;
  void field(const char* name, std::string& value) override;
  void field(const char* name, DType& value) override;
  void field(const char* name, std::vector<int64_t>& value) override;
  void field(const char* name, std::optional<bool>& value) override;
  void field(const char* name, std::optional<int64_t>& value) override;
  void field(const char* name, std::optional<double>& value) override;
  void field(const char* name, std::optional<std::string>& value) override;
  void field(const char* name, std::vector<double>& value) override;
  void begin_group(const char* name) override;
  void end_group() override;
  const Json& result() const { return stack_.front(); }

 private:
  std::vector<Json> stack_;
  std::vector<std::string> names_;
};

/// Fills members from a JSON object; a missing member keeps its value. A wrong type, or a value
/// outside a member's range, throws naming `where` and the key.
class OLM_API JsonReader final : public FieldVisitor {
 public:
  JsonReader(const Json& object, std::string where);
  void field(const char* name, bool& value) override;
  void field(const char* name, int64_t& value) override;
  void field(const char* name, double& value) override;
  void field(const char* name, std::string& value) override;
  void field(const char* name, DType& value) override;
  void field(const char* name, std::vector<int64_t>& value) override;
  void field(const char* name, std::optional<bool>& value) override;
  void field(const char* name, std::optional<int64_t>& value) override;
  void field(const char* name, std::optional<double>& value) override;
  void field(const char* name, std::optional<std::string>& value) override;
  void field(const char* name, std::vector<double>& value) override;
  void begin_group(const char* name) override;
  void end_group() override;
  /// Throws where the object has a key that no member answered to, naming it and the known ones.
  void require_all_used() const;

 private:
  struct Level {
    const Json* object;
    std::string where;
    std::vector<std::string> known;
  };
  const Json* find(const char* name);
  [[noreturn]] void wrong_type(const char* name, const Json& got, const char* wanted) const;
  template <class T>
  void check_value(const char* name, const T& value) const;
  void check_used(const Level& level) const;
  std::vector<Level> levels_;
};

template <HasFields T>
Json to_json(T options) {
  JsonWriter writer;
  options.fields(writer);
  return writer.result();
}

/// Reads `options` from JSON; unknown keys and wrong types throw, naming `where`.
template <HasFields T>
void from_json(const Json& json, T& options, const std::string& where) {
  JsonReader reader(json, where);
  options.fields(reader);
  reader.require_all_used();
}

/// Throws naming `where` for a value outside the range of its member.
OLM_API void check_value(const std::string& where, const FieldInfo& info, int64_t value);
OLM_API void check_value(const std::string& where, const FieldInfo& info, double value);
OLM_API void check_value(const std::string& where, const FieldInfo& info, const std::string& value);
OLM_API void check_value(const std::string& where, const FieldInfo& info, DType value);

/// Checks every member.
class OLM_API RangeChecker final : public PathVisitor {
 public:
  explicit RangeChecker(std::string where) : where_(std::move(where)) {}
  void field(const char*, bool&) override {}
  void field(const char* name, int64_t& value) override { check(name, value); }
  void field(const char* name, double& value) override { check(name, value); }
  void field(const char* name, std::string& value) override { check(name, value); }
  void field(const char* name, DType& value) override { check(name, value); }
  void field(const char*, std::vector<int64_t>&) override {}
  void field(const char*, std::optional<bool>&) override {}
  void field(const char* name, std::optional<int64_t>& value) override {
    if (value) check(name, *value);
  }
  void field(const char* name, std::optional<double>& value) override {
    if (value) check(name, *value);
  }
  void field(const char* name, std::optional<std::string>& value) override {
    if (value) check(name, *value);
  }
  void field(const char* name, std::vector<double>& value) override {
    for (const double item : value) check(name, item);
  }

 private:
  template <class T>
  void check(const char* name, const T& value) {
    check_value(where_ + "." + path(name), info(), value);
  }
  std::string where_;
};

/// Throws naming `where` and the member where one is outside its range.
template <HasFields T>
void check_fields(T options, const std::string& where) {
  RangeChecker checker(where);
  options.fields(checker);
}

/// `given`, and where that is empty (null, an empty list) `defaults`; objects member by member.
OLM_API Json over(Json defaults, const Json& given);
/// The same of options, checked; throws naming `where`.
template <HasFields T>
T over(const T& defaults, const T& given, const std::string& where) {
  T result;
  from_json(over(to_json(defaults), to_json(given)), result, where);
  return result;
}

/// Hands on to `to` the members whose values in `now` and `usual` differ, and those that are
/// `listed`; of groups, the members that differ.
class OLM_API ChangedFields {
 public:
  ChangedFields(FieldVisitor& to, Json now, Json usual, std::vector<std::string> listed = {})
      : to_(to), now_(std::move(now)), usual_(std::move(usual)), listed_(std::move(listed)) {}
  template <class T>
  void operator()(const char* name, T& value, FieldInfo info = {}) {
    if (!passes(name)) return;
    if constexpr (requires(ChangedFields & v) { value.fields(v); }) {
      to_.begin_group(name);
      ChangedFields members(to_, now_.at(name), usual_.at(name));
      value.fields(members);
      to_.end_group();
    } else {
      to_(name, value, std::move(info));
    }
  }

 private:
  bool passes(const char* name) const;
  FieldVisitor& to_;
  Json now_, usual_;
  std::vector<std::string> listed_;
};

/// `f32`, `bf16`, … to the DType; throws naming `where` for anything else.
OLM_API DType parse_dtype(const std::string& text, const std::string& where);

}  // namespace olm::nn
