// P and dS of one tile, computed again for the backward passes. Included once per instruction set.
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

/// Room for one tile: P after dropout, dS, and the derivative of the softcap. P first holds S, and
/// dS first holds dP.
template <class A>
struct GradientTile {
  A *P = nullptr, *dS = nullptr, *dcap = nullptr;
  static size_t size() { return size_t(3 * kTile * kTile); }
  explicit GradientTile(A* memory)
      : P(memory), dS(memory + kTile * kTile), dcap(memory + 2 * kTile * kTile) {}
};

/// What is known of a row: see BackwardPack.
template <class A>
struct RowStats {
  A m, log_sum, delta;
};

/// One row: S, which `scale_log2` brings to base-2 logarithms, becomes P, and dP becomes dS.
///   P = 2^((S - m) · scale_log2 - log_sum)    dS = P · (dP - delta)
/// both through dropout and softcap. m is taken off first: what remains is exact for the scores
/// that matter, however large they are. Both are 0 for keys that are not attended, and dS where P
/// is 0, even if dP is NaN. A P of 1 leaves nothing to the other keys, so its dS is 0 too, and not
/// what rounding left of dP - delta.
template <class A>
HWY_INLINE void dS_row(Span block, Span keys, A scale_log2, const RowStats<A>& row,
                       const A* factors, const A* dcap, A* P, A* dS) {
  const hn::ScalableTag<A> d;
  const bool whole = keys.begin <= block.begin && keys.end >= block.end;
  const auto scale = hn::Set(d, scale_log2), m = hn::Set(d, row.m);
  const auto log_sum = hn::Set(d, row.log_sum), delta = hn::Set(d, row.delta);
  const auto zero = hn::Zero(d), one = hn::Set(d, A(1)), never = hn::Set(d, kMinusInfinity<A>);
  for (int64_t c = block.begin; c < block.end; c += int64_t(hn::Lanes(d))) {
    auto s = hn::LoadU(d, P + c);
    if (!whole) s = inside(d, s, keys, c);
    auto exponent = hn::MulSub(hn::Sub(s, m), scale, log_sum);
    // Rounding alone makes it positive: m may lie below the largest score, by as much as log_sum
    // makes up for. NaN stays.
    exponent = hn::IfThenElse(hn::Gt(exponent, zero), zero, exponent);
    auto p = hn::IfThenZeroElse(hn::Eq(s, never), exp2_of_term(d, exponent));
    const auto constant = hn::Or(hn::Eq(p, zero), hn::Eq(p, one));
    auto dp = hn::LoadU(d, dS + c);
    const auto factor = factors ? hn::Load(d, factors + c) : one;
    if (factors) dp = hn::Mul(dp, factor);
    auto ds = hn::Mul(p, hn::Sub(dp, delta));
    if (factors) p = hn::Mul(p, factor);
    if (dcap) ds = hn::Mul(ds, hn::LoadU(d, dcap + c));
    hn::StoreU(p, d, P + c);
    hn::StoreU(hn::IfThenZeroElse(constant, ds), d, dS + c);
  }
}

/// Fills `tile` inside the mask; dS is that of the scores before the softcap, or, unless
/// `through_cap`, after it.
template <class Products, class A>
void recompute_P_dS(const Products& products, const Attention& a, const BackwardPack& pack,
                    const Place& p, const TileMask& mask, bool through_cap,
                    const GradientTile<A>& tile) {
  HWY_ALIGN A factors[kTile];
  const int64_t query = pack.query_tile(a, p), key = pack.key_tile(a, p);
  products.scores(query, key, mask, tile.P);
  const bool capped = a.softcap > 0 && through_cap;
  if (transforms_scores(a))
    transform_scores<A>(a, p, mask, pack.score_scale(a), tile.P, capped ? tile.dcap : nullptr);
  products.dP(query, key, mask, tile.dS);
  const A scale_log2 = A(pack.softmax_scale(a) * kLog2E);
  for (int64_t r = 0; r < mask.block_count * mask.block_rows; ++r) {
    const Span block = mask.blocks[r / mask.block_rows];
    if (block.empty()) continue;
    A *P = tile.P + r * kTile, *dS = tile.dS + r * kTile;
    if (mask.rows[r].empty()) {  // a row of the block beside others that attend something
      std::fill(P + block.begin, P + block.end, A(0));
      std::fill(dS + block.begin, dS + block.end, A(0));
      continue;
    }
    if (a.dropout > 0) dropout_factors(a, p, p.i0 + r, factors);
    const int64_t at = query * kTile + r;
    const RowStats<A> row{in<A>(pack.row_max)[at], in<A>(pack.row_log_sum)[at],
                          in<A>(pack.delta)[at]};
    dS_row(block, mask.rows[r], scale_log2, row, a.dropout > 0 ? factors : nullptr,
           capped ? tile.dcap + r * kTile : nullptr, P, dS);
  }
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
