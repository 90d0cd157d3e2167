// Weights and score gradients of one tile, computed again for the backward passes. Included once
// per instruction set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_GRADIENT_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_GRADIENT_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_GRADIENT_INL_H_
#endif

#include <olm/kernels/cpu/flash_attention/backward_pack.h>
#include <olm/kernels/cpu/flash_attention/scores-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
using attention::BackwardPack;

/// Room for one tile: weights w after dropout, gradients of the scores, derivative of the softcap.
template <class A>
struct GradientTile {
  A *weights = nullptr, *grads = nullptr, *cap = nullptr;
  static size_t size() { return size_t(3 * kTile * kTile); }
  explicit GradientTile(A* memory)
      : weights(memory), grads(memory + kTile * kTile), cap(memory + 2 * kTile * kTile) {}
};

/// One row: scores to weights, dy · v to score gradients.
///   w = 2^(s - logsumexp)     ds = w · (dw - delta)     both through dropout and softcap
/// Both are 0 for keys that are not attended, and ds where w is 0, even of NaN.
template <class A>
HWY_INLINE void gradient_row(Span block, Span keys, A logsumexp, A delta, const A* factors,
                             const A* cap, A* weights, A* grads) {
  const hn::ScalableTag<A> d;
  const bool whole = keys.begin <= block.begin && keys.end >= block.end;
  const auto log2e = hn::Set(d, A(kLog2E)), base = hn::Set(d, logsumexp);
  const auto mean = hn::Set(d, delta), never = hn::Set(d, kMinusInfinity<A>);
  for (int64_t c = block.begin; c < block.end; c += int64_t(hn::Lanes(d))) {
    auto s = hn::LoadU(d, weights + c);
    if (!whole) s = inside(d, s, keys, c);
    auto w = exp2_score(d, hn::MulSub(s, log2e, base));
    w = hn::IfThenZeroElse(hn::Eq(s, never), w);
    const auto none = hn::Eq(w, hn::Zero(d));
    auto dw = hn::LoadU(d, grads + c);
    const auto factor = factors ? hn::Load(d, factors + c) : hn::Set(d, A(1));
    if (factors) dw = hn::Mul(dw, factor);
    auto ds = hn::Mul(w, hn::Sub(dw, mean));
    if (factors) w = hn::Mul(w, factor);
    if (cap) ds = hn::Mul(ds, hn::LoadU(d, cap + c));
    hn::StoreU(w, d, weights + c);
    hn::StoreU(hn::IfThenZeroElse(none, ds), d, grads + c);
  }
}

/// Fills `tile` inside the region; gradients are those of the scores before the softcap, or, unless
/// `through_cap`, after it.
template <class A>
void tile_gradient(const Attention& a, const BackwardPack& pack, const Place& p,
                   const Region& region, bool through_cap, const GradientTile<A>& tile) {
  HWY_ALIGN A factors[kTile];
  const attention::Sizes& n = pack.sizes;
  const int64_t query = pack.query_tile(a, p), key = pack.key_tile(a, p);
  score_product(region, in<A>(pack.q) + query * kTile * n.padded_dim, n.padded_dim,
                in<A>(pack.keys_t) + key * n.dim * kTile, n.dim, tile.weights);
  const bool capped = a.softcap > 0 && through_cap;
  if (transforms_scores(a))
    transform_scores<A>(a, p, region, tile.weights, capped ? tile.cap : nullptr);
  score_product(region, in<A>(pack.dy) + query * kTile * n.padded_value_dim, n.padded_value_dim,
                in<A>(pack.values_t) + key * n.value_dim * kTile, n.value_dim, tile.grads);
  for (int64_t r = 0; r < region.count * region.block; ++r) {
    const Span block = region.blocks[r / region.block];
    if (block.empty()) continue;
    if (region.rows[r].empty()) {  // scores and softcap of such rows are not computed
      std::fill(tile.weights + r * kTile + block.begin, tile.weights + r * kTile + block.end, A(0));
      std::fill(tile.grads + r * kTile + block.begin, tile.grads + r * kTile + block.end, A(0));
      continue;
    }
    if (a.dropout > 0) dropout_factors(a, p, p.i0 + r, factors);
    gradient_row(block, region.rows[r], in<A>(pack.logsumexp)[query * kTile + r],
                 in<A>(pack.delta)[query * kTile + r], a.dropout > 0 ? factors : nullptr,
                 capped ? tile.cap + r * kTile : nullptr, tile.weights + r * kTile,
                 tile.grads + r * kTile);
  }
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
