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
    store(d, hn::Add(load(d, x + i, part), load(d, residual + i, part)), sum + i, part);
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
void norm_forward_rows(const AddNormForward& k, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  const A *weight = in<A>(k.weight), *bias = in<A>(k.bias);
  for (int64_t r = begin; r < end; ++r) {
    const T* x = row<T>(k.x, r, k.cols);
    if (k.residual) {
      T* sum = row_out<T>(k.sum, r, k.cols);
      add_row(d, x, row<T>(k.residual, r, k.cols), sum, k.cols);
      x = sum;
    }
    A mean, rstd;
    row_statistics<centered>(d, x, k.cols, k.eps, mean, rstd);
    if constexpr (centered) out<A>(k.mean)[r] = mean;
    out<A>(k.rstd)[r] = rstd;
    const auto center = hn::Set(d, mean), factor = hn::Set(d, rstd);
    T* y = row_out<T>(k.y, r, k.cols);
    for_vectors(d, k.cols, [&](int64_t i, auto part) HWY_ATTR {
      const auto n = hn::Mul(hn::Sub(load(d, x + i, part), center), factor);
      const auto scale = load_or(d, weight, i, A(1), part);
      store(d, hn::MulAdd(n, scale, load_or(d, bias, i, A(0), part)), y + i, part);
    });
  }
}

void add_norm_forward(const AddNormForward& k) {
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) HWY_ATTR {
      if (k.centered)
        norm_forward_rows<true, T>(k, begin, end);
      else
        norm_forward_rows<false, T>(k, begin, end);
    });
  });
}

/// One row of the gradient; dweight and dbias (either may be null) are added to.
template <bool centered, class T, class A = acc_t<T>>
void norm_backward_row(const AddNormBackward& k, int64_t r, A* dweight, A* dbias) {
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
  for_vectors(d, k.cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto n = hn::Mul(hn::Sub(load(d, x + i, part), center), factor);
    const auto g = hn::Mul(load(d, dy + i, part), load_or(d, weight, i, A(1), part));
    const auto v = hn::NegMulAdd(n, mean_gn, hn::Sub(g, mean_g));
    const auto before = dsum ? load(d, dsum + i, part) : hn::Zero(d);
    store(d, hn::MulAdd(v, factor, before), dx + i, part);
  });
}

/// total[c] (+)= Σ_b partial[b,c] in the order of b.
template <class A>
void sum_blocks(const A* partial, int64_t blocks, int64_t cols, A* total, bool accumulate) {
  if (!total) return;
  const hn::ScalableTag<A> d;
  parallel_for(cols, 1024, [&](int64_t begin, int64_t end) HWY_ATTR {
    for_vectors(d, end - begin, [&](int64_t i, auto part) HWY_ATTR {
      const int64_t c = begin + i;
      auto sum = accumulate ? load(d, total + c, part) : hn::Zero(d);
      for (int64_t b = 0; b < blocks; ++b)
        sum = hn::Add(sum, load(d, partial + b * cols + c, part));
      store(d, sum, total + c, part);
    });
  });
}

/// Rows come in at most 32 blocks, each with its own sums for the parameters' gradients.
template <bool centered, class T>
void norm_backward_typed(const AddNormBackward& k) {
  using A = acc_t<T>;
  const int64_t grain = std::max(rows_per_range(k.cols), (k.rows + 31) / 32);
  const int64_t blocks = k.rows > 0 ? (k.rows + grain - 1) / grain : 0;
  const auto weights = k.stream.template scratch<A>(size_t(k.dweight ? blocks * k.cols : 0));
  const auto biases = k.stream.template scratch<A>(size_t(k.dbias ? blocks * k.cols : 0));
  parallel_for(k.rows, grain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const int64_t at = begin / grain * k.cols;
    A* dweight = k.dweight ? weights.get() + at : nullptr;
    A* dbias = k.dbias ? biases.get() + at : nullptr;
    if (dweight) std::fill_n(dweight, k.cols, A(0));
    if (dbias) std::fill_n(dbias, k.cols, A(0));
    for (int64_t r = begin; r < end; ++r) norm_backward_row<centered, T>(k, r, dweight, dbias);
  });
  sum_blocks(weights.get(), blocks, k.cols, out<A>(k.dweight), k.accumulate_weight);
  sum_blocks(biases.get(), blocks, k.cols, out<A>(k.dbias), k.accumulate_bias);
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
