// Blocks of quantised numbers to f32.
//
// Every type is a scale, often an offset, and small integers, of which all but Q8_0's are cut into
// low and high bits. The value is scale · integer (+ offset), rounded after each step: a fused
// multiply-add would give other bits. Loops run over whole rows of bytes, so that compilers
// vectorise them.
#include <array>
#include <cstring>

#include <olm/engine/gguf_types.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/types.h>

namespace olm {

namespace {

float half_at(const uint8_t* at) {
  float16_t value;
  std::memcpy(&value.bits, at, sizeof value.bits);
  return float(value);
}

// ---- blocks of 32 ------------------------------------------------------------------------------

/// Element i is the low half of byte i, element 16 + i the high half.
void split_nibbles(const uint8_t* from, uint8_t* to) {
  for (int i = 0; i < 16; ++i) {
    to[i] = from[i] & 15;
    to[16 + i] = from[i] >> 4;
  }
}

/// For each byte the eight bytes whose values are 16 where its bits are set.
constexpr std::array<uint64_t, 256> kSpread = [] {
  std::array<uint64_t, 256> table{};
  for (uint64_t byte = 0; byte < 256; ++byte)
    for (uint64_t bit = 0; bit < 8; ++bit)
      if (byte >> bit & 1) table[byte] |= uint64_t(16) << (8 * bit);
  return table;
}();

/// Nibbles with a fifth bit: bit i of the first four bytes is element i's.
void split_fives(const uint8_t* from, uint8_t* to) {
  uint8_t high[32];
  for (int i = 0; i < 4; ++i) std::memcpy(high + 8 * i, &kSpread[from[i]], 8);
  split_nibbles(from + 4, to);
  for (int i = 0; i < 32; ++i) to[i] |= high[i];
}

template <int bias>
void scale_32(float scale, const uint8_t* q, float* to) {
  for (int i = 0; i < 32; ++i) to[i] = scale * float(int(q[i]) - bias);
}

void scale_and_shift_32(float scale, float shift, const uint8_t* q, float* to) {
  for (int i = 0; i < 32; ++i) to[i] = scale * float(int(q[i])) + shift;
}

void q4_0(const uint8_t* from, float* to) {
  uint8_t q[32];
  split_nibbles(from + 2, q);
  scale_32<8>(half_at(from), q, to);
}

void q4_1(const uint8_t* from, float* to) {
  uint8_t q[32];
  split_nibbles(from + 4, q);
  scale_and_shift_32(half_at(from), half_at(from + 2), q, to);
}

void q5_0(const uint8_t* from, float* to) {
  uint8_t q[32];
  split_fives(from + 2, q);
  scale_32<16>(half_at(from), q, to);
}

void q5_1(const uint8_t* from, float* to) {
  uint8_t q[32];
  split_fives(from + 4, q);
  scale_and_shift_32(half_at(from), half_at(from + 2), q, to);
}

void q8_0(const uint8_t* from, float* to) {
  const float scale = half_at(from);
  for (int i = 0; i < 32; ++i) to[i] = float(int(int8_t(from[2 + i]))) * scale;
}

// ---- blocks of 256 -----------------------------------------------------------------------------

/// Two bits of each of 32 bytes.
template <int shift>
void take_pair(const uint8_t* from, uint8_t* to) {
  for (int i = 0; i < 32; ++i) to[i] = from[i] >> shift & 3;
}

/// 64 bytes hold 256 pairs: those of the first 32 bytes by rising shift, then the others.
void split_pairs(const uint8_t* from, uint8_t* to) {
  for (int half = 0; half < 2; ++half, from += 32, to += 128) {
    take_pair<0>(from, to);
    take_pair<2>(from, to + 32);
    take_pair<4>(from, to + 64);
    take_pair<6>(from, to + 96);
  }
}

/// Rows of `row` bytes, each to its low halves and then its high ones.
template <int row>
void split_nibble_rows(const uint8_t* from, uint8_t* to) {
  for (int r = 0; r < 128 / row; ++r, from += row, to += 2 * row)
    for (int i = 0; i < row; ++i) {
      to[i] = from[i] & 15;
      to[row + i] = from[i] >> 4;
    }
}

/// Scales and offsets of eight groups, six bits each, in twelve bytes: the first four of both are
/// the low bits of bytes 0 … 7, whose two highest bits go on top of the others' four.
struct GroupScales {
  uint8_t scale[8], offset[8];
  explicit GroupScales(const uint8_t* from) {
    for (int i = 0; i < 4; ++i) {
      scale[i] = from[i] & 63;
      offset[i] = from[4 + i] & 63;
      scale[4 + i] = uint8_t((from[8 + i] & 15) | (from[i] >> 2 & 48));
      offset[4 + i] = uint8_t(from[8 + i] >> 4 | (from[4 + i] >> 2 & 48));
    }
  }
};

template <int elements>
void scale_group(float scale, const uint8_t* q, float* to) {
  for (int i = 0; i < elements; ++i) to[i] = scale * float(int(int8_t(q[i])));
}

template <int elements>
void scale_and_lower_group(float scale, float offset, const uint8_t* q, float* to) {
  for (int i = 0; i < elements; ++i) to[i] = scale * float(int(q[i])) - offset;
}

/// Groups of 32 with scales and offsets; head: both in f16, then GroupScales.
void scale_eight_groups(const uint8_t* head, const uint8_t* q, float* to) {
  const float scale = half_at(head), offset = half_at(head + 2);
  const GroupScales groups(head + 4);
  for (int g = 0; g < 8; ++g)
    scale_and_lower_group<32>(scale * float(groups.scale[g]), offset * float(groups.offset[g]),
                              q + 32 * g, to + 32 * g);
}

void q2_k(const uint8_t* from, float* to) {
  const float scale = half_at(from + 80), offset = half_at(from + 82);
  uint8_t q[256];
  split_pairs(from + 16, q);
  for (int g = 0; g < 16; ++g)
    scale_and_lower_group<16>(scale * float(from[g] & 15), offset * float(from[g] >> 4), q + 16 * g,
                              to + 16 * g);
}

/// Pairs less 4 where a bit of the mask is clear; signed scales of six bits for groups of 16.
void q3_k(const uint8_t* from, float* to) {
  const uint8_t* scales = from + 96;
  const float scale = half_at(from + 108);
  uint8_t q[256];
  split_pairs(from + 32, q);
  for (int row = 0; row < 8; ++row)
    for (int i = 0; i < 32; ++i) {
      const int set = from[i] >> row & 1;
      q[32 * row + i] = uint8_t(q[32 * row + i] + 4 * set - 4);
    }
  for (int g = 0; g < 16; ++g) {
    const int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
    const int high = scales[8 + g % 4] >> (2 * (g / 4)) & 3;
    scale_group<16>(scale * float((low | high << 4) - 32), q + 16 * g, to + 16 * g);
  }
}

void q4_k(const uint8_t* from, float* to) {
  uint8_t q[256];
  split_nibble_rows<32>(from + 16, q);
  scale_eight_groups(from, q, to);
}

void q5_k(const uint8_t* from, float* to) {
  uint8_t q[256];
  split_nibble_rows<32>(from + 48, q);
  for (int row = 0; row < 8; ++row)
    for (int i = 0; i < 32; ++i) q[32 * row + i] |= uint8_t((from[16 + i] >> row & 1) << 4);
  scale_eight_groups(from, q, to);
}

void q6_k(const uint8_t* from, float* to) {
  const float scale = half_at(from + 208);
  uint8_t q[256], high[256];
  split_nibble_rows<64>(from, q);
  split_pairs(from + 128, high);
  for (int i = 0; i < 256; ++i) q[i] = uint8_t((q[i] | high[i] << 4) - 32);
  for (int g = 0; g < 16; ++g)
    scale_group<16>(scale * float(int8_t(from[192 + g])), q + 16 * g, to + 16 * g);
}

// ---- all types ---------------------------------------------------------------------------------

using BlocksToFloat = void (*)(const std::byte* from, int64_t blocks, float* to);

template <void (*block)(const uint8_t*, float*), int elements, int bytes>
void all_blocks(const std::byte* from, int64_t blocks, float* to) {
  const auto* at = reinterpret_cast<const uint8_t*>(from);
  for (int64_t b = 0; b < blocks; ++b) block(at + b * bytes, to + b * elements);
}

template <class T>
void widen(const std::byte* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, from + i * int64_t(sizeof value), sizeof value);
    to[i] = float(value);
  }
}

BlocksToFloat decoder_of(GgufType type) {
  switch (type) {
    case GgufType::f32:
      return widen<float>;
    case GgufType::f16:
      return widen<float16_t>;
    case GgufType::bf16:
      return widen<bfloat16_t>;
    case GgufType::q4_0:
      return all_blocks<q4_0, 32, 18>;
    case GgufType::q4_1:
      return all_blocks<q4_1, 32, 20>;
    case GgufType::q5_0:
      return all_blocks<q5_0, 32, 22>;
    case GgufType::q5_1:
      return all_blocks<q5_1, 32, 24>;
    case GgufType::q8_0:
      return all_blocks<q8_0, 32, 34>;
    case GgufType::q2_k:
      return all_blocks<q2_k, 256, 84>;
    case GgufType::q3_k:
      return all_blocks<q3_k, 256, 110>;
    case GgufType::q4_k:
      return all_blocks<q4_k, 256, 144>;
    case GgufType::q5_k:
      return all_blocks<q5_k, 256, 176>;
    case GgufType::q6_k:
      return all_blocks<q6_k, 256, 210>;
  }
  fail("dequantize: ", gguf_type_name(uint32_t(type)), " is not read");
}

}  // namespace

void dequantize(GgufType type, const std::byte* from, int64_t count, float* to) {
  const BlocksToFloat decode = decoder_of(type);
  const GgufTypeInfo& info = info_of(type);
  require(count >= 0 && count % info.block_elements == 0, "dequantize: ", count,
          " values are no whole blocks of ", info.name, ", which have ", info.block_elements);
  constexpr int64_t kGrain = 32768;
  kernels::parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    const int64_t block = begin / info.block_elements;
    decode(from + block * int64_t(info.block_bytes), (end - begin) / info.block_elements,
           to + begin);
  });
}

}  // namespace olm
