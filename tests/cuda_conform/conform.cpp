// The cases: their inputs, and what a warp makes of them by plain arithmetic, which owes nothing to
// the emulator.
#include "conform.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include <olm/kernels/base/error.h>
#include <olm/kernels/base/philox.h>

namespace olm::conform {
namespace {

float as_float(uint32_t word) { return std::bit_cast<float>(word); }
uint32_t as_word(float value) { return std::bit_cast<uint32_t>(value); }

// ---- numbers by their definition ---------------------------------------------------------------

/// A binary float of few bits.
struct Format {
  int exponent_bits, fraction_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  uint32_t sign() const { return 1u << (exponent_bits + fraction_bits); }
  uint32_t infinity() const { return ((1u << exponent_bits) - 1) << fraction_bits; }
};
constexpr Format kBf16{8, 7}, kF16{5, 10};

double value_of(Format f, uint32_t bits) {
  const uint32_t exponent = (bits & f.infinity()) >> f.fraction_bits;
  const uint32_t fraction = bits & ((1u << f.fraction_bits) - 1);
  const double sign = bits & f.sign() ? -1 : 1;
  if ((bits & f.infinity()) == f.infinity()) return fraction ? NAN : sign * INFINITY;
  const int shift = 1 - f.bias() - f.fraction_bits;
  if (exponent == 0) return sign * std::ldexp(double(fraction), shift);
  return sign * std::ldexp(double(fraction + (1u << f.fraction_bits)), shift + int(exponent) - 1);
}

/// The nearest number of the format, of two as near the even one; found by bisection.
uint32_t nearest(Format f, double x) {
  const uint32_t sign = std::signbit(x) ? f.sign() : 0;
  if (std::isnan(x)) return f.infinity() | 1u;
  const double magnitude = std::abs(x);
  uint32_t low = 0, high = f.infinity();  // value_of(low) <= magnitude < value_of(high)
  if (std::isinf(x)) return sign | high;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (value_of(f, middle) <= magnitude ? low : high) = middle;
  }
  // Beyond the largest number the next step would be as long as the last one.
  const double below = value_of(f, low),
               above = high == f.infinity() ? 2 * below - value_of(f, low - 1) : value_of(f, high);
  const double middle = below + (above - below) / 2;
  const bool up = magnitude > middle || (magnitude == middle && low % 2 == 1);
  return sign | (up ? high : low);
}

uint16_t half_of(uint32_t word, int i) { return uint16_t(word >> (16 * i)); }

// ---- inputs ------------------------------------------------------------------------------------

uint32_t any_word(uint32_t random, int, int) { return random; }

/// Floats that conversions to 16 bits may get wrong, then random ones of all sizes.
uint32_t any_float(uint32_t random, int lane, int i) {
  constexpr float kSpecial[] = {
      0.0f,           -0.0f,          INFINITY,        -INFINITY, NAN,
      65504.0f,       65519.996f,     65520.0f,        -65536.0f, 0x1p-24f,
      0x1p-25f,       0x1.8p-24f,     0x1.000002p-25f, 0x1p-14f,  0x1.ffcp-15f,
      1.00048828125f, 1.00146484375f, 0x1.01p0f,       0x1.03p0f, 0x1.0100002p0f,
      3.4e38f,        0x1.ffp127f,    0x1p-126f,       0x1p-149f, 0x1.8p-133f};
  const size_t at = size_t(lane) * 8 + size_t(i);
  if (at < std::size(kSpecial)) return as_word(kSpecial[at]);
  // Half of them where f16 has its numbers, half anywhere.
  if (random & 1u) return random;
  return as_word(std::ldexp(1.0f + float(random >> 9) * 0x1p-23f, int(random >> 1 & 63) - 40) *
                 (random & 256 ? -1.0f : 1.0f));
}

uint32_t exponent(uint32_t random, int lane, int i) {
  constexpr float kSpecial[] = {0.0f,       -0.0f,  INFINITY, -INFINITY, NAN,     127.0f,
                                127.99999f, 128.0f, -126.0f,  -127.0f,   -149.0f, -1000.0f,
                                1000.0f,    1e-40f, 1.0f,     -1.0f};
  const size_t at = size_t(lane) * 4 + size_t(i);
  if (at < std::size(kSpecial)) return as_word(kSpecial[at]);
  const float unit = float(random >> 8) * 0x1p-24f;
  return as_word(lane % 2 ? 250.0f * unit - 125.0f : 4.0f * unit - 3.0f);
}

/// Two numbers of a 16-bit format below 2 in size; the last warp has some far from 1.
template <const Format& f>
uint32_t pair(uint32_t random, int lane, int i) {
  if (i >= 6) return as_word(float(int32_t(random)) * 0x1p-30f);  // d
  uint32_t word = 0;
  for (int k = 0; k < 2; ++k) {
    const double value = double(int16_t(half_of(random, k))) / 16384;
    const double scale = lane / kLanes == kWarps - 1 && random % 3 == 0 ? 0x1p-12 : 1;
    word |= nearest(f, value * scale) << (16 * k);
  }
  return word;
}
uint32_t any_f32(uint32_t random, int, int) { return as_word(float(int32_t(random)) * 0x1p-30f); }
/// f32 with the 10 bits of mantissa that tf32 has; d has all.
uint32_t tf32(uint32_t random, int lane, int i) {
  return any_f32(random, lane, i) & (i < 6 ? 0xffffe000u : 0xffffffffu);
}

// ---- what a warp makes -------------------------------------------------------------------------

template <bool every>
void copy_async(const uint32_t* in, uint32_t* out) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const int from = ((lane + 7) % kLanes) ^ 1;
    const bool valid = every || in[5 * from + 4] % 2 == 1;
    for (int i = 0; i < 4; ++i) out[4 * lane + i] = valid ? in[5 * from + i] : 0;
  }
}
void copy_groups(const uint32_t* in, uint32_t* out) { std::copy_n(in, 8 * kLanes, out); }

template <bool transpose>
void load_matrices(const uint32_t* in, uint32_t* out) {
  const auto element = [&](int matrix, int row, int column) {
    const int lane = (5 * (8 * matrix + row) + 3) % kLanes;
    return uint32_t(half_of(in[4 * lane + column / 2], column % 2));
  };
  for (int lane = 0; lane < kLanes; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix) {
      const int row = lane / 4, column = 2 * (lane % 4);
      const uint32_t low = transpose ? element(matrix, column, row) : element(matrix, row, column);
      const uint32_t high =
          transpose ? element(matrix, column + 1, row) : element(matrix, row, column + 1);
      out[4 * lane + matrix] = low | high << 16;
    }
}

/// D += A · B from fragments; a(row, k) and b(k, column) read them.
template <class A, class B>
void multiply(const uint32_t* in, uint32_t* out, int depth, const A& a, const B& b) {
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      const int lane = row % 8 * 4 + column / 2, word = row / 8 * 2 + column % 2;
      double sum = as_float(in[10 * lane + 6 + word]);
      for (int k = 0; k < depth; ++k) sum += a(row, k) * b(k, column);
      out[4 * lane + word] = as_word(float(sum));
    }
}
template <const Format& f>
void multiply_pairs(const uint32_t* in, uint32_t* out) {
  const auto a = [&](int row, int k) {
    const int lane = row % 8 * 4 + k % 8 / 2, word = k / 8 * 2 + row / 8;
    return value_of(f, half_of(in[10 * lane + word], k % 2));
  };
  const auto b = [&](int k, int column) {
    return value_of(f, half_of(in[10 * (column * 4 + k % 8 / 2) + 4 + k / 8], k % 2));
  };
  multiply(in, out, 16, a, b);
}
/// The mantissa's lower 13 bits have no say.
void multiply_tf32(const uint32_t* in, uint32_t* out) {
  const auto read = [&](int lane, int word) {
    return double(as_float(in[10 * lane + word] & 0xffffe000u));
  };
  const auto a = [&](int row, int k) { return read(row % 8 * 4 + k % 4, k / 4 * 2 + row / 8); };
  const auto b = [&](int k, int column) { return read(column * 4 + k % 4, 4 + k / 4); };
  multiply(in, out, 8, a, b);
}

void exponentials(const uint32_t* in, uint32_t* out) {
  for (int i = 0; i < 4 * kLanes; ++i) {
    const double y = std::exp2(double(as_float(in[i])));
    out[i] = as_word(y < 0x1p-126 ? 0.0f : float(y));
  }
}
template <const Format& f>
void round_pairs(const uint32_t* in, uint32_t* out) {
  for (int i = 0; i < 4 * kLanes; ++i)
    out[i] = nearest(f, as_float(in[2 * i])) | nearest(f, as_float(in[2 * i + 1])) << 16;
}
void widen(const uint32_t* in, uint32_t* out) {
  for (int i = 0; i < 8 * kLanes; ++i)
    out[i] = as_word(float(value_of(kF16, half_of(in[i / 2], i % 2))));
}

void shuffles(const uint32_t* in, uint32_t* out) {
  const auto value = [&](int lane) { return in[2 * lane]; };
  for (int lane = 0; lane < kLanes; ++lane) {
    const int source = int(in[2 * lane + 1] % kLanes);
    uint32_t* mine = out + 7 * lane;
    mine[0] = value(source);
    mine[1] = value(lane ^ 5);
    mine[2] = value(lane < 3 ? lane : lane - 3);
    mine[3] = value(lane + 7 < kLanes ? lane + 7 : lane);
    mine[4] = value(lane / 16 * 16 + source % 16);
    mine[5] = value(lane ^ 16);
    mine[6] = value(31 - lane) & 0x3fffffffu;
  }
}
void votes(const uint32_t* in, uint32_t* out) {
  const auto lanes_where = [&](const auto& holds) {
    uint32_t mask = 0;
    for (int lane = 0; lane < kLanes; ++lane) mask |= uint32_t(bool(holds(in[lane]))) << lane;
    return mask;
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    uint32_t* mine = out + 7 * lane;
    mine[0] = lanes_where([](uint32_t v) { return v & 1; });
    mine[1] = lanes_where([](uint32_t v) { return v % 41 == 0; }) != 0;
    mine[2] = lanes_where([](uint32_t v) { return v % 41 != 1; }) == 0xffffffffu;
    mine[3] =
        lanes_where([](uint32_t v) { return v & 2; }) & (lane < 16 ? 0x0000ffffu : 0xffff0000u);
    mine[4] = lanes_where([&](uint32_t v) { return v % 5 == in[lane] % 5; });
    mine[5] = lanes_where([&](uint32_t v) { return v % 1000 == in[lane] % 1000; });
    mine[6] = 0xffffffffu;
  }
}
/// Words with long runs of zeros among them, and 0.
uint32_t shifted(uint32_t random, int lane, int) {
  return lane == 0 ? 0 : lane % 2 ? random >> (lane % 32) : random << (lane % 32);
}
void bits(const uint32_t* in, uint32_t* out) {
  for (int lane = 0; lane < kLanes; ++lane) {
    uint32_t count = 0, lowest = 0, leading = 32;
    for (uint32_t bit = 0; bit < 32; ++bit)
      if (in[lane] >> bit & 1u) {
        ++count;
        if (lowest == 0) lowest = bit + 1;
        leading = 31 - bit;
      }
    out[3 * lane] = count;
    out[3 * lane + 1] = lowest;
    out[3 * lane + 2] = leading;
  }
}

// ---- comparisons -------------------------------------------------------------------------------

/// Floats in their order as integers, so that neighbours differ by 1.
int64_t rank_of(float x) {
  const int32_t word = std::bit_cast<int32_t>(x);
  return word < 0 ? -int64_t(word & 0x7fffffff) : word;
}

double distance(Match match, uint32_t got, uint32_t wanted, double scale) {
  const float a = as_float(got), b = as_float(wanted);
  const auto same_pair = [&](Format f) {
    for (int i = 0; i < 2; ++i) {
      const uint32_t x = half_of(got, i), y = half_of(wanted, i);
      if (x != y && !(std::isnan(value_of(f, x)) && std::isnan(value_of(f, y)))) return false;
    }
    return true;
  };
  switch (match) {
    case Match::bits:
      return got != wanted;
    case Match::floats:
      return got != wanted && !(std::isnan(a) && std::isnan(b));
    case Match::bf16_pairs:
      return !same_pair(kBf16);
    case Match::f16_pairs:
      return !same_pair(kF16);
    case Match::products:
      return std::isfinite(a) ? std::abs(double(a) - double(b)) / scale : INFINITY;
    case Match::exponentials:
      if (std::isnan(a) || std::isnan(b)) return std::isnan(a) == std::isnan(b) ? 0 : INFINITY;
      return std::abs(double(rank_of(a) - rank_of(b)));
  }
  return INFINITY;
}

}  // namespace

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"cp_async16", 5, 4, Match::bits, any_word, copy_async<true>},
      {"cp_async16_zeros", 5, 4, Match::bits, any_word, copy_async<false>},
      {"cp_async_groups", 8, 8, Match::bits, any_word, copy_groups},
      {"ldmatrix_x4", 4, 4, Match::bits, any_word, load_matrices<false>},
      {"ldmatrix_x4_transposed", 4, 4, Match::bits, any_word, load_matrices<true>},
      {"mma_m16n8k16_bf16", 10, 4, Match::products, pair<kBf16>, multiply_pairs<kBf16>},
      {"mma_m16n8k16_f16", 10, 4, Match::products, pair<kF16>, multiply_pairs<kF16>},
      {"mma_m16n8k8_tf32", 10, 4, Match::products, tf32, multiply_tf32},
      {"mma_m16n8k8_tf32_of_f32", 10, 4, Match::products, any_f32, multiply_tf32},
      {"exp2_approx", 4, 4, Match::exponentials, exponent, exponentials},
      {"pack2_bf16", 8, 4, Match::bf16_pairs, any_float, round_pairs<kBf16>},
      {"pack2_f16", 8, 4, Match::f16_pairs, any_float, round_pairs<kF16>},
      {"widen_f16", 4, 8, Match::floats, any_word, widen},
      {"round_to_bf16", 8, 4, Match::bf16_pairs, any_float, round_pairs<kBf16>},
      {"round_to_f16", 8, 4, Match::f16_pairs, any_float, round_pairs<kF16>},
      {"shuffles", 2, 7, Match::bits, any_word, shuffles},
      {"votes", 1, 7, Match::bits, any_word, votes},
      {"bits", 1, 3, Match::bits, shifted, bits},
  };
  return all;
}

Words inputs_of(const Case& c) {
  uint64_t seed = 0;
  for (const char* letter = c.name; *letter; ++letter) seed = seed * 131 + uint64_t(*letter);
  Words words;
  for (int lane = 0; lane < kWarps * kLanes; ++lane)
    for (int i = 0; i < c.in; ++i)
      words.push_back(c.draw(kernels::philox_word(seed, words.size()), lane, i));
  return words;
}

Words reference_of(const Case& c) {
  const Words in = inputs_of(c);
  Words out(size_t(kWarps) * kLanes * size_t(c.out));
  for (int warp = 0; warp < kWarps; ++warp)
    c.reference(in.data() + warp * kLanes * c.in, out.data() + warp * kLanes * c.out);
  return out;
}

Comparison compare(const Case& c, const Words& got, const Words& wanted) {
  require(got.size() == wanted.size(), c.name, ": ", got.size(), " words, where ", wanted.size(),
          " are wanted");
  double squares = 0;
  if (c.match == Match::products)
    for (const uint32_t word : wanted) squares += std::pow(double(as_float(word)), 2);
  const double scale = std::sqrt(squares / double(wanted.size()));
  const double allowed = c.match == Match::products ? 1e-3 : c.match == Match::exponentials ? 2 : 0;
  Comparison result;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = distance(c.match, got[i], wanted[i], scale);
    result.largest = std::max(result.largest, d);
    if (!(d <= allowed)) ++result.wrong;
  }
  return result;
}

}  // namespace olm::conform
