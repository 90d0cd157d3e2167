#pragma once
// GEMM of tiles on VNNI pairs of bf16, by the microkernels of the CPU's GEMM (gemm/microkernel.h):
// dot products of vectors, or AMX. An A operand is packed as one micro-panel of all its rows, which
// a microkernel takes MR at a time; a B operand as micro-panels of NR columns. P and dS are rounded
// to bf16 where they are multiplied; sums stay in f32.
#include <olm/kernels/cpu/flash_attention/tiles.h>
#include <olm/kernels/cpu/gemm/pack.h>

namespace olm::kernels::attention {
using gemm::MicroKernel;
using gemm::MicroKernelInUse;
using gemm::Word;

/// What head sizes are padded to: the K of a packed tile of bf16, and two vectors of sums.
inline constexpr int64_t kBf16Pad = 32;

/// The microkernel for these heads; null where they are not bf16 or have no elements, the CPU has
/// none that is faster than f32, or the scale is not a positive number.
const MicroKernel* bf16_microkernel(const Attention& a);

/// Words of packed operands of `extent` rows of A, or columns of B, along k.
int64_t a_words(int64_t extent, int64_t k);
int64_t b_words(const MicroKernel& kernel, int64_t extent, int64_t k);

/// Packs rows as A [kTile, cols]; `transposed`, as A [cols, kTile].
void pack_a(const TileRows<bfloat16_t>& x, bool transposed, Word* to);
/// Packs rows as B [kTile, cols]; `transposed`, as B [cols, kTile].
void pack_b(const MicroKernel& kernel, const TileRows<bfloat16_t>& x, bool transposed, Word* to);

/// Sets P [kTile, kTile] outside the mask to zero.
void clear_outside(const TileMask& mask, float* P);
/// Rounds P or dS, clear outside the mask, to A [queries, keys] or to B [queries, keys].
void round_to_a(const float* P, Word* to);
void round_to_b(const MicroKernel& kernel, const float* P, Word* to);

/// S[i, j] = Σ_c a[i, c] · b[c, j] inside the mask; S [kTile, kTile].
void bf16_scores(const MicroKernel& kernel, const TileMask& mask, const Word* a, const Word* b,
                 int64_t k, float* S);
/// out[i, c] += Σ_j P[i, j] · values[j, c] for c < ld, a multiple of kBf16Pad.
void bf16_by_query(const MicroKernel& kernel, const TileMask& mask, const Word* P,
                   const Word* values, float* out, int64_t ld);
/// out[c, j] += Σ_i values[c, i] · P[i, j] for c < extent, a multiple of kBf16Pad. The sums lie
/// transposed, so that P can be B, which is packed from its rows.
void bf16_by_key(const MicroKernel& kernel, const TileMask& mask, const Word* values,
                 int64_t extent, const Word* P, float* out);

/// Sums [cols, kTile], cols a multiple of 16, to rows by groups of 16 columns: element (row, c)
/// goes to (c / 16 · kTile + row) · 16 + c mod 16.
void transpose_sums(const float* sums, int64_t cols, float* rows);

}  // namespace olm::kernels::attention
