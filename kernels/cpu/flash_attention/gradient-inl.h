// Weights and score gradients of one tile, computed again for the backward passes. Included once
// per instruction set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_GRADIENT_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_GRADIENT_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_GRADIENT_INL_H_
#endif

#include <olm/kernels/cpu/flash_attention/packs.h>
#include <olm/kernels/cpu/flash_attention/scores-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
using attention::BackwardPack;
using attention::ForwardPack;

/// Place of tile number `index` of (batch row, key and value head, tile of keys).
inline Place key_place(const Attention& a, const attention::Sizes& n, int64_t index) {
  return {.b = index / n.key_tiles / a.kv_heads,
          .h = index / n.key_tiles % a.kv_heads,
          .j0 = index % n.key_tiles * kTile};
}

/// Room for one tile: weights w after dropout, gradients of the scores, derivative of the softcap.
template <class A>
struct GradientTile {
  A *weights = nullptr, *grads = nullptr, *cap = nullptr;
  static size_t size() { return size_t(3 * kTile * kTile); }
  explicit GradientTile(A* memory)
      : weights(memory), grads(memory + kTile * kTile), cap(memory + 2 * kTile * kTile) {}
};

/// What is known of a row: see BackwardPack.
template <class A>
struct RowStats {
  A maximum, log_sum, delta;
};

/// One row: scores, which `unit` brings to units of log 2, to weights, dy · v to score gradients.
///   w = 2^((s - m) · unit - log_sum)     ds = w · (dw - delta)     both through dropout and
///   softcap
/// The maximum is taken off first: what remains is exact for the scores that matter, however large
/// they are. Both are 0 for keys that are not attended, and ds where w is 0, even of NaN. A weight
/// of 1 leaves nothing to the other keys, so its ds is 0 too, and not what rounding left of it.
template <class A>
HWY_INLINE void gradient_row(Span block, Span keys, A unit, const RowStats<A>& row,
                             const A* factors, const A* cap, A* weights, A* grads) {
  const hn::ScalableTag<A> d;
  const bool whole = keys.begin <= block.begin && keys.end >= block.end;
  const auto per_score = hn::Set(d, unit), log_sum = hn::Set(d, row.log_sum);
  const auto maximum = hn::Set(d, row.maximum), mean = hn::Set(d, row.delta);
  const auto zero = hn::Zero(d), one = hn::Set(d, A(1)), never = hn::Set(d, kMinusInfinity<A>);
  for (int64_t c = block.begin; c < block.end; c += int64_t(hn::Lanes(d))) {
    auto s = hn::LoadU(d, weights + c);
    if (!whole) s = inside(d, s, keys, c);
    auto t = hn::MulSub(hn::Sub(s, maximum), per_score, log_sum);
    t = hn::IfThenElse(hn::Gt(t, zero), zero, t);  // by rounding alone; NaN stays
    auto w = hn::IfThenZeroElse(hn::Eq(s, never), exp2_of_term(d, t));
    const auto constant = hn::Or(hn::Eq(w, zero), hn::Eq(w, one));
    auto dw = hn::LoadU(d, grads + c);
    const auto factor = factors ? hn::Load(d, factors + c) : one;
    if (factors) dw = hn::Mul(dw, factor);
    auto ds = hn::Mul(w, hn::Sub(dw, mean));
    if (factors) w = hn::Mul(w, factor);
    if (cap) ds = hn::Mul(ds, hn::LoadU(d, cap + c));
    hn::StoreU(w, d, weights + c);
    hn::StoreU(hn::IfThenZeroElse(constant, ds), d, grads + c);
  }
}

/// Fills `tile` inside the region; gradients are those of the scores before the softcap, or, unless
/// `through_cap`, after it.
template <class Products, class A>
void tile_gradient(const Products& products, const Attention& a, const BackwardPack& pack,
                   const Place& p, const Region& region, bool through_cap,
                   const GradientTile<A>& tile) {
  HWY_ALIGN A factors[kTile];
  const int64_t query = pack.query_tile(a, p), key = pack.key_tile(a, p);
  products.scores(query, key, region, tile.weights);
  const bool capped = a.softcap > 0 && through_cap;
  if (transforms_scores(a))
    transform_scores<A>(a, p, region, products.scale(), tile.weights, capped ? tile.cap : nullptr);
  products.weight_gradients(query, key, region, tile.grads);
  const A unit = A(attention::score_unit(a, pack.unit) * kLog2E);
  for (int64_t r = 0; r < region.count * region.block; ++r) {
    const Span block = region.blocks[r / region.block];
    if (block.empty()) continue;
    if (region.rows[r].empty()) {  // scores and softcap of such rows are not computed
      std::fill(tile.weights + r * kTile + block.begin, tile.weights + r * kTile + block.end, A(0));
      std::fill(tile.grads + r * kTile + block.begin, tile.grads + r * kTile + block.end, A(0));
      continue;
    }
    if (a.dropout > 0) dropout_factors(a, p, p.i0 + r, factors);
    const int64_t at = query * kTile + r;
    gradient_row(
        block, region.rows[r], unit,
        RowStats<A>{in<A>(pack.row_max)[at], in<A>(pack.row_log_sum)[at], in<A>(pack.delta)[at]},
        a.dropout > 0 ? factors : nullptr, capped ? tile.cap + r * kTile : nullptr,
        tile.weights + r * kTile, tile.grads + r * kTile);
  }
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
