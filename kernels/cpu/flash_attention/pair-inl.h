// Operands and products of attention on pairs of bf16. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_FLASH_ATTENTION_PAIR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_FLASH_ATTENTION_PAIR_INL_H_
#undef OLM_KERNELS_CPU_FLASH_ATTENTION_PAIR_INL_H_
#else
#define OLM_KERNELS_CPU_FLASH_ATTENTION_PAIR_INL_H_
#endif

#include <olm/kernels/cpu/flash_attention/gradient-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
using attention::PairRows;
using attention::rows_of;
using attention::Word;

/// Rows of the tile at p: of a query head, and of its key and value head.
inline PairRows query_rows(const Attention& a, const HeadRows& x, const Place& p, int64_t cols) {
  return {rows_of<bfloat16_t>(x, p.b, p.h, p.i0), x.row, std::min(kTile, a.queries - p.i0), cols};
}
inline PairRows key_rows(const Attention& a, const HeadRows& x, const Place& p, int64_t kv_head,
                         int64_t cols) {
  return {rows_of<bfloat16_t>(x, p.b, kv_head, p.j0), x.row, std::min(kTile, a.keys - p.j0), cols};
}

/// Rows as the operand that weights are multiplied with: with zeros for what is not finite.
template <class Pack>
bool pack_finite(const Stream& stream, const PairRows& x, Pack&& pack) {
  const bool finite = all_finite(x);
  if (finite) {
    pack(x);
  } else {
    const auto memory = stream.scratch<bfloat16_t>(size_t(x.rows * x.cols));
    pack(attention::finite_part(x, memory.get()));
  }
  return finite;
}

/// Forward on pairs of bf16.
class PairForward {
 public:
  using A = float;
  static constexpr bool kRoundsWeights = true;
  PairForward(const FlashAttentionForward& f, const ForwardPack& pack)
      : f_(f),
        pack_(pack),
        q_(f.stream.scratch<Word>(size_t(attention::left_words(kTile, pack.sizes.dim)))),
        weights_(f.stream.scratch<Word>(size_t(attention::left_words(kTile, kTile)))),
        in_use_(pack.unit) {}

  static void pack_tile(const FlashAttentionForward& f, const ForwardPack& pack, int64_t index) {
    const Place p = key_place(f.attention, pack.sizes, index);
    const int64_t place = index - pack.first_tile;
    const PairRows k = key_rows(f.attention, f.k, p, p.h, pack.sizes.dim);
    const PairRows v = key_rows(f.attention, f.v, p, p.h, pack.sizes.value_dim);
    attention::pack_right(*pack.unit, k, true, pack.keys.at<Word>(place));
    pack.finite[place] = pack_finite(f.stream, v, [&](const PairRows& x) {
      attention::pack_right(*pack.unit, x, false, pack.values.at<Word>(place));
    });
  }

  A scale() const { return A(f_.attention.scale); }
  void take_queries(const Place& p) {
    attention::pack_left(query_rows(f_.attention, f_.q, p, pack_.sizes.dim), false, q_.get());
  }
  void scores(const Place&, int64_t tile, const Region& region, A* scores) {
    attention::pair_scores(*pack_.unit, region, q_.get(), pack_.keys.at<Word>(tile),
                           pack_.sizes.dim, scores);
  }
  void add_values(const Place& p, int64_t tile, const Region& region, A* weights, A* out) {
    const int64_t ld = pack_.sizes.padded_value_dim;
    attention::clear_outside(region, weights);
    attention::round_left(weights, weights_.get());
    attention::pair_add_by_query(*pack_.unit, region, weights_.get(), pack_.values.at<Word>(tile),
                                 out, ld);
    if (!pack_.finite[tile])
      attention::add_nonfinite(
          weights_.get(),
          key_rows(f_.attention, f_.v, p, p.h / pack_.sizes.group, pack_.sizes.value_dim), false,
          out, ld, 1);
  }

 private:
  const FlashAttentionForward& f_;
  const ForwardPack& pack_;
  const Scratch<Word> q_, weights_;
  const attention::UnitInUse in_use_;
};

/// Backward on pairs of bf16. Sums for keys are kept turned, [head size, kTile]: weights then need
/// no transposition.
class PairGradient {
 public:
  using A = float;
  PairGradient(const FlashAttentionBackward& f, const BackwardPack& pack)
      : f_(f),
        pack_(pack),
        weights_(f.stream.scratch<Word>(size_t(attention::left_words(kTile, kTile)))),
        turned_(f.stream.scratch<A>(
            size_t(kTile * std::max(pack.sizes.padded_dim, pack.sizes.padded_value_dim)))),
        in_use_(pack.unit) {}

  static void pack_queries(const FlashAttentionBackward& f, const BackwardPack& pack,
                           const Place& p, int64_t place) {
    const PairRows q = query_rows(f.attention, f.q, p, pack.sizes.dim);
    const PairRows dy = query_rows(f.attention, f.dy, p, pack.sizes.value_dim);
    attention::pack_left(q, false, pack.q.at<Word>(place));
    attention::pack_left(dy, false, pack.dy.at<Word>(place));
    const auto turned = [&](const attention::PackedTiles& to) {
      return [&to, place](const PairRows& x) { attention::pack_left(x, true, to.at<Word>(place)); };
    };
    pack.q_finite[place] = pack_finite(f.stream, q, turned(pack.q_turned));
    pack.dy_finite[place] = pack_finite(f.stream, dy, turned(pack.dy_turned));
  }
  static void pack_keys(const FlashAttentionBackward& f, const BackwardPack& pack, const Place& p,
                        int64_t place) {
    const PairRows keys = key_rows(f.attention, f.k, p, p.h, pack.sizes.dim);
    const PairRows values = key_rows(f.attention, f.v, p, p.h, pack.sizes.value_dim);
    attention::pack_right(*pack.unit, keys, true, pack.keys_turned.at<Word>(place));
    attention::pack_right(*pack.unit, values, true, pack.values_turned.at<Word>(place));
    pack.keys_finite[place] = pack_finite(f.stream, keys, [&](const PairRows& x) {
      attention::pack_right(*pack.unit, x, false, pack.keys.at<Word>(place));
    });
  }

  A scale() const { return A(f_.attention.scale); }
  void scores(int64_t query, int64_t key, const Region& region, A* scores) const {
    attention::pair_scores(*pack_.unit, region, pack_.q.at<Word>(query),
                           pack_.keys_turned.at<Word>(key), pack_.sizes.dim, scores);
  }
  void weight_gradients(int64_t query, int64_t key, const Region& region, A* grads) const {
    attention::pair_scores(*pack_.unit, region, pack_.dy.at<Word>(query),
                           pack_.values_turned.at<Word>(key), pack_.sizes.value_dim, grads);
  }
  void add(const Place& p, int64_t query, int64_t key, const Region& region,
           const GradientTile<A>& tile, A* dq, A* dk, A* dv) const {
    const attention::Sizes& n = pack_.sizes;
    const Attention& a = f_.attention;
    Word* weights = weights_.get();
    attention::clear_outside(region, tile.weights);
    attention::clear_outside(region, tile.grads);
    attention::round_right(*pack_.unit, tile.weights, weights);
    attention::pair_add_by_key(*pack_.unit, region, pack_.dy_turned.at<Word>(query),
                               n.padded_value_dim, weights, dv);
    attention::round_right(*pack_.unit, tile.grads, weights);
    attention::pair_add_by_key(*pack_.unit, region, pack_.q_turned.at<Word>(query), n.padded_dim,
                               weights, dk);
    if (!pack_.dy_finite[query]) {
      attention::round_left(tile.weights, weights);
      attention::add_nonfinite(weights, query_rows(a, f_.dy, p, n.value_dim), true, dv, 1, kTile);
    }
    attention::round_left(tile.grads, weights);
    attention::pair_add_by_query(*pack_.unit, region, weights, pack_.keys.at<Word>(key), dq,
                                 n.padded_dim);
    if (!pack_.q_finite[query])
      attention::add_nonfinite(weights, query_rows(a, f_.q, p, n.dim), true, dk, 1, kTile);
    if (!pack_.keys_finite[key])
      attention::add_nonfinite(weights, key_rows(a, f_.k, p, p.h / n.group, n.dim), false, dq,
                               n.padded_dim, 1);
  }
  void write_keys(const A* sums, int64_t cols, A scale, int64_t rows, bfloat16_t* to,
                  int64_t stride) const {
    constexpr int64_t kGroup = 16;
    attention::turn_sums(sums, attention::rounded_up(cols, kGroup), turned_.get());
    for (int64_t c = 0; c < cols; c += kGroup)
      for (int64_t r = 0; r < rows; ++r)
        unpack_row(turned_.get() + c * kTile + r * kGroup, std::min(kGroup, cols - c), scale,
                   to + r * stride + c);
  }

 private:
  const FlashAttentionBackward& f_;
  const BackwardPack& pack_;
  const Scratch<Word> weights_;
  const Scratch<A> turned_;
  const attention::UnitInUse in_use_;
};
}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
