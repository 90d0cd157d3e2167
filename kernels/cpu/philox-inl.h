// Philox on vectors, one block of four words a lane. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_PHILOX_INL_H_
#undef OLM_KERNELS_CPU_PHILOX_INL_H_
#else
#define OLM_KERNELS_CPU_PHILOX_INL_H_
#endif

#include <hwy/highway.h>

#include <olm/kernels/base/philox.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

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

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
