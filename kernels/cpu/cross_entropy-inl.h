// One row of the cross-entropy and of its gradient; shared by cross_entropy and
// linear_cross_entropy. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_CROSS_ENTROPY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_CROSS_ENTROPY_INL_H_
#undef OLM_KERNELS_CPU_CROSS_ENTROPY_INL_H_
#else
#define OLM_KERNELS_CPU_CROSS_ENTROPY_INL_H_
#endif

#include <cmath>
#include <limits>

#include <olm/kernels/cpu/math-inl.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/cross_entropy.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Elements that are read at a time; they stay in L1.
inline constexpr int64_t kLossChunk = 512;

/// Σ e^(x - base) of a chunk; `most` becomes its largest element.
template <class T, class A>
HWY_INLINE A sum_exponentials(const T* x, int64_t size, A base, A& most) {
  const hn::ScalableTag<A> d;
  const auto shift = hn::Set(d, base);
  const auto lowest = hn::Neg(hn::Inf(d));
  auto high = lowest;
  const A sum = sum_vectors(d, size, [&](int64_t i, auto part) HWY_ATTR {
    const auto v = load_and_prefetch(d, x + i, part);
    high = hn::Max(high, keep(d, v, lowest, part));
    // Rounding the product moves terms that matter by less than 1e-6.
    const auto term = exp2_of_term(d, hn::Mul(hn::Sub(v, shift), hn::Set(d, A(kLog2E))));
    return keep(d, term, hn::Zero(d), part);
  });
  most = hn::GetLane(hn::MaxOfLanes(d, high));
  return sum;
}

/// lse of a row, in two parts; see CrossEntropyForward.
template <class A>
struct RowLse {
  A maximum = 0, log_sum = 0;
  A total() const { return maximum + log_sum; }
};

/// Returns the loss of a row and sets its lse. Differences from the maximum are taken first, so
/// that large logits lose no digits of the loss. A chunk is read with the maximum of those before
/// it, so that memory and exponentials overlap, and again, from cache, where its own is larger.
template <class T, class A = acc_t<T>>
A cross_entropy_row(const T* x, int64_t cols, int64_t target, const CrossEntropyTerms& terms,
                    RowLse<A>& lse) {
  const hn::ScalableTag<A> d;
  A most = -std::numeric_limits<A>::infinity(), sum = 0;
  for (int64_t begin = 0; begin < cols; begin += kLossChunk) {
    const int64_t size = std::min(kLossChunk, cols - begin);
    A high = std::numeric_limits<A>::infinity(), part = 0;
    if (sum > 0) part = sum_exponentials(x + begin, size, most, high);
    if (!(high <= most)) {
      const A before = most;
      most = std::max(most, largest(d, x + begin, size));
      if (most > before && sum != 0) sum *= std::exp(before - most);
      const A base = most == -std::numeric_limits<A>::infinity() ? A(0) : most;
      part = sum_exponentials(x + begin, size, base, high);
    }
    sum += part;
  }
  const A log_sum = std::log(sum), smoothing = A(terms.label_smoothing);
  lse = {.maximum = most, .log_sum = log_sum};
  A loss = log_sum - (A(x[target]) - most);
  if (smoothing != 0) {
    const A below = sum_vectors(d, cols, [&](int64_t i, auto part) HWY_ATTR {
      return keep(d, hn::Sub(load(d, x + i, part), hn::Set(d, most)), hn::Zero(d), part);
    });
    loss = (1 - smoothing) * loss + smoothing * (log_sum - below / A(cols));
  }
  if (terms.z_loss != 0) loss += A(terms.z_loss) * lse.total() * lse.total();
  return loss;
}

/// Probabilities below e^this have no gradient in f32 (see CrossEntropyBackward).
inline constexpr float kMinLogProbability = -55.0f;

/// dx = dy · d loss / dx, times the slope 1 - (x / softcap)² of a softcap that made x (0: none). dx
/// may be x itself if the types are the same.
template <class T, class Out, class A = acc_t<T>>
void cross_entropy_row_backward(const T* x, int64_t cols, int64_t target,
                                const CrossEntropyTerms& terms, const RowLse<A>& lse, A dy,
                                A softcap, Out* dx, bool non_temporal = false) {
  const hn::ScalableTag<A> d;
  const A smoothing = A(terms.label_smoothing), spread = smoothing / A(cols);
  const A weight = 1 + 2 * A(terms.z_loss) * lse.total();
  const A inverse_cap = softcap != 0 ? 1 / softcap : A(0);
  const A at = A(x[target]), capped = softcap != 0 ? at * inverse_cap : A(0);
  const A at_target =
      dy * (std::exp(at - lse.maximum - lse.log_sum) * weight - (1 - smoothing) - spread);
  const auto maximum = hn::Set(d, lse.maximum), log_sum = hn::Set(d, lse.log_sum);
  const auto scale = hn::Set(d, dy * weight);
  const auto offset = hn::Set(d, dy * spread), inverse = hn::Set(d, inverse_cap);
  const auto one = hn::Set(d, A(1));
  for_buffered_stores(d, {dx}, cols, non_temporal, [&](int64_t i, auto part, auto put) HWY_ATTR {
    const auto v = load_and_prefetch(d, x + i, part);
    const auto log_probability = hn::Sub(hn::Sub(v, maximum), log_sum);
    auto g = exp_above<accuracy_for<Out>>(d, log_probability, kMinLogProbability);
    g = hn::MulSub(g, scale, offset);
    if (softcap != 0) {
      const auto ratio = hn::Mul(v, inverse);
      g = hn::Mul(g, hn::NegMulAdd(ratio, ratio, one));
    }
    put(0, g);
  });
  dx[target] = Out(at_target * (1 - capped * capped));
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
