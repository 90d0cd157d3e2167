// GEMM of few rows of A with a B that is stored transposed, one row per column of C, as a model
// that continues a text one token at a time asks for: y = x · Wᵀ. An element of B takes
// part in m FMAs only, so that the time is that of reading B: once, unpacked, four of its rows at a
// time, each against all rows of A, which stay in L1 or L2. An element of C is one sum over all of
// K, so that results do not depend on the number of threads.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/gemm/small_m.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/gemm/small_m.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using gemm::Problem;

// Rows of B that are read together; with at most four rows of A beside them 16 chains of sums, more
// than hide the latency of FMA, for 8 loads.
constexpr int64_t kRowsOfB = 4;

/// y[r, j] = a_r · b_j for R rows of A and four of B.
template <int R, class T>
HWY_INLINE void dot_products(const float* a, int64_t lda, const T* const (&b)[kRowsOfB], int64_t k,
                             float* y, int64_t ldy) {
  const hn::ScalableTag<float> d;
  hn::Vec<decltype(d)> sum[R][kRowsOfB];
  for (auto& row : sum)
    for (auto& s : row) s = hn::Zero(d);
  for_vectors(d, k, [&](int64_t i, auto part) HWY_ATTR {
    for (int64_t j = 0; j < kRowsOfB; ++j) {
      const auto bj = load(d, b[j] + i, part);
      for (int64_t r = 0; r < R; ++r)
        sum[r][j] = hn::MulAdd(load(d, a + r * lda + i, part), bj, sum[r][j]);
    }
  });
  for (int64_t r = 0; r < R; ++r)
    for (int64_t j = 0; j < kRowsOfB; ++j)
      y[r * ldy + j] = hn::GetLane(hn::SumOfLanes(d, sum[r][j]));
}

/// Columns [begin, end) of the sums into y [m, …] with rows of `ldy`, which may run on to a
/// multiple of kRowsOfB: where fewer rows of B are left the last one is taken again.
template <class T>
void columns_of(const Problem& p, const float* a, int64_t begin, int64_t end, float* y,
                int64_t ldy) {
  for (int64_t j = begin; j < end; j += kRowsOfB, y += kRowsOfB) {
    const T* b[kRowsOfB];
    for (int64_t i = 0; i < kRowsOfB; ++i)
      b[i] = in<T>(p.b.data) + std::min(j + i, end - 1) * p.b.ld;
    int64_t r = 0;
    for (; r + 4 <= p.m; r += 4) dot_products<4>(a + r * p.k, p.k, b, p.k, y + r * ldy, ldy);
    for (; r + 2 <= p.m; r += 2) dot_products<2>(a + r * p.k, p.k, b, p.k, y + r * ldy, ldy);
    if (r < p.m) dot_products<1>(a + r * p.k, p.k, b, p.k, y + r * ldy, ldy);
  }
}

void small_m_columns(const Problem& p, const float* a, int64_t begin, int64_t end, float* y,
                     int64_t ldy) {
  visit_float(p.b.dtype, [&]<class T>() HWY_ATTR {
    if constexpr (sizeof(acc_t<T>) == sizeof(float)) columns_of<T>(p, a, begin, end, y, ldy);
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <olm/kernels/base/math.h>

namespace olm::kernels::gemm {
namespace {
/// Rows of A up to which reading B unpacked is the faster way.
constexpr int64_t kMaxSmallM = 7;
/// Elements of B that a task reads: tens of microseconds.
constexpr int64_t kTaskElements = 32768;
}  // namespace

HWY_EXPORT(small_m_columns);

bool is_small_m(const Problem& p) {
  return p.m <= kMaxSmallM && p.k > 0 && !p.a.transposed && p.b.transposed && p.a.dtype != f64;
}

void run_small_m(const Problem& p, const Stream& stream) {
  const bool tight = p.a.dtype == f32 && (p.a.ld == p.k || p.m == 1);
  const Scratch<float> wide = stream.scratch<float>(size_t(tight ? 0 : p.m * p.k));
  if (!tight) widen(p.a.dtype, p.a.data, p.a.ld, wide, p.m, p.k);
  const float* a = tight ? in<float>(p.a.data) : wide.get();
  const int64_t grain = round_up(rows_per_range(p.k, kTaskElements), 4);
  parallel_for(p.n, grain, [&](int64_t begin, int64_t end) {
    const Scratch<float> sums = stream.scratch<float>(size_t(p.m * grain));
    HWY_DYNAMIC_DISPATCH(small_m_columns)(p, a, begin, end, sums, grain);
    if (p.alpha != 1)
      for (int64_t i = 0; i < p.m * grain; ++i) sums[i] *= float(p.alpha);
    apply(p.epilogue.at(0, begin),
          {.data = sums.get(), .ld = grain, .rows = p.m, .cols = end - begin});
  });
}

}  // namespace olm::kernels::gemm
#endif  // HWY_ONCE
