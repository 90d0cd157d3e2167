// RMSNorm and LayerNorm of s = x, or of s = x + delta:
//   y = (s - mean) · rstd · weight + bias      rstd = 1 / sqrt(mean_c (s - mean)² + eps)
// Bound by memory: each tensor is read once from memory and written once. What later passes over a
// row read comes from L1 for rows of a few thousand columns, from L2 for longer ones.
//   forward   1. s = x + delta: x and delta from memory; s to memory or, where results are stored
//                non-temporally, first to a scratch row. Without delta there is no such pass
//             2. LayerNorm: the mean. s from L1 (x from memory, where there is no delta)
//             3. the squared deviations. s from L1 (RMSNorm without delta: x from memory)
//             4. y: s from L1, y to memory; without delta the next row is prefetched
//   backward  1. mean_c g, mean_c (g · n), the row's part of dweight and dbias: s and dy from
//                memory, prefetched during the row before; partial sums [cols] in L1
//             2. dx: s and dy from L1, ds from memory, dx to memory; the next row is prefetched
// The deviations have a pass of their own because mean(s²) - mean(s)² cancels. Forward splits rows
// into ranges; backward into at most 32 blocks, whose parts of dweight and dbias are added in
// order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/norm.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <cmath>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/non_temporal.h>
#include <olm/kernels/cpu/row_blocks.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/norm.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// p[i…], or `otherwise` in every lane where there is no p.
template <class D, class A, class Part>
HWY_INLINE hn::Vec<D> load_or(D d, const A* p, int64_t i, A otherwise, Part part) {
  return p ? load(d, p + i, part) : hn::Set(d, otherwise);
}

/// s[i] = x[i] + delta[i], rounded once.
template <class D, class T>
HWY_INLINE void add_row(D d, const T* x, const T* delta, T* s, int64_t cols) {
  for_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto v =
        hn::Add(load_and_prefetch(d, x + i, part), load_and_prefetch(d, delta + i, part));
    store(d, v, s + i, part);
  });
}

/// Mean (0 for RMSNorm) and reciprocal deviation of a row.
template <NormKind kind, class D, class T, class A>
HWY_INLINE void row_statistics(D d, const T* s, int64_t cols, double eps, A& mean, A& rstd) {
  mean = 0;
  if constexpr (kind == NormKind::layer) {
    mean =
        sum_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR { return load(d, s + i, part); }) /
        A(cols);
  }
  const auto center = hn::Set(d, mean);
  const A squares = sum_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto v = keep(d, hn::Sub(load(d, s + i, part), center), hn::Zero(d), part);
    return hn::Mul(v, v);
  });
  rstd = A(1) / std::sqrt(squares / A(cols) + A(eps));
}

template <NormKind kind, class T>
void forward_rows(const NormForward& k, bool non_temporal, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  const A *weight = in<A>(k.weight), *bias = in<A>(k.bias);
  const int64_t distance = row_prefetch_distance<T>(k.cols);
  // A row of s that is stored non-temporally is in no cache, so the norm reads this copy.
  const auto cached = k.stream.template scratch<T>(size_t(k.delta && non_temporal ? k.cols : 0));
  for (int64_t r = begin; r < end; ++r) {
    const T* s = row<T>(k.x, r, k.cols);
    if (k.delta) {
      T* sum = non_temporal ? cached.get() : row_out<T>(k.s, r, k.cols);
      add_row(d, s, row<T>(k.delta, r, k.cols), sum, k.cols);
      s = sum;
    }
    A mean, rstd;
    row_statistics<kind>(d, s, k.cols, k.eps, mean, rstd);
    if constexpr (kind == NormKind::layer) out<A>(k.mean)[r] = mean;
    out<A>(k.rstd)[r] = rstd;
    const auto center = hn::Set(d, mean), factor = hn::Set(d, rstd);
    T* y = row_out<T>(k.y, r, k.cols);
    for_stores(d, y, k.cols, non_temporal, [&](int64_t i, auto part) HWY_ATTR {
      if (!k.delta) prefetch(s + i, distance);
      const auto n = hn::Mul(hn::Sub(load(d, s + i, part), center), factor);
      const auto scale = load_or(d, weight, i, A(1), part);
      store(d, hn::MulAdd(n, scale, load_or(d, bias, i, A(0), part)), y + i, part);
    });
    if (s == cached.get()) copy_non_temporal(s, row_out<T>(k.s, r, k.cols), k.cols);
  }
  store_fence(non_temporal);
}

void norm_forward(const NormForward& k) {
  const bool non_temporal = uses_non_temporal_stores(k.dtype, k.rows * k.cols);
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) HWY_ATTR {
      if (k.kind == NormKind::layer)
        forward_rows<NormKind::layer, T>(k, non_temporal, begin, end);
      else
        forward_rows<NormKind::rms, T>(k, non_temporal, begin, end);
    });
  });
}

/// One row of the gradient; dweight and dbias (either may be null) are added to.
template <NormKind kind, class T, class A = acc_t<T>>
void backward_row(const NormBackward& k, bool non_temporal, int64_t r, A* dweight, A* dbias) {
  constexpr bool centered = kind == NormKind::layer;
  const hn::ScalableTag<A> d;
  const T *s = row<T>(k.s, r, k.cols), *dy = row<T>(k.dy, r, k.cols);
  const A* weight = in<A>(k.weight);
  // One number is its own mean, so no change of it changes y: a factor of 0 takes away what the
  // rounding of g - mean_c g would leave.
  const A rstd = centered && k.cols == 1 ? A(0) : in<A>(k.rstd)[r];
  const auto center = hn::Set(d, centered ? in<A>(k.mean)[r] : A(0)), factor = hn::Set(d, rstd);
  auto sum_g = hn::Zero(d), sum_gn = hn::Zero(d);
  for_vectors(d, k.cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto n = hn::Mul(hn::Sub(load(d, s + i, part), center), factor);
    const auto g_out = load(d, dy + i, part);  // zero past a tail, so the sums are right
    const auto g = hn::Mul(g_out, load_or(d, weight, i, A(1), part));
    if constexpr (centered) sum_g = hn::Add(sum_g, g);
    sum_gn = hn::MulAdd(g, n, sum_gn);
    if (dweight) store(d, hn::MulAdd(g_out, n, load(d, dweight + i, part)), dweight + i, part);
    if (dbias) store(d, hn::Add(g_out, load(d, dbias + i, part)), dbias + i, part);
  });
  if (!k.dx) return;
  const A inverse = A(1) / A(k.cols);
  const auto mean_g = hn::Set(d, hn::GetLane(hn::SumOfLanes(d, sum_g)) * inverse);
  const auto mean_gn = hn::Set(d, hn::GetLane(hn::SumOfLanes(d, sum_gn)) * inverse);
  const T* ds = k.ds ? row<T>(k.ds, r, k.cols) : nullptr;
  T* dx = row_out<T>(k.dx, r, k.cols);
  const int64_t distance = row_prefetch_distance<T>(k.cols);
  for_stores(d, dx, k.cols, non_temporal, [&](int64_t i, auto part) HWY_ATTR {
    const auto n = hn::Mul(hn::Sub(load_and_prefetch(d, s + i, part, distance), center), factor);
    const auto g_out = load_and_prefetch(d, dy + i, part, distance);
    const auto g = hn::Mul(g_out, load_or(d, weight, i, A(1), part));
    const auto v = hn::NegMulAdd(n, mean_gn, hn::Sub(g, mean_g));
    const auto before = ds ? load_and_prefetch(d, ds + i, part) : hn::Zero(d);
    store(d, hn::MulAdd(v, factor, before), dx + i, part);
  });
}

template <NormKind kind, class T>
void backward_rows(const NormBackward& k) {
  using A = acc_t<T>;
  const bool non_temporal = uses_non_temporal_stores(k.dtype, k.rows * k.cols);
  const ColumnSums<A> dweight{.to = out<A>(k.dweight), .accumulate = k.accumulate_weight};
  const ColumnSums<A> dbias{.to = out<A>(k.dbias), .accumulate = k.accumulate_bias};
  for_row_blocks(k.rows, k.cols, k.stream, dweight, dbias,
                 [&](int64_t begin, int64_t end, A* weights, A* biases) HWY_ATTR {
                   for (int64_t r = begin; r < end; ++r)
                     backward_row<kind, T>(k, non_temporal, r, weights, biases);
                   store_fence(non_temporal);
                 });
}

void norm_backward(const NormBackward& k) {
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    if (k.kind == NormKind::layer)
      backward_rows<NormKind::layer, T>(k);
    else
      backward_rows<NormKind::rms, T>(k);
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(norm_forward);
HWY_EXPORT(norm_backward);

void run(Cpu, const NormForward& k) { HWY_DYNAMIC_DISPATCH(norm_forward)(k); }
void run(Cpu, const NormBackward& k) { HWY_DYNAMIC_DISPATCH(norm_backward)(k); }

}  // namespace olm::kernels
#endif  // HWY_ONCE
