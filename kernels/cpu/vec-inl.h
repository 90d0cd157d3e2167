// Highway helpers shared by CPU kernels: loads and stores that convert to and from the accumulation
// type, and loops over vectors with a tail. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_VEC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_VEC_INL_H_
#undef OLM_KERNELS_CPU_VEC_INL_H_
#else
#define OLM_KERNELS_CPU_VEC_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>

#include <olm/kernels/base/types.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// A whole vector, or the first `n` lanes of one: how a loop body learns that it is at the end.
struct Full {};
struct Tail {
  size_t n;
};

// ---- loads: element type T to lanes of D (float or double) -------------------------------------
template <class D, class A = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load(D d, const A* p, Full = {}) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const bfloat16_t* p, Full = {}) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint16_t, D> dh;
  const auto bits = hn::LoadU(dh, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
}
/// Below AVX2 Highway emulates half precision without NaN, infinity and rounding: lane by lane
/// there.
inline constexpr bool kHasHalf = HWY_TARGET <= HWY_AVX2;
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float16_t* p, Full = {}) {
  if constexpr (!kHasHalf) {
    HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
    for (size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = float(p[i]);
    return hn::LoadU(d, lanes);
  }
  const hn::Rebind<hwy::float16_t, D> dh;
  const hn::Rebind<uint16_t, D> du;
  const auto bits = hn::LoadU(du, reinterpret_cast<const uint16_t*>(p));
  return hn::PromoteTo(d, hn::BitCast(dh, bits));
}
/// From AVX2 on, masked loads and stores of 32 and 64 bit lanes touch no memory past the tail.
inline constexpr bool kMasksMemory = HWY_TARGET <= HWY_AVX2;
/// The lanes past the tail are zero.
template <class D, class T>
HWY_INLINE hn::Vec<D> load(D d, const T* p, Tail tail) {
  using A = hn::TFromD<D>;
  if constexpr (kMasksMemory && sizeof(T) == sizeof(A)) {
    return hn::MaskedLoad(hn::FirstN(d, tail.n), d, p);
  } else {
    HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(A)] = {};
    std::memcpy(static_cast<void*>(buffer), p, tail.n * sizeof(T));
    return load(d, buffer);
  }
}

// ---- stores ------------------------------------------------------------------------------------
template <class D, class A = hn::TFromD<D>>
HWY_INLINE void store(D d, hn::Vec<D> v, A* p, Full = {}) {
  hn::StoreU(v, d, p);
}
/// Rounds to nearest even; NaN stays NaN.
template <class D>
HWY_INLINE void store(D, hn::Vec<D> v, bfloat16_t* p, Full = {}) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint16_t, D> dh;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd);
  const auto nan = hn::RebindMask(du, hn::IsNaN(v));
  const auto result = hn::IfThenElse(nan, hn::Or(bits, hn::Set(du, 0x400000u)), rounded);
  hn::StoreU(hn::TruncateTo(dh, hn::ShiftRight<16>(result)), dh, reinterpret_cast<uint16_t*>(p));
}
template <class D>
HWY_INLINE void store(D d, hn::Vec<D> v, float16_t* p, Full = {}) {
  if constexpr (!kHasHalf) {
    HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
    hn::StoreU(v, d, lanes);
    for (size_t i = 0; i < hn::Lanes(d); ++i) p[i] = float16_t(lanes[i]);
    return;
  }
  const hn::Rebind<hwy::float16_t, D> dh;
  const hn::Rebind<uint16_t, D> du;
  hn::StoreU(hn::BitCast(du, hn::DemoteTo(dh, v)), du, reinterpret_cast<uint16_t*>(p));
}
template <class D, class T>
HWY_INLINE void store(D d, hn::Vec<D> v, T* p, Tail tail) {
  using A = hn::TFromD<D>;
  if constexpr (kMasksMemory && sizeof(T) == sizeof(A)) {
    hn::BlendedStore(v, hn::FirstN(d, tail.n), d, p);
  } else {
    HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(A)];
    store(d, v, buffer);
    std::memcpy(static_cast<void*>(p), buffer, tail.n * sizeof(T));
  }
}

// ---- tails -------------------------------------------------------------------------------------
/// v with `other` in the lanes past a tail.
template <class D>
HWY_INLINE hn::Vec<D> keep(D, hn::Vec<D> v, hn::Vec<D>, Full) {
  return v;
}
template <class D>
HWY_INLINE hn::Vec<D> keep(D d, hn::Vec<D> v, hn::Vec<D> other, Tail tail) {
  return hn::IfThenElse(hn::FirstN(d, tail.n), v, other);
}

// ---- loops -------------------------------------------------------------------------------------
/// Calls body(i, Full{}) for whole vectors of [0, n) and body(i, Tail{n - i}) for what is left.
template <class D, class Body>
HWY_INLINE void for_vectors(D d, int64_t n, Body&& body) {
  const int64_t lanes = int64_t(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, Full{});
  if (i < n) body(i, Tail{size_t(n - i)});
}

/// Sum over i of term(i, part), a vector whose lanes past a tail must be zero. Four accumulators
/// keep the adders busy; the order is fixed.
template <class D, class Term>
HWY_INLINE hn::TFromD<D> sum_vectors(D d, int64_t n, Term&& term) {
  const int64_t lanes = int64_t(hn::Lanes(d));
  auto a = hn::Zero(d), b = a, c = a, e = a;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a = hn::Add(a, term(i, Full{}));
    b = hn::Add(b, term(i + lanes, Full{}));
    c = hn::Add(c, term(i + 2 * lanes, Full{}));
    e = hn::Add(e, term(i + 3 * lanes, Full{}));
  }
  for (; i + lanes <= n; i += lanes) a = hn::Add(a, term(i, Full{}));
  if (i < n) b = hn::Add(b, term(i, Tail{size_t(n - i)}));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
