// Softmax over rows: maximum, sum of exponentials, result; one read from memory, the rest from the
// cache. Rows are split in ranges.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/softmax.cpp"
#include <hwy/foreach_target.h>

#include <cmath>
#include <limits>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/math-inl.h>
#include <olm/kernels/cpu/non_temporal.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/softmax.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D, class T, class A = hn::TFromD<D>>
HWY_INLINE void fill_row(D d, A value, T* y, int64_t cols) {
  for_vectors(d, cols,
              [&](int64_t i, auto part) HWY_ATTR { store(d, hn::Set(d, value), y + i, part); });
}

/// Given that the maximum of the row is -inf: fills y with `value`, or with NaN where x has any (a
/// maximum passes over it).
template <class D, class T, class A = hn::TFromD<D>>
HWY_INLINE void fill_empty_row(D d, const T* x, A value, T* y, int64_t cols) {
  const A sum =
      sum_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR { return load(d, x + i, part); });
  fill_row(d, std::isnan(sum) ? sum : value, y, cols);
}

/// `powers` [cols] takes the exponentials, so that each is computed once.
template <class T, class A = acc_t<T>>
void softmax_row(const T* x, T* y, int64_t cols, A* powers, bool non_temporal) {
  const hn::ScalableTag<A> d;
  const A most = largest(d, x, cols);
  if (most == -std::numeric_limits<A>::infinity()) return fill_empty_row(d, x, A(0), y, cols);
  const auto shift = hn::Set(d, most);
  const int64_t distance = row_prefetch_distance<T>(cols);
  const A sum = sum_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto below = hn::Sub(load_and_prefetch(d, x + i, part, distance), shift);
    const auto e = exp_above<accuracy_for<T>>(d, below, kMinNormalExp);
    store(d, e, powers + i, part);
    return keep(d, e, hn::Zero(d), part);
  });
  const auto inverse = hn::Set(d, A(1) / sum);
  for_stores(d, y, cols, non_temporal, [&](int64_t i, auto part) HWY_ATTR {
    store(d, hn::Mul(load(d, powers + i, part), inverse), y + i, part);
  });
}

template <class T>
void log_softmax_row(const T* x, T* y, int64_t cols, bool non_temporal) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  const A most = largest(d, x, cols);
  if (most == -std::numeric_limits<A>::infinity()) return fill_empty_row(d, x, most, y, cols);
  const auto shift = hn::Set(d, most);
  const int64_t distance = row_prefetch_distance<T>(cols);
  const A sum = sum_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto below = hn::Sub(load_and_prefetch(d, x + i, part, distance), shift);
    const auto e = exp_above(d, below, kMinNormalExp);
    return keep(d, e, hn::Zero(d), part);
  });
  const auto log_sum = hn::Set(d, std::log(sum));
  for_stores(d, y, cols, non_temporal, [&](int64_t i, auto part) HWY_ATTR {
    store(d, hn::Sub(hn::Sub(load(d, x + i, part), shift), log_sum), y + i, part);
  });
}

template <class T>
void softmax_row_backward(const T* dy, const T* y, T* dx, int64_t cols, bool non_temporal) {
  const hn::ScalableTag<acc_t<T>> d;
  const auto dot = hn::Set(d, sum_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR {
                             return hn::Mul(load(d, dy + i, part), load(d, y + i, part));
                           }));
  const int64_t distance = row_prefetch_distance<T>(cols);
  for_stores(d, dx, cols, non_temporal, [&](int64_t i, auto part) HWY_ATTR {
    const auto centered = hn::Sub(load_and_prefetch(d, dy + i, part, distance), dot);
    store(d, hn::Mul(load_and_prefetch(d, y + i, part, distance), centered), dx + i, part);
  });
}

template <class T>
void log_softmax_row_backward(const T* dy, const T* y, T* dx, int64_t cols, bool non_temporal) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  if (largest(d, y, cols) == -std::numeric_limits<A>::infinity())
    return fill_empty_row(d, y, A(0), dx, cols);
  const auto sum = hn::Set(d, sum_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR {
                             return load(d, dy + i, part);
                           }));
  const int64_t distance = row_prefetch_distance<T>(cols);
  for_buffered_stores(d, {dx}, cols, non_temporal, [&](int64_t i, auto part, auto put) HWY_ATTR {
    const auto log_probability = load_and_prefetch(d, y + i, part, distance);
    const auto probability = exp_above<accuracy_for<T>>(d, log_probability, kMinNormalExp);
    put(0, hn::NegMulAdd(probability, sum, load_and_prefetch(d, dy + i, part, distance)));
  });
}

void softmax_forward(const SoftmaxForward& k) {
  const bool non_temporal = uses_non_temporal_stores(k.dtype, k.rows * k.cols);
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) HWY_ATTR {
      const auto powers = k.stream.template scratch<acc_t<T>>(size_t(k.log ? 0 : k.cols));
      for (int64_t r = begin; r < end; ++r) {
        const T* x = row<T>(k.x, r, k.cols);
        T* y = row_out<T>(k.y, r, k.cols);
        if (k.log)
          log_softmax_row(x, y, k.cols, non_temporal);
        else
          softmax_row(x, y, k.cols, powers.get(), non_temporal);
      }
      store_fence(non_temporal);
    });
  });
}

void softmax_backward(const SoftmaxBackward& k) {
  const bool non_temporal = uses_non_temporal_stores(k.dtype, k.rows * k.cols);
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r) {
        const T *dy = row<T>(k.dy, r, k.cols), *y = row<T>(k.y, r, k.cols);
        T* dx = row_out<T>(k.dx, r, k.cols);
        if (k.log)
          log_softmax_row_backward(dy, y, dx, k.cols, non_temporal);
        else
          softmax_row_backward(dy, y, dx, k.cols, non_temporal);
      }
      store_fence(non_temporal);
    });
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(softmax_forward);
HWY_EXPORT(softmax_backward);

void run(Cpu, const SoftmaxForward& k) { HWY_DYNAMIC_DISPATCH(softmax_forward)(k); }
void run(Cpu, const SoftmaxBackward& k) { HWY_DYNAMIC_DISPATCH(softmax_backward)(k); }

}  // namespace olm::kernels
#endif  // HWY_ONCE
