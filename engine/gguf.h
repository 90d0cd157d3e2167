#pragma once
// GGUF, llama.cpp's file format: typed key-values, then tensors, whose values may be quantised.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <olm/engine/gguf_types.h>
#include <olm/engine/tensor.h>

namespace olm {

/// Types of values, by their numbers in the format.
enum class GgufKind : uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};
OLM_API const char* name_of(GgufKind kind);

/// A value of the metadata, in the mapped file: it lives as long as its GgufFile. Asking for what a
/// value is not throws FileError naming the key and both.
class OLM_API GgufValue {
 public:
  GgufKind kind() const { return kind_; }
  GgufKind item_kind() const { return item_; }  ///< of an array
  size_t size() const { return count_; }        ///< items of an array; 1 of others
  bool as_bool() const;
  int64_t as_int() const;    ///< any integer; throws for what is above int64's
  double as_double() const;  ///< any number
  std::string_view as_string() const;
  std::vector<std::string_view> as_strings() const;
  std::vector<int64_t> as_ints() const;
  std::vector<double> as_doubles() const;
  /// As text: arrays are cut after a few items.
  std::string describe() const;

 private:
  friend class GgufFile;
  std::string key_;
  GgufKind kind_ = GgufKind::u8, item_ = GgufKind::u8;
  size_t count_ = 1;
  std::span<const std::byte> bytes_ = {};
};

/// What the header says of a tensor.
struct OLM_API GgufEntry {
  std::string name;
  GgufType type = GgufType::f32;
  Shape shape = {};  ///< slowest first, as in this library; the file has it reversed
  size_t begin = 0, bytes = 0;
};

/// A GGUF file of version 2 or 3, mapped. Opening reads and checks everything but the data.
class OLM_API GgufFile {
 public:
  /// Throws FileError with one sentence for anything that is not a well-formed file. Memory is
  /// bounded by the file's size, whatever its counts and lengths say.
  static GgufFile open(const std::string& path);
  /// Reads from a copy of `bytes`; errors name `what`.
  static GgufFile parse(std::string_view bytes, const std::string& what);

  const std::string& path() const;
  uint32_t version() const;
  const std::vector<std::string>& keys() const;  ///< in the file's order
  const GgufValue* find(const std::string& key) const;
  const GgufValue& at(const std::string& key) const;  ///< throws FileError where it is missing
  const std::vector<GgufEntry>& entries() const;
  bool contains(const std::string& name) const;
  const GgufEntry& entry(const std::string& name) const;
  std::span<const std::byte> bytes(const std::string& name) const;
  /// F32, F16 and BF16 as they are, aliasing the map; quantised types as f32.
  Tensor tensor(const std::string& name) const;
  /// The pages of a tensor are not needed again.
  void release(const std::string& name) const;

 private:
  struct Held;
  explicit GgufFile(std::shared_ptr<const Held> held) : held_(std::move(held)) {}
  std::shared_ptr<const Held> held_;
};

/// Writes a GGUF file of version 3 through FileWriter, one tensor at a time.
class OLM_API GgufWriter {
 public:
  void set(const std::string& key, bool value);
  void set(const std::string& key, uint32_t value);
  void set(const std::string& key, uint64_t value);
  void set(const std::string& key, int32_t value);
  void set(const std::string& key, float value);
  void set(const std::string& key, std::string_view value);
  void set(const std::string& key, const char* value) { set(key, std::string_view(value)); }
  void set(const std::string& key, const std::vector<std::string>& values);
  void set(const std::string& key, const std::vector<int32_t>& values);
  void set(const std::string& key, const std::vector<float>& values);
  /// A tensor that `make` gives when its turn comes, in any float dtype; it is converted to `type`.
  /// A row that is no multiple of the type's block is written as F16, as llama.cpp does.
  void add(const std::string& name, GgufType type, const Shape& shape,
           std::function<Tensor()> make);
  void write(const std::string& path) const;

 private:
  struct Item {
    std::string name;
    GgufType type;
    Shape shape;
    std::function<Tensor()> make;
  };
  std::vector<std::pair<std::string, std::string>> values_;  // keys and encoded values
  std::vector<Item> items_;
};

}  // namespace olm
