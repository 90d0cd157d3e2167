// Gated units: x is read once and y written once, both ways; rows are split in ranges.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/swiglu.cpp"
#include <hwy/foreach_target.h>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/activation-inl.h>
#include <olm/kernels/cpu/streaming.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/swiglu.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <Activation Act, class T>
void gate_row(const T* x, T* y, int64_t hidden, bool stream) {
  const hn::ScalableTag<acc_t<T>> d;
  const int64_t ahead = row_ahead<T>(2 * hidden);
  for_computed(d, {y}, hidden, stream, [&](int64_t i, auto part, auto put) HWY_ATTR {
    const auto gate = activate<Act, T>(d, load_ahead(d, x + hidden + i, part, ahead));
    put(0, hn::Mul(load_ahead(d, x + i, part, ahead), gate));
  });
}

template <Activation Act, class T>
void gate_row_backward(const T* dy, const T* x, T* dx, int64_t hidden, bool stream) {
  const hn::ScalableTag<acc_t<T>> d;
  const int64_t ahead = row_ahead<T>(2 * hidden);
  for_computed(d, {dx, dx + hidden}, hidden, stream, [&](int64_t i, auto part, auto put) HWY_ATTR {
    const auto g = load_ahead(d, dy + i, part), value = load_ahead(d, x + i, part, ahead);
    const auto gate = load_ahead(d, x + hidden + i, part, ahead);
    put(0, hn::Mul(g, activate<Act, T>(d, gate)));
    put(1, hn::Mul(g, hn::Mul(value, activate_gradient<Act, T>(d, gate))));
  });
}

void swiglu_forward(const SwigluForward& k) {
  const bool stream = writes_past_caches(k.dtype, k.rows * k.hidden);
  const auto rows = [&]<Activation Act, class T>() HWY_ATTR {
    parallel_for(k.rows, rows_per_range(2 * k.hidden), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r)
        gate_row<Act>(row<T>(k.x, r, 2 * k.hidden), row_out<T>(k.y, r, k.hidden), k.hidden, stream);
      finish_results(stream);
    });
  };
  visit_activation(k.activation, [&]<Activation Act>() HWY_ATTR {
    visit_float(k.dtype, [&]<class T>() HWY_ATTR { rows.template operator()<Act, T>(); });
  });
}

void swiglu_backward(const SwigluBackward& k) {
  const bool stream = writes_past_caches(k.dtype, 2 * k.rows * k.hidden);
  const auto rows = [&]<Activation Act, class T>() HWY_ATTR {
    parallel_for(k.rows, rows_per_range(2 * k.hidden), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r)
        gate_row_backward<Act>(row<T>(k.dy, r, k.hidden), row<T>(k.x, r, 2 * k.hidden),
                               row_out<T>(k.dx, r, 2 * k.hidden), k.hidden, stream);
      finish_results(stream);
    });
  };
  visit_activation(k.activation, [&]<Activation Act>() HWY_ATTR {
    visit_float(k.dtype, [&]<class T>() HWY_ATTR { rows.template operator()<Act, T>(); });
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(swiglu_forward);
HWY_EXPORT(swiglu_backward);

void run(Cpu, const SwigluForward& k) { HWY_DYNAMIC_DISPATCH(swiglu_forward)(k); }
void run(Cpu, const SwigluBackward& k) { HWY_DYNAMIC_DISPATCH(swiglu_backward)(k); }

}  // namespace olm::kernels
#endif  // HWY_ONCE
