// Gated linear units: y = value · act(gate), the activation a constant of each loop. One pass, both
// ways: each tensor is read once from memory, one row ahead of its use by prefetching (a value and
// its gate are two streams), and written once. bf16 and f16 results pass through a chunk in L1,
// since computing and rounding overlap better in two loops than in one. Rows are split into ranges.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/gated.cpp"
#include <hwy/foreach_target.h>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/activation-inl.h>
#include <olm/kernels/cpu/non_temporal.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/gated.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <Activation act, class T>
void forward_row(const GatedForward& k, bool non_temporal, int64_t r) {
  const hn::ScalableTag<acc_t<T>> d;
  const T* x = row<T>(k.x, r, 2 * k.hidden);
  T* y = row_out<T>(k.y, r, k.hidden);
  const int64_t distance = row_prefetch_distance<T>(2 * k.hidden);
  for_buffered_stores(d, {y}, k.hidden, non_temporal, [&](int64_t i, auto part, auto put) HWY_ATTR {
    const auto gate = load_and_prefetch(d, x + k.hidden + i, part, distance);
    const auto activated = activate<act, T>(d, gate);
    put(0, hn::Mul(load_and_prefetch(d, x + i, part, distance), activated));
  });
}

template <Activation act, class T>
void backward_row(const GatedBackward& k, bool non_temporal, int64_t r) {
  const hn::ScalableTag<acc_t<T>> d;
  const T *x = row<T>(k.x, r, 2 * k.hidden), *dy = row<T>(k.dy, r, k.hidden);
  T* dx = row_out<T>(k.dx, r, 2 * k.hidden);
  const int64_t distance = row_prefetch_distance<T>(2 * k.hidden);
  for_buffered_stores(d, {dx, dx + k.hidden}, k.hidden, non_temporal,
                      [&](int64_t i, auto part, auto put) HWY_ATTR {
                        const auto g = load_and_prefetch(d, dy + i, part);
                        const auto value = load_and_prefetch(d, x + i, part, distance);
                        const auto gate = load_and_prefetch(d, x + k.hidden + i, part, distance);
                        put(0, hn::Mul(g, activate<act, T>(d, gate)));
                        put(1, hn::Mul(g, hn::Mul(value, activate_gradient<act, T>(d, gate))));
                      });
}

/// Calls row.template operator()<act, T>(r) for every row, in ranges.
template <class Kernel, class Row>
void for_rows(const Kernel& k, bool non_temporal, Row&& row) {
  visit_activation(k.activation, [&]<Activation act>() HWY_ATTR {
    visit_float(k.dtype, [&]<class T>() HWY_ATTR {
      parallel_for(k.rows, rows_per_range(2 * k.hidden), [&](int64_t begin, int64_t end) HWY_ATTR {
        for (int64_t r = begin; r < end; ++r) row.template operator()<act, T>(r);
        store_fence(non_temporal);
      });
    });
  });
}

void gated_forward(const GatedForward& k) {
  const bool non_temporal = uses_non_temporal_stores(k.dtype, k.rows * k.hidden);
  for_rows(k, non_temporal, [&]<Activation act, class T>(int64_t r) HWY_ATTR {
    forward_row<act, T>(k, non_temporal, r);
  });
}

void gated_backward(const GatedBackward& k) {
  const bool non_temporal = uses_non_temporal_stores(k.dtype, 2 * k.rows * k.hidden);
  for_rows(k, non_temporal, [&]<Activation act, class T>(int64_t r) HWY_ATTR {
    backward_row<act, T>(k, non_temporal, r);
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(gated_forward);
HWY_EXPORT(gated_backward);

void run(Cpu, const GatedForward& k) { HWY_DYNAMIC_DISPATCH(gated_forward)(k); }
void run(Cpu, const GatedBackward& k) { HWY_DYNAMIC_DISPATCH(gated_backward)(k); }

}  // namespace olm::kernels
#endif  // HWY_ONCE
