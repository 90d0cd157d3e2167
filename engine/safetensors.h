#pragma once
// Tensors by name in a file: the safetensors format (8 bytes of header length, a JSON header,
// data).
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <olm/engine/tensor.h>

namespace olm {

class MappedFile;
namespace dist {
class Comm;
}

/// What the header says of one tensor. `dtype` is the format's own name, such as "BF16"; it may be
/// one that is not known here, and `shape` may have more dimensions than a Tensor can.
struct OLM_API SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape = {};
  size_t begin = 0;  ///< first byte, counted from the end of the header
  size_t bytes = 0;
  std::string shape_text() const;  ///< "[2,3]"
};

/// A safetensors file, mapped. Opening reads and checks the header alone; tensors alias the map,
/// which lives as long as one of them. They are read-only by convention: a write stays in memory.
/// Tensors of types not known here are listed, and can be read as bytes.
class OLM_API SafetensorsFile {
 public:
  /// Throws FileError with one sentence for anything that is not a well-formed file: a truncated
  /// one, a header that is too long or no JSON, data that overlaps, leaves gaps or does not fit.
  static SafetensorsFile open(const std::string& path);
  /// Reads from a copy of `bytes`; errors name `what`.
  static SafetensorsFile parse(std::string_view bytes, const std::string& what);

  const std::string& path() const { return path_; }
  /// Names in the order of their data.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return index_.count(name) != 0; }
  /// Throws FileError naming the file if it holds no such tensor.
  const SafetensorsEntry& entry(const std::string& name) const;
  /// A tensor of F32, BF16, F16, F64, I32, I64 or BOOL and at most eight dimensions, on the CPU;
  /// others throw FileError. Copied only where its bytes are not aligned to its element.
  Tensor tensor(const std::string& name) const;
  /// The raw bytes of a tensor of any type; valid as long as this object or a copy of it lives.
  std::span<const std::byte> bytes(const std::string& name) const;
  /// Gives the pages of a tensor back to the system: they are read again where they are used. What
  /// was written to them is lost.
  void release(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  SafetensorsFile(std::string path, std::shared_ptr<const void> owner, std::span<std::byte> all);
  void read_header(std::string_view header);
  void check_layout() const;
  std::string path_;
  std::shared_ptr<const void> owner_;  // keeps data_ alive
  const MappedFile* map_ = nullptr;    // what data_ is a part of, if it is a file
  std::span<std::byte> data_;          // behind the header
  std::vector<SafetensorsEntry> entries_;
  std::vector<std::string> names_;
  std::map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

/// What is known of a tensor before its values are.
struct TensorLayout {
  std::string name;
  DType dtype = f32;
  Shape shape = {};
};
/// Elements from `begin` on of a tensor, taken as flat.
struct TensorPiece {
  std::string name;
  int64_t begin = 0;
  Tensor data = {};
};

/// Bytes to be written as a tensor of a type that Tensor lacks, such as "U16".
struct SafetensorsBytes {
  std::string name;
  std::string dtype;
  Shape shape;
  std::span<const std::byte> bytes;
};

/// A tensor that is made when its turn to be written comes.
struct SafetensorsItem {
  std::string name;
  DType dtype = f32;
  Shape shape = {};
  std::function<Tensor()> make = {};  ///< gives it, on any device
  std::function<void()> done = {};    ///< it is written
};

/// Writes tensors atomically (see FileWriter), one at a time. As other programs do, wider types
/// come first, and names of a type in their order byte by byte.
OLM_API void write_safetensors(const std::string& path, std::vector<SafetensorsItem> items,
                               const std::map<std::string, std::string>& metadata = {});
/// Writes tensors atomically. Wider types come first, so that all are aligned.
OLM_API void write_safetensors(const std::string& path,
                               const std::vector<std::pair<std::string, Tensor>>& tensors,
                               const std::map<std::string, std::string>& metadata = {});
OLM_API void write_safetensors(const std::string& path, std::vector<SafetensorsBytes> tensors,
                               const std::map<std::string, std::string>& metadata = {});
/// The same file, written by all ranks of `comm` at once, each with the pieces that it holds of the
/// tensors of `layout`; what several hold is shared out among them, and must be the same.
/// Collective, `layout` and `metadata` being equal on all. Takes the space on the disk first. Where
/// a rank fails all throw and nothing stays behind. Throws Error naming elements that no rank
/// holds.
OLM_API void write_safetensors(const std::string& path, std::vector<TensorLayout> layout,
                               const std::vector<TensorPiece>& held,
                               const std::map<std::string, std::string>& metadata,
                               const dist::Comm& comm);

}  // namespace olm
