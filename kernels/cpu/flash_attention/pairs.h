#pragma once
// The products of attention on pairs of bf16, by the unit that multiplies packed tiles
// (gemm_tiles.h): dot products of vectors, or AMX. Left operands are packed in one strip of all
// their rows, right ones in strips of the unit's columns. Weights and score gradients are rounded
// to bf16 where they are multiplied; sums stay in f32.
#include <olm/kernels/cpu/flash_attention/tiles.h>
#include <olm/kernels/cpu/gemm_tiles.h>

namespace olm::kernels::attention {
using gemm_tiles::Unit;
using gemm_tiles::Word;

/// What sizes are padded to: the depth of a step, and columns of sums.
inline constexpr int64_t kPairPad = 32;

/// The unit for these heads; null where they are not bf16 or have no elements, the CPU has none
/// that is faster than f32, or the scale is not a positive number.
const Unit* pair_unit(const Attention& a);

/// Words of packed operands. Their depth is that of a tile, or a head size.
int64_t left_words(int64_t items, int64_t depth);
int64_t right_words(const Unit& unit, int64_t items, int64_t depth);

/// Packs rows as a left operand [kTile, cols]; `transposed`, as [cols, kTile].
void pack_left(const TileRows<bfloat16_t>& x, bool transposed, Word* to);
/// Packs rows as a right operand [kTile, cols]; `transposed`, as [cols, kTile].
void pack_right(const Unit& unit, const TileRows<bfloat16_t>& x, bool transposed, Word* to);

/// S[i, j] = Σ_c left[i, c] · right[c, j] inside the mask; S [kTile, kTile].
void pair_scores(const Unit& unit, const TileMask& mask, const Word* left, const Word* right,
                 int64_t depth, float* S);

/// Sets P [kTile, kTile] outside the mask to zero.
void clear_outside(const TileMask& mask, float* P);
/// Rounds P or dS to a left operand [queries, keys], and to a right one.
void round_left(const float* P, Word* to);
void round_right(const Unit& unit, const float* P, Word* to);

/// out[i, c] += Σ_j P[i, j] · values[j, c] for c < ld, a multiple of kPairPad.
void pair_add_by_query(const Unit& unit, const TileMask& mask, const Word* P, const Word* values,
                       float* out, int64_t ld);
/// out[c, j] += Σ_i values[c, i] · P[i, j] for c < items, a multiple of kPairPad.
void pair_add_by_key(const Unit& unit, const TileMask& mask, const Word* values, int64_t items,
                     const Word* P, float* out);

/// transposed[r, c] = sums[c, r] by groups of 16 columns: (r, c) at transposed + (c / 16 · kTile +
/// r) · 16
/// + c mod 16. sums [cols, kTile], cols a multiple of 16.
void transpose_sums(const float* sums, int64_t cols, float* transposed);

/// While it lives the thread may call the unit.
class UnitInUse {
 public:
  explicit UnitInUse(const Unit* unit) : unit_(unit) {
    if (unit_ && unit_->enter) unit_->enter();
  }
  ~UnitInUse() {
    if (unit_ && unit_->leave) unit_->leave();
  }
  UnitInUse(const UnitInUse&) = delete;
  UnitInUse& operator=(const UnitInUse&) = delete;

 private:
  const Unit* unit_;
};

}  // namespace olm::kernels::attention
