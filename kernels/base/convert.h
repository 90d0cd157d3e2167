#pragma once
// From any element type to any other.
#include <bit>
#include <cstdint>
#include <type_traits>

#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// v as f32, rounded to odd where it is not exact: a narrower float made of that is rounded once.
OLM_HD inline float rounded_to_odd(double v) {
  const float nearest = static_cast<float>(v);
  if (double(nearest) == v || v != v) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if ((v < 0 ? -double(nearest) > -v : double(nearest) > v)) --bits;
  return std::bit_cast<float>(bits | 1u);
}

/// v, or beyond 2^53 a neighbour that f64 holds, odd in its last place of 2^11.
OLM_HD inline double rounded_to_odd(int64_t v) {
  constexpr int64_t kExact = int64_t(1) << 53;
  if (v >= -kExact && v <= kExact) return double(v);
  return double(((v >> 11) | int64_t((v & 2047) != 0)) * 2048);
}

/// v as To: floats round to nearest even, once; to bool, not zero is true; to integers, truncation.
template <class To, class From>
OLM_HD To convert(From v) {
  if constexpr (std::is_same_v<To, From>) {
    return v;
  } else if constexpr (std::is_same_v<To, bool>) {
    if constexpr (std::is_arithmetic_v<From>)
      return v != From(0);
    else
      return float(v) != 0.0f;
  } else if constexpr (std::is_arithmetic_v<From>) {
    if constexpr (std::is_arithmetic_v<To>)
      return static_cast<To>(v);
    else if constexpr (std::is_same_v<From, float>)
      return To(v);
    else if constexpr (std::is_same_v<From, int64_t>)
      return To(rounded_to_odd(rounded_to_odd(v)));
    else
      return To(rounded_to_odd(static_cast<double>(v)));
  } else {
    if constexpr (std::is_arithmetic_v<To>)
      return static_cast<To>(static_cast<float>(v));
    else
      return To(static_cast<float>(v));
  }
}

}  // namespace olm::kernels
