#pragma once
// What is asked of ptx.cuh and of the functions of a warp: each case is a small program of one warp
// on random words, run on the device and by plain arithmetic here, which must agree.
#include <cstdint>
#include <string>
#include <vector>

namespace olm::conform {

using Words = std::vector<uint32_t>;

inline constexpr int kLanes = 32;
/// Warps that run a case, each on words of its own.
inline constexpr int kWarps = 4;

/// What the words of a result are, and so when two are the same.
enum class Match {
  bits,         ///< the same bits
  floats,       ///< f32: the same bits, or both NaN
  bf16_pairs,   ///< two bf16: the same bits, or both NaN
  f16_pairs,    ///< two f16, likewise
  products,     ///< f32 sums of products: within 1e-3 of the root mean square of the case
  exponentials  ///< f32: within 2 units in the last place
};

/// A case. Words are laid out [warp][lane][word of the lane].
struct Case {
  const char* name;
  int in, out;  ///< words of a lane
  Match match;
  /// Word `i` of a lane's input from a random word; `lane` counts through all warps.
  uint32_t (*draw)(uint32_t random, int lane, int i);
  /// What one warp makes, from its part of the input.
  void (*reference)(const uint32_t* in, uint32_t* out);
};
const std::vector<Case>& cases();

Words inputs_of(const Case& c);
Words reference_of(const Case& c);

/// What the device makes of `in`; throws where kernels.cu has no such case, or of other sizes.
Words on_device(const Case& c, const Words& in);
/// Empty where there is a device; else a sentence why not.
std::string why_no_device();
std::string device_name();

/// How far two results of a case are apart: how many words do not match, and the largest
/// difference, of f32 as `match` measures it, of others 1 for a word that differs.
struct Comparison {
  int64_t wrong = 0;
  double largest = 0;
};
Comparison compare(const Case& c, const Words& got, const Words& wanted);

}  // namespace olm::conform
