// Cross-entropy: rows of logits are read once from memory forward, and once backward. Rows are
// split in ranges; their losses are summed in f64, in order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/cross_entropy.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/cross_entropy-inl.h>
#include <olm/kernels/cpu/targets.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void cross_entropy_forward(const CrossEntropyForward& k, const Targets& targets) {
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    using A = acc_t<T>;
    parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r) {
        A loss = 0, logsumexp = 0;
        if (const int64_t t = targets[r]; t != k.terms.ignore_index)
          loss = cross_entropy_row(row<T>(k.logits, r, k.cols), k.cols, t, k.terms, logsumexp);
        out<A>(k.losses)[r] = loss;
        out<A>(k.logsumexp)[r] = logsumexp;
      }
    });
  });
}

void cross_entropy_backward(const CrossEntropyBackward& k, const Targets& targets) {
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    using A = acc_t<T>;
    const A scale = k.scale ? *in<A>(k.scale) : A(1);
    parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r) {
        T* dlogits = row_out<T>(k.dlogits, r, k.cols);
        const A dy = in<A>(k.dy)[k.one_dy ? 0 : r] * scale;
        if (const int64_t t = targets[r]; t == k.terms.ignore_index)
          std::fill_n(dlogits, k.cols, T());
        else
          cross_entropy_row_backward(row<T>(k.logits, r, k.cols), k.cols, t, k.terms,
                                     in<A>(k.logsumexp)[r], dy, A(0), dlogits);
      }
    });
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(cross_entropy_forward);
HWY_EXPORT(cross_entropy_backward);

namespace {
template <class A>
void reduce_losses(const CrossEntropyForward& k, int64_t valid) {
  double sum = 0;
  for (int64_t r = 0; r < k.rows; ++r) sum += double(in<A>(k.losses)[r]);
  const double scale = !k.mean ? 1.0 : valid > 0 ? 1.0 / double(valid) : 0.0;
  *out<A>(k.total) = A(sum * scale);
  *out<A>(k.scale) = A(scale);
}
}  // namespace

void run(Cpu, const CrossEntropyForward& k) {
  const Targets targets{k.targets, k.target_dtype};
  const int64_t valid =
      count_targets("cross_entropy", targets, k.rows, k.cols, k.terms.ignore_index);
  HWY_DYNAMIC_DISPATCH(cross_entropy_forward)(k, targets);
  if (!k.total) return;
  if (k.dtype == f64)
    reduce_losses<double>(k, valid);
  else
    reduce_losses<float>(k, valid);
}

void run(Cpu, const CrossEntropyBackward& k) {
  HWY_DYNAMIC_DISPATCH(cross_entropy_backward)(k, Targets{k.targets, k.target_dtype});
}

}  // namespace olm::kernels
#endif  // HWY_ONCE
