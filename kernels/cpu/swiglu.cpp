// Gated units: x is read once and y written once, both ways; rows are split in ranges.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/swiglu.cpp"
#include <hwy/foreach_target.h>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/activation-inl.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/swiglu.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <Activation Act, class T>
void gate_row(const T* x, T* y, int64_t hidden) {
  const hn::ScalableTag<acc_t<T>> d;
  for_vectors(d, hidden, [&](int64_t i, auto part) HWY_ATTR {
    const auto gate = activate<Act>(d, load(d, x + hidden + i, part));
    store(d, hn::Mul(load(d, x + i, part), gate), y + i, part);
  });
}

template <Activation Act, class T>
void gate_row_backward(const T* dy, const T* x, T* dx, int64_t hidden) {
  const hn::ScalableTag<acc_t<T>> d;
  for_vectors(d, hidden, [&](int64_t i, auto part) HWY_ATTR {
    const auto g = load(d, dy + i, part), value = load(d, x + i, part);
    const auto gate = load(d, x + hidden + i, part);
    store(d, hn::Mul(g, activate<Act>(d, gate)), dx + i, part);
    const auto slope = hn::Mul(value, activate_gradient<Act>(d, gate));
    store(d, hn::Mul(g, slope), dx + hidden + i, part);
  });
}

void swiglu_forward(const SwigluForward& k) {
  const auto rows = [&]<Activation Act, class T>() HWY_ATTR {
    parallel_for(k.rows, rows_per_range(2 * k.hidden), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r)
        gate_row<Act>(row<T>(k.x, r, 2 * k.hidden), row_out<T>(k.y, r, k.hidden), k.hidden);
    });
  };
  visit_activation(k.activation, [&]<Activation Act>() HWY_ATTR {
    visit_float(k.dtype, [&]<class T>() HWY_ATTR { rows.template operator()<Act, T>(); });
  });
}

void swiglu_backward(const SwigluBackward& k) {
  const auto rows = [&]<Activation Act, class T>() HWY_ATTR {
    parallel_for(k.rows, rows_per_range(2 * k.hidden), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r)
        gate_row_backward<Act>(row<T>(k.dy, r, k.hidden), row<T>(k.x, r, 2 * k.hidden),
                               row_out<T>(k.dx, r, 2 * k.hidden), k.hidden);
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
