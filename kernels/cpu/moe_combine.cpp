// Threads own tokens, so sums have the order of k. Memory bound: each row is read once from memory
// (in backward dy[n] stays in L1 for its top_k rows) and written once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/moe_combine.cpp"
#include <hwy/foreach_target.h>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/non_temporal.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/moe_combine.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T, class A = acc_t<T>>
void combine_token(const MoECombine& k, int64_t n, bool non_temporal) {
  const hn::ScalableTag<A> d;
  const int32_t* positions = k.positions + n * k.top_k;
  const A* weights = k.weights ? row<A>(k.weights, n, k.top_k) : nullptr;
  const T* residual = k.residual ? row<T>(k.residual, n, k.cols) : nullptr;
  T* y = row_out<T>(k.y, n, k.cols);
  for_stores(d, y, k.cols, non_temporal, [&](int64_t i, auto part) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (int64_t j = 0; j < k.top_k; ++j) {
      const auto x = load(d, row<T>(k.x, positions[j], k.cols) + i, part);
      sum = weights ? hn::MulAdd(hn::Set(d, weights[j]), x, sum) : hn::Add(sum, x);
    }
    if (residual) sum = hn::Add(sum, load(d, residual + i, part));
    store(d, sum, y + i, part);
  });
}

template <class T, class A = acc_t<T>>
void backward_token(const MoECombineBackward& k, int64_t n, bool non_temporal) {
  const hn::ScalableTag<A> d;
  const T* dy = row<T>(k.dy, n, k.cols);
  for (int64_t p = n * k.top_k; p < (n + 1) * k.top_k; ++p) {
    const int64_t position = k.positions[p];
    if (k.dweights) {
      const T* x = row<T>(k.x, position, k.cols);
      out<A>(k.dweights)[p] = sum_vectors(d, k.cols, [&](int64_t i, auto part) HWY_ATTR {
        return hn::Mul(load(d, x + i, part), load(d, dy + i, part));
      });
    }
    if (!k.dx) continue;
    const auto weight = hn::Set(d, in<A>(k.weights)[p]);
    T* dx = row_out<T>(k.dx, position, k.cols);
    for_stores(d, dx, k.cols, non_temporal, [&](int64_t i, auto part) HWY_ATTR {
      store(d, hn::Mul(weight, load(d, dy + i, part)), dx + i, part);
    });
  }
}

void moe_combine(const MoECombine& k) {
  const bool non_temporal = uses_non_temporal_stores(k.dtype, k.tokens * k.cols);
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    parallel_for(k.tokens, rows_per_range(k.top_k * k.cols), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) combine_token<T>(k, n, non_temporal);
      store_fence(non_temporal);
    });
  });
}

void moe_combine_backward(const MoECombineBackward& k) {
  const bool non_temporal = uses_non_temporal_stores(k.dtype, k.tokens * k.top_k * k.cols);
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    parallel_for(k.tokens, rows_per_range(k.top_k * k.cols), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) backward_token<T>(k, n, non_temporal);
      store_fence(non_temporal);
    });
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <olm/kernels/cpu/check_indices.h>

namespace olm::kernels {
HWY_EXPORT(moe_combine);
HWY_EXPORT(moe_combine_backward);

void run(Cpu, const MoECombine& k) {
  check_indices(k.name, i32, k.positions, k.tokens * k.top_k, k.tokens * k.top_k);
  HWY_DYNAMIC_DISPATCH(moe_combine)(k);
}
void run(Cpu, const MoECombineBackward& k) {
  check_indices(k.name, i32, k.positions, k.tokens * k.top_k, k.tokens * k.top_k);
  HWY_DYNAMIC_DISPATCH(moe_combine_backward)(k);
}

}  // namespace olm::kernels
#endif  // HWY_ONCE
