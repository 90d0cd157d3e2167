// Philox runs on whole vectors, one block of four words a lane; words go through a small buffer to
// the elements they decide on. Work is cut into ranges of elements.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/random.cpp"
#include <hwy/foreach_target.h>
//
#include <algorithm>
#include <cmath>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/philox.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/random.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

constexpr int64_t kWords = 1024;  // made at a time

/// Upper halves of the 64-bit products of all lanes.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V multiply_high(D d, V a, V b) {
  const hn::RepartitionToWide<D> dw;
  const auto even = hn::BitCast(d, hn::ShiftRight<32>(hn::MulEven(a, b)));
  const auto a_odd = hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(dw, a)));
  const auto b_odd = hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(dw, b)));
  return hn::OddEven(hn::BitCast(d, hn::MulEven(a_odd, b_odd)), even);
}

/// Words 4·block to 4·(block + lanes) - 1 of the stream of `seed`; see base/philox.h.
template <class D>
HWY_INLINE void philox_blocks(D d, uint64_t seed, uint64_t block, uint32_t* words) {
  const auto low = hn::Set(d, uint32_t(block));
  auto c0 = hn::Add(low, hn::Iota(d, 0u));
  auto c1 = hn::Set(d, uint32_t(block >> 32));
  c1 = hn::IfThenElse(hn::Lt(c0, low), hn::Add(c1, hn::Set(d, 1u)), c1);  // carry
  auto c2 = hn::Zero(d), c3 = hn::Zero(d);
  const auto m0 = hn::Set(d, 0xD2511F53u), m1 = hn::Set(d, 0xCD9E8D57u);
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
    const auto high0 = multiply_high(d, c0, m0), high1 = multiply_high(d, c2, m1);
    const auto low0 = hn::Mul(c0, m0), low1 = hn::Mul(c2, m1);
    c0 = hn::Xor(hn::Xor(high1, c1), hn::Set(d, key0));
    c2 = hn::Xor(hn::Xor(high0, c3), hn::Set(d, key1));
    c1 = low1;
    c3 = low0;
  }
  hn::StoreInterleaved4(c0, c1, c2, c3, d, words);
}

/// y = x · scale where word >> 8 >= threshold, else 0.
template <class T>
void mask_elements(const T* x, T* y, const uint32_t* words, int64_t n, uint32_t threshold,
                   double scale) {
  if constexpr (std::is_same_v<T, double>) {
    for (int64_t i = 0; i < n; ++i) y[i] = words[i] >> 8 >= threshold ? x[i] * scale : 0;
  } else {
    const hn::ScalableTag<float> d;
    const hn::RebindToSigned<decltype(d)> di;
    const auto limit = hn::Set(di, int32_t(threshold));
    const auto factor = hn::Set(d, float(scale));
    for_vectors(d, n, [&](int64_t i, auto part) {
      // The buffer of words reaches past the last element, so whole vectors may be read.
      const auto word = hn::LoadU(hn::RebindToUnsigned<decltype(d)>(), words + i);
      const auto dropped = hn::Lt(hn::BitCast(di, hn::ShiftRight<8>(word)), limit);
      const auto scaled = hn::Mul(load(d, x + i, part), factor);
      store(d, hn::IfThenZeroElse(hn::RebindMask(d, dropped), scaled), y + i, part);
    });
  }
}

template <class T>
void dropout_range(const Dropout& k, int64_t begin, int64_t end) {
  const hn::ScalableTag<uint32_t> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  const uint32_t threshold = uint32_t(std::ceil(k.p * 0x1p24));
  const double scale = k.p < 1 ? 1 / (1 - k.p) : 0;
  HWY_ALIGN uint32_t words[kWords + 8 * HWY_MAX_BYTES / 4] = {};
  for (int64_t i = begin; i < end; i += kWords) {
    const int64_t n = std::min(kWords, end - i);
    const uint64_t first = k.offset + uint64_t(i);
    const int64_t lead = int64_t(first & 3);
    for (int64_t w = 0; w < lead + n; w += 4 * lanes)
      philox_blocks(d, k.seed, (first >> 2) + uint64_t(w / 4), words + w);
    mask_elements(in<T>(k.x) + i, out<T>(k.y) + i, words + lead, n, threshold, scale);
  }
}

void dropout(const Dropout& k) {
  visit_float(k.dtype, [&]<class T>() {
    parallel_for(k.n, 16 * kWords,
                 [&](int64_t begin, int64_t end) { dropout_range<T>(k, begin, end); });
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
namespace {

HWY_EXPORT(dropout);

}  // namespace

void run(Cpu, const Dropout& k) { HWY_DYNAMIC_DISPATCH(dropout)(k); }

}  // namespace olm::kernels
#endif  // HWY_ONCE
