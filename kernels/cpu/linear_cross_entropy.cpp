// Chunks of logits, from one GEMM to the next: each row passes through the cache once. Rows are
// split in ranges.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/linear_cross_entropy.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>

#include <olm/kernels/base/math.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/activation-inl.h>
#include <olm/kernels/cpu/cross_entropy-inl.h>
#include <olm/kernels/cpu/targets.h>
#include <olm/kernels/linear_cross_entropy.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// x = cap · tanh(x / cap).
template <class A>
void softcap_row(A* x, int64_t cols, A cap) {
  const hn::ScalableTag<A> d;
  const auto scale = hn::Set(d, cap), inverse = hn::Set(d, 1 / cap);
  for_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR {
    const auto t = activate<Activation::tanh, A>(d, hn::Mul(load(d, x + i, part), inverse));
    store(d, hn::Mul(t, scale), x + i, part);
  });
}

template <class T>
void chunk_row(const CrossEntropyChunk& k, int64_t r, int64_t target) {
  using A = acc_t<T>;
  A* x = row_out<A>(k.logits, r, row_stride(k.logits_stride, k.cols));
  T* dx = k.dlogits ? row_out<T>(k.dlogits, r, row_stride(k.dlogits_stride, k.cols)) : nullptr;
  A& loss = out<A>(k.losses)[r];
  if (target == k.terms.ignore_index) {
    loss = 0;
    if (dx) std::fill_n(dx, k.cols, T());
    return;
  }
  const A cap = A(k.softcap);
  if (cap > 0) softcap_row(x, k.cols, cap);
  RowLse<A> lse;
  loss = cross_entropy_row(x, k.cols, target, k.terms, lse);
  if (dx) cross_entropy_row_backward(x, k.cols, target, k.terms, lse, *in<A>(k.scale), cap, dx);
}

void cross_entropy_chunk(const CrossEntropyChunk& k) {
  const Targets targets{k.targets, k.target_dtype};
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r) chunk_row<T>(k, r, targets[r]);
    });
  });
}

void scale_gradient(const ScaleGradient& k) {
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    using A = acc_t<T>;
    if (k.y == k.x && !k.accumulate && *in<A>(k.factor) == A(1)) return;
    const hn::ScalableTag<A> d;
    const auto factor = hn::Set(d, *in<A>(k.factor));
    parallel_for(k.n, 16384, [&](int64_t begin, int64_t end) HWY_ATTR {
      const A* x = in<A>(k.x) + begin;
      T* y = out<T>(k.y) + begin;
      for_vectors(d, end - begin, [&](int64_t i, auto part) HWY_ATTR {
        const auto before = k.accumulate ? load(d, y + i, part) : hn::Zero(d);
        store(d, hn::MulAdd(load(d, x + i, part), factor, before), y + i, part);
      });
    });
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(cross_entropy_chunk);
HWY_EXPORT(scale_gradient);

void run(Cpu, const CrossEntropyChunk& k) { HWY_DYNAMIC_DISPATCH(cross_entropy_chunk)(k); }
void run(Cpu, const ScaleGradient& k) { HWY_DYNAMIC_DISPATCH(scale_gradient)(k); }

}  // namespace olm::kernels
#endif  // HWY_ONCE
