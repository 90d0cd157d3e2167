// Cross-entropy: rows of logits are read once from memory forward, and once backward. Rows are
// split in ranges; their losses are summed in f64, in order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/cross_entropy.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/cross_entropy-inl.h>
#include <olm/kernels/cpu/non_temporal.h>
#include <olm/kernels/cpu/targets.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void cross_entropy_forward(const CrossEntropyForward& k, const Targets& targets) {
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    using A = acc_t<T>;
    parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r) {
        A loss = 0;
        RowLse<A> lse;
        if (const int64_t t = targets[r]; t != k.terms.ignore_index)
          loss = cross_entropy_row(row<T>(k.logits, r, k.cols), k.cols, t, k.terms, lse);
        out<A>(k.losses)[r] = loss;
        out<A>(k.row_max)[r] = lse.maximum;
        out<A>(k.row_log_sum)[r] = lse.log_sum;
      }
    });
  });
}

void cross_entropy_backward(const CrossEntropyBackward& k, const Targets& targets) {
  const bool non_temporal = uses_non_temporal_stores(k.dtype, k.rows * k.cols);
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    using A = acc_t<T>;
    const A scale = *in<A>(k.scale);
    parallel_for(k.rows, rows_per_range(k.cols), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r) {
        T* dlogits = row_out<T>(k.dlogits, r, k.cols);
        const A dy = in<A>(k.dy)[k.one_dy ? 0 : r] * scale;
        if (const int64_t t = targets[r]; t == k.terms.ignore_index)
          std::fill_n(dlogits, k.cols, T());
        else
          cross_entropy_row_backward(row<T>(k.logits, r, k.cols), k.cols, t, k.terms,
                                     RowLse<A>{in<A>(k.row_max)[r], in<A>(k.row_log_sum)[r]}, dy,
                                     A(0), dlogits, non_temporal);
      }
      store_fence(non_temporal);
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
/// How many targets are not ignored; throws at one that is no class.
int64_t count_targets(const CrossEntropyScale& k) {
  const Targets targets{k.targets, k.target_dtype};
  int64_t valid = 0;
  for (int64_t r = 0; r < k.rows; ++r) {
    const int64_t t = targets[r];
    if (t == k.ignore_index) continue;
    require(t >= 0 && t < k.classes, "cross_entropy: target ", t, " at position ", r,
            " is not in [0, ", k.classes, ") and not the ignored ", k.ignore_index);
    ++valid;
  }
  return valid;
}

template <class A>
void sum_losses(const CrossEntropyTotal& k) {
  double sum = 0;
  for (int64_t r = 0; r < k.rows; ++r) sum += double(in<A>(k.losses)[r]);
  *out<A>(k.total) = A(sum * double(*in<A>(k.scale)));
}
}  // namespace

void run(Cpu, const CrossEntropyScale& k) {
  const int64_t valid = count_targets(k);
  const double scale = !k.mean ? 1.0 : valid > 0 ? 1.0 / double(valid) : 0.0;
  if (k.dtype == f64)
    *out<double>(k.scale) = scale;
  else
    *out<float>(k.scale) = float(scale);
}

void run(Cpu, const CrossEntropyTotal& k) {
  if (k.dtype == f64)
    sum_losses<double>(k);
  else
    sum_losses<float>(k);
}

void run(Cpu, const CrossEntropyForward& k) {
  HWY_DYNAMIC_DISPATCH(cross_entropy_forward)(k, Targets{k.targets, k.target_dtype});
}

void run(Cpu, const CrossEntropyBackward& k) {
  HWY_DYNAMIC_DISPATCH(cross_entropy_backward)(k, Targets{k.targets, k.target_dtype});
}

}  // namespace olm::kernels
#endif  // HWY_ONCE
