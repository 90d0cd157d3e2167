#pragma once
// P and dS of a tile of 64 queries by 64 keys, made again for backward by FFMA. A block calls these
// with all of its threads.
#include <olm/kernels/cuda/flash_attention/plan.cuh>
#include <olm/kernels/cuda/flash_attention/tile.cuh>

namespace olm::kernels::cuda_attention {

/// A tile of scores: batch row, query head, first query, first key.
struct Place {
  int64_t b = 0, h = 0, i0 = 0, j0 = 0;
};

/// What kernels of backward are given by value.
struct BackwardCall {
  Problem p = {};
  HeadRows q = {}, k = {}, v = {}, dy = {};
  AllStats stats = {};
  int64_t tiles = 0;  // that blocks own, per head
};

/// Which rows a block owns, and so how W lies: [keys, queries] where queries are owned.
enum class Owned : int { queries, keys };

/// How a tile of W is made into what is multiplied next.
enum class Becomes : int { weights, gradients, gradients_after_cap };

/// The queries, or keys, of a tile at `at` of `all`.
__device__ inline int rows_from(int64_t at, int64_t all) {
  return int(min(int64_t(kOthers), all - at));
}

/// W = S, and dP in `w2` where gradients are wanted, before the rules of attention.
template <class T, Owned owned, bool gradients>
__device__ inline void tile_products(const BackwardCall& f, const Place& at, float* area, float* w,
                                     float* w2) {
  const Attention& a = f.p.a;
  const int64_t kv = at.h / f.p.group;
  const int queries = rows_from(at.i0, a.queries), keys = rows_from(at.j0, a.keys);
  const auto rows = [](const HeadRows& x, const T* first, int n) {
    return [first, n, stride = x.row](int r) { return r < n ? first + r * stride : nullptr; };
  };
  const auto make = [&](const HeadRows& of_query, const HeadRows& of_key, int64_t dim, float* to) {
    const auto x = rows(of_query, row_at<T>(of_query, at.b, at.h, at.i0), queries);
    const auto y = rows(of_key, row_at<T>(of_key, at.b, kv, at.j0), keys);
    if constexpr (owned == Owned::queries)
      products<T, 8>(area, dim, x, y, to);
    else
      products<T, 8>(area, dim, y, x, to);
  };
  make(f.q, f.k, a.dim, w);
  if constexpr (gradients) make(f.dy, f.v, a.value_dim, w2);
}

/// W, the products of the tile, becomes P after dropout or dS, in place; 0 for pairs that are not
/// attended. Two lanes share a query row, each with every other group of four keys.
template <Owned owned, Becomes becomes>
__device__ inline void apply_rules(const BackwardCall& f, const Place& at, float* w,
                                   const float* w2) {
  constexpr int stride = Layout<8>::stride;
  constexpr int of_query = owned == Owned::queries ? 1 : stride;
  constexpr int of_key = owned == Owned::queries ? stride : 1;
  const Attention& a = f.p.a;
  const int lane = int(threadIdx.x) % 32;
  const int local = int(threadIdx.x) / 32 * 16 + lane % 16, half = lane / 16;
  const int64_t i = at.i0 + local;
  const bool exists = i < a.queries;
  const QueryRow row = exists ? query_row(f.p, at.b, at.h, i) : QueryRow{};
  const int64_t linear = (at.b * a.heads + at.h) * a.queries + i;
  RowStats stats{0, kInfinity, 0};
  if (exists) stats = {f.stats.max[linear], f.stats.log2_sum[linear], f.stats.delta[linear]};
  for (int g = half; g < kOthers / 4; g += 2) {
    float kept[4] = {1, 1, 1, 1};
    if (a.dropout > 0) dropout_factors(f.p, row, at.j0 / 4 + g, kept);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = 4 * g + e, place = local * of_query + key * of_key;
      float cap;
      const float P = weight(f.p, stats, score(f.p, row, at.j0 + key, w[place], cap));
      if constexpr (becomes == Becomes::weights) {
        w[place] = P * kept[e];
      } else {
        const float dS = score_gradient(P, w2[place] * kept[e], stats.delta);
        w[place] = becomes == Becomes::gradients && P != 0 ? dS * cap : dS;
      }
    }
  }
}

}  // namespace olm::kernels::cuda_attention
