#pragma once
// What reading and writing safetensors share.
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <olm/engine/safetensors.h>

namespace olm::safetensors {

/// A type of the format, and the one of Tensor that holds it.
struct FormatType {
  const char* name;
  size_t size;
  std::optional<DType> dtype;
};
/// Null for a type that is not known.
const FormatType* find_type(std::string_view name);
const char* format_name(DType dtype);
/// "[2,3]"
std::string text_of(std::span<const int64_t> shape);
/// `element` times all sizes, or FileError where that does not fit in 62 bits.
size_t byte_size(const std::string& where, std::span<const int64_t> shape, size_t element);

/// A tensor to be written.
struct Described {
  std::string_view name, dtype;
  const Shape& shape;
  size_t bytes;
};
/// What stands before the data of these tensors, in this order.
std::string head_of(const std::vector<Described>& tensors,
                    const std::map<std::string, std::string>& metadata);

}  // namespace olm::safetensors
