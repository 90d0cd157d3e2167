// ldmatrix and mma.sync: where each lane's numbers lie in the matrices is that of the PTX manual.
#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include <tests/cuda_emulator/collective.h>
#include <tests/cuda_emulator/race.h>
#include <tests/cuda_emulator/report.h>
#include <tests/cuda_emulator/statistics.h>

namespace olm::cuda_emulator {
namespace {

struct Load {
  const unsigned char* row;
  uint32_t* r;
};

/// Cycles of one phase: eight rows of 16 bytes, each in one of eight groups of four banks.
int cycles_of(const Meeting& meeting, int matrix) {
  int rows[8] = {}, most = 0;
  for (int r = 0; r < 8; ++r) {
    const auto address = reinterpret_cast<uintptr_t>(meeting.argument<Load>(matrix * 8 + r).row);
    most = std::max(most, ++rows[address / 16 % 8]);
  }
  return most;
}

template <bool transpose>
void complete_load(const Meeting& meeting) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    counts.ldmatrix_phases += 1;
    counts.ldmatrix_cycles += cycles_of(meeting, matrix);
    uint16_t m[8][8];
    for (int r = 0; r < 8; ++r)
      std::memcpy(m[r], meeting.argument<Load>(matrix * 8 + r).row, sizeof(m[r]));
    for (int lane = 0; lane < kWarp; ++lane) {
      const int g = lane / 4, t = 2 * (lane % 4);
      const uint16_t low = transpose ? m[t][g] : m[g][t];
      const uint16_t high = transpose ? m[t + 1][g] : m[g][t + 1];
      meeting.argument<Load>(lane).r[matrix] = low | uint32_t(high) << 16;
    }
  }
}

float bf16_value(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

float f16_value(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
  const uint32_t exponent = bits >> 10 & 0x1fu, fraction = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) return (sign ? -0x1p-24f : 0x1p-24f) * float(fraction);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

/// A tensor core ignores the bits of an f32 that tf32 does not have.
float tf32_value(uint32_t bits) { return std::bit_cast<float>(bits & ~0x1fffu); }

struct Multiply {
  float* d;
  const uint32_t *a, *b;
};

/// D += A · B, A [16, depth], B [depth, 8].
template <int depth>
void accumulate(const Meeting& meeting, const float (&a)[16][depth], const float (&b)[depth][8]) {
  float d[16][8];
  const auto each = [&](auto&& f) {
    for (int lane = 0; lane < kWarp; ++lane)
      for (int i = 0; i < 4; ++i)
        f(d[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2], meeting.argument<Multiply>(lane).d[i]);
  };
  each([](float& in_matrix, float& of_lane) { in_matrix = of_lane; });
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < depth; ++k)
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
  each([](float& in_matrix, float& of_lane) { of_lane = in_matrix; });
}

template <float (*value)(uint16_t)>
void complete_16bit(const Meeting& meeting) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& mine = meeting.argument<Multiply>(lane);
    const int g = lane / 4, t = 2 * (lane % 4);
    for (int e = 0; e < 2; ++e) {
      const auto half = [e](uint32_t pair) { return value(uint16_t(pair >> (16 * e))); };
      a[g][t + e] = half(mine.a[0]);
      a[g + 8][t + e] = half(mine.a[1]);
      a[g][t + 8 + e] = half(mine.a[2]);
      a[g + 8][t + 8 + e] = half(mine.a[3]);
      b[t + e][g] = half(mine.b[0]);
      b[t + 8 + e][g] = half(mine.b[1]);
    }
  }
  accumulate(meeting, a, b);
}

void complete_tf32(const Meeting& meeting) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& mine = meeting.argument<Multiply>(lane);
    const int g = lane / 4, t = lane % 4;
    a[g][t] = tf32_value(mine.a[0]);
    a[g + 8][t] = tf32_value(mine.a[1]);
    a[g][t + 4] = tf32_value(mine.a[2]);
    a[g + 8][t + 4] = tf32_value(mine.a[3]);
    b[t][g] = tf32_value(mine.b[0]);
    b[t + 4][g] = tf32_value(mine.b[1]);
  }
  accumulate(meeting, a, b);
}

constexpr unsigned kAllLanes = ~0u;

}  // namespace

void load_matrices(uint32_t (&r)[4], const void* row, bool transpose) {
  const auto offset = uintptr_t(static_cast<const unsigned char*>(row) - running.shared);
  if (offset % 16 != 0)
    fail_block("ldmatrix alignment", [&] {
      return "ldmatrix: a row at shared memory + " + std::to_string(offset) +
             ", which is not aligned to 16";
    });
  if (!kAddressSanitizer && offset + 16 > running.grid->shared)  // which would say more
    fail_block("ldmatrix range",
               [&] { return std::string("ldmatrix reads outside the block's shared memory"); });
  race::note_read(row, 16);
  Load mine{static_cast<const unsigned char*>(row), r};
  if (transpose)
    meet("ldmatrix.trans", kAllLanes, &mine, complete_load<true>);
  else
    meet("ldmatrix", kAllLanes, &mine, complete_load<false>);
}

void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                       Element element) {
  Multiply mine{d, a, b};
  switch (element) {
    case Element::bf16:
      return meet("mma of bf16", kAllLanes, &mine, complete_16bit<bf16_value>);
    case Element::f16:
      return meet("mma of f16", kAllLanes, &mine, complete_16bit<f16_value>);
    case Element::tf32:
      return meet("mma of tf32", kAllLanes, &mine, complete_tf32);
  }
}

}  // namespace olm::cuda_emulator
