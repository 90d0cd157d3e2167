#pragma once
// What reading and writing GGUF share.
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <olm/engine/gguf.h>

namespace olm::gguf {

inline constexpr std::string_view kMagic = "GGUF";
inline constexpr uint32_t kVersion = 3;
inline constexpr size_t kAlignment = 32;
inline constexpr const char* kAlignmentKey = "general.alignment";
inline constexpr size_t kMaxKey = 65535;  ///< bytes of a key
inline constexpr size_t kMaxName = 63;    ///< bytes of a tensor's name
inline constexpr int kMaxDims = 4;

/// Bytes of a number or truth value; 0 for strings and arrays.
size_t size_of(GgufKind kind);
/// Text from a file, quoted and on one line, cut where it is long.
std::string quoted(std::string_view text);
/// What is wrong with a key or a tensor's name: "is empty"; null if nothing is.
const char* fault_of(std::string_view name, size_t most_bytes);
/// Bytes of a tensor; empty where they, or its elements, are too many for 62 bits.
std::optional<size_t> byte_size(const GgufTypeInfo& type, const Shape& shape);

}  // namespace olm::gguf
