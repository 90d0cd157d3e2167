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

/// One row: scores, which `unit` brings to units of log 2, to weights, dy · v to score gradients.
///   w = 2^(s - logsumexp)     ds = w · (dw - delta)     both through dropout and softcap
/// Both are 0 for keys that are not attended, and ds where w is 0, even of NaN.
template <class A>
HWY_INLINE void gradient_row(Span block, Span keys, A unit, A logsumexp, A delta, const A* factors,
                             const A* cap, A* weights, A* grads) {
  const hn::ScalableTag<A> d;
  const bool whole = keys.begin <= block.begin && keys.end >= block.end;
  const auto per_score = hn::Set(d, unit), base = hn::Set(d, logsumexp);
  const auto mean = hn::Set(d, delta), never = hn::Set(d, kMinusInfinity<A>);
  for (int64_t c = block.begin; c < block.end; c += int64_t(hn::Lanes(d))) {
    auto s = hn::LoadU(d, weights + c);
    if (!whole) s = inside(d, s, keys, c);
    auto w = exp2_score(d, hn::MulSub(s, per_score, base));
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

/// Products with operands widened to A.
template <class A>
class WideGradient {
 public:
  WideGradient(const FlashAttentionBackward&, const BackwardPack& pack) : pack_(pack) {}
  /// What scores are still to be multiplied by, and dk.
  A scale() const { return 1; }
  void scores(int64_t query, int64_t key, const Region& region, A* scores) const {
    const attention::Sizes& n = pack_.sizes;
    score_product(region, pack_.q.at<A>(query), n.padded_dim, pack_.keys_turned.at<A>(key), n.dim,
                  scores);
  }
  /// grads[i, j] = Σ_c dy[i, c] · v[j, c].
  void weight_gradients(int64_t query, int64_t key, const Region& region, A* grads) const {
    const attention::Sizes& n = pack_.sizes;
    score_product(region, pack_.dy.at<A>(query), n.padded_value_dim, pack_.values_turned.at<A>(key),
                  n.value_dim, grads);
  }
  /// What a tile passes back: to dq and dk, [kTile, padded_dim], and dv, [kTile, padded_value_dim].
  void add(const Place&, int64_t query, int64_t key, const Region& region,
           const GradientTile<A>& tile, A* dq, A* dk, A* dv) const {
    const attention::Sizes& n = pack_.sizes;
    const Rows<A> q{pack_.q.at<A>(query), n.padded_dim, pack_.q_finite[query]};
    const Rows<A> dy{pack_.dy.at<A>(query), n.padded_value_dim, pack_.dy_finite[query]};
    const Rows<A> keys{pack_.keys.at<A>(key), n.padded_dim, pack_.keys_finite[key]};
    add_by_key(region, tile.weights, dy, dv);
    add_by_key(region, tile.grads, q, dk);
    add_by_query(region, tile.grads, keys, dq);
  }
  /// Row r of `cols` sums that add() made for keys, times `scale`.
  template <class T>
  void write_keys(const A* sums, int64_t cols, A scale, int64_t rows, T* to, int64_t stride) const {
    const int64_t ld = attention::rounded_up(cols, attention::kPad);
    for (int64_t r = 0; r < rows; ++r) unpack_row(sums + r * ld, cols, scale, to + r * stride);
  }

 private:
  const BackwardPack& pack_;
};

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
  const A unit = A((transforms_scores(a) ? 1.0 : double(products.scale())) * kLog2E);
  for (int64_t r = 0; r < region.count * region.block; ++r) {
    const Span block = region.blocks[r / region.block];
    if (block.empty()) continue;
    if (region.rows[r].empty()) {  // scores and softcap of such rows are not computed
      std::fill(tile.weights + r * kTile + block.begin, tile.weights + r * kTile + block.end, A(0));
      std::fill(tile.grads + r * kTile + block.begin, tile.grads + r * kTile + block.end, A(0));
      continue;
    }
    if (a.dropout > 0) dropout_factors(a, p, p.i0 + r, factors);
    gradient_row(block, region.rows[r], unit, in<A>(pack.logsumexp)[query * kTile + r],
                 in<A>(pack.delta)[query * kTile + r], a.dropout > 0 ? factors : nullptr,
                 capped ? tile.cap + r * kTile : nullptr, tile.weights + r * kTile,
                 tile.grads + r * kTile);
  }
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
