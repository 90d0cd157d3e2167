#include <olm/engine/random.h>

#include <cmath>
#include <numbers>

#include <olm/kernels/base/philox.h>

namespace olm {

double Generator::uniform() {
  const uint64_t block = reserve(kWordsPerNumber) / 4;
  const kernels::Philox4 words = kernels::philox(seed_, block);
  return double((uint64_t(words.v[0]) << 32 | words.v[1]) >> 11) * 0x1p-53;
}

int64_t Generator::below(int64_t n) {
  require(n >= 1, "random: wanted an upper bound of at least 1, got ", n);
  const uint64_t block = reserve(kWordsPerNumber) / 4;
  const kernels::Philox4 words = kernels::philox(seed_, block);
  const uint64_t word = uint64_t(words.v[0]) << 32 | words.v[1];
  return int64_t((static_cast<unsigned __int128>(word) * uint64_t(n)) >> 64);
}

double Generator::normal() {
  const uint64_t block = reserve(kWordsPerNumber) / 4;
  const kernels::Philox4 words = kernels::philox(seed_, block);
  const double u = (double(uint64_t(words.v[0]) << 21 ^ words.v[1] >> 11) + 0.5) * 0x1p-53;
  const double angle = 2 * std::numbers::pi * double(words.v[2]) * 0x1p-32;
  return std::sqrt(-2 * std::log(u)) * std::cos(angle);
}

uint64_t derive_seed(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u ^ seed;  // FNV-1a, then one Philox block to mix
  for (const char c : name) hash = (hash ^ uint8_t(c)) * 0x100000001b3u;
  const kernels::Philox4 words = kernels::philox(seed, hash);
  return uint64_t(words.v[0]) << 32 | words.v[1];
}

}  // namespace olm
