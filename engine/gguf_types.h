#pragma once
// Types of values in GGUF files: floats, and blocks of quantised numbers.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include <olm/kernels/base/error.h>

namespace olm {

/// Types that this library reads, by their numbers in the format. A file's entry may hold the
/// number of one that is not read.
enum class GgufType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30
};

/// What is known of a type: its name in files' descriptions ("Q4_K"), and its blocks.
struct GgufTypeInfo {
  GgufType type;
  const char* name;
  int64_t block_elements;
  size_t block_bytes;
  bool is_read;  ///< whether dequantize knows it
};
/// Null for a number that stands for no type, or for one that the format has given up.
OLM_API const GgufTypeInfo* find_info(uint32_t number);
/// Throws Error where find_info is null.
OLM_API const GgufTypeInfo& info_of(GgufType type);
/// Empty for a type that is not read.
OLM_API std::optional<GgufType> gguf_type(uint32_t number);
/// The name of any type of the format, also of those that are not read: "IQ2_XXS"; "type 77".
OLM_API std::string gguf_type_name(uint32_t number);

/// Values of `count` elements, whole blocks. Throws Error for a type that is not read.
OLM_API void dequantize(GgufType type, const std::byte* from, int64_t count, float* to);
/// Blocks of f32 values, in f32, f16, bf16 and q8_0; others throw. Equal to what gguf-py writes,
/// but for signalling NaNs, which become quiet in f16.
OLM_API void quantize(GgufType type, const float* from, int64_t count, std::byte* to);

}  // namespace olm
