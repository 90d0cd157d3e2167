// TileProducts in acc_dtype: operands are widened when they are packed. The microkernel of
// gemm_acc-inl.h broadcasts elements of its left operand, which may so lie transposed, and loads
// vectors of its right one, along whose rows the columns of the result must run. Hence K is packed
// transposed for S = Q Kᵀ and V for dP = dO Vᵀ, while P V, dSᵀ Q, Pᵀ dO and dS K take the rows of
// V, Q, dO and K as they are, and P and dS are never transposed in memory. Included once per
// instruction set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_ACC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_ACC_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_ACC_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_ACC_INL_H_
#endif

#include <olm/kernels/cpu/flash_attention/gemm_acc-inl.h>
#include <olm/kernels/cpu/flash_attention/products-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

/// A packed tile [kTile, cols] that P or dS is multiplied with: as it is, for what is not finite,
/// and the part that the GEMM reads, which is the same memory where everything is finite.
template <class A>
struct AccTile {
  AccTile(const Stream& stream, const A* data, int64_t cols, bool finite)
      : all{.data = data, .stride = cols, .rows = kTile, .cols = cols},
        finite(finite),
        part(stream, all, finite) {}
  TileRows<A> all;
  bool finite;
  FinitePart<A> part;
};

/// out[i, :] += Σ_j P[i, j] · values[j, :] inside the mask.
template <class A>
void add_by_query(const TileMask& mask, const A* P, const AccTile<A>& values, A* out) {
  const int64_t cols = values.all.cols;
  gemm_by_query(mask, P, values.part.data(), cols, out);
  if (!values.finite)
    add_nonfinite_by_query(mask, P, values.all, TileSums<A>{.data = out, .row_step = cols});
}

/// out[j, :] += Σ_i P[i, j] · values[i, :] inside the mask.
template <class A>
void add_by_key(const TileMask& mask, const A* P, const AccTile<A>& values, A* out) {
  const int64_t cols = values.all.cols;
  gemm_by_key(mask, P, values.part.data(), cols, out);
  if (!values.finite)
    add_nonfinite_by_key(mask, P, values.all, TileSums<A>{.data = out, .row_step = cols});
}

/// Forward on operands of type T. The scale goes into the packed queries: once for each of their
/// elements, and not for each score of each tile of keys.
template <class T_>
class AccForward {
 public:
  using T = T_;
  using A = acc_t<T>;
  static constexpr bool kRoundsP = false;
  AccForward(const FlashAttentionForward& f, const ForwardPack& pack)
      : f_(f), pack_(pack), q_(f.stream.scratch<A>(size_t(kTile * pack.sizes.padded_dim))) {}

  static void pack_tile(const FlashAttentionForward& f, const ForwardPack& pack, int64_t index) {
    const attention::Sizes& n = pack.sizes;
    const Place p = key_place(f.attention, n, index);
    const int64_t rows = std::min(kTile, f.attention.keys - p.j0);
    const int64_t place = index - pack.first_tile;
    // Widened by rows first: transpose_tile reads whole vectors of four rows, so it wants kTile of
    // them, padded, whatever the tensor has.
    const Scratch<A> copy = f.stream.scratch<A>(size_t(kTile * n.padded_dim));
    pack_rows(rows_of<T>(f.k, p.b, p.h, p.j0), f.k.row, rows, n.dim, A(1), copy.get(),
              n.padded_dim);
    transpose_tile(copy.get(), n.dim, n.padded_dim, pack.k.at<A>(place));
    A* v = pack.v.at<A>(place);
    pack_rows(rows_of<T>(f.v, p.b, p.h, p.j0), f.v.row, rows, n.value_dim, A(1), v,
              n.padded_value_dim);
    pack.v_finite[place] = all_finite(v, kTile * n.padded_value_dim);
  }

  void pack_queries(const Place& p) {
    const attention::Sizes& n = pack_.sizes;
    const Attention& a = f_.attention;
    pack_rows(rows_of<T>(f_.q, p.b, p.h, p.i0), f_.q.row, std::min(kTile, a.queries - p.i0), n.dim,
              A(a.scale), q_.get(), n.padded_dim);
  }
  void scores(int64_t tile, const TileMask& mask, A* S) {
    const attention::Sizes& n = pack_.sizes;
    gemm_scores(mask, q_.get(), n.padded_dim, pack_.k.at<A>(tile), n.dim, S);
  }
  void add_values(const Place&, int64_t tile, const TileMask& mask, A* P, A* acc) {
    const int64_t cols = pack_.sizes.padded_value_dim;
    const AccTile<A> v(f_.stream, pack_.v.at<A>(tile), cols, pack_.v_finite[tile]);
    add_by_query(mask, P, v, acc);
  }

 private:
  const FlashAttentionForward& f_;
  const ForwardPack& pack_;
  const Scratch<A> q_;
};

/// Backward on operands of type T. The scale goes into the packed queries, and with them into dK;
/// dQ, a sum over unscaled keys, is multiplied by it when it is written.
template <class T_>
class AccBackward {
 public:
  using T = T_;
  using A = acc_t<T>;
  AccBackward(const FlashAttentionBackward& f, const BackwardPack& pack) : f_(f), pack_(pack) {}

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
  static void pack_keys(const FlashAttentionBackward& f, const BackwardPack& pack, const Place& p,
                        int64_t place) {
    const attention::Sizes& n = pack.sizes;
    const int64_t rows = std::min(kTile, f.attention.keys - p.j0);
    A* k = pack.k.at<A>(place);
    pack_rows(rows_of<T>(f.k, p.b, p.h, p.j0), f.k.row, rows, n.dim, A(1), k, n.padded_dim);
    pack.k_finite[place] = all_finite(k, kTile * n.padded_dim);
    transpose_tile(k, n.dim, n.padded_dim, pack.k_t.at<A>(place));
    // Of V only dP = dO Vᵀ has need, so its rows are not kept.
    const Scratch<A> v = f.stream.scratch<A>(size_t(kTile * n.padded_value_dim));
    pack_rows(rows_of<T>(f.v, p.b, p.h, p.j0), f.v.row, rows, n.value_dim, A(1), v.get(),
              n.padded_value_dim);
    transpose_tile(v.get(), n.value_dim, n.padded_value_dim, pack.v_t.at<A>(place));
  }

  void scores(int64_t query, int64_t key, const TileMask& mask, A* S) const {
    const attention::Sizes& n = pack_.sizes;
    gemm_scores(mask, pack_.q.at<A>(query), n.padded_dim, pack_.k_t.at<A>(key), n.dim, S);
  }
  void dP(int64_t query, int64_t key, const TileMask& mask, A* dP) const {
    const attention::Sizes& n = pack_.sizes;
    gemm_scores(mask, pack_.dy.at<A>(query), n.padded_value_dim, pack_.v_t.at<A>(key), n.value_dim,
                dP);
  }
  void add(const Place&, int64_t query, int64_t key, const TileMask& mask,
           const GradientTile<A>& tile, A* dq, A* dk, A* dv) const {
    const attention::Sizes& n = pack_.sizes;
    const Stream& stream = f_.stream;
    const AccTile<A> q(stream, pack_.q.at<A>(query), n.padded_dim, pack_.q_finite[query]);
    const AccTile<A> dy(stream, pack_.dy.at<A>(query), n.padded_value_dim, pack_.dy_finite[query]);
    const AccTile<A> k(stream, pack_.k.at<A>(key), n.padded_dim, pack_.k_finite[key]);
    add_by_key(mask, tile.P, dy, dv);
    add_by_key(mask, tile.dS, q, dk);
    add_by_query(mask, tile.dS, k, dq);
  }
  A key_scale() const { return 1; }
  /// `rows` rows of `cols` sums that add() made for keys, times `scale`. They lie as far apart as
  /// the packed rows they were made of.
  void write_keys(const A* sums, int64_t cols, A scale, int64_t rows, T* to, int64_t stride) const {
    const int64_t ld = round_up(cols, attention::kPad);
    for (int64_t r = 0; r < rows; ++r) unpack_row(sums + r * ld, cols, scale, to + r * stride);
  }

 private:
  const FlashAttentionBackward& f_;
  const BackwardPack& pack_;
};

static_assert(ForwardTileProducts<AccForward<float>> && BackwardTileProducts<AccBackward<float>>);

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
