// RMSNorm. Forward reads a row from memory once and from cache once. Backward takes both gradients
// in one pass: rows are cut into at most 32 fixed blocks, each with its own partial dw; the
// partials are then added in order.
#include <olm/kernels/rms_norm.h>

#include <algorithm>
#include <cmath>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/rms_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

template <class T>
HWY_ATTR void forward_rows(const RMSNormForward& k, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  const A* w = in<A>(k.w);
  for (int64_t r = begin; r < end; ++r) {
    const T* x = row<T>(k.x, r, k.cols);
    T* y = row_out<T>(k.y, r, k.cols);
    const A squares = sum_vectors(d, k.cols, [&](int64_t i, auto part) HWY_ATTR {
      const auto v = load(d, x + i, part);
      return hn::Mul(v, v);
    });
    const A rstd = A(1) / std::sqrt(squares / A(k.cols) + A(k.eps));
    const auto scale = hn::Set(d, rstd);
    for_vectors(d, k.cols, [&](int64_t i, auto part) HWY_ATTR {
      store(d, hn::Mul(hn::Mul(load(d, x + i, part), scale), load(d, w + i, part)), y + i, part);
    });
    out<A>(k.rstd)[r] = rstd;
  }
}

/// One row: dx, and dy · x̂ added to `dw`.
template <class T, class A>
HWY_ATTR void backward_row(const RMSNormBackward& k, int64_t r, A* dw) {
  const hn::ScalableTag<A> d;
  const T *x = row<T>(k.x, r, k.cols), *dy = row<T>(k.dy, r, k.cols);
  const A *w = in<A>(k.w), rstd = in<A>(k.rstd)[r];
  const auto scale = hn::Set(d, rstd);
  if (k.dx) {
    const A dot = sum_vectors(d, k.cols, [&](int64_t i, auto part) HWY_ATTR {
      const auto g = hn::Mul(load(d, dy + i, part), load(d, w + i, part));
      return hn::Mul(g, load(d, x + i, part));
    });
    const auto back = hn::Set(d, dot * rstd * rstd / A(k.cols));
    T* dx = row_out<T>(k.dx, r, k.cols);
    for_vectors(d, k.cols, [&](int64_t i, auto part) HWY_ATTR {
      const auto g = hn::Mul(load(d, dy + i, part), load(d, w + i, part));
      store(d, hn::Mul(scale, hn::NegMulAdd(back, load(d, x + i, part), g)), dx + i, part);
    });
  }
  if (!dw) return;
  for_vectors(d, k.cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto xhat = hn::Mul(load(d, x + i, part), scale);
    store(d, hn::MulAdd(load(d, dy + i, part), xhat, load(d, dw + i, part)), dw + i, part);
  });
}

HWY_ATTR void forward(const RMSNormForward& k, int64_t begin, int64_t end) {
  visit_float(k.dtype, [&]<class T>() { forward_rows<T>(k, begin, end); });
}

/// `partial`: this block's dw in acc_dtype, zeroed, or null.
HWY_ATTR void backward(const RMSNormBackward& k, int64_t begin, int64_t end, void* partial) {
  visit_float(k.dtype, [&]<class T>() {
    for (int64_t r = begin; r < end; ++r) backward_row<T>(k, r, out<acc_t<T>>(partial));
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <olm/kernels/cpu/row_blocks.h>

namespace olm::kernels {
HWY_EXPORT(forward);
HWY_EXPORT(backward);

void run(Cpu, const RMSNormForward& k) {
  parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(forward)(k, begin, end);
  });
}

void run(Cpu, const RMSNormBackward& k) {
  visit_float(k.dtype, [&]<class T>() {
    const ColumnSums<acc_t<T>> dw{.to = out<acc_t<T>>(k.dw), .accumulate = k.accumulate};
    for_row_blocks(k.rows, k.cols, k.stream, dw, [&](int64_t begin, int64_t end, auto* partial) {
      HWY_DYNAMIC_DISPATCH(backward)(k, begin, end, partial);
    });
  });
}

}  // namespace olm::kernels
#endif
