// All tensors of a call are cut into blocks of equal size and the blocks handed out together,
// so that many small tensors cost as much as one large one. Memory bound: one pass.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/optim.cpp"
#include <hwy/foreach_target.h>
//
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <olm/kernels/base/math.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/optim_internal.h>

#ifndef OLM_KERNELS_CPU_OPTIM_ONCE
#define OLM_KERNELS_CPU_OPTIM_ONCE
namespace olm::kernels {

constexpr int64_t kUpdateBlock = 16384;

/// Calls body(block number, tensor, begin, end) for the blocks of all tensors.
template <int64_t kBlock, class T, class Body>
void for_blocks(const T* tensors, int64_t count, Body&& body) {
  std::vector<int64_t> starts(size_t(count) + 1, 0);  // number of each tensor's first block
  for (int64_t i = 0; i < count; ++i)
    starts[size_t(i) + 1] = starts[size_t(i)] + ceil_div(tensors[i].n, kBlock);
  parallel_for(starts.back(), 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t i = std::upper_bound(starts.begin(), starts.end(), b) - starts.begin() - 1;
      const int64_t begin = (b - starts[size_t(i)]) * kBlock;
      body(b, tensors[i], begin, std::min(begin + kBlock, tensors[i].n));
    }
  });
}

/// The wanted dtypes of an update: f32 and f64.
template <class F>
void visit_update(const char* name, DType dtype, F&& f) {
  require(dtype == f32 || dtype == f64, name, ": parameters must be f32 (or f64), got ", dtype);
  if (dtype == f32) return f.template operator()<float>();
  f.template operator()<double>();
}

}  // namespace olm::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

template <class T>
double sum_squares(const T* x, int64_t n) {
  const hn::ScalableTag<double> d;
  if constexpr (std::is_same_v<T, double>) {
    return sum_vectors(d, n, [&](int64_t i, auto part) {
      const auto v = load_and_prefetch(d, x + i, part);
      return hn::Mul(v, v);
    });
  } else {
    const hn::Rebind<float, decltype(d)> half;
    return sum_vectors(d, n, [&](int64_t i, auto part) {
      const auto v = hn::PromoteTo(d, load_and_prefetch(half, x + i, part));
      return hn::Mul(v, v);
    });
  }
}

void block_squares(const SquaredSums& k) {
  visit_float(k.dtype, [&]<class T>() {
    for_blocks<kNormBlock>(k.tensors, k.count,
                           [&](int64_t b, const NormTensor& t, int64_t begin, int64_t end) {
                             k.sums[b] = sum_squares(in<T>(t.x) + begin, end - begin);
                           });
  });
}

template <class A>
void adamw_block(const AdamWUpdate& k, const OptimTensor& t, int64_t begin, int64_t n) {
  const hn::ScalableTag<A> d;
  const StepScalars& s = *k.scalars;
  const double rate = s.lr * t.lr_scale, step = double(s.step - t.missed);
  const double correction1 = 1 - std::pow(k.beta1, step), correction2 = 1 - std::pow(k.beta2, step);
  const auto clip = hn::Set(d, A(s.clip)), keep = hn::Set(d, A(1 - rate * t.weight_decay));
  const auto b1 = hn::Set(d, A(k.beta1)), b2 = hn::Set(d, A(k.beta2));
  const auto c1 = hn::Set(d, A(1 - k.beta1)), c2 = hn::Set(d, A(1 - k.beta2));
  const auto rate1 = hn::Set(d, A(rate / correction1)), eps = hn::Set(d, A(k.eps));
  const auto root2 = hn::Set(d, A(1 / std::sqrt(correction2)));
  A* p = out<A>(t.parameter) + begin;
  A* m = out<A>(t.first) + begin;
  A* v = out<A>(t.second) + begin;
  const A* g = in<A>(t.gradient) + begin;
  for_vectors(d, n, [&](int64_t i, auto part) {
    const auto gi = hn::Mul(load_and_prefetch(d, g + i, part), clip);
    const auto mi = hn::MulAdd(load_and_prefetch(d, m + i, part), b1, hn::Mul(gi, c1));
    const auto vi = hn::MulAdd(load_and_prefetch(d, v + i, part), b2, hn::Mul(hn::Mul(gi, gi), c2));
    const auto denominator = hn::MulAdd(hn::Sqrt(vi), root2, eps);
    const auto decayed = hn::Mul(load_and_prefetch(d, p + i, part), keep);
    store(d, hn::NegMulAdd(rate1, hn::Div(mi, denominator), decayed), p + i, part);
    store(d, mi, m + i, part);
    store(d, vi, v + i, part);
  });
}

template <class A>
void sgd_block(const SGDUpdate& k, const OptimTensor& t, int64_t begin, int64_t n) {
  const hn::ScalableTag<A> d;
  const auto clip = hn::Set(d, A(k.scalars->clip)), decay = hn::Set(d, A(t.weight_decay));
  const auto rate = hn::Set(d, A(k.scalars->lr * t.lr_scale));
  const auto momentum = hn::Set(d, A(k.momentum));
  A* p = out<A>(t.parameter) + begin;
  A* buffer = k.momentum != 0 ? out<A>(t.first) + begin : nullptr;
  const A* g = in<A>(t.gradient) + begin;
  for_vectors(d, n, [&](int64_t i, auto part) {
    const auto pi = load_and_prefetch(d, p + i, part);
    const auto gi = hn::MulAdd(pi, decay, hn::Mul(load_and_prefetch(d, g + i, part), clip));
    auto direction = gi;
    if (buffer) {
      const auto bi = hn::MulAdd(load_and_prefetch(d, buffer + i, part), momentum, gi);
      store(d, bi, buffer + i, part);
      direction = k.nesterov ? hn::MulAdd(bi, momentum, gi) : bi;
    }
    store(d, hn::NegMulAdd(rate, direction, pi), p + i, part);
  });
}

template <class A>
void lion_block(const LionUpdate& k, const OptimTensor& t, int64_t begin, int64_t n) {
  const hn::ScalableTag<A> d;
  const double lr = k.scalars->lr * t.lr_scale;
  const auto clip = hn::Set(d, A(k.scalars->clip)), rate = hn::Set(d, A(lr));
  const auto keep = hn::Set(d, A(1 - lr * t.weight_decay)), zero = hn::Zero(d);
  const auto b1 = hn::Set(d, A(k.beta1)), b2 = hn::Set(d, A(k.beta2));
  const auto c1 = hn::Set(d, A(1 - k.beta1)), c2 = hn::Set(d, A(1 - k.beta2));
  A* p = out<A>(t.parameter) + begin;
  A* m = out<A>(t.first) + begin;
  const A* g = in<A>(t.gradient) + begin;
  for_vectors(d, n, [&](int64_t i, auto part) {
    const auto gi = hn::Mul(load_and_prefetch(d, g + i, part), clip),
               mi = load_and_prefetch(d, m + i, part);
    const auto blend = hn::Add(hn::Mul(mi, b1), hn::Mul(gi, c1));
    const auto signed_rate = hn::CopySign(rate, blend);
    const auto move = hn::IfThenElse(hn::Eq(blend, zero), zero, signed_rate);
    store(d, hn::Sub(hn::Mul(load_and_prefetch(d, p + i, part), keep), move), p + i, part);
    store(d, hn::MulAdd(mi, b2, hn::Mul(gi, c2)), m + i, part);
  });
}

void adamw(const AdamWUpdate& k) {
  visit_update(k.name, k.dtype, [&]<class A>() {
    for_blocks<kUpdateBlock>(k.tensors, k.count,
                             [&](int64_t, const OptimTensor& t, int64_t begin, int64_t end) {
                               adamw_block<A>(k, t, begin, end - begin);
                             });
  });
}

void sgd(const SGDUpdate& k) {
  visit_update(k.name, k.dtype, [&]<class A>() {
    for_blocks<kUpdateBlock>(k.tensors, k.count,
                             [&](int64_t, const OptimTensor& t, int64_t begin, int64_t end) {
                               sgd_block<A>(k, t, begin, end - begin);
                             });
  });
}

void lion(const LionUpdate& k) {
  visit_update(k.name, k.dtype, [&]<class A>() {
    for_blocks<kUpdateBlock>(k.tensors, k.count,
                             [&](int64_t, const OptimTensor& t, int64_t begin, int64_t end) {
                               lion_block<A>(k, t, begin, end - begin);
                             });
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
namespace {

HWY_EXPORT(block_squares);
HWY_EXPORT(adamw);
HWY_EXPORT(sgd);
HWY_EXPORT(lion);

}  // namespace

void run(Cpu, const SquaredSums& k) { HWY_DYNAMIC_DISPATCH(block_squares)(k); }

void run(Cpu, const NormOfSums& k) {
  double sum = 0;
  for (int64_t i = 0; i < k.n; ++i) sum += k.sums[i];
  *k.norm = std::sqrt(sum);
}

void run(Cpu, const WriteStep& k) {
  k.scalars->lr = k.inputs.lr;
  k.scalars->gradient_scale = k.inputs.gradient_scale;
  k.scalars->step = k.inputs.step;
}

void run(Cpu, const AccumulateLoss& k) {
  require(k.dtype == f32 || k.dtype == f64, k.name, ": losses must be f32 (or f64), got ", k.dtype);
  const auto value = [&](const void* p) {
    return k.dtype == f32 ? double(*in<float>(p)) : *in<double>(p);
  };
  double aux = 0;
  for (int64_t i = 0; i < k.aux_count; ++i) aux += value(k.aux[i]);
  StepScalars& s = *k.scalars;
  s.loss = (k.accumulate ? s.loss : 0) + (value(k.loss) - aux) * k.targets;
  s.aux = (k.accumulate ? s.aux : 0) + aux * k.targets;
}

void run(Cpu, const BeginStep& k) { begin_step(*k.scalars, k, false); }

void run(Cpu, const AdamWUpdate& k) {
  if (!k.scalars->skip) HWY_DYNAMIC_DISPATCH(adamw)(k);
}

void run(Cpu, const SGDUpdate& k) {
  if (!k.scalars->skip) HWY_DYNAMIC_DISPATCH(sgd)(k);
}

void run(Cpu, const LionUpdate& k) {
  if (!k.scalars->skip) HWY_DYNAMIC_DISPATCH(lion)(k);
}

void run(Cpu, const ExpertBiasUpdate& k) {
  int64_t total = 0;
  for (int64_t i = 0; i < k.count; ++i) total += k.offsets[i][k.experts];
  for (int64_t e = 0; e < k.experts; ++e) {
    int64_t load = 0;
    for (int64_t i = 0; i < k.count; ++i) load += k.offsets[i][e + 1] - k.offsets[i][e];
    k.bias[e] = moved_bias(k.bias[e], load, total, k.experts, k.rate);
  }
}

}  // namespace olm::kernels
#endif  // HWY_ONCE
