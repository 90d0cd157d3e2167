#pragma once
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter
// in, four random words out. The same integers on every device and for any cut of the work.
#include <cstdint>

#include <olm/kernels/base/types.h>

namespace olm::kernels {

struct Philox4 {
  uint32_t v[4];
};

/// The block number `block` of the stream of `seed`: words 4·block to 4·block + 3.
OLM_HD inline Philox4 philox(uint64_t seed, uint64_t block) {
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  uint32_t c0 = uint32_t(block), c1 = uint32_t(block >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    const uint32_t next0 = uint32_t(p1 >> 32) ^ c1 ^ key0, next2 = uint32_t(p0 >> 32) ^ c3 ^ key1;
    c1 = uint32_t(p1);
    c3 = uint32_t(p0);
    c0 = next0;
    c2 = next2;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// Word `i` of the stream of `seed`.
OLM_HD inline uint32_t philox_word(uint64_t seed, uint64_t i) {
  return philox(seed, i >> 2).v[i & 3];
}

/// Where the words of a call begin that has `offset`: it counts from the number at `base`, that of
/// the call's stream (null: from 0).
OLM_HD inline uint64_t random_offset(const uint64_t* base, uint64_t offset) {
  return base ? *base + offset : offset;
}

/// A uniform number in [0, 1) with 24 bits.
OLM_HD inline float to_uniform(uint32_t word) { return float(word >> 8) * 0x1p-24f; }

}  // namespace olm::kernels
