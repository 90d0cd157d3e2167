// Memory bound: one pass over a matrix each, cut among threads.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/muon.cpp"
#include <hwy/foreach_target.h>
//
#include <cstring>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/muon.h>

#ifndef OLM_KERNELS_CPU_MUON_ONCE
#define OLM_KERNELS_CPU_MUON_ONCE
namespace olm::kernels {

constexpr int64_t kGrain = 16384;

}  // namespace olm::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

template <class A>
void direction_block(const MuonDirection& k, int64_t begin, int64_t n) {
  const hn::ScalableTag<A> d;
  const auto keep = hn::Set(d, A(k.momentum)), take = hn::Set(d, A(1 - k.momentum));
  const auto clip = hn::Set(d, A(k.scalars->clip));
  const A* g = in<A>(k.gradient) + begin;
  A* b = out<A>(k.buffer) + begin;
  A* to = out<A>(k.direction) + begin;
  for_vectors(d, n, [&](int64_t i, auto part) {
    const auto taken = hn::Mul(hn::Mul(load_and_prefetch(d, g + i, part), clip), take);
    const auto bi = hn::MulAdd(load_and_prefetch(d, b + i, part), keep, taken);
    store(d, bi, b + i, part);
    store(d, k.nesterov ? hn::MulAdd(bi, keep, taken) : bi, to + i, part);
  });
}

template <class A, class Y>
void divide_block(const DivideByNorm& k, int64_t begin, int64_t n) {
  const hn::ScalableTag<A> d;
  const auto factor = hn::Set(d, A(1 / (*k.norm + k.eps)));
  const A* x = in<A>(k.x) + begin;
  Y* y = out<Y>(k.y) + begin;
  for_vectors(d, n, [&](int64_t i, auto part) {
    store(d, hn::Mul(load_and_prefetch(d, x + i, part), factor), y + i, part);
  });
}

template <class A>
void update_block(const MuonUpdate& k, int64_t begin, int64_t n) {
  const hn::ScalableTag<A> d;
  const double lr = k.scalars->lr * k.lr_scale;
  const auto keep = hn::Set(d, A(1 - lr * k.weight_decay)), rate = hn::Set(d, A(lr * k.scale));
  const A* o = in<A>(k.direction) + begin;
  A* p = out<A>(k.parameter) + begin;
  for_vectors(d, n, [&](int64_t i, auto part) {
    const auto kept = hn::Mul(load_and_prefetch(d, p + i, part), keep);
    store(d, hn::NegMulAdd(rate, load_and_prefetch(d, o + i, part), kept), p + i, part);
  });
}

void make_direction(const MuonDirection& k) {
  const auto make = [&]<class A>() {
    parallel_for(k.n, kGrain,
                 [&](int64_t begin, int64_t end) { direction_block<A>(k, begin, end - begin); });
  };
  k.dtype == f64 ? make.template operator()<double>() : make.template operator()<float>();
}

void divide(const DivideByNorm& k) {
  const auto go = [&]<class A, class Y>() {
    parallel_for(k.n, kGrain,
                 [&](int64_t begin, int64_t end) { divide_block<A, Y>(k, begin, end - begin); });
  };
  if (k.x_dtype == f64) return go.template operator()<double, double>();
  if (k.y_dtype == f32) return go.template operator()<float, float>();
  if (k.y_dtype == f16) return go.template operator()<float, float16_t>();
  go.template operator()<float, bfloat16_t>();
}

void update(const MuonUpdate& k) {
  const auto move = [&]<class A>() {
    parallel_for(k.n, kGrain,
                 [&](int64_t begin, int64_t end) { update_block<A>(k, begin, end - begin); });
  };
  k.dtype == f64 ? move.template operator()<double>() : move.template operator()<float>();
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
namespace {

HWY_EXPORT(make_direction);
HWY_EXPORT(divide);
HWY_EXPORT(update);

}  // namespace

void run(Cpu, const MuonDirection& k) {
  if (!k.scalars->skip) return HWY_DYNAMIC_DISPATCH(make_direction)(k);
  std::memset(k.direction, 0, size_t(k.n) * size_of(k.dtype));
}

void run(Cpu, const DivideByNorm& k) { HWY_DYNAMIC_DISPATCH(divide)(k); }

void run(Cpu, const MuonUpdate& k) {
  if (!k.scalars->skip) HWY_DYNAMIC_DISPATCH(update)(k);
}

}  // namespace olm::kernels
#endif  // HWY_ONCE
