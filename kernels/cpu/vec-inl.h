// Highway helpers shared by CPU kernels: loads and stores that convert to and from the accumulation
// type, and loops over vectors with a tail. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_VEC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_VEC_INL_H_
#undef OLM_KERNELS_CPU_VEC_INL_H_
#else
#define OLM_KERNELS_CPU_VEC_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include <olm/kernels/base/types.h>
#include <olm/kernels/cpu/bf16_instructions.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// A whole vector, or the first `n` lanes of one: how a loop body learns that it is at the end.
struct Full {};
struct Tail {
  size_t n;
};
/// A whole vector at an aligned address, whose result is written by a non-temporal store.
struct NonTemporal : Full {};

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
/// From AVX2 on, masked loads and stores touch no memory past the tail.
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
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, D>> to_bf16_exactly(D, hn::Vec<D> v) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint16_t, D> dh;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd);
  const auto nan = hn::RebindMask(du, hn::IsNaN(v));
  const auto result = hn::IfThenElse(nan, hn::Or(bits, hn::Set(du, 0x400000u)), rounded);
  return hn::TruncateTo(dh, hn::ShiftRight<16>(result));
}
/// The same, but where the processor rounds by itself it makes 0 of numbers below the normal ones
/// (1.2e-38): good for what was computed, not for conversions.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, D>> to_bf16(D d, hn::Vec<D> v) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(D()) == 16) {
    if (HWY_LIKELY(kRoundsToBf16)) {
      hn::Vec<hn::Rebind<uint16_t, D>> rounded;
      // By name: the intrinsic wants all of the kernel to be compiled for AVX512_BF16.
      asm("vcvtneps2bf16 %1, %0" : "=v"(rounded.raw) : "v"(v.raw));
      return rounded;
    }
  }
#endif
  return to_bf16_exactly(d, v);
}
template <class D>
HWY_INLINE void store(D d, hn::Vec<D> v, bfloat16_t* p, Full = {}) {
  hn::StoreU(to_bf16(d, v), hn::Rebind<uint16_t, D>(), reinterpret_cast<uint16_t*>(p));
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

template <class D, class T>
HWY_INLINE void store(D d, hn::Vec<D> v, T* p, NonTemporal) {
  if constexpr (sizeof(T) == sizeof(hn::TFromD<D>)) {
    hn::Stream(v, d, p);
  } else if constexpr (std::is_same_v<T, bfloat16_t> && hn::MaxLanes(D()) >= 8) {
    hn::Stream(to_bf16(d, v), hn::Rebind<uint16_t, D>(), reinterpret_cast<uint16_t*>(p));
  } else {
    store(d, v, p);
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

/// The same for bodies that write vectors at y + i, by non-temporal stores if so wanted: the first
/// vector is then a part of one, where the others would not be aligned.
template <class D, class T, class Body>
HWY_INLINE void for_stores(D d, const T* y, int64_t n, bool non_temporal, Body&& body) {
  if (!non_temporal) return for_vectors(d, n, body);
  const int64_t lanes = int64_t(hn::Lanes(d)), vector = lanes * int64_t(sizeof(T));
  const int64_t past = int64_t(reinterpret_cast<uintptr_t>(y) % uintptr_t(vector));
  int64_t i = past == 0 ? 0 : std::min(n, (vector - past) / int64_t(sizeof(T)));
  if (i > 0) body(0, Tail{size_t(i)});
  for (; i + lanes <= n; i += lanes) body(i, NonTemporal{});
  if (i < n) body(i, Tail{size_t(n - i)});
}

/// n elements of x to y, by non-temporal stores.
template <class T>
HWY_INLINE void copy_non_temporal(const T* x, T* y, int64_t n) {
  using Bits = hwy::UnsignedFromSize<sizeof(T)>;
  const hn::ScalableTag<Bits> d;
  const Bits* from = reinterpret_cast<const Bits*>(x);
  Bits* to = reinterpret_cast<Bits*>(y);
  for_stores(d, to, n, true, [&](int64_t i, auto part) HWY_ATTR {
    if constexpr (std::is_same_v<decltype(part), Tail>)
      std::copy_n(from + i, part.n, to + i);
    else
      hn::Stream(hn::LoadU(d, from + i), d, to + i);
  });
}

/// Prefetches what lies `elements` further on, so that it comes while there is work at hand. It may
/// lie past the end of what there is to read.
template <class T>
HWY_INLINE void prefetch(const T* p, int64_t elements) {
  const auto bytes = uintptr_t(elements) * sizeof(T);
  hwy::Prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + bytes));
}

/// The prefetch distance, in elements: a page. The hardware prefetcher comes later, too late where
/// there is arithmetic on each vector, or several streams.
template <class T>
inline constexpr int64_t kPrefetchDistance = 4096 / int64_t(sizeof(T));
/// The same in one of several passes over a row of `cols`: the other passes find it in L1 or L2, so
/// the next row is prefetched, unless that would evict this one.
template <class T>
HWY_INLINE int64_t row_prefetch_distance(int64_t cols) {
  constexpr int64_t kMaxRow = 65536 / int64_t(sizeof(T));
  return cols <= kMaxRow ? std::max(cols, kPrefetchDistance<T>) : kPrefetchDistance<T>;
}

/// load() of what comes from memory.
template <class D, class T, class Part>
HWY_INLINE hn::Vec<D> load_and_prefetch(D d, const T* p, Part part,
                                        int64_t distance = kPrefetchDistance<T>) {
  prefetch(p, distance);
  return load(d, p, part);
}

/// for_stores for long chains of arithmetic and `count` results at once: body(i, part, put) calls
/// put(j, v) to write v at y[j] + i. Where T is narrower than the lanes, results are computed and
/// rounded in two loops, which the processor overlaps better than one long one.
template <size_t count, class D, class T, class Body>
HWY_INLINE void for_buffered_stores(D d, T* const (&y)[count], int64_t n, bool non_temporal,
                                    Body&& body) {
  constexpr int64_t kChunk = 512;
  using A = hn::TFromD<D>;
  const bool direct = !non_temporal && sizeof(T) == sizeof(A);
  HWY_ALIGN A chunk[count][kChunk];
  int64_t size = 0;
  for (int64_t begin = 0; begin < n; begin += size) {
    const auto misplaced = int64_t(reinterpret_cast<uintptr_t>(y[0] + begin) % 64 / sizeof(T));
    size = std::min(kChunk - misplaced, n - begin);
    for_vectors(d, size, [&](int64_t i, auto part) HWY_ATTR {
      body(begin + i, part, [&](size_t j, hn::Vec<D> v) HWY_ATTR {
        if (sizeof(T) == sizeof(A) && direct)
          store(d, v, y[j] + begin + i, part);
        else
          store(d, v, chunk[j] + i, part);
      });
    });
    for (size_t j = 0; j < count && !direct; ++j)
      for_stores(d, y[j] + begin, size, non_temporal, [&](int64_t i, auto part) HWY_ATTR {
        store(d, load(d, chunk[j] + i, part), y[j] + begin + i, part);
      });
  }
}

/// Ends a range of work: non-temporal stores are not ordered with other stores, so that other
/// threads see them only after a fence.
HWY_INLINE void store_fence(bool non_temporal) {
  if (non_temporal) hwy::FlushStream();
}

/// Joins term(i, part) over i, beginning with `start`, which joins without effect and must stand in
/// the lanes past a tail. Four accumulators keep the processor busy; the order is fixed.
template <class D, class Term, class Join>
HWY_INLINE hn::Vec<D> fold_vectors(D d, int64_t n, hn::Vec<D> start, Term&& term, Join&& join) {
  const int64_t lanes = int64_t(hn::Lanes(d));
  auto a = start, b = a, c = a, e = a;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a = join(a, term(i, Full{}));
    b = join(b, term(i + lanes, Full{}));
    c = join(c, term(i + 2 * lanes, Full{}));
    e = join(e, term(i + 3 * lanes, Full{}));
  }
  for (; i + lanes <= n; i += lanes) a = join(a, term(i, Full{}));
  if (i < n) b = join(b, term(i, Tail{size_t(n - i)}));
  return join(join(a, b), join(c, e));
}

/// Sum over i of term(i, part), a vector whose lanes past a tail must be zero.
template <class D, class Term>
HWY_INLINE hn::TFromD<D> sum_vectors(D d, int64_t n, Term&& term) {
  const auto add = [](auto a, auto b) HWY_ATTR { return hn::Add(a, b); };
  return hn::GetLane(hn::SumOfLanes(d, fold_vectors(d, n, hn::Zero(d), term, add)));
}

/// The largest of n elements; NaN is passed over; -infinity if there are none.
template <class D, class T>
HWY_INLINE hn::TFromD<D> largest(D d, const T* x, int64_t n) {
  const auto lowest = hn::Neg(hn::Inf(d));
  const auto term = [&](int64_t i, auto part)
                        HWY_ATTR { return keep(d, load(d, x + i, part), lowest, part); };
  const auto max = [](auto a, auto b) HWY_ATTR { return hn::Max(b, a); };
  return hn::GetLane(hn::MaxOfLanes(d, fold_vectors(d, n, lowest, term, max)));
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
