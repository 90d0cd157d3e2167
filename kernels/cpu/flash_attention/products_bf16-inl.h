// TileProducts on pairs of bf16, by the microkernel of the CPU's GEMM: dot products of vectors, or
// AMX. P and dS are rounded to bf16 where they are multiplied; sums stay in f32. Which operand is
// the microkernel's A, by micro-panels of rows, and which its B, by micro-panels of columns:
//
//         S    O    dP   dQ   dVᵀ  dKᵀ
//   A     Q    P    dO   dS   dOᵀ  Qᵀ
//   B     Kᵀ   V    Vᵀ   K    P    dS
//
// Both kinds of micro-panel hold pairs along K, so an operand that is summed over its rows in one
// GEMM and over its columns in another (Q, K, dO) is packed twice. Included once per instruction
// set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_BF16_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_BF16_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_PRODUCTS_BF16_INL_H_
#endif

#include <olm/kernels/cpu/flash_attention/products-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
using attention::Word;
using Bf16Rows = TileRows<bfloat16_t>;

/// Rows of the tile at p: of a query head, and of its key and value head.
inline Bf16Rows query_rows(const Attention& a, const HeadRows& x, const Place& p, int64_t cols) {
  return {rows_of<bfloat16_t>(x, p.b, p.h, p.i0), x.row, std::min(kTile, a.queries - p.i0), cols};
}
inline Bf16Rows key_rows(const Attention& a, const HeadRows& x, const Place& p, int64_t kv_head,
                         int64_t cols) {
  return {rows_of<bfloat16_t>(x, p.b, kv_head, p.j0), x.row, std::min(kTile, a.keys - p.j0), cols};
}

/// Packs rows that P or dS is multiplied with: their finite part, see nonfinite-inl.h. Returns
/// whether that is all. What was left out is added from the tensor itself, which is why the row
/// pointers of a tile are made again where it happens.
template <class Pack>
bool pack_finite(const Stream& stream, const Bf16Rows& x, Pack&& pack) {
  const bool finite = all_finite(x);
  pack(FinitePart<bfloat16_t>(stream, x, finite).rows());
  return finite;
}

/// Forward on pairs of bf16.
class Bf16Forward {
 public:
  using T = bfloat16_t;
  using A = float;
  static constexpr bool kRoundsP = true;
  Bf16Forward(const FlashAttentionForward& f, const ForwardPack& pack)
      : f_(f),
        pack_(pack),
        q_(f.stream.scratch<Word>(size_t(attention::a_words(kTile, pack.sizes.dim)))),
        p_(f.stream.scratch<Word>(size_t(attention::a_words(kTile, kTile)))),
        in_use_(pack.kernel) {}

  static void pack_tile(const FlashAttentionForward& f, const ForwardPack& pack, int64_t index) {
    const Place p = key_place(f.attention, pack.sizes, index);
    const int64_t place = index - pack.first_tile;
    const Bf16Rows k = key_rows(f.attention, f.k, p, p.h, pack.sizes.dim);
    const Bf16Rows v = key_rows(f.attention, f.v, p, p.h, pack.sizes.value_dim);
    // K goes in whole: a NaN of a masked key stays in its own column of S, which is overwritten.
    attention::pack_b(*pack.kernel, k, true, pack.k.at<Word>(place));
    pack.v_finite[place] = pack_finite(f.stream, v, [&](const Bf16Rows& x) {
      attention::pack_b(*pack.kernel, x, false, pack.v.at<Word>(place));
    });
  }

  void pack_queries(const Place& p) {
    attention::pack_a(query_rows(f_.attention, f_.q, p, pack_.sizes.dim), false, q_.get());
  }
  void scores(int64_t tile, const TileMask& mask, A* S) {
    attention::bf16_scores(*pack_.kernel, mask, q_.get(), pack_.k.at<Word>(tile), pack_.sizes.dim,
                           S);
  }
  void add_values(const Place& p, int64_t tile, const TileMask& mask, A* P, A* acc) {
    const attention::Sizes& n = pack_.sizes;
    const Attention& a = f_.attention;
    // Packing reads all of P, but the softmax wrote only what the mask's blocks cover.
    attention::clear_outside(mask, P);
    attention::round_to_a(P, p_.get());
    attention::bf16_by_query(*pack_.kernel, mask, p_.get(), pack_.v.at<Word>(tile), acc,
                             n.padded_value_dim);
    if (!pack_.v_finite[tile])
      add_nonfinite_by_query(mask, P, key_rows(a, f_.v, p, p.h / n.group, n.value_dim),
                             TileSums<A>{.data = acc, .row_step = n.padded_value_dim});
  }

 private:
  const FlashAttentionForward& f_;
  const ForwardPack& pack_;
  const Scratch<Word> q_, p_;
  const attention::MicroKernelInUse in_use_;  // for all tiles of a task: to set up AMX takes time
};

/// Backward on pairs of bf16. dK and dV are summed transposed, [head size, kTile]: P and dS are
/// then B operands, which are packed from rows, and need no transposition. Q and dO do, but are
/// packed once and used with every tile of keys, whereas P and dS are new each time; the sums are
/// transposed back once, by write_keys().
class Bf16Backward {
 public:
  using T = bfloat16_t;
  using A = float;
  Bf16Backward(const FlashAttentionBackward& f, const BackwardPack& pack)
      : f_(f),
        pack_(pack),
        // As B, P takes as many words as this: NR divides kTile.
        p_(f.stream.scratch<Word>(size_t(attention::a_words(kTile, kTile)))),
        transposed_(f.stream.scratch<A>(
            size_t(kTile * std::max(pack.sizes.padded_dim, pack.sizes.padded_value_dim)))),
        in_use_(pack.kernel) {}

  static void pack_queries(const FlashAttentionBackward& f, const BackwardPack& pack,
                           const Place& p, int64_t place) {
    const Bf16Rows q = query_rows(f.attention, f.q, p, pack.sizes.dim);
    const Bf16Rows dy = query_rows(f.attention, f.dy, p, pack.sizes.value_dim);
    attention::pack_a(q, false, pack.q.at<Word>(place));
    attention::pack_a(dy, false, pack.dy.at<Word>(place));
    const auto transposed = [&](const attention::PackedTiles& to) {
      return [&to, place](const Bf16Rows& x) { attention::pack_a(x, true, to.at<Word>(place)); };
    };
    pack.q_finite[place] = pack_finite(f.stream, q, transposed(pack.q_t));
    pack.dy_finite[place] = pack_finite(f.stream, dy, transposed(pack.dy_t));
  }
  static void pack_keys(const FlashAttentionBackward& f, const BackwardPack& pack, const Place& p,
                        int64_t place) {
    const Bf16Rows keys = key_rows(f.attention, f.k, p, p.h, pack.sizes.dim);
    const Bf16Rows values = key_rows(f.attention, f.v, p, p.h, pack.sizes.value_dim);
    attention::pack_b(*pack.kernel, keys, true, pack.k_t.at<Word>(place));
    attention::pack_b(*pack.kernel, values, true, pack.v_t.at<Word>(place));
    pack.k_finite[place] = pack_finite(f.stream, keys, [&](const Bf16Rows& x) {
      attention::pack_b(*pack.kernel, x, false, pack.k.at<Word>(place));
    });
  }

  void scores(int64_t query, int64_t key, const TileMask& mask, A* S) const {
    attention::bf16_scores(*pack_.kernel, mask, pack_.q.at<Word>(query), pack_.k_t.at<Word>(key),
                           pack_.sizes.dim, S);
  }
  void dP(int64_t query, int64_t key, const TileMask& mask, A* dP) const {
    attention::bf16_scores(*pack_.kernel, mask, pack_.dy.at<Word>(query), pack_.v_t.at<Word>(key),
                           pack_.sizes.value_dim, dP);
  }
  void add(const Place& p, int64_t query, int64_t key, const TileMask& mask,
           const GradientTile<A>& tile, A* dq, A* dk, A* dv) const {
    const attention::Sizes& n = pack_.sizes;
    Word* rounded = p_.get();
    attention::clear_outside(mask, tile.P);
    attention::clear_outside(mask, tile.dS);
    // One buffer takes P, dS as B and dS as A in turn: 8 KiB that stay in L1.
    attention::round_to_b(*pack_.kernel, tile.P, rounded);
    attention::bf16_by_key(*pack_.kernel, mask, pack_.dy_t.at<Word>(query), n.padded_value_dim,
                           rounded, dv);
    attention::round_to_b(*pack_.kernel, tile.dS, rounded);
    attention::bf16_by_key(*pack_.kernel, mask, pack_.q_t.at<Word>(query), n.padded_dim, rounded,
                           dk);
    attention::round_to_a(tile.dS, rounded);
    attention::bf16_by_query(*pack_.kernel, mask, rounded, pack_.k.at<Word>(key), dq, n.padded_dim);
    add_what_is_not_finite(p, query, key, mask, tile, dq, dk, dv);
  }
  // The packed queries are as they came: with the scale in them they would be rounded once more.
  A key_scale() const { return A(f_.attention.scale); }
  void write_keys(const A* sums, int64_t cols, A scale, int64_t rows, bfloat16_t* to,
                  int64_t stride) const {
    constexpr int64_t kGroup = 16;  // columns of a group, as transpose_sums() leaves them
    attention::transpose_sums(sums, round_up(cols, kGroup), transposed_.get());
    for (int64_t c = 0; c < cols; c += kGroup)
      for (int64_t r = 0; r < rows; ++r)
        unpack_row(transposed_.get() + c * kTile + r * kGroup, std::min(kGroup, cols - c), scale,
                   to + r * stride + c);
  }

 private:
  void add_what_is_not_finite(const Place& p, int64_t query, int64_t key, const TileMask& mask,
                              const GradientTile<A>& tile, A* dq, A* dk, A* dv) const {
    const attention::Sizes& n = pack_.sizes;
    const Attention& a = f_.attention;
    if (!pack_.dy_finite[query])
      add_nonfinite_by_key(mask, tile.P, query_rows(a, f_.dy, p, n.value_dim),
                           TileSums<A>{.data = dv, .row_step = 1, .col_step = kTile});
    if (!pack_.q_finite[query])
      add_nonfinite_by_key(mask, tile.dS, query_rows(a, f_.q, p, n.dim),
                           TileSums<A>{.data = dk, .row_step = 1, .col_step = kTile});
    if (!pack_.k_finite[key])
      add_nonfinite_by_query(mask, tile.dS, key_rows(a, f_.k, p, p.h / n.group, n.dim),
                             TileSums<A>{.data = dq, .row_step = n.padded_dim});
  }

  const FlashAttentionBackward& f_;
  const BackwardPack& pack_;
  const Scratch<Word> p_;
  const Scratch<A> transposed_;
  const attention::MicroKernelInUse in_use_;
};

static_assert(ForwardTileProducts<Bf16Forward> && BackwardTileProducts<Bf16Backward>);

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
