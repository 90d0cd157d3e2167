// Residual add and norm, and the norms alone: each row of x and residual is read once from memory;
// the sum is read again from the cache. Rows are split in ranges; parameters' gradients are summed
// by blocks of rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/add_norm.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <cmath>

#include <olm/kernels/add_norm.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/row_blocks.h>
#include <olm/kernels/cpu/streaming.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// p[i…], or `otherwise` in every lane where there is no p.
template <class D, class A, class Part>
HWY_INLINE hn::Vec<D> load_or(D d, const A* p, int64_t i, A otherwise, Part part) {
  return p ? load(d, p + i, part) : hn::Set(d, otherwise);
}

/// sum[i] = x[i] + residual[i], rounded once.
template <class D, class T>
HWY_INLINE void add_row(D d, const T* x, const T* residual, T* sum, int64_t cols) {
  for_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto v = hn::Add(load_ahead(d, x + i, part), load_ahead(d, residual + i, part));
    store(d, v, sum + i, part);
  });
}

/// Mean (0 unless centered) and reciprocal deviation of a row; the deviations are summed in a
/// second pass, from the cache.
template <bool centered, class D, class T, class A>
HWY_INLINE void row_statistics(D d, const T* x, int64_t cols, double eps, A& mean, A& rstd) {
  mean = 0;
  if constexpr (centered) {
    mean =
        sum_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR { return load(d, x + i, part); }) /
        A(cols);
  }
  const auto center = hn::Set(d, mean);
  const A squares = sum_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto v = keep(d, hn::Sub(load(d, x + i, part), center), hn::Zero(d), part);
    return hn::Mul(v, v);
  });
  rstd = A(1) / std::sqrt(squares / A(cols) + A(eps));
}

template <bool centered, class T>
void norm_forward_rows(const AddNormForward& k, bool stream, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  const A *weight = in<A>(k.weight), *bias = in<A>(k.bias);
  const int64_t ahead = row_ahead<T>(k.cols);
  // A sum that goes past the caches is kept here for the norm.
  const auto kept = k.stream.template scratch<T>(size_t(k.residual && stream ? k.cols : 0));
  for (int64_t r = begin; r < end; ++r) {
    const T* x = row<T>(k.x, r, k.cols);
    if (k.residual) {
      T* sum = stream ? kept.get() : row_out<T>(k.sum, r, k.cols);
      add_row(d, x, row<T>(k.residual, r, k.cols), sum, k.cols);
      x = sum;
    }
    A mean, rstd;
    row_statistics<centered>(d, x, k.cols, k.eps, mean, rstd);
    if constexpr (centered) out<A>(k.mean)[r] = mean;
    out<A>(k.rstd)[r] = rstd;
    const auto center = hn::Set(d, mean), factor = hn::Set(d, rstd);
    T* y = row_out<T>(k.y, r, k.cols);
    for_results(d, y, k.cols, stream, [&](int64_t i, auto part) HWY_ATTR {
      if (!k.residual) fetch_ahead(x + i, ahead);  // else x is the sum, in a cache
      const auto n = hn::Mul(hn::Sub(load(d, x + i, part), center), factor);
      const auto scale = load_or(d, weight, i, A(1), part);
      store(d, hn::MulAdd(n, scale, load_or(d, bias, i, A(0), part)), y + i, part);
    });
    if (x == kept.get()) copy_results(x, row_out<T>(k.sum, r, k.cols), k.cols);
  }
  finish_results(stream);
}

void add_norm_forward(const AddNormForward& k) {
  const bool stream = writes_past_caches(k.dtype, k.rows * k.cols);
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) HWY_ATTR {
      if (k.centered)
        norm_forward_rows<true, T>(k, stream, begin, end);
      else
        norm_forward_rows<false, T>(k, stream, begin, end);
    });
  });
}

/// One row of the gradient; dweight and dbias (either may be null) are added to.
template <bool centered, class T, class A = acc_t<T>>
void norm_backward_row(const AddNormBackward& k, bool stream, int64_t r, A* dweight, A* dbias) {
  const hn::ScalableTag<A> d;
  const T *x = row<T>(k.sum, r, k.cols), *dy = row<T>(k.dy, r, k.cols);
  const A* weight = in<A>(k.weight);
  const A rstd = in<A>(k.rstd)[r];
  const auto center = hn::Set(d, centered ? in<A>(k.mean)[r] : A(0)), factor = hn::Set(d, rstd);
  auto sum_g = hn::Zero(d), sum_gn = hn::Zero(d);
  for_vectors(d, k.cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto n = hn::Mul(hn::Sub(load(d, x + i, part), center), factor);
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
  const T* dsum = k.dsum ? row<T>(k.dsum, r, k.cols) : nullptr;
  T* dx = row_out<T>(k.dx, r, k.cols);
  const int64_t ahead = row_ahead<T>(k.cols);
  for_results(d, dx, k.cols, stream, [&](int64_t i, auto part) HWY_ATTR {
    const auto n = hn::Mul(hn::Sub(load_ahead(d, x + i, part, ahead), center), factor);
    const auto g_out = load_ahead(d, dy + i, part, ahead);
    const auto g = hn::Mul(g_out, load_or(d, weight, i, A(1), part));
    const auto v = hn::NegMulAdd(n, mean_gn, hn::Sub(g, mean_g));
    const auto before = dsum ? load_ahead(d, dsum + i, part) : hn::Zero(d);
    store(d, hn::MulAdd(v, factor, before), dx + i, part);
  });
}

template <bool centered, class T>
void norm_backward_typed(const AddNormBackward& k) {
  using A = acc_t<T>;
  const bool stream = writes_past_caches(k.dtype, k.rows * k.cols);
  const ColumnSums<A> dweight{.to = out<A>(k.dweight), .accumulate = k.accumulate_weight};
  const ColumnSums<A> dbias{.to = out<A>(k.dbias), .accumulate = k.accumulate_bias};
  for_row_blocks(k.rows, k.cols, k.stream, dweight, dbias,
                 [&](int64_t begin, int64_t end, A* weights, A* biases) HWY_ATTR {
                   for (int64_t r = begin; r < end; ++r)
                     norm_backward_row<centered, T>(k, stream, r, weights, biases);
                   finish_results(stream);
                 });
}

void add_norm_backward(const AddNormBackward& k) {
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    if (k.centered)
      norm_backward_typed<true, T>(k);
    else
      norm_backward_typed<false, T>(k);
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(add_norm_forward);
HWY_EXPORT(add_norm_backward);

void run(Cpu, const AddNormForward& k) { HWY_DYNAMIC_DISPATCH(add_norm_forward)(k); }
void run(Cpu, const AddNormBackward& k) { HWY_DYNAMIC_DISPATCH(add_norm_backward)(k); }

}  // namespace olm::kernels
#endif  // HWY_ONCE
