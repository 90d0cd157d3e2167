#include <olm/engine/gguf_types.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/types.h>

namespace olm {

static_assert(std::endian::native == std::endian::little, "GGUF files here are little-endian");

namespace {

constexpr GgufTypeInfo row(uint32_t number, const char* name, int64_t elements, size_t bytes,
                           bool is_read = false) {
  return {GgufType(number), name, elements, bytes, is_read};
}

/// By number. Types without bytes were given up by the format.
constexpr GgufTypeInfo kTypes[] = {
    row(0, "F32", 1, 4, true),
    row(1, "F16", 1, 2, true),
    row(2, "Q4_0", 32, 18, true),
    row(3, "Q4_1", 32, 20, true),
    row(4, "Q4_2", 0, 0),
    row(5, "Q4_3", 0, 0),
    row(6, "Q5_0", 32, 22, true),
    row(7, "Q5_1", 32, 24, true),
    row(8, "Q8_0", 32, 34, true),
    row(9, "Q8_1", 32, 36),
    row(10, "Q2_K", 256, 84, true),
    row(11, "Q3_K", 256, 110, true),
    row(12, "Q4_K", 256, 144, true),
    row(13, "Q5_K", 256, 176, true),
    row(14, "Q6_K", 256, 210, true),
    row(15, "Q8_K", 256, 292),
    row(16, "IQ2_XXS", 256, 66),
    row(17, "IQ2_XS", 256, 74),
    row(18, "IQ3_XXS", 256, 98),
    row(19, "IQ1_S", 256, 50),
    row(20, "IQ4_NL", 32, 18),
    row(21, "IQ3_S", 256, 110),
    row(22, "IQ2_S", 256, 82),
    row(23, "IQ4_XS", 256, 136),
    row(24, "I8", 1, 1),
    row(25, "I16", 1, 2),
    row(26, "I32", 1, 4),
    row(27, "I64", 1, 8),
    row(28, "F64", 1, 8),
    row(29, "IQ1_M", 256, 56),
    row(30, "BF16", 1, 2, true),
    row(31, "Q4_0_4_4", 0, 0),
    row(32, "Q4_0_4_8", 0, 0),
    row(33, "Q4_0_8_8", 0, 0),
    row(34, "TQ1_0", 256, 54),
    row(35, "TQ2_0", 256, 66),
    row(36, "IQ4_NL_4_4", 0, 0),
    row(37, "IQ4_NL_4_8", 0, 0),
    row(38, "IQ4_NL_8_8", 0, 0),
    row(39, "MXFP4", 32, 17),
    row(40, "NVFP4", 64, 36),
    row(41, "Q1_0", 128, 18),
    row(42, "Q2_0", 64, 18),
};

constexpr bool in_order() {
  for (size_t i = 0; i < std::size(kTypes); ++i)
    if (size_t(kTypes[i].type) != i) return false;
  return true;
}
static_assert(in_order());

/// One block of 32 values: their scale in f16, then signed bytes. The scale is the largest
/// magnitude over 127, and bytes round away from zero. A block whose scale has no finite
/// reciprocal, or is none itself, holds zeros.
void quantize_q8_0(const float* from, std::byte* to) {
  float largest = 0;
  bool has_nan = false;
  for (int i = 0; i < 32; ++i) {
    largest = std::max(largest, std::abs(from[i]));
    has_nan |= from[i] != from[i];
  }
  if (has_nan) largest = std::abs(*std::find_if(from, from + 32, [](float v) { return v != v; }));
  const float scale = largest / 127, inverse = 1 / scale;
  const float16_t stored(scale);
  std::memcpy(to, &stored, sizeof stored);
  const bool empty = !(std::isfinite(scale) && std::isfinite(inverse));
  for (int i = 0; i < 32; ++i) {
    const float scaled = empty ? 0.f : from[i] * inverse, magnitude = std::abs(scaled);
    const int whole = int(magnitude);
    const int rounded = whole + int(2 * (magnitude - float(whole)));
    to[2 + i] = std::byte(int8_t(scaled < 0 ? -rounded : rounded));
  }
}

template <class T>
void round_to(const float* from, int64_t count, std::byte* to) {
  for (int64_t i = 0; i < count; ++i) {
    const T value(from[i]);
    std::memcpy(to + i * int64_t(sizeof value), &value, sizeof value);
  }
}

void quantize_range(GgufType type, const float* from, int64_t count, std::byte* to) {
  switch (type) {
    case GgufType::f32:
      std::memcpy(to, from, size_t(count) * sizeof(float));
      return;
    case GgufType::f16:
      return round_to<float16_t>(from, count, to);
    case GgufType::bf16:
      return round_to<bfloat16_t>(from, count, to);
    default:
      for (int64_t block = 0; block < count / 32; ++block)
        quantize_q8_0(from + block * 32, to + block * 34);
  }
}

}  // namespace

const GgufTypeInfo* find_info(uint32_t number) {
  const bool known = number < std::size(kTypes) && kTypes[number].block_bytes > 0;
  return known ? &kTypes[number] : nullptr;
}

const GgufTypeInfo& info_of(GgufType type) {
  const GgufTypeInfo* info = find_info(uint32_t(type));
  require(info != nullptr, "gguf: ", gguf_type_name(uint32_t(type)), " is no type of the format");
  return *info;
}

std::optional<GgufType> gguf_type(uint32_t number) {
  const GgufTypeInfo* info = find_info(number);
  if (!info || !info->is_read) return {};
  return info->type;
}

std::string gguf_type_name(uint32_t number) {
  if (number < std::size(kTypes)) return kTypes[number].name;
  return "type " + std::to_string(number);
}

void quantize(GgufType type, const float* from, int64_t count, std::byte* to) {
  const GgufTypeInfo& info = info_of(type);
  require(type == GgufType::f32 || type == GgufType::f16 || type == GgufType::bf16 ||
              type == GgufType::q8_0,
          "quantize: ", info.name, " is not written, F32, F16, BF16 or Q8_0 was wanted");
  require(count % info.block_elements == 0, "quantize: ", count, " values are no whole blocks of ",
          info.name, ", which have ", info.block_elements);
  constexpr int64_t kGrain = 32768;
  kernels::parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    const int64_t blocks = begin / info.block_elements;
    quantize_range(type, from + begin, end - begin, to + blocks * int64_t(info.block_bytes));
  });
}

}  // namespace olm
