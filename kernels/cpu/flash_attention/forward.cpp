// Attention, forward. Keys and values are packed once, by tiles. Then each tile of queries walks
// its tiles of keys with an online softmax. Parallel over key and value heads where there are many,
// else over (batch row, head, tile of queries). Traffic: q, y once; packed keys and values once per
// tile of queries, from cache.
#include <olm/kernels/flash_attention.h>

#include <cmath>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/flash_attention/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/flash_attention/pair-inl.h>
#include <olm/kernels/cpu/flash_attention/wide-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

void pack_tiles(const FlashAttentionForward& f, const ForwardPack& pack, int64_t begin,
                int64_t end) {
  if (pack.unit) {
    for (int64_t i = begin; i < end; ++i) PairForward::pack_tile(f, pack, i);
    return;
  }
  visit_float(f.attention.dtype, [&]<class T>() {
    for (int64_t i = begin; i < end; ++i) WideForward<T>::pack_tile(f, pack, i);
  });
}

/// Running state of a tile of queries. Weights are relative to that of a score `base`, which
/// follows the largest one only when that has outgrown it by kSlack, in units of log 2: outputs are
/// then seldom rescaled. Sums are kept by lanes.
template <class A>
struct Running {
  static constexpr A kSlack = 8;
  static constexpr int64_t kLanes = HWY_MAX_BYTES / sizeof(A);
  A* out = nullptr;  // [kTile, padded_value_dim], not yet divided by the sums
  A base[kTile];
  HWY_ALIGN A sums[kTile * kLanes];

  A sum(int64_t r) const {
    const hn::ScalableTag<A> d;
    return hn::GetLane(hn::SumOfLanes(d, hn::Load(d, sums + r * int64_t(hn::Lanes(d)))));
  }
};

template <class A>
HWY_INLINE void scale_row(A* row, int64_t n, A factor) {
  const hn::ScalableTag<A> d;
  const auto f = hn::Set(d, factor);
  for (int64_t c = 0; c < n; c += int64_t(hn::Lanes(d)))
    hn::StoreU(hn::Mul(f, hn::LoadU(d, row + c)), d, row + c);
}

/// The largest scores of a row, by lanes; writes -inf outside the row's keys.
template <class D, class A = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> row_maxima(D d, A* row, Span block, Span keys) {
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
  return maximum;
}

/// True where some score of the span is not a number.
template <class A>
bool has_nan(const A* row, Span block) {
  return std::any_of(row + block.begin, row + block.end, [](A s) { return std::isnan(s); });
}

/// The nearest bf16, as an f32; ties away from zero. NaN stays.
template <class D>
HWY_INLINE hn::Vec<D> rounded_to_bf16(D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::Add(hn::BitCast(du, x), hn::Set(du, 0x8000u));
  const auto near = hn::BitCast(d, hn::And(bits, hn::Set(du, 0xffff0000u)));
  return hn::IfThenElse(hn::IsNaN(x), x, near);
}

/// Scores of a row to weights 2^((s - base) · unit); their sums are added to `sums`. The base is
/// taken off first, which is exact near it, however large scores are. Where weights will be
/// multiplied as bf16, the sums are those of the rounded ones: what a common offset of the values
/// adds to the output then cancels, which backward's delta relies on.
template <bool to_bf16, class A>
HWY_INLINE void weigh_row(A* row, Span block, A unit, A base, A* sums) {
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  const auto factor = hn::Set(d, unit), origin = hn::Set(d, base);
  auto sum = hn::Load(d, sums);
  for (int64_t c = block.begin; c < block.end; c += lanes) {
    auto w = exp2_of_term(d, hn::Mul(hn::Sub(hn::LoadU(d, row + c), origin), factor));
    if constexpr (to_bf16) w = rounded_to_bf16(d, w);
    hn::StoreU(w, d, row + c);
    sum = hn::Add(sum, w);
  }
  hn::Store(sum, d, sums);
}

/// The base of row r becomes `now`.
template <class A>
HWY_INLINE void move_base(const attention::Sizes& n, int64_t r, A now, A unit, Running<A>& state) {
  const int64_t lanes = int64_t(hn::Lanes(hn::ScalableTag<A>()));
  const A factor = exp2_scalar((state.base[r] - now) * unit);
  scale_row(state.sums + r * lanes, lanes, factor);
  scale_row(state.out + r * n.padded_value_dim, n.padded_value_dim, factor);
  state.base[r] = now;
}

/// Scores, which `unit` brings to units of log 2, to weights.
template <bool to_bf16, class A>
void softmax_rows(const Attention& a, const attention::Sizes& n, const Place& p,
                  const Region& region, A unit, A* scores, Running<A>& state) {
  HWY_ALIGN A factors[kTile];
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  const A slack = Running<A>::kSlack / unit;
  for (int64_t r = 0; r < region.count * region.block; ++r) {
    const Span block = region.blocks[r / region.block];
    if (block.empty()) continue;
    A* row = scores + r * kTile;
    A* sums = state.sums + r * lanes;
    const auto maxima = row_maxima(d, row, block, region.rows[r]);
    const auto limit = hn::Set(d, state.base[r] + slack);
    if (!hn::AllTrue(d, hn::Le(maxima, limit)) || state.base[r] == kMinusInfinity<A>) {
      const A here = hn::GetLane(hn::MaxOfLanes(d, maxima)), before = state.base[r];
      const A now = here <= before ? before : here;  // NaN goes on
      if (now == kMinusInfinity<A>) {  // nothing attended, or a NaN that maxima passed over
        if (has_nan(row, block)) sums[0] = std::numeric_limits<A>::quiet_NaN();
        std::fill(row + block.begin, row + block.end, A(0));
        continue;
      }
      if (now != before) move_base(n, r, now, unit, state);
    }
    weigh_row<to_bf16>(row, block, unit, state.base[r], sums);
    if (a.dropout <= 0) continue;
    dropout_factors(a, p, p.i0 + r, factors);
    for (int64_t c = block.begin; c < block.end; c += lanes)
      hn::StoreU(hn::Mul(hn::LoadU(d, row + c), hn::Load(d, factors + c)), d, row + c);
  }
}

/// How a row ends: what its outputs are multiplied by, and what backward is told of it.
template <class A>
struct RowEnd {
  A factor, maximum, log_sum;
};

/// From the sum of weights relative to `base`; `score` is what scores are to be multiplied by.
template <class A>
RowEnd<A> end_of_row(A base, A sum, double score, A sink) {
  if (base == kMinusInfinity<A>) base = 0;  // no keys, or a NaN among the scores
  if (sink == kMinusInfinity<A>) return {sum == 0 ? A(0) : 1 / sum, base, std::log(sum)};
  double kept = 1;
  if (sum == 0 || double(sink) > double(base) * score) {  // the sink has the largest weight
    constexpr double kLargest = double(std::numeric_limits<A>::max());
    const A moved = A(std::clamp(double(sink) / score, -kLargest, kLargest));
    kept = std::exp((double(base) - double(moved)) * score);
    base = moved;
  }
  const double total = double(sum) * kept + std::exp(double(sink) - double(base) * score);
  return {A(kept / total), base, A(std::log(total))};
}

/// A finished row: rounded, and what rounding took from it where `low` is given.
template <class T, class A>
HWY_INLINE void write_row(const A* sums, int64_t cols, A factor, T* y, T* low) {
  unpack_row(sums, cols, factor, y);
  if (!low) return;
  const hn::ScalableTag<A> d;
  for_vectors(d, cols, [&](int64_t c, auto part) HWY_ATTR {
    const auto exact = hn::Mul(hn::Set(d, factor), load(d, sums + c, part));
    store(d, hn::Sub(exact, load(d, y + c, part)), low + c, part);
  });
}

/// Divides by the sums, with the sink among them, and writes the rows.
template <class T, class A = acc_t<T>>
void finish_rows(const FlashAttentionForward& f, const ForwardPack& pack, const Place& p,
                 Running<A>& state) {
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  const int64_t rows = std::min(kTile, a.queries - p.i0);
  const int64_t first = (p.b * a.heads + p.h) * a.queries + p.i0;
  const A sink = a.sink ? in<A>(a.sink)[p.h] : kMinusInfinity<A>;
  const double score = attention::score_unit(a, pack.unit);
  for (int64_t r = 0; r < rows; ++r) {
    const RowEnd<A> end = end_of_row(state.base[r], state.sum(r), score, sink);
    out<A>(f.row_max)[first + r] = end.maximum;
    out<A>(f.row_log_sum)[first + r] = end.log_sum;
    const int64_t at = p.b * f.y.batch + p.h * f.y.head + (p.i0 + r) * f.y.row;
    write_row(state.out + r * n.padded_value_dim, n.value_dim, end.factor, out<T>(f.y.data) + at,
              f.y_low ? out<T>(f.y_low) + at : nullptr);
  }
}

/// One tile of queries: number `index` of (batch row, head, tile of queries).
template <class T, class Products, class A = acc_t<T>>
void attend_tile(const FlashAttentionForward& f, const ForwardPack& pack, int64_t index,
                 Products& products, A* scores, A* sums) {
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  Place p{.b = index / n.query_tiles / a.heads,
          .h = index / n.query_tiles % a.heads,
          .i0 = index % n.query_tiles * kTile,
          .j0 = 0};
  Running<A> state{.out = sums, .base = {}, .sums = {}};
  std::fill_n(state.out, kTile * n.padded_value_dim, A(0));
  std::fill_n(state.base, kTile, kMinusInfinity<A>);
  products.take_queries(p);
  const A unit = A(attention::score_unit(a, pack.unit) * kLog2E);
  const int64_t head = (p.b * a.kv_heads + p.h / n.group) * n.key_tiles - pack.first_tile;
  Region region;
  for (int64_t tile = 0; tile < n.key_tiles; ++tile) {
    p.j0 = tile * kTile;
    if (!find_region(a, p, kBlockRows, span_alignment<A>(), region)) continue;
    products.scores(p, head + tile, region, scores);
    if (transforms_scores(a)) transform_scores<A>(a, p, region, products.scale(), scores, nullptr);
    softmax_rows<Products::kRoundsWeights>(a, n, p, region, unit, scores, state);
    products.add_values(p, head + tile, region, scores, state.out);
  }
  finish_rows<T>(f, pack, p, state);
}

template <class T, class Products>
void attend_with(const FlashAttentionForward& f, const ForwardPack& pack, int64_t begin,
                 int64_t end) {
  using A = acc_t<T>;
  Products products(f, pack);
  const auto memory = f.stream.scratch<A>(size_t(kTile * (pack.sizes.padded_value_dim + kTile)));
  A* sums = memory.get() + kTile * kTile;
  for (int64_t i = begin; i < end; ++i)
    attend_tile<T, Products>(f, pack, i, products, memory.get(), sums);
}

void attend_tiles(const FlashAttentionForward& f, const ForwardPack& pack, int64_t begin,
                  int64_t end) {
  if (pack.unit) return attend_with<bfloat16_t, PairForward>(f, pack, begin, end);
  visit_float(f.attention.dtype,
              [&]<class T>() { attend_with<T, WideForward<T>>(f, pack, begin, end); });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {

HWY_EXPORT(pack_tiles);
HWY_EXPORT(attend_tiles);

namespace {

/// Packs and attends `count` key and value heads from `first` on, over threads where `parallel`.
void attend_heads(const FlashAttentionForward& f, const attention::Unit* unit, int64_t first,
                  int64_t count, bool parallel) {
  using attention::kTile;
  attention::ForwardPack pack{.sizes = attention::Sizes(f.attention, attention::pad_of(unit)),
                              .unit = unit,
                              .first_tile = 0};
  const attention::Sizes& n = pack.sizes;
  const int64_t width = int64_t(size_of(acc_dtype(f.attention.dtype)));
  const int64_t key_tiles = count * n.key_tiles, tiles = count * n.group * n.query_tiles;
  pack.first_tile = first * n.key_tiles;
  pack.keys.bytes = unit ? 4 * attention::right_words(*unit, kTile, n.dim) : kTile * n.dim * width;
  pack.values.bytes = unit ? 4 * attention::right_words(*unit, n.value_dim, kTile)
                           : kTile * n.padded_value_dim * width;
  const Scratch<char> keys = f.stream.scratch<char>(size_t(key_tiles * pack.keys.bytes));
  const Scratch<char> values = f.stream.scratch<char>(size_t(key_tiles * pack.values.bytes));
  const Scratch<bool> finite = f.stream.scratch<bool>(size_t(key_tiles));
  pack.keys.data = keys.get(), pack.values.data = values.get(), pack.finite = finite.get();
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
  attention::run_forward(f, attention::pair_unit(f.attention));
}

void attention::run_forward(const FlashAttentionForward& f, const Unit* unit) {
  const Attention& a = f.attention;
  attention::check(a, FlashAttentionForward::name);
  if (a.batch == 0 || a.heads == 0 || a.queries == 0) return;
  const attention::Sizes n(a);
  const int64_t heads = a.batch * a.kv_heads, together = attention::heads_packed_together(a);
  if (together == heads) return attend_heads(f, unit, 0, heads, true);
  parallel_for(heads, attention::tile_grain(n, n.group * n.query_tiles * n.key_tiles),
               [&](int64_t begin, int64_t end) {
                 for (int64_t h = begin; h < end; ++h) attend_heads(f, unit, h, 1, false);
               });
}

}  // namespace olm::kernels
#endif
