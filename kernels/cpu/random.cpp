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
#include <olm/kernels/cpu/philox-inl.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/random.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

constexpr int64_t kWords = 1024;  // made at a time

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
      const auto scaled = hn::Mul(load_and_prefetch(d, x + i, part), factor);
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

void run(Cpu, const Dropout& k) {
  Dropout from_base = k;
  from_base.offset = random_offset(k.stream.rng_base, k.offset);
  HWY_DYNAMIC_DISPATCH(dropout)(from_base);
}

}  // namespace olm::kernels
#endif  // HWY_ONCE
