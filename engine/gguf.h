#pragma once
// GGUF, llama.cpp's file format: typed key-values, then tensors, whose values may be quantised.
#include <cstddef>
#include <cstdint>
#include <functional>
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
  std::vector<bool> as_bools() const;
  /// As text, on one line: long strings are cut, and arrays after a few items.
  std::string describe() const;

 private:
  friend class GgufFile;
  friend class GgufWriter;
  [[noreturn]] void refuse(const char* wanted) const;
  void require_array(bool of_these, const char* wanted) const;
  int64_t int_at(size_t index) const;
  double double_at(size_t index) const;
  std::string item_text(size_t index) const;
  const std::string* path_ = nullptr;
  std::string_view key_ = {};
  GgufKind kind_ = GgufKind::u8, item_ = GgufKind::u8;  // item_: of others than arrays, kind_
  size_t count_ = 1;
  std::span<const std::byte> bytes_ = {};  // of a string its text; of an array all items
};

/// What the header says of a tensor.
struct OLM_API GgufEntry {
  std::string name;
  GgufType type = GgufType::f32;  ///< may be one that is not read
  Shape shape = {};               ///< slowest first, as in this library; the file has it reversed
  size_t begin = 0;               ///< first byte, counted from where data begins
  size_t bytes = 0;
};

/// A GGUF file of version 2 or 3, mapped. Opening reads and checks everything but the data: what
/// llama.cpp would not open is refused. Bytes behind the last tensor are not looked at.
class OLM_API GgufFile {
 public:
  /// Throws FileError with one sentence for anything that is not a well-formed file. Memory is
  /// bounded by the file's size, whatever its counts and lengths say.
  static GgufFile open(const std::string& path);
  /// Reads from a copy of `bytes`; errors name `what`.
  static GgufFile parse(std::string_view bytes, const std::string& what);

  const std::string& path() const;
  uint32_t version() const;
  const std::vector<std::string>& keys() const;       ///< in the file's order
  const GgufValue* find(std::string_view key) const;  ///< null where it is missing
  const GgufValue& at(std::string_view key) const;    ///< throws FileError where it is missing
  const std::vector<GgufEntry>& entries() const;      ///< in the order of their data
  bool contains(std::string_view name) const;
  const GgufEntry& entry(std::string_view name) const;  ///< throws FileError where it is missing
  /// The raw bytes of a tensor of any type; valid as long as this object or a copy of it lives.
  std::span<const std::byte> bytes(std::string_view name) const;
  /// F32, F16 and BF16 as they are, aliasing the map; quantised types as f32. Throws FileError for
  /// a type that is not read. The map lives as long as a tensor that aliases it.
  Tensor tensor(std::string_view name) const;
  /// The pages of a tensor are not needed again. Its tensors stay valid, but lose what was written
  /// to them.
  void release(std::string_view name) const;

 private:
  struct Held;
  class Reader;
  explicit GgufFile(std::shared_ptr<const Held> held) : held_(std::move(held)) {}
  std::shared_ptr<const Held> held_;
};

/// Writes a GGUF file of version 3 through FileWriter, one tensor at a time. Keys, names and shapes
/// that a file cannot hold throw Error.
class OLM_API GgufWriter {
 public:
  // A key that was set before keeps its place and gets the new value.
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
  void set(const std::string& key, const std::vector<bool>& values);
  /// A value of any kind, as it is in another file.
  void set(const std::string& key, const GgufValue& value);
  /// A tensor that `make` gives when its turn comes, in any float dtype; it is converted to `type`:
  /// F32, F16, BF16 or Q8_0. A row that is no multiple of the type's block is written as F16, as
  /// llama.cpp does.
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
  void put(const std::string& key, std::string encoded);
  std::string header() const;
  std::vector<std::pair<std::string, std::string>> values_;  // keys and encoded values
  std::vector<Item> items_;
};

}  // namespace olm
