// RoPE. Interleaved: each token's cosines and signed sines are spread over its lanes once and serve
// all heads, y = x · (c,c,…) + swap_pairs(x) · (-s,s,…). Halves: two runs of lanes and the table's
// rows as they are. Both round alike, x is read and y written once, tokens are split in ranges.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/rope.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <cstring>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/vec-inl.h>
#include <olm/kernels/rope.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
void rotate_interleaved(const Rope& k, const T* x, T* y, int64_t position) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;  // lanes are even in number, so no vector cuts a pair
  constexpr int64_t chunk = 256;
  HWY_ALIGN A c[chunk], s[chunk];
  for (int64_t begin = 0; begin < k.rotated; begin += chunk) {
    const int64_t size = std::min(chunk, k.rotated - begin);
    const A* cos = in<A>(k.cos) + (position * k.rotated + begin) / 2;
    const A* sin = in<A>(k.sin) + (position * k.rotated + begin) / 2;
    for (int64_t i = 0; i < size; ++i) {
      c[i] = cos[i / 2];
      s[i] = (i % 2 == 0) == k.inverse ? sin[i / 2] : -sin[i / 2];
    }
    for (int64_t h = 0; h < k.heads; ++h) {
      const T* from = x + h * k.stride_head + begin;
      T* to = y + h * k.head_dim + begin;
      for_vectors(d, size, [&](int64_t i, auto part) HWY_ATTR {
        const auto v = load(d, from + i, part);
        const auto swapped = hn::Mul(hn::Reverse2(d, v), load(d, s + i, part));
        store(d, hn::MulAdd(v, load(d, c + i, part), swapped), to + i, part);
      });
    }
  }
}

template <class T>
void rotate_halves(const Rope& k, const T* x, T* y, int64_t position) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  const int64_t half = k.rotated / 2;
  const A *cos = in<A>(k.cos) + position * half, *sin = in<A>(k.sin) + position * half;
  const auto sign = hn::Set(d, A(k.inverse ? -1 : 1));
  for (int64_t h = 0; h < k.heads; ++h) {
    const T* from = x + h * k.stride_head;
    T* to = y + h * k.head_dim;
    for_vectors(d, half, [&](int64_t i, auto part) HWY_ATTR {
      const auto a = load(d, from + i, part), b = load(d, from + half + i, part);
      const auto c = load(d, cos + i, part), s = hn::Mul(load(d, sin + i, part), sign);
      store(d, hn::MulAdd(a, c, hn::Mul(b, hn::Neg(s))), to + i, part);
      store(d, hn::MulAdd(b, c, hn::Mul(a, s)), to + half + i, part);
    });
  }
}

template <class T>
void rotate_token(const Rope& k, int64_t token) {
  const int64_t b = token / k.time, t = token % k.time;
  const int64_t position = k.positions ? k.positions[token] : t + k.offset;
  const T* x = in<T>(k.x) + b * k.stride_batch + t * k.stride_time;
  T* y = out<T>(k.y) + token * k.heads * k.head_dim;
  if (k.pairing == RopePairing::interleaved)
    rotate_interleaved(k, x, y, position);
  else
    rotate_halves(k, x, y, position);
  const int64_t rest = k.head_dim - k.rotated;
  if (rest == 0) return;
  for (int64_t h = 0; h < k.heads; ++h)
    std::memcpy(static_cast<void*>(y + h * k.head_dim + k.rotated),
                x + h * k.stride_head + k.rotated, size_t(rest) * sizeof(T));
}

void rope(const Rope& k) {
  visit_float(k.dtype, [&]<class T>() HWY_ATTR {
    const int64_t grain = rows_per_range(k.heads * k.head_dim);
    parallel_for(k.batch * k.time, grain, [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t token = begin; token < end; ++token) rotate_token<T>(k, token);
    });
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(rope);

namespace {
void check_positions(const Rope& k) {
  check_offset(k);
  if (!k.positions) return;
  for (int64_t i = 0; i < k.batch * k.time; ++i)
    require(k.positions[i] >= 0 && k.positions[i] < k.max_position, "rope: position ",
            k.positions[i], " of token ", i % k.time, " in sequence ", i / k.time,
            " is outside the table of ", k.max_position, " positions");
}
}  // namespace

void run(Cpu, const Rope& k) {
  check_positions(k);
  HWY_DYNAMIC_DISPATCH(rope)(k);
}

}  // namespace olm::kernels
#endif  // HWY_ONCE
