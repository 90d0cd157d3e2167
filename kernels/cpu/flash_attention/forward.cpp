// Attention, forward (FlashAttention-2: Dao 2023, arXiv:2307.08691). K and V are packed once, by
// tiles. Then each tile of queries walks its tiles of keys:
//   S = Q Kᵀ · scale, masked    P = e^(S - m)    l += rowsum(P)    acc += P V
// and ends with O = acc / l,
// where m follows the row's maximum, and l and acc are rescaled when it moves (online softmax:
// Milakov & Gimelshein 2018, arXiv:1805.02867). Parallel over key and value heads where there are
// many, else over (batch row, head, tile of queries). Traffic: q, y once; packed K and V once per
// tile of queries, from L2 where one head at a time is packed, else from L3.
#include <olm/kernels/flash_attention.h>

#include <cmath>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/flash_attention/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/flash_attention/products_acc-inl.h>
#include <olm/kernels/cpu/flash_attention/products_bf16-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

/// The online softmax of a tile of queries. m is the score that P is relative to. It follows the
/// row's maximum only when that has outgrown it by kSlack, as a base-2 logarithm: P is then at most
/// 2^kSlack, which costs no digits, and acc is seldom rescaled. l is summed by lanes.
template <class A>
struct OnlineSoftmax {
  static constexpr A kSlack = 8;
  static constexpr int64_t kLanes = HWY_MAX_BYTES / sizeof(A);
  A* acc = nullptr;  // [kTile, padded_value_dim]: P V, not yet divided by l
  A m[kTile];
  HWY_ALIGN A l[kTile * kLanes];

  A row_sum(int64_t r) const {
    const hn::ScalableTag<A> d;
    return hn::GetLane(hn::SumOfLanes(d, hn::Load(d, l + r * int64_t(hn::Lanes(d)))));
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

/// S of a row becomes P = 2^((S - m) · scale_log2), whose sum is added to `l`. m is taken off
/// first, which is exact near it, however large scores are. Where P will be multiplied as bf16, l
/// sums the rounded P: what a common offset of the values adds to the output then cancels, which
/// backward's delta relies on.
template <bool to_bf16, class A>
HWY_INLINE void exp_row(A* row, Span block, A scale_log2, A m, A* l) {
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  const auto factor = hn::Set(d, scale_log2), origin = hn::Set(d, m);
  auto sum = hn::Load(d, l);
  for (int64_t c = block.begin; c < block.end; c += lanes) {
    auto p = exp2_of_term(d, hn::Mul(hn::Sub(hn::LoadU(d, row + c), origin), factor));
    if constexpr (to_bf16) p = rounded_to_bf16(d, p);
    hn::StoreU(p, d, row + c);
    sum = hn::Add(sum, p);
  }
  hn::Store(sum, d, l);
}

/// m of row r becomes `now`.
template <class A>
HWY_INLINE void rescale_row(const attention::Sizes& n, int64_t r, A now, A scale_log2,
                            OnlineSoftmax<A>& state) {
  const int64_t lanes = int64_t(hn::Lanes(hn::ScalableTag<A>()));
  const A factor = exp2_scalar((state.m[r] - now) * scale_log2);
  scale_row(state.l + r * lanes, lanes, factor);
  scale_row(state.acc + r * n.padded_value_dim, n.padded_value_dim, factor);
  state.m[r] = now;
}

/// S, which scale_log2 brings to base-2 logarithms, becomes P after dropout; m, l and acc follow.
template <bool to_bf16, class A>
void online_softmax(const Attention& a, const attention::Sizes& n, const Place& p,
                    const TileMask& mask, A scale_log2, A* S, OnlineSoftmax<A>& state) {
  HWY_ALIGN A factors[kTile];
  const hn::ScalableTag<A> d;
  const int64_t lanes = int64_t(hn::Lanes(d));
  const A slack = OnlineSoftmax<A>::kSlack / scale_log2;
  for (int64_t r = 0; r < mask.block_count * mask.block_rows; ++r) {
    const Span block = mask.blocks[r / mask.block_rows];
    if (block.empty()) continue;
    A *row = S + r * kTile, *l = state.l + r * lanes;
    const auto maxima = row_maxima(d, row, block, mask.rows[r]);
    const auto limit = hn::Set(d, state.m[r] + slack);
    // The lanes' maxima are joined only where one of them may move m.
    if (!hn::AllTrue(d, hn::Le(maxima, limit)) || state.m[r] == kMinusInfinity<A>) {
      const A here = hn::GetLane(hn::MaxOfLanes(d, maxima)), before = state.m[r];
      const A now = here <= before ? before : here;  // NaN goes on
      if (now == kMinusInfinity<A>) {  // nothing attended, or a NaN that maxima passed over
        if (has_nan(row, block)) l[0] = std::numeric_limits<A>::quiet_NaN();
        std::fill(row + block.begin, row + block.end, A(0));
        continue;
      }
      if (now != before) rescale_row(n, r, now, scale_log2, state);
    }
    exp_row<to_bf16>(row, block, scale_log2, state.m[r], l);
    if (a.dropout <= 0) continue;
    // l is that of all keys: dropout takes away from P V alone.
    dropout_factors(a, p, p.i0 + r, factors);
    for (int64_t c = block.begin; c < block.end; c += lanes)
      hn::StoreU(hn::Mul(hn::LoadU(d, row + c), hn::Load(d, factors + c)), d, row + c);
  }
}

/// How a row ends: what acc is multiplied by, and what backward is told.
template <class A>
struct RowEnd {
  A factor, row_max, row_log_sum;
};

/// `scale` is what scores are still to be multiplied by. A sink is one more score, without a value.
template <class A>
RowEnd<A> end_of_row(A m, A l, double scale, A sink) {
  if (m == kMinusInfinity<A>) m = 0;  // no keys, or a NaN among the scores
  if (sink == kMinusInfinity<A>) return {l == 0 ? A(0) : 1 / l, m, std::log(l)};
  double kept = 1;
  const bool is_largest = l == 0 || double(sink) > double(m) * scale;
  if (is_largest) {
    // In the unit of m, scores that are not yet scaled, where a small scale may leave no room for
    // it.
    constexpr double kLargest = double(std::numeric_limits<A>::max());
    const A moved = A(std::clamp(double(sink) / scale, -kLargest, kLargest));
    kept = l == 0 ? 0 : std::exp((double(m) - double(moved)) * scale);
    m = moved;
  }
  constexpr double kFar = 64;
  double above = double(sink) - double(m) * scale;
  if (is_largest) above = std::clamp(above, -kFar, kFar);  // of a huge sink m has too few digits
  const double total = double(l) * kept + std::exp(above);
  return {A(kept / total), m, A(std::log(total))};
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

/// O = acc / l, with the sink in l.
template <class T, class A = acc_t<T>>
void write_output(const FlashAttentionForward& f, const ForwardPack& pack, const Place& p,
                  OnlineSoftmax<A>& state) {
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  const int64_t rows = std::min(kTile, a.queries - p.i0);
  const int64_t first = (p.b * a.heads + p.h) * a.queries + p.i0;
  const A sink = a.sink ? in<A>(a.sink)[p.h] : kMinusInfinity<A>;
  const double scale = pack.softmax_scale(a);
  for (int64_t r = 0; r < rows; ++r) {
    const RowEnd<A> end = end_of_row(state.m[r], state.row_sum(r), scale, sink);
    out<A>(f.row_max)[first + r] = end.row_max;
    out<A>(f.row_log_sum)[first + r] = end.row_log_sum;
    const int64_t at = p.b * f.y.batch + p.h * f.y.head + (p.i0 + r) * f.y.row;
    write_row(state.acc + r * n.padded_value_dim, n.value_dim, end.factor, out<T>(f.y.data) + at,
              f.y_low ? out<T>(f.y_low) + at : nullptr);
  }
}

/// One tile of queries: number `index` of (batch row, head, tile of queries). S [kTile, kTile] and
/// acc [kTile, padded_value_dim] are room to work in.
template <ForwardTileProducts Products, class A = typename Products::A>
void attend_tile(const FlashAttentionForward& f, const ForwardPack& pack, int64_t index,
                 Products& products, A* S, A* acc) {
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  Place p{.b = index / n.query_tiles / a.heads,
          .h = index / n.query_tiles % a.heads,
          .i0 = index % n.query_tiles * kTile,
          .j0 = 0};
  OnlineSoftmax<A> state{.acc = acc, .m = {}, .l = {}};
  std::fill_n(state.acc, kTile * n.padded_value_dim, A(0));
  std::fill_n(state.m, kTile, kMinusInfinity<A>);
  products.pack_queries(p);
  const A scale_log2 = A(pack.softmax_scale(a) * kLog2E);
  const int64_t first_tile = (p.b * a.kv_heads + p.h / n.group) * n.key_tiles - pack.first_tile;
  TileMask mask;
  for (int64_t tile = 0; tile < n.key_tiles; ++tile) {
    p.j0 = tile * kTile;
    if (!find_tile_mask(a, p, kMR, span_alignment<A>(), mask)) continue;
    products.scores(first_tile + tile, mask, S);
    if (transforms_scores(a)) transform_scores<A>(a, p, mask, pack.score_scale(a), S, nullptr);
    online_softmax<Products::kRoundsP>(a, n, p, mask, scale_log2, S, state);
    products.add_values(p, first_tile + tile, mask, S, state.acc);
  }
  write_output<typename Products::T>(f, pack, p, state);
}

/// Calls body.operator()<Products>() with what multiplies.
template <class F>
void visit_forward(const FlashAttentionForward& f, const ForwardPack& pack, F&& body) {
  if (pack.kernel) return body.template operator()<Bf16Forward>();
  visit_float(f.attention.dtype, [&]<class T>() { body.template operator()<AccForward<T>>(); });
}

void pack_tiles(const FlashAttentionForward& f, const ForwardPack& pack, int64_t begin,
                int64_t end) {
  visit_forward(f, pack, [&]<class Products>() {
    for (int64_t i = begin; i < end; ++i) Products::pack_tile(f, pack, i);
  });
}

void attend_tiles(const FlashAttentionForward& f, const ForwardPack& pack, int64_t begin,
                  int64_t end) {
  visit_forward(f, pack, [&]<class Products>() {
    using A = typename Products::A;
    Products products(f, pack);
    const auto S = f.stream.scratch<A>(size_t(kTile * kTile));
    const auto acc = f.stream.scratch<A>(size_t(kTile * pack.sizes.padded_value_dim));
    for (int64_t i = begin; i < end; ++i) attend_tile(f, pack, i, products, S.get(), acc.get());
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
void attend_heads(const FlashAttentionForward& f, const attention::MicroKernel* kernel,
                  int64_t first, int64_t count, bool parallel) {
  using attention::kTile;
  attention::ForwardPack pack{.sizes = attention::Sizes(f.attention, attention::pad_of(kernel)),
                              .kernel = kernel,
                              .first_tile = 0};
  const attention::Sizes& n = pack.sizes;
  const int64_t width = int64_t(size_of(acc_dtype(f.attention.dtype)));
  const int64_t key_tiles = count * n.key_tiles, tiles = count * n.group * n.query_tiles;
  pack.first_tile = first * n.key_tiles;
  pack.k.bytes = kernel ? 4 * attention::b_words(*kernel, kTile, n.dim) : kTile * n.dim * width;
  pack.v.bytes = kernel ? 4 * attention::b_words(*kernel, n.value_dim, kTile)
                        : kTile * n.padded_value_dim * width;
  const Scratch<char> keys = f.stream.scratch<char>(size_t(key_tiles * pack.k.bytes));
  const Scratch<char> values = f.stream.scratch<char>(size_t(key_tiles * pack.v.bytes));
  const Scratch<bool> finite = f.stream.scratch<bool>(size_t(key_tiles));
  pack.k.data = keys.get(), pack.v.data = values.get(), pack.v_finite = finite.get();
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
  attention::run_forward(f, attention::bf16_microkernel(f.attention));
}

void attention::run_forward(const FlashAttentionForward& given, const MicroKernel* kernel) {
  const FlashAttentionForward f = from_base(given);
  const Attention& a = f.attention;
  attention::check(a, FlashAttentionForward::name);
  if (a.batch == 0 || a.heads == 0 || a.queries == 0) return;
  const attention::Sizes n(a);
  const int64_t heads = a.batch * a.kv_heads, together = attention::heads_packed_together(a);
  if (together == heads) return attend_heads(f, kernel, 0, heads, true);
  parallel_for(heads, attention::tile_grain(n, n.group * n.query_tiles * n.key_tiles),
               [&](int64_t begin, int64_t end) {
                 for (int64_t h = begin; h < end; ++h) attend_heads(f, kernel, h, 1, false);
               });
}

}  // namespace olm::kernels
#endif
