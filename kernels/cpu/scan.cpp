// Where inner dimensions follow, vectors run along them: each lane is a running sum of its own.
// Along the last dimension the sum is serial. Threads own columns.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/scan.cpp"
#include <hwy/foreach_target.h>
//
#include <algorithm>

#include <olm/kernels/base/math.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/scan.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

/// One running sum over n elements, `step` apart.
template <class A, class T>
void scan_serial(const T* x, T* y, int64_t n, int64_t step) {
  A sum = A(0);
  for (int64_t j = 0; j < n; ++j) y[j * step] = T(sum += static_cast<A>(x[j * step]));
}

/// `lanes` running sums side by side.
template <class D, class T, class Part>
void scan_lanes(D d, const T* x, T* y, int64_t n, int64_t step, Part part) {
  auto sum = hn::Zero(d);
  for (int64_t j = 0; j < n; ++j) {
    sum = hn::Add(sum, load(d, x + j * step, part));
    store(d, sum, y + j * step, part);
  }
}

template <class T>
void scan(const Cumsum& k) {
  using A = acc_t<T>;
  constexpr int64_t columns = 64;
  const int64_t blocks = ceil_div(k.inner, columns);
  const int64_t work = k.size * std::min(k.inner, columns);
  const int64_t step = k.reverse ? -k.inner : k.inner;
  const int64_t start = k.reverse ? (k.size - 1) * k.inner : 0;
  parallel_for(k.outer * blocks, rows_per_range(work), [&](int64_t begin, int64_t end) {
    const hn::ScalableTag<A> d;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * columns, n = std::min(columns, k.inner - first);
      const int64_t at = task / blocks * k.size * k.inner + first + start;
      const T* x = in<T>(k.x) + at;
      T* y = out<T>(k.y) + at;
      if (k.inner == 1) {
        scan_serial<A>(x, y, k.size, step);
      } else {
        for_vectors(d, n,
                    [&](int64_t i, auto part) { scan_lanes(d, x + i, y + i, k.size, step, part); });
      }
    }
  });
}

void cumsum(const Cumsum& k) {
  visit_float(k.dtype, [&]<class T>() { scan<T>(k); });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
namespace {

HWY_EXPORT(cumsum);

void cumsum_integers(const Cumsum& k) {
  const int64_t step = k.reverse ? -k.inner : k.inner;
  parallel_for(k.outer * k.inner, rows_per_range(k.size), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t at = r / k.inner * k.size * k.inner + r % k.inner;
      if (k.reverse) at += (k.size - 1) * k.inner;
      uint64_t sum = 0;
      for (int64_t j = 0; j < k.size; ++j, at += step)
        out<int64_t>(k.y)[at] = int64_t(sum += uint64_t(in<int64_t>(k.x)[at]));
    }
  });
}

}  // namespace

void run(Cpu, const Cumsum& k) {
  if (k.outer * k.size * k.inner == 0) return;
  if (k.dtype == i64) return cumsum_integers(k);
  HWY_DYNAMIC_DISPATCH(cumsum)(k);
}

}  // namespace olm::kernels
#endif  // HWY_ONCE
