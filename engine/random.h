#pragma once
// Random numbers as a visible state: a seed and a position in its stream.
#include <cstdint>
#include <string_view>

#include <olm/engine/tensor.h>

namespace olm {

/// A Philox stream: `seed` names it, `offset` is how many 32-bit words were used. Two generators
/// of equal state give equal numbers on every device.
class OLM_API Generator {
 public:
  explicit Generator(uint64_t seed = 0, uint64_t offset = 0) : seed_(seed), offset_(offset) {}
  uint64_t seed() const { return seed_; }
  uint64_t offset() const { return offset_; }
  void set_state(uint64_t seed, uint64_t offset) {
    seed_ = seed;
    offset_ = offset;
  }
  /// Words that one number takes.
  static constexpr uint64_t kWordsPerNumber = 4;
  /// Takes `words` words of the stream (rounded up to a multiple of 4): returns where they begin.
  uint64_t reserve(uint64_t words) {
    const uint64_t begin = offset_;
    offset_ += (words + 3) / 4 * 4;
    return begin;
  }
  /// One uniform number in [0, 1) with 53 bits; one integer in [0, n).
  double uniform();
  int64_t below(int64_t n);
  /// One normal number (Box and Muller, in f64).
  double normal();

 private:
  uint64_t seed_, offset_;
};

/// A seed for the stream called `name` under `seed`.
OLM_API uint64_t derive_seed(uint64_t seed, std::string_view name);

}  // namespace olm
