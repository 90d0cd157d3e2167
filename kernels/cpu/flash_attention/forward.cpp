// Attention, forward. Keys are packed once, transposed by tiles, so that the score product reads
// whole vectors of keys; values are packed as padded rows. Then each tile of queries walks its
// tiles of keys with an online softmax: the running maximum m and sum l of each row, and the output
// rescaled when m grows. Parallel over key and value heads where there are many, else over
// (batch row, head, tile of queries).
// Traffic: q, y once; packed keys and values once per tile of queries, from cache.
#include <olm/kernels/flash_attention.h>

#include <cmath>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cpu/flash_attention/tiles.h>

#ifndef OLM_KERNELS_CPU_FLASH_ATTENTION_FORWARD_ONCE
#define OLM_KERNELS_CPU_FLASH_ATTENTION_FORWARD_ONCE
namespace olm::kernels::attention {

/// Keys [tile, dim, kTile] and values [tile, kTile, padded_value_dim] in acc_dtype, for the tiles
/// of some key and value heads from `first_tile` on, counted over the batch.
struct ForwardPack {
  Sizes sizes;
  int64_t first_tile = 0;
  void *keys = nullptr, *values = nullptr;
  bool* finite = nullptr;  // whether the values of a tile are
};

}  // namespace olm::kernels::attention
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/flash_attention/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/flash_attention/scores-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
using attention::ForwardPack;

/// Packs tile number `index` of (batch row, key and value head, tile of keys).
template <class T>
void pack_tile(const FlashAttentionForward& f, const ForwardPack& pack, int64_t index) {
  using A = acc_t<T>;
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  const int64_t tile = index % n.key_tiles, h = index / n.key_tiles % a.kv_heads;
  const int64_t b = index / n.key_tiles / a.kv_heads;
  const int64_t j0 = tile * kTile, rows = std::min(kTile, a.keys - j0);
  const int64_t place = index - pack.first_tile;
  const Scratch<A> copy = f.stream.scratch<A>(size_t(kTile * n.padded_dim));
  pack_rows(in<T>(f.k.data) + b * f.k.batch + h * f.k.head + j0 * f.k.row, f.k.row, rows, n.dim,
            A(1), copy.get(), n.padded_dim);
  transpose_tile(copy.get(), n.dim, n.padded_dim, out<A>(pack.keys) + place * n.dim * kTile);
  A* values = out<A>(pack.values) + place * kTile * n.padded_value_dim;
  pack_rows(in<T>(f.v.data) + b * f.v.batch + h * f.v.head + j0 * f.v.row, f.v.row, rows,
            n.value_dim, A(1), values, n.padded_value_dim);
  pack.finite[place] = all_finite(values, kTile * n.padded_value_dim);
}

void pack_tiles(const FlashAttentionForward& f, const ForwardPack& pack, int64_t begin,
                int64_t end) {
  visit_float(f.attention.dtype, [&]<class T>() {
    for (int64_t i = begin; i < end; ++i) pack_tile<T>(f, pack, i);
  });
}

/// Running state of a tile of queries. Maxima are of scores in units of log 2.
template <class A>
struct Running {
  A* out = nullptr;  // [kTile, padded_value_dim], not yet divided by the sums
  A maximum[kTile], sum[kTile];
};

template <class A>
HWY_INLINE void scale_row(A* row, int64_t n, A factor) {
  const hn::ScalableTag<A> d;
  const auto f = hn::Set(d, factor);
  for (int64_t c = 0; c < n; c += int64_t(hn::Lanes(d)))
    hn::StoreU(hn::Mul(f, hn::LoadU(d, row + c)), d, row + c);
}

/// Largest score of a row's span, in units of log 2; writes -inf outside the row's keys.
template <class A>
HWY_INLINE A row_maximum(A* row, Span block, Span keys) {
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  const bool whole = keys.begin <= block.begin && keys.end >= block.end;
  auto maximum = hn::Set(d, kMinusInfinity<A>);
  for (int64_t c = block.begin; c < block.end; c += lanes) {
    auto s = hn::LoadU(d, row + c);
    if (!whole) {
      s = inside(d, s, keys, c);
      hn::StoreU(s, d, row + c);
    }
    maximum = hn::Max(maximum, s);
  }
  return hn::GetLane(hn::MaxOfLanes(d, maximum)) * A(kLog2E);
}

/// True where some score of the span is not a number.
template <class A>
bool has_nan(const A* row, Span block) {
  return std::any_of(row + block.begin, row + block.end, [](A s) { return std::isnan(s); });
}

/// Scores of a row to weights relative to `maximum`; returns their sum.
template <class A>
HWY_INLINE A weigh_row(A* row, Span block, A maximum) {
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  const auto log2e = hn::Set(d, A(kLog2E)), base = hn::Set(d, maximum);
  auto sum = hn::Zero(d);
  for (int64_t c = block.begin; c < block.end; c += lanes) {
    const auto w = exp2_score(d, hn::MulSub(hn::LoadU(d, row + c), log2e, base));
    hn::StoreU(w, d, row + c);
    sum = hn::Add(sum, w);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

template <class A>
void softmax_rows(const Attention& a, const attention::Sizes& n, const Place& p,
                  const Region& region, A* scores, Running<A>& state) {
  HWY_ALIGN A factors[kTile];
  const hn::ScalableTag<A> d;
  for (int64_t r = 0; r < region.count * region.block; ++r) {
    const Span block = region.blocks[r / region.block];
    if (block.empty()) continue;
    A* row = scores + r * kTile;
    const A before = state.maximum[r], here = row_maximum(row, block, region.rows[r]);
    const A now = here <= before ? before : here;  // NaN goes on
    if (now == kMinusInfinity<A>) {  // nothing attended, or a NaN that maxima passed over
      if (has_nan(row, block)) state.sum[r] = std::numeric_limits<A>::quiet_NaN();
      std::fill(row + block.begin, row + block.end, A(0));
      continue;
    }
    const A sum = weigh_row(row, block, now);
    if (now != before) {
      const A factor = exp2_scalar(before - now);
      state.sum[r] *= factor;
      scale_row(state.out + r * n.padded_value_dim, n.padded_value_dim, factor);
      state.maximum[r] = now;
    }
    state.sum[r] += sum;
    if (a.dropout <= 0) continue;
    dropout_factors(a, p, p.i0 + r, factors);
    for (int64_t c = block.begin; c < block.end; c += int64_t(hn::Lanes(d)))
      hn::StoreU(hn::Mul(hn::LoadU(d, row + c), hn::Load(d, factors + c)), d, row + c);
  }
}

/// Divides by the sums, with the sink among them, and writes the rows.
template <class T, class A = acc_t<T>>
void finish_rows(const FlashAttentionForward& f, const attention::Sizes& n, const Place& p,
                 Running<A>& state) {
  const Attention& a = f.attention;
  const int64_t rows = std::min(kTile, a.queries - p.i0);
  A* logsumexp = out<A>(f.logsumexp) + (p.b * a.heads + p.h) * a.queries + p.i0;
  T* y = out<T>(f.y.data) + p.b * f.y.batch + p.h * f.y.head + p.i0 * f.y.row;
  for (int64_t r = 0; r < rows; ++r) {
    A factor = 1, sum = state.sum[r], maximum = state.maximum[r];
    const A sink = a.sink ? in<A>(a.sink)[p.h] * A(kLog2E) : kMinusInfinity<A>;
    if (sink != kMinusInfinity<A>) {
      const A now = sink > maximum ? sink : maximum;
      factor = exp2_scalar(maximum - now);
      sum = sum * factor + exp2_scalar(sink - now);
      maximum = now;
    }
    const bool none = sum == 0;
    logsumexp[r] = none ? kMinusInfinity<A> : A(maximum / A(kLog2E) + std::log(sum));
    unpack_row(state.out + r * n.padded_value_dim, n.value_dim, none ? A(0) : factor / sum,
               y + r * f.y.row);
  }
}

/// One tile of queries: number `index` of (batch row, head, tile of queries).
template <class T>
void attend_tile(const FlashAttentionForward& f, const ForwardPack& pack, int64_t index) {
  using A = acc_t<T>;
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  Place p{.b = index / n.query_tiles / a.heads,
          .h = index / n.query_tiles % a.heads,
          .i0 = index % n.query_tiles * kTile,
          .j0 = 0};
  const Scratch<A> memory =
      f.stream.scratch<A>(size_t(kTile * (n.padded_dim + n.padded_value_dim + kTile)));
  A* q = memory.get();
  A* scores = q + kTile * n.padded_dim;
  Running<A> state{.out = scores + kTile * kTile, .maximum = {}, .sum = {}};
  std::fill_n(state.out, kTile * n.padded_value_dim, A(0));
  std::fill_n(state.maximum, kTile, kMinusInfinity<A>);
  pack_rows(in<T>(f.q.data) + p.b * f.q.batch + p.h * f.q.head + p.i0 * f.q.row, f.q.row,
            std::min(kTile, a.queries - p.i0), n.dim, A(a.scale), q, n.padded_dim);
  const int64_t head = (p.b * a.kv_heads + p.h / n.group) * n.key_tiles - pack.first_tile;
  Region region;
  for (int64_t tile = 0; tile < n.key_tiles; ++tile) {
    p.j0 = tile * kTile;
    if (!find_region(a, p, kBlockRows, span_alignment<A>(), region)) continue;
    score_product(region, q, n.padded_dim, in<A>(pack.keys) + (head + tile) * n.dim * kTile, n.dim,
                  scores);
    if (transforms_scores(a)) transform_scores<A>(a, p, region, scores, nullptr);
    softmax_rows(a, n, p, region, scores, state);
    const A* values = in<A>(pack.values) + (head + tile) * kTile * n.padded_value_dim;
    add_by_query(region, scores, {values, n.padded_value_dim, pack.finite[head + tile]}, state.out);
  }
  finish_rows<T>(f, n, p, state);
}

void attend_tiles(const FlashAttentionForward& f, const ForwardPack& pack, int64_t begin,
                  int64_t end) {
  visit_float(f.attention.dtype, [&]<class T>() {
    for (int64_t i = begin; i < end; ++i) attend_tile<T>(f, pack, i);
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {

HWY_EXPORT(pack_tiles);
HWY_EXPORT(attend_tiles);

namespace {

/// Packs and attends `count` key and value heads from `first` on, over threads where `parallel`.
void attend_heads(const FlashAttentionForward& f, int64_t first, int64_t count, bool parallel) {
  using attention::kTile;
  const attention::Sizes n(f.attention);
  const size_t width = size_of(acc_dtype(f.attention.dtype));
  const int64_t key_tiles = count * n.key_tiles, tiles = count * n.group * n.query_tiles;
  const Scratch<char> keys = f.stream.scratch<char>(size_t(key_tiles * kTile * n.dim) * width);
  const Scratch<char> values =
      f.stream.scratch<char>(size_t(key_tiles * kTile * n.padded_value_dim) * width);
  const Scratch<bool> finite = f.stream.scratch<bool>(size_t(key_tiles));
  const attention::ForwardPack pack{n, first * n.key_tiles, keys.get(), values.get(), finite.get()};
  const int64_t first_tile = first * n.group * n.query_tiles;
  parallel_for(key_tiles, parallel ? attention::pack_grain(n) : key_tiles,
               [&](int64_t begin, int64_t end) {
                 HWY_DYNAMIC_DISPATCH(pack_tiles)
                 (f, pack, pack.first_tile + begin, pack.first_tile + end);
               });
  parallel_for(tiles, parallel ? attention::tile_grain(n, n.key_tiles) : tiles,
               [&](int64_t begin, int64_t end) {
                 HWY_DYNAMIC_DISPATCH(attend_tiles)(f, pack, first_tile + begin, first_tile + end);
               });
}

}  // namespace

void run(Cpu, const FlashAttentionForward& f) {
  const Attention& a = f.attention;
  attention::check(a, FlashAttentionForward::name);
  if (a.batch == 0 || a.heads == 0 || a.queries == 0) return;
  const attention::Sizes n(a);
  const int64_t heads = a.batch * a.kv_heads, together = attention::heads_packed_together(a);
  if (together == heads) return attend_heads(f, 0, heads, true);
  parallel_for(heads, attention::tile_grain(n, n.group * n.query_tiles * n.key_tiles),
               [&](int64_t begin, int64_t end) {
                 for (int64_t h = begin; h < end; ++h) attend_heads(f, h, 1, false);
               });
}

}  // namespace olm::kernels
#endif
