#pragma once
// The products of attention on pairs of bf16, by the microkernels of GEMM
// (gemm/microkernel.h): dot products of vectors, or AMX. Left operands are packed in one strip of
// all their rows, right ones in strips of the unit's columns. Weights and score gradients are
// rounded to bf16 where they are multiplied; sums stay in f32.
#include <olm/kernels/cpu/flash_attention/tiles.h>
#include <olm/kernels/cpu/gemm/pack.h>

namespace olm::kernels::attention {
using Unit = gemm::MicroKernel;
using UnitInUse = gemm::MicroKernelInUse;
using gemm::Word;

/// What sizes are padded to: the depth of a step, and columns of sums.
inline constexpr int64_t kPairPad = 32;

/// The unit for these heads; null where they are not bf16 or have no elements, the CPU has none
/// that is faster than f32, or the scale is not a positive number.
const Unit* pair_unit(const Attention& a);

/// Rows of a tile of one head as the caller gave them: row r at data + r · stride.
struct PairRows {
  const bfloat16_t* data = nullptr;
  int64_t stride = 0, rows = 0, cols = 0;
};

/// Words of packed operands. Their depth is that of a tile, or a head size.
int64_t left_words(int64_t items, int64_t depth);
int64_t right_words(const Unit& unit, int64_t items, int64_t depth);

/// Packs rows as a left operand [kTile, cols]; `turned`, as [cols, kTile].
void pack_left(const PairRows& x, bool turned, Word* to);
/// Packs rows as a right operand [kTile, cols]; `turned`, as [cols, kTile].
void pack_right(const Unit& unit, const PairRows& x, bool turned, Word* to);

/// scores[i, j] = Σ_c left[i, c] · right[c, j] inside the region; scores [kTile, kTile].
void pair_scores(const Unit& unit, const Region& region, const Word* left, const Word* right,
                 int64_t depth, float* scores);

/// Sets weights [kTile, kTile] outside the region to zero.
void clear_outside(const Region& region, float* weights);
/// Rounds such weights to a left operand [queries, keys], and to a right one.
void round_left(const float* weights, Word* to);
void round_right(const Unit& unit, const float* weights, Word* to);

/// out[i, c] += Σ_j weights[i, j] · values[j, c] for c < ld, a multiple of kPairPad.
void pair_add_by_query(const Unit& unit, const Region& region, const Word* weights,
                       const Word* values, float* out, int64_t ld);
/// out[c, j] += Σ_i values[c, i] · weights[i, j] for c < items, a multiple of kPairPad.
void pair_add_by_key(const Unit& unit, const Region& region, const Word* values, int64_t items,
                     const Word* weights, float* out);

/// Values that are not finite are packed as zeros by finite_part() and add what they add here, so
/// that a weight of 0 takes nothing of them:
///   sums[x · x_step + c · c_step] += weight · value
/// for the values' keys and all queries x, or, with `of_queries`, the values' queries and all keys.
void add_nonfinite(const Word* rounded_left, const PairRows& values, bool of_queries, float* sums,
                   int64_t x_step, int64_t c_step);
/// `x` with zeros for what is not finite, in `memory` [rows, cols].
PairRows finite_part(const PairRows& x, bfloat16_t* memory);

/// turned[r, c] = sums[c, r] by groups of 16 columns: (r, c) at turned + (c / 16 · kTile + r) · 16
/// + c mod 16. sums [cols, kTile], cols a multiple of 16.
void turn_sums(const float* sums, int64_t cols, float* turned);

}  // namespace olm::kernels::attention
