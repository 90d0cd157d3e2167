// Operands and products of attention in acc_dtype. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_WIDE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_WIDE_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_WIDE_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_WIDE_INL_H_
#endif

#include <olm/kernels/cpu/flash_attention/gradient-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
using attention::rows_of;

/// Forward on operands widened to acc_t<T>.
template <class T>
class WideForward {
 public:
  using A = acc_t<T>;
  static constexpr bool kRoundsWeights = false;  ///< to bf16, before they are multiplied
  WideForward(const FlashAttentionForward& f, const ForwardPack& pack)
      : f_(f), pack_(pack), q_(f.stream.scratch<A>(size_t(kTile * pack.sizes.padded_dim))) {}

  static void pack_tile(const FlashAttentionForward& f, const ForwardPack& pack, int64_t index) {
    const attention::Sizes& n = pack.sizes;
    const Place p = key_place(f.attention, n, index);
    const int64_t rows = std::min(kTile, f.attention.keys - p.j0);
    const int64_t place = index - pack.first_tile;
    const Scratch<A> copy = f.stream.scratch<A>(size_t(kTile * n.padded_dim));
    pack_rows(rows_of<T>(f.k, p.b, p.h, p.j0), f.k.row, rows, n.dim, A(1), copy.get(),
              n.padded_dim);
    transpose_tile(copy.get(), n.dim, n.padded_dim, pack.keys.at<A>(place));
    A* values = pack.values.at<A>(place);
    pack_rows(rows_of<T>(f.v, p.b, p.h, p.j0), f.v.row, rows, n.value_dim, A(1), values,
              n.padded_value_dim);
    pack.finite[place] = all_finite(values, kTile * n.padded_value_dim);
  }

  /// What scores are still to be multiplied by.
  A scale() const { return 1; }
  void take_queries(const Place& p) {
    const attention::Sizes& n = pack_.sizes;
    const Attention& a = f_.attention;
    pack_rows(rows_of<T>(f_.q, p.b, p.h, p.i0), f_.q.row, std::min(kTile, a.queries - p.i0), n.dim,
              A(a.scale), q_.get(), n.padded_dim);
  }
  void scores(const Place&, int64_t tile, const Region& region, A* scores) {
    const attention::Sizes& n = pack_.sizes;
    score_product(region, q_.get(), n.padded_dim, pack_.keys.at<A>(tile), n.dim, scores);
  }
  void add_values(const Place&, int64_t tile, const Region& region, A* weights, A* out) {
    const int64_t cols = pack_.sizes.padded_value_dim;
    add_by_query(region, weights, {pack_.values.at<A>(tile), cols, pack_.finite[tile]}, out);
  }

 private:
  const FlashAttentionForward& f_;
  const ForwardPack& pack_;
  const Scratch<A> q_;
};

/// Backward on operands widened to acc_t<T>.
template <class T>
class WideGradient {
 public:
  using A = acc_t<T>;
  WideGradient(const FlashAttentionBackward&, const BackwardPack& pack) : pack_(pack) {}
  /// Packs a tile of queries and its dy.
  static void pack_queries(const FlashAttentionBackward& f, const BackwardPack& pack,
                           const Place& p, int64_t place) {
    const attention::Sizes& n = pack.sizes;
    const int64_t rows = std::min(kTile, f.attention.queries - p.i0);
    A *q = pack.q.at<A>(place), *dy = pack.dy.at<A>(place);
    pack_rows(rows_of<T>(f.q, p.b, p.h, p.i0), f.q.row, rows, n.dim, A(f.attention.scale), q,
              n.padded_dim);
    pack_rows(rows_of<T>(f.dy, p.b, p.h, p.i0), f.dy.row, rows, n.value_dim, A(1), dy,
              n.padded_value_dim);
    pack.q_finite[place] = all_finite(q, kTile * n.padded_dim);
    pack.dy_finite[place] = all_finite(dy, kTile * n.padded_value_dim);
  }
  /// Packs a tile of keys and values of a key and value head.
  static void pack_keys(const FlashAttentionBackward& f, const BackwardPack& pack, const Place& p,
                        int64_t place) {
    const attention::Sizes& n = pack.sizes;
    const int64_t rows = std::min(kTile, f.attention.keys - p.j0);
    A* keys = pack.keys.at<A>(place);
    pack_rows(rows_of<T>(f.k, p.b, p.h, p.j0), f.k.row, rows, n.dim, A(1), keys, n.padded_dim);
    pack.keys_finite[place] = all_finite(keys, kTile * n.padded_dim);
    transpose_tile(keys, n.dim, n.padded_dim, pack.keys_turned.at<A>(place));
    const Scratch<A> values = f.stream.scratch<A>(size_t(kTile * n.padded_value_dim));
    pack_rows(rows_of<T>(f.v, p.b, p.h, p.j0), f.v.row, rows, n.value_dim, A(1), values.get(),
              n.padded_value_dim);
    transpose_tile(values.get(), n.value_dim, n.padded_value_dim, pack.values_turned.at<A>(place));
  }

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
  void write_keys(const A* sums, int64_t cols, A scale, int64_t rows, T* to, int64_t stride) const {
    const int64_t ld = attention::rounded_up(cols, attention::kPad);
    for (int64_t r = 0; r < rows; ++r) unpack_row(sums + r * ld, cols, scale, to + r * stride);
  }

 private:
  const BackwardPack& pack_;
};
}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
